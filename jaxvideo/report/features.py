"""Pictures of features: the compactness curve, and t-SNE."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from jaxvideo.types import ConfigError


def draw_compactness(
    path: str | os.PathLike[str], curves: Mapping[str, Sequence[tuple[int, float]]]
) -> None:
    """Accuracy over dimensions, a line for every key of `curves`."""
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
    """Points `[M, 2]` colored by class; up to 20 classes are named beside them."""
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
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the picture {path} cannot be written ({error})") from error
