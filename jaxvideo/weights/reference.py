"""Runs the original networks of weights; needs torch, and torchvision or pytorchvideo."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
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

    Raises:
      LookupError: the library has no such network.
    """
    package = torchvision()
    import torch

    if not hasattr(package.models.video, name):
        raise LookupError(f"torchvision has no video network {name}")
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


def pytorchvideo_stages(
    name: str, arrays: Mapping[str, np.ndarray], num_classes: int, clip: np.ndarray
) -> tuple[dict[str, np.ndarray], str]:
    """Returns the outputs of the blocks of a network of pytorchvideo's hub for a clip.

    Args:
      name: a name of `pytorchvideo.models.hub`.
      arrays: contents of its weight file.
      num_classes: number of classes of the file.
      clip: `[N, T, H, W, C]`, of the frames and the size that the head expects.

    Returns:
      Arrays by the names of our endpoints, in our layout; and the package with its version.

    Raises:
      ImportError: the package or one that it needs is not installed.
      LookupError: the library has no such network.
    """
    torchvision()  # which pytorchvideo imports
    from importlib.metadata import version

    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses deprecated features of its dependencies
        from pytorchvideo.models import hub

        if not hasattr(hub, name):
            raise LookupError(f"pytorchvideo's hub has no network {name}")
        network = getattr(hub, name)(pretrained=False, model_num_class=num_classes).eval()
    bare = {key.removeprefix("model."): array for key, array in arrays.items()}
    network.load_state_dict({k: torch.from_numpy(np.array(a)) for k, a in bare.items()})
    network.blocks[-1].activation = None  # X3D's computes probabilities
    x = torch.from_numpy(clip.transpose(0, 4, 1, 2, 3).copy())
    two = name.startswith("slowfast")
    if two:
        x = [x[:, :, torch.linspace(0, x.shape[2] - 1, x.shape[2] // 4).long()], x]
    outputs = []
    with torch.inference_mode():
        for block in network.blocks:
            x = block(x)
            outputs.append(list(x) if isinstance(x, list) else x)
    return _stages_of_blocks(name, outputs), f"pytorchvideo {version('pytorchvideo')}"


def _stages_of_blocks(name: str, outputs: list[Any]) -> dict[str, np.ndarray]:
    """Names the outputs of the blocks by our endpoints."""
    names = ["pool1" if name.startswith("csn") else "conv1", "res2", "res3", "res4", "res5"]
    if name in ("c2d_r50", "i3d_r50"):
        names.insert(2, "")  # a pool that our res2 does not include
    stages = {}
    for stage, output in zip(names, outputs, strict=False):
        if isinstance(output, list):
            slow, fast = output
            # After the fusion, channels of the lateral connection follow those of the Slow pathway.
            stages[f"slow_{stage}"], stages[f"fast_{stage}"] = slow[:, : 8 * fast.shape[1]], fast
        elif stage:
            stages[stage] = output
    found = {stage: output.numpy().transpose(0, 2, 3, 4, 1) for stage, output in stages.items()}
    return {**found, "logits": outputs[-1].numpy()}


#: Original networks by source: `(name, arrays, num_classes, clip) -> (stages, package)`.
STAGES: dict[str, Callable[..., tuple[dict[str, np.ndarray], str]]] = {
    "torchvision": torchvision_stages,
    "pytorchvideo": pytorchvideo_stages,
}
