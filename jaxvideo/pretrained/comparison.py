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
    if weights.origin["source"] != "torchvision":
        source = weights.origin["source"]
        return {"why": f"only torchvision is supported, and the source is {source}"}
    if path is None:
        return {"why": "no file was given"}
    if weights.origin["left_out"]:
        return {"why": "parts of the file were left out"}
    try:
        from jaxvideo.weights import reference

        clip = _random_clip(weights)
        stages, package = reference.torchvision_stages(
            weights.model["name"], files.read_arrays(path), weights.model["num_classes"], clip
        )
    except ImportError as error:
        return {"why": f"{error.name or 'torchvision'} is not installed (extra [torch])"}
    model = create_model(**weights.model)
    logits, endpoints = jax.jit(partial(model.apply, train=False))(weights.variables, clip)
    ours = {**endpoints, "logits": logits}
    differences = {
        stage: float(np.abs(theirs - ours[stage]).max() / np.abs(theirs).max())
        for stage, theirs in stages.items()
    }
    return {"package": package, "clip": list(clip.shape), "stages": differences}


def _random_clip(weights: Weights) -> np.ndarray:
    frames, *rest = weights.preprocessing.shape
    shape = (1, min(frames, _MOST_FRAMES), *rest)
    return np.random.default_rng(0).standard_normal(shape, np.float32)
