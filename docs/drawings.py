"""Draws the diagrams of the documentation as SVG.

    python docs/drawings.py

writes `docs/images/*.svg`. Every drawing has a light panel of its own, so that it is readable on
light and dark pages, and is narrow enough for the screen of a phone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from html import escape
from pathlib import Path

HERE = Path(__file__).parent / "images"
WIDTH = 560
PAPER, INK, FAINT = "#f6f8fa", "#24292f", "#8c959f"
# A color and its light shade, as the classes in `pictures.py` have them.
BLUE, GREEN = ("#1f6fb4", "#d5e6f5"), ("#2a9348", "#d6f0dc")
ORANGE, VIOLET = ("#d9711c", "#fbe3cd"), ("#7b4fb0", "#e6dbf3")
GRAY = ("#57606a", "#e7ebef")
Color = tuple[str, str]


class Drawing:
    """An SVG picture. Coordinates are pixels from the top left of the panel."""

    def __init__(self, title: str, height: int):
        self.title, self.height = title, height
        self.parts: list[str] = []

    def box(
        self, x, y, w, h, text: str = "", color: Color = GRAY, *, size: int = 14, note: str = ""
    ) -> None:
        """Draws a rectangle with a text in its middle, and a smaller note below the text."""
        line, fill = color
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="5" fill="{fill}" '
            f'stroke="{line}" stroke-width="1.5"/>'
        )
        middle = y + h / 2 + size * 0.35
        if text:
            self.text(x + w / 2, middle - (8 if note else 0), text, size=size, anchor="middle")
        if note:
            self.text(x + w / 2, middle + 10, note, size=12, anchor="middle", color=GRAY[0])

    def text(
        self, x, y, text: str, *, size: int = 13, anchor: str = "start", color: str = INK,
        bold: bool = False,
    ) -> None:  # fmt: skip
        weight = ' font-weight="bold"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" '
            f'fill="{color}"{weight}>{escape(text)}</text>'
        )

    def arrow(self, *points: tuple[float, float], color: str = GRAY[0]) -> None:
        """Draws a line through points with a head at the last one."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5" '
            'marker-end="url(#head)"/>'
        )

    def line(self, *points: tuple[float, float], color: str = FAINT, dashed: bool = False) -> None:
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5"{dash}/>'
        )

    def svg(self) -> str:
        """Returns the file."""
        size = f"{WIDTH} {self.height}"
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" width="{WIDTH}" '
            f'height="{self.height}" role="img" font-family="DejaVu Sans, Verdana, sans-serif">'
        )
        marker = (
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="{GRAY[0]}"/>'
            "</marker></defs>"
        )
        panel = f'<rect width="{WIDTH}" height="{self.height}" rx="8" fill="{PAPER}"/>'
        title = f"<title>{escape(self.title)}</title>"
        return "\n".join([head, title, marker, panel, *self.parts, "</svg>", ""])


def _frames(drawing: Drawing, y, count: int, chosen: Sequence[int], color: Color, *, w=20) -> None:
    """Draws a row of frames of a video; the chosen ones are filled."""
    for frame in range(count):
        on = frame in chosen
        drawing.box(30 + frame * w, y, w - 3, 30, color=color if on else (FAINT, "#ffffff"))


def clip() -> Drawing:
    d = Drawing("A clip of 8 frames at stride 3, taken from a video of 25 frames", 250)
    d.text(30, 32, "video: uint8 [T, H, W, C], decoded frames", bold=True)
    chosen = [2 + 3 * i for i in range(8)]
    _frames(d, 48, 25, chosen, BLUE)
    for number, frame in enumerate(chosen):
        d.arrow((30 + frame * 20 + 8.5, 82), (98 + number * 46 + 19, 138))
    d.text(30, 112, "start 2", size=12, color=GRAY[0])
    d.text(530, 112, "stride 3", size=12, anchor="end", color=GRAY[0])
    for number, frame in enumerate(chosen):
        d.box(98 + number * 46, 142, 38, 38, str(frame), BLUE, size=12)
    d.text(30, 166, "clip", bold=True)
    d.text(98, 204, "float32 [N, T, H, W, C] with T = 8, scaled, cropped, normalized", size=13)
    d.text(98, 226, "frames=8, stride=3", size=12, color=GRAY[0])
    return d


def views() -> Drawing:
    d = Drawing("A test protocol of 10 clips and 3 crops: 30 views, one score per video", 420)
    d.text(30, 30, "10 clips, evenly from the first to the last possible start", bold=True)
    d.box(30, 44, 500, 14, color=(FAINT, "#ffffff"))
    for number in range(10):
        x = 30 + number * (500 - 96) / 9
        d.box(x, 66 + (number % 5) * 15, 96, 11, color=BLUE)
    d.text(30, 168, "each clip: 3 crops along the longer side", bold=True)
    for number in range(3):
        x = 30 + number * 172
        d.box(x, 182, 156, 88, color=(FAINT, "#ffffff"))
        d.box(x + number * 34, 182, 88, 88, ("left", "center", "right")[number], ORANGE, size=13)
    for x in (108, 280, 452):
        d.arrow((x, 274), (x, 294))
    d.box(30, 298, 500, 34, "network: 30 views to 30 rows of probabilities", VIOLET)
    d.arrow((280, 334), (280, 352))
    d.box(100, 356, 360, 40, "mean over the 30 views = score of the video", GREEN)
    return d


def preprocessing() -> Drawing:
    d = Drawing(
        "From a file to a normalized clip: what the host does and what the device does", 456
    )
    d.text(30, 30, "host (loader threads and workers, never JAX)", bold=True)
    host = (
        ("file", "mp4, avi, frames, packed shard"),
        ("view", "frame indices and window, from seed, epoch, video"),
        ("decoded planes", "only the frames of the clip, frame-accurate"),
        ("scaled and cropped", "uint8, 4:2:0: half the bytes of RGB"),
    )
    for row, (name, note) in enumerate(host):
        d.box(30, 44 + row * 46, 160, 30, name, BLUE, size=13)
        d.text(204, 63 + row * 46, note, size=12)
        if row:
            d.arrow((110, 29 + row * 46), (110, 43 + row * 46))
    d.line((30, 230), (530, 230), dashed=True)
    d.text(530, 248, "transfer to the device", size=12, anchor="end", color=GRAY[0])
    d.text(30, 252, "device (first lines of the compiled step)", bold=True)
    device = (
        ("RGB", "uint8 [N, T, H, W, C], by the file's matrix"),
        ("augmented", "flip, colors, erasing, mixup: training only"),
        ("clip", "float, range, mean and std of the weights"),
        ("network", "logits, endpoints"),
    )
    for row, (name, note) in enumerate(device):
        d.box(30, 266 + row * 46, 160, 30, name, ORANGE if row < 3 else VIOLET, size=13)
        d.text(204, 285 + row * 46, note, size=12)
        if row:
            d.arrow((110, 251 + row * 46), (110, 265 + row * 46))
    return d


def lowering() -> Drawing:
    d = Drawing("One convolution, several implementations: resolve() selects one", 322)
    d.box(30, 28, 230, 44, "Conv3D / conv3d", VIOLET, note="what is computed")
    d.arrow((262, 50), (298, 50))
    d.box(300, 28, 230, 44, "primitive conv3d", VIOLET, note="forward, dx, dw: three passes")
    d.arrow((415, 74), (415, 100))
    d.box(300, 104, 230, 44, "resolve", ORANGE, note="platform, pass, dtype, shapes")
    d.text(30, 122, "Pure function: the same", size=12)
    d.text(30, 138, "shapes, the same choice.", size=12)
    d.arrow((415, 150), (415, 176))
    d.text(30, 180, "LOWERINGS", bold=True)
    rows = (
        ("DIRECT", "FOLD_TIME", "FOLD_SPACE", "MATMUL"),
        ("WINOGRAD", "UNFOLD", "SHIFT", "ONEDNN"),
        ("TIME_TO_CHANNELS", "TIME_FROM_CHANNELS"),
        ("SPACE_TO_DEPTH", "GROUP_BY_GROUP"),
    )
    for row, names in enumerate(rows):
        w = 500 / len(names)
        for column, name in enumerate(names):
            d.box(30 + column * w, 190 + row * 31, w - 8, 25, name, GREEN, size=12)
    return d


def bn_groups() -> Drawing:
    d = Drawing("Groups of BatchNorm are counted in the global batch, not per device", 310)
    d.text(30, 30, "a global batch of 16 clips, model.bn_groups=4", bold=True)
    shades = (BLUE, ORANGE, GREEN, VIOLET)
    for number in range(16):
        d.box(30 + number * 31.25, 44, 27, 34, str(number), shades[number // 4], size=12)
    for group in range(4):
        d.text(90 + group * 125, 98, f"mean, var {group + 1}", size=12, anchor="middle")
    for row, devices in enumerate((1, 2, 4)):
        y = 118 + row * 46
        w = 500 / devices
        for number in range(devices):
            label = "1 device" if devices == 1 else f"device {number}"
            d.box(30 + number * w, y, w - 4, 34, label, GRAY, size=13)
    d.text(30, 276, "The statistics are those of the groups for any number of devices,", size=12)
    d.text(30, 293, "so the loss curve is that of one device.", size=12)
    return d


def architecture() -> Drawing:
    d = Drawing("Packages of jaxvideo and who imports whom", 424)
    d.text(
        30,
        28,
        "An arrow leads from a package to one that imports it; the table has all.",
        size=12,
        color=GRAY[0],
    )
    d.box(30, 42, 500, 34, "types, names, progress, startup", GRAY, size=13)
    for x in (90, 250, 440):
        d.arrow((x, 78), (x, 98))
    d.box(30, 102, 150, 44, "layers", VIOLET, note="arrays only")
    d.box(205, 102, 120, 44, "weights", BLUE, note="names, NumPy")
    d.box(350, 102, 180, 44, "data", GREEN, note="host, never JAX")
    d.arrow((105, 148), (105, 168))
    d.arrow((265, 148), (265, 236))
    d.arrow((440, 148), (440, 168))
    d.box(30, 172, 150, 44, "models", VIOLET, note="one family per file")
    d.box(350, 172, 180, 44, "evaluation", GREEN, note="protocols, metrics")
    d.arrow((105, 218), (105, 236))
    d.arrow((440, 218), (440, 236))
    d.box(30, 240, 240, 36, "pretrained", BLUE)
    d.box(290, 240, 240, 36, "inference", ORANGE)
    d.arrow((150, 278), (150, 296))
    d.arrow((410, 278), (410, 296))
    d.box(30, 300, 500, 36, "training", ORANGE)
    d.arrow((150, 338), (150, 354))
    d.arrow((410, 338), (410, 354))
    d.box(30, 358, 240, 36, "network", ORANGE)
    d.box(290, 358, 240, 36, "planning", ORANGE)
    d.text(30, 412, "Above all: studies, report, cli. Nothing imports them.", size=12)
    return d


DRAWINGS = {
    function.__name__: function
    for function in (clip, views, preprocessing, lowering, bn_groups, architecture)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE, help="default: docs/images")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, draw in DRAWINGS.items():
        (options.out / f"{name}.svg").write_text(draw().svg())


if __name__ == "__main__":
    main()
