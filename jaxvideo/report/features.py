"""Pictures of features: compactness curve and t-SNE."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from jaxvideo.names import escape, one_line
from jaxvideo.progress import replacing
from jaxvideo.types import ConfigError, UsageError


def check_picture(path: str | os.PathLike[str]) -> None:
    """Checks that the ending of a picture is a format that can be written.

    Raises:
      UsageError: it is not; the message lists the formats.
    """
    ending = Path(path).suffix[1:]
    formats = sorted(FigureCanvasBase.get_supported_filetypes())
    if ending and ending.lower() not in formats:
        raise UsageError(f"the picture {path} must end with .{', .'.join(formats)}")


def draw_compactness(
    path: str | os.PathLike[str],
    curves: Mapping[str, Sequence[tuple[int, float]]],
    title: str = "Accuracy after PCA",
) -> None:
    """Draws accuracy over the number of dimensions.

    Args:
      path: picture to be written; the ending determines the format.
      curves: (dimensions, accuracy 0 to 1) of each curve by its name.
      title: heading of the picture.

    Raises:
      ConfigError: the picture cannot be written.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    shown, least = set(), 100.0
    for name, rows in curves.items():
        dimensions, accuracies = zip(*rows, strict=True)
        percents = [100 * accuracy for accuracy in accuracies]
        axes.plot(dimensions, percents, marker="o", label=escape(name), clip_on=False)
        shown, least = shown | set(dimensions), min(least, *percents)
        if len(rows) == 1:  # a single dot says little without its value
            place = {"textcoords": "offset points", "xytext": (8, -14)}
            axes.annotate(f"{percents[0]:.1f} %", (dimensions[0], percents[0]), **place)
    axes.set(xlabel="dimensions after PCA", ylabel="accuracy of a linear SVM (%)")
    axes.set_title(one_line(title), fontsize="medium")
    axes.set_xscale("log")
    axes.set_xlim(min(shown) / 1.5, max(shown) * 1.5)
    axes.set_ylim(max(10 * math.floor(least / 10) - 10, 0), 100)
    axes.set_xticks(sorted(shown), [str(number) for number in sorted(shown)])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    _save(figure, path)


def draw_embedding(
    path: str | os.PathLike[str],
    points: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    title: str = "t-SNE",
) -> None:
    """Draws points colored by class, with a legend for up to 20 classes that have points.

    Args:
      path: picture to be written; the ending determines the format.
      points: `[M, 2]`.
      labels: int `[M]`.
      classes: names of the classes.
      title: heading of the picture.

    Raises:
      ConfigError: the picture cannot be written.
    """
    present = sorted(set(labels.tolist()))
    few = len(present) <= 20
    figure = Figure(figsize=(7.5 if few else 6, 6), layout="constrained")
    axes = figure.subplots()
    colors = colormaps["tab10" if len(present) <= 10 else "tab20" if few else "hsv"]
    size = float(np.clip(4000 / len(points), 8, 60))
    for number, label in enumerate(present):
        own = points[labels == label]
        color = colors(number) if few else colors(number / len(present))
        shown = escape(str(classes[label]))
        axes.scatter(own[:, 0], own[:, 1], s=size, color=color, label=shown, linewidths=0)
    axes.set(xticks=[], yticks=[])
    # One unit is equally long on both axes, and the axes fill the picture.
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_title(one_line(title), fontsize="medium")
    if few:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize="small", frameon=False)
    _save(figure, path)


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            figure.savefig(file, dpi=110, format=Path(path).suffix[1:] or "png")
    except (OSError, ValueError) as error:
        raise ConfigError(f"the picture {path} cannot be written ({error})") from error
