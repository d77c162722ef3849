"""Runs the original networks of weights; needs torch and torchvision."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

_S3D_STAGES = (
    *("conv_1a", "pool_2a", "conv_2b", "conv_2c", "pool_3a", "mixed_3b", "mixed_3c", "pool_4a"),
    *(
        "mixed_4b",
        "mixed_4c",
        "mixed_4d",
        "mixed_4e",
        "mixed_4f",
        "pool_5a",
        "mixed_5b",
        "mixed_5c",
    ),
)


@cache
def torchvision() -> Any:
    """Returns the package `torchvision`.

    Its CUDA wheel needs operators that torch for CPUs lacks; they are declared and never called.
    """
    import torch

    try:
        import torchvision
    except RuntimeError:  # operator torchvision::nms does not exist
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float threshold) -> Tensor")
        import torchvision

        torchvision.jaxvideo_keeps = library  # the operators exist as long as this object
    return torchvision


def torchvision_stages(
    name: str, arrays: Mapping[str, np.ndarray], num_classes: int, clip: np.ndarray
) -> tuple[dict[str, np.ndarray], str]:
    """Returns the outputs of torchvision's stem, stages and head for a clip.

    Args:
      name: a name of torchvision's models.
      arrays: contents of its weight file.
      num_classes: number of classes of the file.
      clip: `[N, T, H, W, C]`.

    Returns:
      Arrays by the names of our endpoints, in our layout; and the package with its version.
    """
    package = torchvision()
    import torch

    network = getattr(package.models.video, name)(num_classes=num_classes).eval()
    network.load_state_dict({k: torch.from_numpy(np.array(a)) for k, a in arrays.items()})
    if name == "s3d":  # its logits are a mean over the output of the last layer
        parts = dict(zip(_S3D_STAGES, network.features, strict=True)) | {"logits": network}
    else:
        parts = {"conv1": network.stem}
        parts |= {f"conv{i + 1}_x": getattr(network, f"layer{i}") for i in range(1, 5)}
        parts["logits"] = network.fc
    stages = {}

    def keep(stage):
        def hook(module, inputs, output):
            del module, inputs
            array = output.numpy()
            stages[stage] = array.transpose(0, 2, 3, 4, 1) if array.ndim == 5 else array

        return hook

    for stage, part in parts.items():
        part.register_forward_hook(keep(stage))
    with torch.inference_mode():
        network(torch.from_numpy(clip.transpose(0, 4, 1, 2, 3).copy()))
    return {stage: stages[stage] for stage in parts}, f"torchvision {package.__version__}"
