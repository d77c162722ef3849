"""Draws the pictures of README.md from a run of `configs/motion.py`.

    python train.py --config configs/motion.py --workdir=RUN
    python docs/pictures.py RUN

writes `docs/images/motion.webp`, a video with the class probabilities of a sliding window, and
`docs/images/curves.webp`, the training curves. The same run gives the same pictures.

The video is rendered here: a coffee cup over gravel, two photographs of scikit-image that the
training videos do not contain, moves, turns and zooms as the objects of the data set do.
"""

import argparse
import functools
import io
from pathlib import Path

import cv2
import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from skimage import data

import jaxvideo
from jaxvideo.training.log import read_metrics

HERE = Path(__file__).parent / "images"
HEIGHT, WIDTH = 504, 672  # six times the size of the training videos
PART = 24  # frames per motion
EVERY = 2  # draws every second frame of 25 per second

# The motions of the video in order. Together they return to where they start.
PARTS = (
    "left",
    "clockwise",
    "up",
    "zoom_out",
    "zoom_in",
    "right",
    "counterclockwise",
    "down",
)
# Pairs of opposite motions have two shades of one color.
COLORS = {
    "left": "#1f6fb4",
    "right": "#7fb5e0",
    "up": "#2a9348",
    "down": "#8fd19e",
    "clockwise": "#d9711c",
    "counterclockwise": "#f6b26b",
    "zoom_in": "#7b4fb0",
    "zoom_out": "#bda4dd",
}
INK, FAINT = "#24292f", "#d0d7de"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
}


def draw_video() -> np.ndarray:
    """Renders the cup: uint8 RGB `[T, H, W, 3]`."""
    sizes = [_cup()]
    for _ in range(2):  # `warpAffine` does not filter, so a small cup needs a small photograph
        halves = [
            cv2.resize(a, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for a in sizes[-1]
        ]
        sizes.append((halves[0], halves[1]))
    gravel = cv2.resize(data.gravel(), (WIDTH, WIDTH), interpolation=cv2.INTER_LINEAR)[:HEIGHT]
    gravel = (gravel - gravel.mean()) / gravel.std() * 16 + 190
    ground = np.clip(gravel[..., None] * np.array([0.93, 1.0, 1.09]), 0, 255)

    frames = []
    for x, y, angle, size in _path():
        scale = size / 270  # the radius in the photograph
        level = int(np.clip(np.floor(-np.log2(scale)), 0, 2))
        cup, alpha = sizes[level]
        middle = (cup.shape[1] / 2, cup.shape[0] / 2)
        turn = cv2.getRotationMatrix2D(middle, -np.rad2deg(angle), scale * 2**level)
        turn[:, 2] += (WIDTH / 2 + x - middle[0], HEIGHT / 2 + y - middle[1])
        above = cv2.warpAffine(cup, turn, (WIDTH, HEIGHT))
        cover = cv2.warpAffine(alpha, turn, (WIDTH, HEIGHT))[..., None]
        shade = cv2.GaussianBlur(np.roll(cover[..., 0], (10, 8), (0, 1)), (0, 0), 9)[..., None]
        frame = ground * (1 - 0.45 * shade)
        frames.append(np.rint(frame * (1 - cover) + above * cover).astype(np.uint8))
    return np.stack(frames)


def _cup() -> tuple[np.ndarray, np.ndarray]:
    """The cup and its alpha in [0, 1], f32 `[400, 600, 3]` and `[400, 600]`; black outside."""
    photo = data.coffee()
    mask = np.zeros(photo.shape[:2], np.uint8)
    cv2.ellipse(mask, (279, 224), (200, 161), -11, 0, 360, 255, -1, cv2.LINE_AA)
    cv2.ellipse(mask, (289, 108), (117, 91), 0, 0, 360, 255, -1, cv2.LINE_AA)
    alpha = cv2.GaussianBlur(mask, (0, 0), 1.2).astype(np.float32) / 255
    shift = np.array([[1, 0, 300 - 279], [0, 1, 200 - 201]], np.float32)
    size = photo.shape[1::-1]
    cut = cv2.warpAffine(photo * alpha[..., None], shift, size)
    return cut.astype(np.float32), cv2.warpAffine(alpha, shift, size)


def _path() -> np.ndarray:
    """x, y, angle and radius of the cup in every frame, `[T, 4]`; speeds as in the data set."""
    unit = HEIGHT / 84
    ways = {
        "left": (-40 * unit, 0, 0, 0),
        "up": (0, -29 * unit, 0, 0),
        "clockwise": (0, 0, np.deg2rad(260), 0),
        "zoom_in": (0, 0, 0, np.log(2.4)),
    }
    opposite = {
        "right": "left",
        "down": "up",
        "counterclockwise": "clockwise",
        "zoom_out": "zoom_in",
    }
    now = np.array([20 * unit, 14.5 * unit, 0, np.log(27 * unit)])
    path = []
    for part in PARTS:
        way = np.array(ways[part] if part in ways else [-w for w in ways[opposite[part]]])
        path += [now + way * (i / PART) for i in range(PART)]
        now = now + way
    path = np.stack(path)
    path[:, 3] = np.exp(path[:, 3])
    return path


def classify(net: jaxvideo.Network, video: np.ndarray) -> np.ndarray:
    """Probabilities of the window around every frame, f32 `[T, classes]`; the video loops."""
    window = (net.preprocessing.frames - 1) * net.preprocessing.stride + 1
    predict = functools.partial(net.predict, clips=1)
    around = np.concatenate([video[-(window // 2) :], video, video[: window // 2]])
    return np.stack([predict(around[i : i + window]).probabilities for i in range(len(video))])


def draw_motion(net: jaxvideo.Network, path: Path) -> None:
    """Writes the animation: the video, the five most probable classes, and all over time."""
    video = draw_video()
    scores = classify(net, video)
    names = list(net.classes)
    truth = np.repeat([names.index(part) for part in PARTS], PART)
    print(f"classes right: {(scores.argmax(1) == truth).mean():.1%} of {len(video)} windows")
    seconds = np.arange(len(video)) / 25

    with rc_context(STYLE):
        pages = [_page(video[i], scores, names, seconds, i) for i in range(0, len(video), EVERY)]
    pages[0].save(
        path,
        save_all=True,
        append_images=pages[1:],
        duration=40 * EVERY,
        loop=0,
        quality=54,
        method=4,
    )


def _page(frame, scores, names, seconds, now) -> Image.Image:
    figure = Figure(figsize=(13.2, 5.04), dpi=100, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    picture = figure.add_axes((0, 0, WIDTH / 1320, 1))
    picture.imshow(frame, interpolation="nearest")
    picture.axis("off")

    bars = figure.add_axes((0.685, 0.47, 0.255, 0.42))
    best = np.argsort(-scores[now], kind="stable")[:5]
    values = scores[now, best]
    bars.barh(range(5), np.ones(5), color="#f6f8fa", height=0.66)
    bars.barh(range(5), values, color=[COLORS[names[i]] for i in best], height=0.66)
    for row, value in enumerate(values):
        weight = "bold" if row == 0 else "normal"
        bars.text(1.02, row, f"{value:.0%}", va="center", fontsize=13, weight=weight)
    bars.set_yticks(range(5), [names[i].replace("_", " ") for i in best], fontsize=14)
    bars.get_yticklabels()[0].set_weight("bold")
    bars.set(xlim=(0, 1), ylim=(4.5, -0.5), xticks=[])
    bars.tick_params(length=0, pad=8)
    for spine in bars.spines.values():
        spine.set_visible(False)
    figure.text(0.54, 0.925, "net.predict(window).top(5)", fontsize=13, family="DejaVu Sans Mono")

    figure.text(0.54, 0.385, "probabilities of all classes", fontsize=12)
    line = figure.add_axes((0.545, 0.125, 0.425, 0.23))
    colors = [COLORS[name] for name in names]
    line.stackplot(seconds, scores.T, colors=colors, linewidth=0)
    line.axvline(seconds[now], color=INK, linewidth=2)
    line.set(xlim=(0, seconds[-1]), ylim=(0, 1), yticks=[])
    line.set_xlabel("time in seconds", fontsize=12)
    line.tick_params(length=0, labelsize=11)
    for spine in line.spines.values():
        spine.set_visible(False)

    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def draw_curves(run: Path, path: Path) -> None:
    """Writes the training curves of a run, from its `metrics.jsonl`."""
    records = read_metrics(run)
    steps = [record["step"] for record in records]
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 3.6), dpi=120, layout="constrained", facecolor="white")
        for axes, names, title in zip(
            figure.subplots(1, 2),
            (("loss", "val_loss"), ("top1", "val_top1")),
            ("cross-entropy", "top-1 accuracy"),
            strict=True,
        ):
            for name, label, color in zip(
                names, ("training", "validation"), ("#8fb8de", "#d9711c"), strict=True
            ):
                values = [record[name] for record in records]
                axes.plot(steps, values, color=color, linewidth=2.5, marker="o", ms=5, label=label)
            axes.set_title(title, fontsize=13, loc="left")
            axes.set_xlabel("step of 32 clips")
            axes.set_xlim(0, None)
            if "loss" in names:
                axes.set_yscale("log")
                axes.set_yticks([0.01, 0.1, 1, 10], ["0.01", "0.1", "1", "10"])
                axes.minorticks_off()
            else:
                axes.set_ylim(0, 1.02)
                axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
                axes.axhline(0.5, color=INK, linewidth=1, linestyle=(0, (4, 4)))
                note = "upper bound without the order of frames"
                axes.text(steps[-1], 0.52, note, fontsize=10, ha="right")
            axes.grid(axis="y", color=FAINT, linewidth=0.8)
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.tick_params(length=0)
            axes.legend(frameon=False)
        buffer = io.BytesIO()
        figure.savefig(buffer)
    Image.open(buffer).convert("RGB").save(path, quality=90, method=6)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory of configs/motion.py")
    parser.add_argument("--out", type=Path, default=HERE, help="default: docs/images")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    draw_curves(options.run, options.out / "curves.webp")
    draw_motion(jaxvideo.load(options.run), options.out / "motion.webp")
    for name in ("curves.webp", "motion.webp"):
        file = options.out / name
        print(f"{file}: {file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
