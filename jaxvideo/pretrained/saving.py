"""Weights with everything that is needed to use them, and the file format for them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxvideo import __version__
from jaxvideo.models import create_model
from jaxvideo.progress import write_file
from jaxvideo.types import CheckpointError, ConfigError, Preprocessing, Protocol
from jaxvideo.weights import files, tree


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights and what is needed to use them.

    Attributes:
      variables: `{"params": ..., "batch_stats": ...}`, f32.
      model: `name` and arguments of `create_model`; `num_classes` is always included.
      preprocessing: preprocessing of the clips that they were trained on.
      classes: class names in the order of the logits; "class 0", ... if unknown.
      origin: file name, its SHA-256, and the source.
      protocol: test protocol, if the file provides it; otherwise the default of `Protocol`.
    """

    variables: dict[str, Any]
    model: dict[str, Any]
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    origin: dict[str, Any]
    protocol: Protocol = dataclasses.field(default_factory=Protocol)


def save_weights(path: str | Path, weights: Weights, **more: Any) -> dict[str, Any]:
    """Writes NAME.safetensors for `open_weights`, and NAME.json with the header as text.

    Args:
      path: NAME.safetensors.
      weights: the weights.
      **more: further entries of the header.

    Returns:
      The header.

    Raises:
      ConfigError: the file name does not end with `.safetensors`.
      CheckpointError: a file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ConfigError(f"{path}: the name of a weight file must end with .safetensors")
    manifest = {
        "model": weights.model,
        "bn_epsilon": getattr(create_model(**weights.model), "bn_epsilon", None),
        "preprocessing": dataclasses.asdict(weights.preprocessing),
        "protocol": dataclasses.asdict(weights.protocol),
        "classes": list(weights.classes),
        "origin": weights.origin,
        "jaxvideo": __version__,
        **more,
    }
    arrays = {name: np.asarray(leaf) for name, leaf in tree.flatten(weights.variables).items()}
    text = json.dumps(files.write(path, arrays, manifest), indent=2)
    try:
        write_file(path.with_suffix(".json"), text + "\n")
    except OSError as error:
        raise CheckpointError(f"{path.with_suffix('.json')} cannot be written ({error})") from error
    return json.loads(text)
