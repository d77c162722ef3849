"""3-D convolution on CPUs by the oneDNN inside jaxlib.

jaxlib's Linux x86 wheels contain oneDNN, the library behind torch's CPU convolutions, and XLA's
CPU runtime calls it for two custom calls, `__onednn$convolution` and `__onednn$matmul`. Their
configuration is the JSON form of XLA's `BackendConfig` (xla/service/cpu/onednn_config.proto), an
interface of XLA's own that may change between releases. Therefore nothing here runs before
`layers.onednn_probe` has compared its results with XLA's on this machine.

    forward           one call; bias, residual sum and activation can be part of it
    input gradient    the same call with the kernel reversed; one call per phase of the strides
    weight gradient   one matrix product per tap of the kernel

XLA's partitioner does not know the calls; see `layers.partition`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxvideo.layers.geometry import Geometry, padded, turned

#: How the names of all its custom calls begin.
TARGET = "__onednn$"
#: Activations that oneDNN applies to the result of a convolution, by their names in its interface.
ACTIVATIONS = {"relu": "RELU", "sigmoid": "SIGMOID", "swish": "SWISH"}


def convolution(
    x: jax.Array,
    w: jax.Array,
    geometry: Geometry,
    bias: jax.Array | None = None,
    residual: jax.Array | None = None,
    activation: str = "",
) -> jax.Array:
    """`activation(conv(x, w) + bias + residual)` in one call.

    Args:
      x: `[N, T, H, W, C]`, f32 or bf16.
      w: `[kt, kh, kw, C / groups, D]`, of x's dtype.
      geometry: see `layers.geometry`.
      bias: `[D]`, of x's dtype.
      residual: `[N, T', H', W', D]`, of x's dtype.
      activation: a key of `ACTIVATIONS`, or "" for none.
    """
    operations, operands = [], [x, w]
    if bias is not None:
        operations.append("BIAS")
        operands.append(bias)
    if residual is not None:
        operations.append("BINARY_ADD")
        operands.append(residual)
    if activation:
        operations.append(ACTIVATIONS[activation])
    result = jax.ShapeDtypeStruct((x.shape[0], *geometry.out_size, w.shape[-1]), x.dtype)
    return _call("convolution", _convolution_config(geometry, operations), result, *operands)


def _convolution_config(geometry: Geometry, operations: Sequence[str]) -> dict[str, Any]:
    data = {
        "dims": "5",
        "data": {"batch_dim": "0", "feature_dim": "4", "spatial_dims": ["1", "2", "3"]},
    }
    kernel = {
        "dims": "5",
        "filter": {
            "input_feature_dim": "3",
            "output_feature_dim": "4",
            "spatial_dims": ["0", "1", "2"],
        },
    }
    return {
        "dims": "5",
        "input": data,
        "output": data,
        "kernel": kernel,
        "window": {
            "size": [],
            "pad_left": [str(before) for before, _ in geometry.pads],
            "pad_right": [str(after) for _, after in geometry.pads],
            "strides": [str(stride) for stride in geometry.strides],
            "window_dilations": ["1", "1", "1"],
        },
        "feature_groups": str(geometry.groups),
        "fusions": {"ops": list(operations)},
    }


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """`a^T b` in f32 of `[M, C]` and `[M, D]`."""
    result = jax.ShapeDtypeStruct((a.shape[1], b.shape[1]), jnp.float32)
    return _call("matmul", {"transpose_a": True, "transpose_b": False}, result, a, b)


def _call(name: str, config: dict[str, Any], result: jax.ShapeDtypeStruct, *operands):
    key = {"convolution": "onednn_conv_config", "matmul": "onednn_matmul_config"}[name]
    return jax.ffi.ffi_call(
        f"{TARGET}{name}",
        result,
        custom_call_api_version=1,
        legacy_backend_config=json.dumps({key: config}),
    )(*operands)


# --- Where it can be used -----------------------------------------------------------------


def fits(geometry: Geometry) -> bool:
    """Returns True if oneDNN computes this convolution, on a machine that has it."""
    return all(
        max(pad) < k or pad == (0, 0) for pad, k in zip(geometry.pads, geometry.kernel, strict=True)
    )


# --- The three passes ---------------------------------------------------------------------


def forward(x, w, geometry: Geometry):
    """`(x, w) -> y`."""
    return convolution(x, w, geometry)


def input_gradient(g, w, geometry: Geometry):
    """`(g, w) -> dx`. With strides, input positions of one phase meet only the taps of that
    phase, so each phase is a small convolution without strides, and the phases interleave."""
    w = _transposed_per_group(w, geometry.groups)
    if geometry.strides == (1, 1, 1):
        g, w, back = turned(g, w, geometry)
        return convolution(g, w.swapaxes(3, 4), _with_groups(back, geometry.groups))
    strides, size = geometry.strides, geometry.in_size
    steps = [
        -(-(n + sum(pad)) // s) for n, pad, s in zip(size, geometry.pads, strides, strict=True)
    ]
    after = [q - n for q, n in zip(steps, geometry.out_size, strict=True)]
    phases = []
    for phase in np.ndindex(*strides):
        st, sh, sw = strides
        taps = w[phase[0] :: st, phase[1] :: sh, phase[2] :: sw]
        if 0 in taps.shape[:3]:
            phases.append(jnp.zeros((len(g), *steps, w.shape[4]), g.dtype))
            continue
        # Beyond the kernel's reach the results are zeros; a negative end cuts off results that no
        # input position has.
        reach = [min(k - 1, max(end, 0)) for k, end in zip(taps.shape[:3], after, strict=True)]
        pads = tuple((k - 1, end) for k, end in zip(taps.shape[:3], reach, strict=True))
        kept = [n + min(end, 0) for n, end in zip(g.shape[1:4], after, strict=True)]
        source = g[:, : kept[0], : kept[1], : kept[2]]
        kt, kh, kw = taps.shape[:3]
        small = Geometry((kt, kh, kw), source.shape[1:4], (1, 1, 1), pads, geometry.groups)
        y = convolution(source, taps[::-1, ::-1, ::-1], small)
        missing = [(0, q - n) for q, n in zip(steps, y.shape[1:4], strict=True)]
        phases.append(padded(y, missing))
    n, t, h, v, c = phases[0].shape
    st, sh, sw = strides
    dx = jnp.stack(phases, axis=4).reshape(n, t, h, v, st, sh, sw, c)
    dx = dx.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(n, t * st, h * sh, v * sw, c)
    first = [pad[0] for pad in geometry.pads]
    return lax.slice(dx, (0, *first, 0), (n, *(f + k for f, k in zip(first, size, strict=True)), c))


def weight_gradient(x, g, geometry: Geometry):
    """`(x, g) -> dw`, without groups: one product over all positions per tap."""
    channels, features = x.shape[-1], g.shape[-1]
    x, rows, taps = padded(x, geometry.pads), g.reshape(-1, features), []
    for tap in np.ndindex(*geometry.kernel):
        ends = [
            first + (n - 1) * stride + 1
            for first, n, stride in zip(tap, geometry.out_size, geometry.strides, strict=True)
        ]
        under = lax.slice(x, (0, *tap, 0), (len(x), *ends, channels), (1, *geometry.strides, 1))
        taps.append(product(under.reshape(-1, channels), rows))
    return jnp.stack(taps).reshape(*geometry.kernel, channels, features).astype(x.dtype)


def _transposed_per_group(w, groups: int):
    """`[kt, kh, kw, C / groups, D]` to `[kt, kh, kw, D / groups, C]`."""
    if groups == 1:
        return w.swapaxes(3, 4)
    *kernel, c, features = w.shape
    w = w.reshape(*kernel, c, groups, features // groups)
    return jnp.moveaxis(w, 3, 5).swapaxes(3, 4).reshape(*kernel, features // groups, groups * c)


def _with_groups(geometry: Geometry, groups: int) -> Geometry:
    return Geometry(geometry.kernel, geometry.in_size, geometry.strides, geometry.pads, groups)
