"""3-D convolution and its lowerings: the heart of the library.

A 3-D convolution can be computed in several ways that give the same numbers at very
different speeds. `conv3d` is the one function; `Lowering` names the ways; `layers.lowerings`
holds them and chooses one for each platform, pass and shape, and from nothing else.

The convolution is a JAX primitive of its own, so that the choice is made when a program is
lowered for a platform (one traced or exported program serves all), separately for the value
and for each gradient, and so that `jvp`, `grad` and `vmap` work as with JAX's own: the map is
bilinear, and the transposes of its three passes are the other two.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.interpreters import ad, batching, mlir

from jaxvideo.layers import onednn, onednn_probe
from jaxvideo.layers.geometry import Geometry, Pads, Pass, Triple
from jaxvideo.layers.jax_internals import (
    devices_of,
    keep_out_of_compilation_cache,
    needs_devices,
)
from jaxvideo.layers.lowerings import compute, fits, resolve
from jaxvideo.layers.parameters import parameter
from jaxvideo.layers.partition import over_batch
from jaxvideo.types import ConfigError, Lowering

#: Functions that can follow a convolution.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "": lambda x: x,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "swish": jax.nn.swish,
}

Padding = str | int | Sequence[int] | Sequence[tuple[int, int]]


def explicit_padding(
    padding: Padding, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int]
) -> Pads:
    """Padding as ((before, after), ...) for each of the axes in `sizes`.

    Three conventions of the field, and no other, are named here:
      - ints or pairs: explicit, as torch and Caffe mean them (an int pads both sides);
      - "SAME": TensorFlow's, out = ceil(size / stride), the odd pixel after. For stride 2 on
        even sizes it differs from the symmetric one (7 taps on 112: (2, 3), torch (3, 3));
      - "CEIL": Caffe's pooling, no padding before, and after as much as a last window that
        starts inside the input needs.
    """
    if isinstance(padding, str):
        pads = []
        for size, k, s in zip(sizes, kernel, strides, strict=True):
            if padding == "SAME":
                total = max((-(-size // s) - 1) * s + k - size, 0)
                pads.append((total // 2, total - total // 2))
            elif padding == "CEIL":
                windows = max(-(-(size - k) // s), 0) + 1
                pads.append((0, max((windows - 1) * s + k - size, 0)))
            elif padding == "VALID":
                pads.append((0, 0))
            else:
                raise ConfigError(
                    f"padding={padding!r}: allowed are 'SAME', 'VALID', 'CEIL', ints and pairs"
                )
        return tuple(pads)
    if isinstance(padding, int):
        return ((padding, padding),) * len(sizes)
    return tuple((p, p) if isinstance(p, int) else (int(p[0]), int(p[1])) for p in padding)


def conv3d(
    x: jax.Array,
    w: jax.Array,
    strides: Sequence[int] = (1, 1, 1),
    padding: Padding = 0,
    groups: int = 1,
    lowering: Lowering | str = Lowering.AUTO,
    *,
    bias: jax.Array | None = None,
    residual: jax.Array | None = None,
    activation: str = "",
) -> jax.Array:
    """Computes `activation(conv(x, w) + bias + residual)`, a 3-D cross-correlation in NTHWC.

    Args:
      x: `[N, T, H, W, C]`.
      w: `[kt, kh, kw, C / groups, D]`, of x's dtype.
      strides: (t, h, w).
      padding: see `explicit_padding`.
      groups: feature groups; C for a depthwise convolution.
      lowering: how to compute it; the result does not depend on it beyond rounding. AUTO
        chooses per platform and pass when the program is lowered, so that one traced program
        serves all; any other, or its name ("direct"), is used for the value and both gradients.
      bias: `[D]`, or None.
      residual: `[N, T', H', W', D]` of x's dtype, added before the activation, or None.
      activation: a key of `ACTIVATIONS`: "" (default: none), "relu", "sigmoid" or "swish".

    Returns:
      `[N, T', H', W', D]` in x's dtype, accumulated in f32 if the platform does so.

    Raises:
      ConfigError: the shapes or dtypes do not match, or the lowering cannot compute them.
    """
    try:
        lowering = Lowering(lowering)
    except ValueError:
        allowed = [one.value for one in Lowering]
        raise ConfigError(f"lowering={lowering!r}: allowed are {allowed}") from None
    if x.ndim != 5 or w.ndim != 5:
        raise ConfigError(f"conv3d wants x [N,T,H,W,C] and w [kt,kh,kw,C,D]: {x.shape}, {w.shape}")
    if x.shape[-1] != w.shape[3] * groups or w.shape[4] % groups:
        raise ConfigError(
            f"conv3d: {x.shape[-1]} channels, kernel {w.shape}, groups={groups} do not fit: the "
            "kernel's 4th axis must be channels / groups and its 5th a multiple of groups"
        )
    if x.dtype != w.dtype:
        raise ConfigError(f"conv3d: x is {x.dtype} and w {w.dtype}; cast one of them")
    kernel, size = _triple(w.shape[:3]), _triple(x.shape[1:4])
    strides = _triple(strides)
    pads = explicit_padding(padding, x.shape[1:4], kernel, strides)
    for axis, length, k, pad in zip("THW", size, kernel, pads, strict=True):
        if length + sum(pad) < k:
            raise ConfigError(
                f"conv3d: {axis}={length} with padding {pad} is smaller than the kernel's {k} taps"
            )
    geometry = Geometry(kernel, size, strides, pads, groups)
    if lowering is not Lowering.AUTO:
        _check(lowering, geometry, depthwise=groups == x.shape[-1] == w.shape[-1])
    if activation not in ACTIVATIONS:
        raise ConfigError(f"activation={activation!r}: allowed are {list(ACTIVATIONS)}")
    if bias is None and residual is None and not activation:
        return _bind(Pass.FORWARD, x, w, geometry=geometry, lowering=lowering)
    result = (x.shape[0], *geometry.out_size, w.shape[-1])
    for name, array, shape in (("bias", bias, result[-1:]), ("residual", residual, result)):
        if array is not None and array.shape != shape:
            raise ConfigError(f"conv3d: {name} has shape {array.shape}; it must be {shape}")
    epilogue = [array for array in (bias, residual) if array is not None]
    return _fused_p.bind(
        x,
        w,
        *epilogue,
        geometry=geometry,
        lowering=lowering,
        activation=activation,
        with_bias=bias is not None,
    )


def _triple(values: Sequence[int]) -> Triple:
    t, h, w = (int(value) for value in values)
    return t, h, w


def _check(lowering: Lowering, geometry: Geometry, depthwise: bool) -> None:
    if not fits(lowering, geometry, depthwise):
        kt, kh, kw = geometry.kernel
        others = [one for one in Lowering if one is not Lowering.AUTO]
        allowed = [one.value for one in others if fits(one, geometry, depthwise)]
        raise ConfigError(
            f"lowering={lowering.value!r} cannot compute a {kt}x{kh}x{kw} kernel with strides "
            f"{geometry.strides} and groups={geometry.groups}; allowed here: {allowed}"
        )


# --- The primitive: one of the three passes, (a, b) as in `lowerings.Pass` -----------------

_conv3d_p = core.Primitive("conv3d")


def _bind(what: Pass, a, b, *, geometry: Geometry, lowering: Lowering):
    return _conv3d_p.bind(a, b, what=what, geometry=geometry, lowering=lowering)


def _abstract(a, b, *, what, geometry, lowering):
    del lowering
    if what is Pass.FORWARD:
        shape = (a.shape[0], *geometry.out_size, b.shape[4])
    elif what is Pass.INPUT_GRADIENT:
        shape = (a.shape[0], *geometry.in_size, b.shape[3] * geometry.groups)
    else:
        shape = (*geometry.kernel, a.shape[-1] // geometry.groups, b.shape[-1])
    return jax.core.ShapedArray(shape, a.dtype)


def _compute_on(platform: str, target: _Target, a, b, *, what, geometry, lowering):
    if lowering is Lowering.AUTO:
        channels = a.shape[-1], b.shape[-1]
        if what is Pass.INPUT_GRADIENT:
            channels = b.shape[3] * geometry.groups, a.shape[-1]
        lowering = resolve(platform, what, geometry, *channels, engine=target.engine)
    elif lowering is Lowering.ONEDNN:
        onednn_probe.require(platform, a.dtype)

    def run(a, b):
        return compute(what, lowering, a, b, geometry)

    summed = what is Pass.WEIGHT_GRADIENT
    return target.run(run, [a, b], [True, summed], lowering, summed)


@dataclasses.dataclass(frozen=True)
class _Target:
    """What a program is lowered for.

    Attributes:
      engine: see `onednn_probe.engine`.
      partitioned: True if operands can be sharded over several CPU devices.
    """

    engine: str
    partitioned: bool

    def run(self, function, operands, batched, lowering, summed=False):
        if not self.partitioned or lowering is Lowering.DIRECT:
            return function(*operands)
        return over_batch(function, operands, batched, summed)


def _lowering_rule(compute_on: Callable[..., jax.Array], platform: str):
    """A lowering rule from a function `(platform, target, *operands, **parameters)`."""

    def rule(context, *operands, **parameters):
        # `jax.export` refuses custom calls whose stability XLA does not guarantee.
        exported = context.module_context.lowering_parameters.for_export
        devices = devices_of(context)
        on_cpu = platform == "cpu" and not exported and devices > 0
        usable = on_cpu and keep_out_of_compilation_cache(onednn.TARGET)
        engine = onednn_probe.engine(context.avals_in[0].dtype) if usable else ""
        target = _Target(engine, partitioned=on_cpu and devices > 1)
        function = functools.partial(compute_on, platform, target)
        return mlir.lower_fun(function, multiple_results=False)(context, *operands, **parameters)

    return rule


def _transpose_first(cotangent, a, b, *, what, **rest):
    if what is Pass.FORWARD:
        return _bind(Pass.INPUT_GRADIENT, cotangent, b, **rest)
    if what is Pass.INPUT_GRADIENT:
        return _bind(Pass.FORWARD, cotangent, b, **rest)
    return _bind(Pass.INPUT_GRADIENT, b, cotangent, **rest)


def _transpose_second(cotangent, a, b, *, what, **rest):
    if what is Pass.FORWARD:
        return _bind(Pass.WEIGHT_GRADIENT, a, cotangent, **rest)
    if what is Pass.INPUT_GRADIENT:
        return _bind(Pass.WEIGHT_GRADIENT, cotangent, a, **rest)
    return _bind(Pass.FORWARD, a, cotangent, **rest)


def _batched(operands, axes, *, what, geometry, lowering):
    (a, b), (a_axis, b_axis) = operands, axes
    if b_axis is None and what is not Pass.WEIGHT_GRADIENT:  # more clips, the same kernel
        a = jnp.moveaxis(a, a_axis, 0)
        flat = a.reshape(-1, *a.shape[2:])
        y = _bind(what, flat, b, geometry=geometry, lowering=lowering)
        return y.reshape(*a.shape[:2], *y.shape[1:]), 0
    # A kernel per member, or a gradient per member: XLA's convolution knows how.

    def direct(a, b):
        return compute(what, Lowering.DIRECT, a, b, geometry)

    return jax.vmap(direct, in_axes=(a_axis, b_axis))(a, b), 0


@functools.partial(jax.jit, static_argnames=("what", "geometry", "lowering"))
def _run(a, b, **static):
    return _conv3d_p.bind(a, b, **static)


_conv3d_p.def_impl(_run)
_conv3d_p.def_abstract_eval(_abstract)
needs_devices(_conv3d_p)
ad.defbilinear(_conv3d_p, _transpose_first, _transpose_second)
batching.primitive_batchers[_conv3d_p] = _batched
for _platform in ("cpu", "tpu", None):  # any other is treated like the GPU
    mlir.register_lowering(
        _conv3d_p, _lowering_rule(_compute_on, _platform or "gpu"), platform=_platform
    )


# --- A second primitive: a convolution with what follows it ---------------------------------

_fused_p = core.Primitive("conv3d_fused")


def _composed(x, w, *epilogue, geometry, lowering, activation, with_bias):
    """The separate operations that the primitive stands for, with the epilogue in f32."""
    y = _bind(Pass.FORWARD, x, w, geometry=geometry, lowering=lowering)
    wide = jnp.promote_types(y.dtype, jnp.float32)
    y = y.astype(wide)
    for array in epilogue:
        y = y + array.astype(wide)
    return ACTIVATIONS[activation](y).astype(x.dtype)


def _fused_on(platform, target, x, w, *epilogue, geometry, lowering, activation, with_bias):
    chosen = lowering
    if lowering is Lowering.AUTO and target.engine and onednn.fits(geometry):
        # Faster than any other together with what follows, and compiled in no time.
        chosen = Lowering.ONEDNN
    elif lowering is Lowering.ONEDNN:
        onednn_probe.require(platform, x.dtype)
    if chosen is not Lowering.ONEDNN:
        parameters = {"geometry": geometry, "lowering": lowering, "activation": activation}
        return _composed(x, w, *epilogue, **parameters, with_bias=with_bias)

    def run(x, w, *epilogue):
        bias = epilogue[0].astype(x.dtype) if with_bias else None
        residual = epilogue[-1] if len(epilogue) > with_bias else None
        return onednn.convolution(x, w, geometry, bias, residual, activation)

    batched = [True, False, *(array.ndim > 1 for array in epilogue)]
    return target.run(run, [x, w, *epilogue], batched, chosen)


def _fused_abstract(x, w, *epilogue, geometry, **rest):
    del epilogue, rest
    return jax.core.ShapedArray((x.shape[0], *geometry.out_size, w.shape[4]), x.dtype)


def _fused_jvp(primals, tangents, **parameters):
    active = [i for i, tangent in enumerate(tangents) if not isinstance(tangent, ad.Zero)]

    def composed(*some):
        operands = list(primals)
        for index, value in zip(active, some, strict=True):
            operands[index] = value
        return _composed(*operands, **parameters)

    return jax.jvp(composed, [primals[i] for i in active], [tangents[i] for i in active])


def _fused_batched(operands, axes, **parameters):
    return jax.vmap(functools.partial(_composed, **parameters), in_axes=axes)(*operands), 0


@functools.partial(jax.jit, static_argnames=("geometry", "lowering", "activation", "with_bias"))
def _run_fused(*operands, **static):
    return _fused_p.bind(*operands, **static)


_fused_p.def_impl(_run_fused)
_fused_p.def_abstract_eval(_fused_abstract)
needs_devices(_fused_p)
ad.primitive_jvps[_fused_p] = _fused_jvp
batching.primitive_batchers[_fused_p] = _fused_batched
for _platform in ("cpu", "tpu", None):
    mlir.register_lowering(
        _fused_p, _lowering_rule(_fused_on, _platform or "gpu"), platform=_platform
    )


# --- The module ---------------------------------------------------------------------------

#: Collection of the kernels and biases that inference uses, with BatchNorm folded into them and
#: kernels in the compute dtype. `models.folding.fold` computes it once per set of weights.
FOLDED = "folded"

#: Kaiming normal over fan-out, as VMZ and torchvision initialize video ResNets.
kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Conv3D(nn.Module):
    """3-D convolution over `[N, T, H, W, C]`.

    Parameters: `kernel [kt, kh, kw, C / groups, features]` and, with `use_bias`, `bias
    [features]`; f32, whatever the compute `dtype`.
    """

    features: int
    kernel: Triple
    strides: Triple = (1, 1, 1)
    padding: Padding = 0
    groups: int = 1
    use_bias: bool = False
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO
    kernel_init: Callable[..., Any] = kaiming_fan_out
    bias_init: Callable[..., Any] = nn.initializers.zeros

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        affine: Callable[[], tuple[jax.Array, jax.Array]] | None = None,
        *,
        residual: jax.Array | None = None,
        activation: str = "",
        inference: bool = False,
    ) -> jax.Array:
        """Convolves, and for inference also applies what follows; see `blocks.conv_norm`.

        Args:
          x: `[N, T, H, W, C]`.
          affine: returns (factor, shift), each `[features]`, of the BatchNorm that follows.
          residual: see `conv3d`.
          activation: see `conv3d`.
          inference: True to use the variables of the collection `FOLDED` if they are given, and
            to store them if that collection is mutable.
        """
        if inference and self.has_variable(FOLDED, "kernel") and not self.is_initializing():
            kernel = self.get_variable(FOLDED, "kernel")
            bias = self.get_variable(FOLDED, "bias")
        else:
            shape = (*self.kernel, x.shape[-1] // self.groups, self.features)
            kernel = parameter(self, "kernel", self.kernel_init, shape)
            bias = None
            if self.use_bias:
                bias = parameter(self, "bias", self.bias_init, (self.features,))
            if affine is not None:
                factor, shift = affine()
                kernel = kernel * factor
                bias = shift if bias is None else shift + bias * factor
            kernel = kernel.astype(self.dtype)
            if inference and self.is_mutable_collection(FOLDED) and not self.is_initializing():
                self.put_variable(FOLDED, "kernel", kernel)
                if bias is not None:
                    self.put_variable(FOLDED, "bias", bias)
        return conv3d(
            x.astype(self.dtype),
            kernel,
            self.strides,
            self.padding,
            self.groups,
            self.lowering,
            bias=bias,
            residual=None if residual is None else residual.astype(self.dtype),
            activation=activation,
        )


def multiply_adds(out_shape: Sequence[int], w_shape: Sequence[int]) -> int:
    """Multiply-adds of one convolution, as papers count them (no bias)."""
    return int(np.prod(out_shape, dtype=np.int64) * np.prod(w_shape[:-1], dtype=np.int64))
