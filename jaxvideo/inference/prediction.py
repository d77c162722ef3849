"""The class probabilities of a video, and how they are made from the scores of its clips."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from jaxvideo.types import ConfigError

if TYPE_CHECKING:
    from jaxvideo.evaluation.scoring import ClipScores


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Class probabilities of one video.

    Attributes:
      probabilities: f32 `[classes]`. They sum to 1 unless the network is multi-label.
      classes: the class names, in the same order.
      clips: the clips whose mean this is, with the probabilities of each as `scores`, and its
        first and last frame and its start and end in seconds. Equal clips are listed once.
    """

    probabilities: np.ndarray
    classes: tuple[str, ...]
    clips: tuple[ClipScores, ...] = ()

    def __repr__(self) -> str:
        best = ", ".join(f"{name} {probability:.1%}" for name, probability in self.top(3))
        return f"Prediction: {best}; {len(self.classes)} classes, {len(self.clips)} distinct clips"

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """Returns `(class, probability)` of the most probable classes, most probable first."""
        best = top_classes(self.probabilities, count)
        return [(self.classes[i], float(self.probabilities[i])) for i in best]


def top_classes(probabilities: np.ndarray, count: int) -> list[int]:
    """Returns the indices of the most probable classes, most probable first."""
    if count < 1:
        raise ConfigError(f"top(count={count}): count must be at least 1")
    return np.argsort(-probabilities, kind="stable")[:count].tolist()
