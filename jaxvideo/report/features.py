"""Pictures of features: compactness curve and t-SNE."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from jaxvideo.progress import replacing
from jaxvideo.types import ConfigError


def draw_compactness(
    path: str | os.PathLike[str], curves: Mapping[str, Sequence[tuple[int, float]]]
) -> None:
    """Draws accuracy over the number of dimensions.

    Args:
      path: picture to be written; the ending determines the format.
      curves: (dimensions, accuracy 0 to 1) of each curve by its name.

    Raises:
      ConfigError: the picture cannot be written.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, rows in curves.items():
        dimensions, accuracies = zip(*rows, strict=True)
        axes.plot(dimensions, [100 * a for a in accuracies], marker="o", label=name)
    axes.set(xlabel="dimensions after PCA", ylabel="accuracy of a linear SVM (%)")
    axes.set_xscale("log")
    axes.set_xticks(dimensions, list(map(str, dimensions)))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def draw_embedding(
    path: str | os.PathLike[str], points: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> None:
    """Draws points colored by class, with a legend for up to 20 classes.

    Args:
      path: picture to be written; the ending determines the format.
      points: `[M, 2]`.
      labels: int `[M]`.
      classes: names of the classes.

    Raises:
      ConfigError: the picture cannot be written.
    """
    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.subplots()
    few = len(classes) <= 20
    colors = colormaps["tab20" if few else "hsv"]
    for label, name in enumerate(classes):
        own = points[labels == label]
        color = colors(label) if few else colors(label / len(classes))
        axes.scatter(own[:, 0], own[:, 1], s=12, color=color, label=name, linewidths=0)
    axes.set(xticks=[], yticks=[], aspect="equal")
    if few:
        figure.legend(loc="outside right upper", fontsize="small")
    _save(figure, path)


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            figure.savefig(file, dpi=110, format=Path(path).suffix[1:] or "png")
    except (OSError, ValueError) as error:
        raise ConfigError(f"the picture {path} cannot be written ({error})") from error
