"""ONEDNN: convolutions on CPUs by the oneDNN library inside jaxlib.

jaxlib's Linux x86 wheels contain oneDNN, the library behind torch's CPU convolutions. XLA's CPU
runtime uses it for two custom calls, `__onednn$convolution` and `__onednn$matmul`. Their
configuration is the JSON form of XLA's `BackendConfig` (xla/service/cpu/onednn_config.proto). This
interface is internal to XLA and may change between releases. Therefore nothing here runs before
`onednn_probe` has compared its results with NumPy's on this machine.

    forward           one call, which can include bias, residual sum and activation
    input gradient    the same call with the reversed kernel; one call per phase of the strides
    weight gradient   one matrix product per tap of the kernel

XLA's partitioner cannot split the calls; see `layers.partition`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxvideo.layers.geometry import Geometry, Pass, padded, turned
from jaxvideo.layers.lowerings.implementation import Implementation
from jaxvideo.types import Lowering

#: Prefix of the names of its custom calls.
TARGET = "__onednn$"
#: Activations that oneDNN can apply to the result of a convolution, and their names there.
ACTIVATIONS = {"relu": "RELU", "sigmoid": "SIGMOID", "swish": "SWISH"}


def convolution(
    x: jax.Array,
    w: jax.Array,
    geometry: Geometry,
    bias: jax.Array | None = None,
    residual: jax.Array | None = None,
    activation: str = "",
) -> jax.Array:
    """Computes `activation(conv(x, w) + bias + residual)` in one call.

    Args:
      x: `[N, T, H, W, C]`, f32 or bf16.
      w: `[kt, kh, kw, C / groups, D]`, of x's dtype.
      geometry: sizes, strides, padding and groups.
      bias: `[D]`, of x's dtype, or None.
      residual: `[N, T', H', W', D]`, of x's dtype, or None.
      activation: a key of `ACTIVATIONS`; "" (default) for none.
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
    """Computes `a^T b` in f32, from `[M, C]` and `[M, D]`."""
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


def fits(geometry: Geometry) -> bool:
    """Returns True if oneDNN computes this convolution on machines that have it."""
    return all(
        max(pad) < k or pad == (0, 0) for pad, k in zip(geometry.pads, geometry.kernel, strict=True)
    )


def forward(x, w, geometry: Geometry):
    """`(x, w) -> y`."""
    return convolution(x, w, geometry)


def input_gradient(g, w, geometry: Geometry):
    """`(g, w) -> dx`.

    With strides, input positions of one phase meet only the taps of that phase, so each phase is
    a small convolution without strides, and the phases interleave.
    """
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
        # Beyond the kernel's reach the results are zeros. A negative end removes results that
        # belong to no input position.
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
    """`(x, g) -> dw` for one group: one product over all positions per tap."""
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
    """Transposes each group: `[kt, kh, kw, C / groups, D]` to `[kt, kh, kw, D / groups, C]`."""
    if groups == 1:
        return w.swapaxes(3, 4)
    *kernel, c, features = w.shape
    w = w.reshape(*kernel, c, groups, features // groups)
    return jnp.moveaxis(w, 3, 5).swapaxes(3, 4).reshape(*kernel, features // groups, groups * c)


def _with_groups(geometry: Geometry, groups: int) -> Geometry:
    return Geometry(geometry.kernel, geometry.in_size, geometry.strides, geometry.pads, groups)


def implementation(compute: Callable[..., jax.Array]) -> Implementation:
    """Returns the implementation; `compute` computes weight gradients of grouped convolutions."""

    def any_weight_gradient(x, g, geometry):
        if geometry.groups == 1:
            return weight_gradient(x, g, geometry)
        depthwise = geometry.groups == x.shape[-1] == g.shape[-1]
        other = Lowering.SHIFT if depthwise else Lowering.GROUP_BY_GROUP
        return compute(Pass.WEIGHT_GRADIENT, other, x, g, geometry)

    return Implementation(
        forward,
        input_gradient,
        any_weight_gradient,
        fits=lambda geometry, depthwise: fits(geometry),
    )
