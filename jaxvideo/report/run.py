"""Pictures of a run: training curves and confusion matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from jaxvideo.evaluation.fusion import SCORES
from jaxvideo.evaluation.metrics import confusion_matrix
from jaxvideo.names import escape
from jaxvideo.progress import replacing
from jaxvideo.training.log import read_metrics


def draw_run(workdir: Path) -> list[Path]:
    """Draws `curves.png` and `confusion.png` in the directory of a finished run.

    Returns:
      The paths of the pictures.
    """
    return [_curves(Path(workdir)), _confusion(Path(workdir))]


def _curves(workdir: Path) -> Path:
    records = read_metrics(workdir)
    steps = [record["step"] for record in records]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, names, title in (
        (left, {"loss": "training", "val_loss": "one-clip validation"}, "loss"),
        (right, {"top1": "training clips", "val_top1": "one-clip validation"}, "top-1"),
    ):
        for name, label in names.items():
            axes.plot(steps, [record[name] for record in records], marker=".", label=label)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        axes.legend()
    right.set_ylim(0, 1)
    return _save(figure, workdir / "curves.png")


def _confusion(workdir: Path) -> Path:
    with np.load(workdir / SCORES, allow_pickle=False) as file:
        classes = [escape(name) for name in file["classes"].tolist()]
        counts = confusion_matrix(file["scores"], file["labels"])
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    few = len(classes) <= 30
    side = 2.5 + 0.5 * len(classes) if few else 12
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="prediction", ylabel="label", title="confusion (share of each row)")
    if few:
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
        axes.set_yticks(range(len(classes)), classes)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=color)
    figure.colorbar(image, shrink=0.7)
    return _save(figure, workdir / "confusion.png")


def _save(figure, path: Path) -> Path:
    with replacing(path) as temporary, open(temporary, "wb") as file:
        figure.savefig(file, dpi=110, format="png")
    return path
