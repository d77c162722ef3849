"""Page of `evaluate`: metrics, protocol, classes, confusion and the worst videos."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np

from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.decode import read_clip
from jaxvideo.evaluation import metrics
from jaxvideo.evaluation.fusion import video_names
from jaxvideo.evaluation.intervals import Estimate
from jaxvideo.evaluation.metrics import METRICS
from jaxvideo.evaluation.protocol import Result
from jaxvideo.report.page import page, picture, table, text
from jaxvideo.types import VideoError, View, Window

#: Maximum number of classes for a confusion table; more classes are drawn as a picture.
TABLE_CLASSES = 60

# Thumbnail: number of frames, height in pixels, and milliseconds per frame.
_FRAMES, _HEIGHT, _SHOWN = 16, 120, 125

_ACCENT = (42, 120, 214)

_STYLE = """<style>
.tiles { display: flex; font-variant-numeric: tabular-nums;
  flex-wrap: wrap; gap: 1rem; margin: 1.2rem 0; }
.tile { border: 1px solid var(--line); border-radius: 8px; padding: .7rem 1.1rem; min-width: 9rem; }
.tile b { display: block; font-size: 1.8rem; line-height: 1.25; }
.tile small { opacity: .7; } .note { border-left: 4px solid #d98a00; padding: .3rem .9rem; }
.bars { columns: 21rem; column-gap: 2.5rem; font-size: 13px; }
.bar { display: grid; grid-template-columns: 8rem 1fr 6.6rem; gap: .6rem; align-items: center;
  break-inside: avoid; }
.bar span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bar i { background: var(--soft); border-radius: 3px; height: .7rem; overflow: hidden; }
.bar i u { display: block; height: 100%; background: var(--accent); }
.bar em { font-style: normal; text-align: right; font-variant-numeric: tabular-nums; }
.confusion { font-size: 11px; } .confusion th { font-weight: normal; padding: 0 .4rem;
  white-space: nowrap; border: 0; max-width: 14rem; overflow: hidden; text-overflow: ellipsis; }
.confusion th.up { writing-mode: vertical-rl; transform: rotate(180deg); padding: .4rem 0;
  max-height: 10rem; max-width: none; }
.confusion td { width: 1.7rem; min-width: 1.7rem; height: 1.7rem; padding: 0; text-align: center;
  border: 1px solid var(--soft); } .confusion tr > :first-child { text-align: right; }
.confusion.small { font-size: 9px; }
.confusion.small td { width: 1.1rem; min-width: 1.1rem; height: 1.1rem; }
.map { image-rendering: pixelated; width: min(100%, 54rem); border: 1px solid var(--line); }
figure:has(.map) { max-width: none; display: block; margin: 0; }
.side { display: flex; flex-wrap: wrap; column-gap: 4rem; } .side > section { max-width: 100%; }
.worst { display: grid; grid-template-columns: repeat(auto-fill, minmax(12rem, 1fr)); gap: 1.2rem; }
.worst figure { margin: 0; } .worst img { border-radius: 4px; max-width: 100%; }
td:first-child { white-space: nowrap; }
</style>"""


def evaluation_page(
    title: str,
    result: Result,
    dataset: VideoDataset,
    numbers: Mapping[str, Estimate],
    protocol: Mapping[str, object],
    notes: Sequence[str] = (),
    *,
    worst: int = 12,
) -> str:
    """Builds a self-contained HTML document.

    Args:
      title: heading.
      result: scores.
      dataset: evaluated data set.
      numbers: metrics with intervals, by their names in `METRICS`.
      protocol: everything that is needed to repeat the evaluation, in the order to be shown.
      notes: caveats.
      worst: number of videos of highest loss to show as animations.
    """
    several = result.label_sets is not None
    parts = [_STYLE, _tiles(result, numbers), *(f'<p class="note">{text(n)}</p>' for n in notes)]
    parts += ["<h2>Protocol</h2>", table(("item", "value"), protocol.items())]
    parts += ["<h2>Classes</h2>", _bars(result, dataset.classes)]
    if not several:
        confusion = _confusion(result.confusion, dataset.classes)
        pairs = _pairs(result.confusion, dataset.classes)
        parts += [
            f'<div class="side"><section><h2>Confusion</h2>{confusion}</section>'
            f"<section><h2>Most confused</h2>{pairs}</section></div>"
        ]
    if worst:
        parts += ["<h2>Worst videos</h2>", _worst(result, dataset, worst)]
    if result.broken:
        rows = [(path, why) for path, why in result.broken.items()]
        parts += ["<h2>Videos that could not be read</h2>", table(("video", "reason"), rows)]
    return page(title, "\n".join(parts))


def confused_pairs(counts: np.ndarray, most: int = 15) -> list[tuple[int, int, int]]:
    """Lists the largest off-diagonal counts of a confusion matrix.

    Args:
      counts: `[classes, classes]`, rows are labels.
      most: maximum number of pairs.

    Returns:
      (label, prediction, videos), largest first.
    """
    wrong = counts * ~np.eye(len(counts), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [np.unravel_index(cell, wrong.shape) for cell in order]
    return [(int(i), int(j), int(wrong[i, j])) for i, j in pairs if wrong[i, j]]


def thumbnail(dataset: VideoDataset, video: int) -> bytes:
    """Encodes a video as a short animated WebP of evenly spaced frames.

    Raises:
      VideoError: the video cannot be read.
    """
    from PIL import Image

    with dataset.open(video) as file:
        count = min(_FRAMES, file.num_frames)
        frames = tuple((np.arange(count) * file.num_frames // count).tolist())
        whole = View(frames, Window(0, 0, file.height, file.width))
        (clip,) = read_clip(file, [whole], _HEIGHT)
        width = max(round(_HEIGHT * file.width / file.height), 1)
    first, *others = (Image.fromarray(frame).resize((width, _HEIGHT)) for frame in clip)
    data = io.BytesIO()
    first.save(
        data,
        "WEBP",
        save_all=True,
        append_images=others,
        duration=_SHOWN,
        loop=0,
        quality=55,
    )
    return data.getvalue()


def _tiles(result: Result, numbers: Mapping[str, Estimate]) -> str:
    tiles = [
        (
            METRICS[name].title if name in METRICS else name,
            f"{100 * n.value:.2f} %",
            n.ends("{:.2f} to {:.2f} %") or "no interval",
        )
        for name, n in numbers.items()
    ]
    share = f"{len(result.labels):,} of {result.expected:,} videos"
    tiles.append(("coverage", f"{100 * result.coverage:.2f} %", share))
    cells = (
        f'<div class="tile">{text(what)}<b>{text(value)}</b><small>{text(more)}</small></div>'
        for what, value, more in tiles
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def _bars(result: Result, classes: Sequence[str]) -> str:
    """Draws one bar per class, lowest first."""
    if result.label_sets is None:
        values, what = metrics.class_accuracy(result.scores, result.labels), "Top-1 accuracy"
        counts = np.bincount(result.labels, minlength=len(classes))
    else:
        values = metrics.average_precision(result.scores, result.label_sets)
        what, counts = "Average precision", result.label_sets.sum(0)
    there = np.flatnonzero(~np.isnan(values))
    order = there[np.argsort(values[there], kind="stable")]
    bars = [
        f'<div class="bar"><span title="{text(classes[i])}">{text(classes[i])}</span>'
        f'<i><u style="width:{100 * values[i]:.1f}%"></u></i>'
        f"<em>{100 * values[i]:.1f} % of {counts[i]}</em></div>"
        for i in order
    ]
    left = len(classes) - len(there)
    without = f" {left} classes have no videos." if left else ""
    return (
        f"<p>{what} of each class, lowest first.{without}</p>"
        f'<div class="bars">{"".join(bars)}</div>'
    )


def _pairs(counts: np.ndarray, classes: Sequence[str]) -> str:
    rows = [
        (classes[i], classes[j], count, f"{100 * count / counts[i].sum():.0f} %")
        for i, j, count in confused_pairs(counts)
    ]
    if not rows:
        return "<p>All predictions are right.</p>"
    return table(("label", "prediction", "videos", "share of label"), rows)


def _confusion(counts: np.ndarray, classes: Sequence[str]) -> str:
    """Draws the confusion matrix: rows are labels, columns are predictions."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    if len(classes) > TABLE_CLASSES:
        from PIL import Image

        # The share is the opacity, so that the picture suits light and dark pages.
        pixels = np.zeros((*shares.shape, 4), np.uint8)
        pixels[..., :3] = _ACCENT
        pixels[..., 3] = np.round(255 * np.sqrt(shares))
        data = io.BytesIO()
        Image.fromarray(pixels, "RGBA").save(data, "PNG")
        figure = picture(data.getvalue(), "image/png").replace("<img ", '<img class="map" ')
        return (
            "<p>Rows are labels, columns are predictions, in the order of the classes. Stronger "
            f"color means a larger share of the row.</p>{figure}"
        )
    color = ",".join(map(str, _ACCENT))
    small = " small" * (len(classes) > 25)
    heads = "".join(f'<th class="up">{text(name)}</th>' for name in classes)
    lines = [f"<tr><th></th>{heads}</tr>"]
    for i, name in enumerate(classes):
        cells = "".join(
            f'<td title="{text(name)}, predicted {text(classes[j])}: {count}"'
            f' style="background:rgba({color},{shares[i, j]:.2f})">{count}</td>'
            if count
            else "<td></td>"
            for j, count in enumerate(counts[i].tolist())
        )
        lines.append(f'<tr><th title="{text(name)}">{text(name)}</th>{cells}</tr>')
    return (
        "<p>Rows are labels, columns are predictions; numbers are videos.</p>"
        f'<div class="scroll"><table class="confusion{small}">{"".join(lines)}</table></div>'
    )


def _worst(result: Result, dataset: VideoDataset, most: int) -> str:
    losses = np.where(np.isnan(result.losses), np.inf, result.losses)
    names, figures = video_names(dataset.paths), []
    for row in np.argsort(-losses, kind="stable")[:most]:
        video, answer = int(result.videos[row]), int(result.scores[row].argmax())
        labels = dataset.label_sets[video] if dataset.label_sets else (dataset.labels[video],)
        shown = ", ".join(f"{dataset.classes[i]} ({_score(result, row, i)})" for i in labels)
        caption = (
            f"{shown}, predicted {dataset.classes[answer]} ({_score(result, row, answer)}); "
            f"loss {losses[row]:.2f}. {names[video]}"
        )
        try:
            figures.append(picture(thumbnail(dataset, video), "image/webp", caption))
        except VideoError as error:  # the file has changed since
            figures.append(f"<figure><figcaption>{text(error)}</figcaption></figure>")
    return (
        "<p>Videos of highest loss, with the scores of the label and of the prediction.</p>"
        f'<div class="worst">{"".join(figures)}</div>'
    )


def _score(result: Result, row: int, column: int) -> str:
    score = float(result.scores[row, column])
    return f"{score:.2f}" if result.aggregation == "logits" else f"{100 * score:.1f} %"
