"""Parity of imported weights with the library that they come from."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxvideo.models import create_model
from jaxvideo.pretrained.saving import Weights
from jaxvideo.weights import files

_MOST_FRAMES = 16


def compare_with_reference(weights: Weights, path: str | Path | None) -> dict[str, Any]:
    """Compares our network with the source library's, on one random clip, if it is installed.

    Args:
      weights: the weights as imported.
      path: the file that they were read from.

    Returns:
      `package`, `clip` (its shape), and `stages`: the largest difference over the largest value,
      per endpoint and for the logits. If the networks were not compared: only `why`, the reason.
    """
    from jaxvideo.weights import reference

    source, name = weights.origin.get("source"), weights.model["name"]
    if source not in reference.STAGES:
        known = " and ".join(reference.STAGES)
        return {"why": f"only {known} are supported, and the source is {source}"}
    if path is None:
        return {"why": "no file was given"}
    if weights.origin.get("left_out"):
        return {"why": "parts of the file were left out"}
    clip = _random_clip(weights, source)
    try:
        stages, package = reference.STAGES[source](
            name, files.read_arrays(path), weights.model["num_classes"], clip
        )
    except ImportError as error:
        return {"why": f"{error.name or source} is not installed"}
    except LookupError as error:
        return {"why": str(error)}
    model = create_model(**weights.model)
    logits, endpoints = jax.jit(partial(model.apply, train=False))(weights.variables, clip)
    ours = {**endpoints, "logits": logits}
    differences = {
        stage: float(np.abs(theirs - ours[stage]).max() / np.abs(theirs).max())
        for stage, theirs in stages.items()
    }
    return {"package": package, "clip": list(clip.shape), "stages": differences}


def _random_clip(weights: Weights, source: str) -> np.ndarray:
    frames, *rest = weights.preprocessing.shape
    # Heads of pytorchvideo are made for one number of frames.
    frames = frames if source == "pytorchvideo" else min(frames, _MOST_FRAMES)
    return np.random.default_rng(0).standard_normal((1, frames, *rest), np.float32)
