"""The first weights of a run, where they are not fresh ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxvideo.pretrained import SOURCES, adopt, read_weights
from jaxvideo.training.checkpoint import load_variables
from jaxvideo.training.config import Init
from jaxvideo.types import Preprocessing
from jaxvideo.weights import files, tree

# What networks' weights depend on beside the name of the network.
_FORMS = {argument for source in SOURCES.values() for argument in source.arguments}


def initial_weights(
    init: Init, model: Mapping[str, Any], num_classes: int, preprocessing: Preprocessing, seed: int
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """What `init` names, for a model and its clips.

    Args:
      model: `name` and arguments of `create_model`, without `num_classes`.

    Returns:
      Variables; `model` with the arguments that these weights need; and a line for every way in
      which the clips they were trained on differ from these.

    Raises:
      JaxvideoError: they cannot be read, or do not fit: the difference is listed.
    """
    arguments = dict(model)
    name = arguments.pop("name")
    shared: dict[str, Any] = {
        "num_classes": num_classes,
        "leave_out": init.leave_out,
        "seed": seed,
        "frames": preprocessing.frames,
        "crop": preprocessing.crop,
    }
    if Path(init.path).is_dir():
        found, described = load_variables(init.path)
        flat, needed, theirs = tree.flatten(found), described["model"], described["preprocessing"]
    elif init.inflate:
        described = files.read_description(init.path) or {"model": {}, "preprocessing": {}}
        flat = files.read_arrays(init.path)
        needed, theirs = described["model"], described["preprocessing"]
    else:
        weights = read_weights(name, init.path, init.source or None, **shared, **arguments)
        notes = _differences(dataclasses.asdict(weights.preprocessing), preprocessing)
        return weights.variables, {**weights.model, **model}, notes
    arguments = {**{k: v for k, v in needed.items() if k in _FORMS}, **arguments}
    flat = {path: np.asarray(array) for path, array in flat.items()}
    variables = adopt(flat, init.path, name, **shared, inflate_how=init.inflate, **arguments)
    return variables, {"name": name, **arguments}, _differences(theirs, preprocessing)


def _differences(theirs: Mapping[str, Any], ours: Preprocessing) -> list[str]:
    """Length, stride and crop may change in fine-tuning; pixel values had better not."""
    if not theirs:
        return []
    given = Preprocessing(**theirs)
    return [
        f"the first weights expect preprocessing.{field}={getattr(given, field)}, "
        f"this run has {getattr(ours, field)}"
        for field in ("range", "mean", "std", "order")
        if getattr(given, field) != getattr(ours, field)
    ]
