"""The convolution as two JAX primitives; the lowering is chosen per platform and pass.

`conv3d` is one of the three passes of a convolution. A primitive delays the choice of an
implementation until a program is lowered for a platform, so one traced or exported program serves
all platforms. The choice is separate for the value and for each gradient. `jvp`, `grad` and `vmap`
work as for JAX's own convolution, because the map is bilinear and the transposes of its passes are
the other two passes.

`conv3d_fused` is a forward pass with bias, residual and activation.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import ad, batching, mlir

from jaxvideo.layers.geometry import Geometry, Pass
from jaxvideo.layers.jax_internals import (
    devices_of,
    keep_out_of_compilation_cache,
    needs_devices,
)
from jaxvideo.layers.lowerings import compute, onednn, onednn_probe, resolve
from jaxvideo.layers.partition import over_batch
from jaxvideo.types import Lowering

# The compiler of jaxlib 0.10 does not finish GROUP_BY_GROUP for several CPU devices if the program
# is traced in more than about 18 nested calls; that of 0.12 does.
COMPILES_FOREVER = jax.__version_info__ < (0, 11)

#: Functions that can follow a convolution.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "": lambda x: x,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "swish": jax.nn.swish,
}


def convolve(x: jax.Array, w: jax.Array, geometry: Geometry, lowering: Lowering) -> jax.Array:
    """Binds the forward pass. Arguments are not checked; see `layers.conv.conv3d`."""
    return _bind(Pass.FORWARD, x, w, geometry=geometry, lowering=lowering)


def convolve_fused(
    x: jax.Array,
    w: jax.Array,
    geometry: Geometry,
    lowering: Lowering,
    bias: jax.Array | None,
    residual: jax.Array | None,
    activation: str,
) -> jax.Array:
    """Binds `activation(conv(x, w) + bias + residual)`. Arguments are not checked."""
    given = [array for array in (x, w, bias, residual) if array is not None]
    return _fused_p.bind(
        *_varying_alike(*given),
        geometry=geometry,
        lowering=lowering,
        activation=activation,
        with_bias=bias is not None,
    )


@dataclasses.dataclass(frozen=True)
class _Target:
    """The machine that a program is lowered for.

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


# --- conv3d: one pass, with operands (a, b) as in `lowerings.compute` ----------------------

_conv3d_p = core.Primitive("conv3d")


def _bind(what: Pass, a, b, *, geometry: Geometry, lowering: Lowering):
    a, b = _varying_alike(a, b)
    return _conv3d_p.bind(a, b, what=what, geometry=geometry, lowering=lowering)


def _varying_alike(*operands: jax.Array) -> list[jax.Array]:
    """Casts operands to the same varying axes of a `shard_map`, as JAX's own operations do."""
    axes = [jax.typeof(operand).manual_axis_type.varying for operand in operands]
    union = frozenset().union(*axes)
    return [
        jax.lax.pcast(operand, tuple(sorted(union - own)), to="varying") if union - own else operand
        for operand, own in zip(operands, axes, strict=True)
    ]


def _result(shape: tuple[int, ...], like: jax.core.ShapedArray, batched: bool):
    """Returns the type of a result: varying axes and, if it has a batch, its sharding as `like`."""
    sharding = like.sharding
    batch = sharding.spec[:1] if batched else (None,)
    sharding = sharding.update(spec=(*batch, *(None,) * (len(shape) - 1)))
    return like.update(shape=shape, weak_type=False, sharding=sharding)


def _abstract(a, b, *, what, geometry, lowering):
    del lowering
    if what is Pass.FORWARD:
        shape = (a.shape[0], *geometry.out_size, b.shape[4])
    elif what is Pass.INPUT_GRADIENT:
        shape = (a.shape[0], *geometry.in_size, b.shape[3] * geometry.groups)
    else:
        shape = (*geometry.kernel, a.shape[-1] // geometry.groups, b.shape[-1])
    return _result(shape, a, what is not Pass.WEIGHT_GRADIENT)


def _compute_on(platform: str, target: _Target, a, b, *, what, geometry, lowering):
    if lowering is Lowering.AUTO:
        channels = a.shape[-1], b.shape[-1]
        if what is Pass.INPUT_GRADIENT:
            channels = b.shape[3] * geometry.groups, a.shape[-1]
        lowering = resolve(platform, what, geometry, *channels, engine=target.engine)
        if lowering is Lowering.GROUP_BY_GROUP and target.partitioned and COMPILES_FOREVER:
            lowering = Lowering.DIRECT
    elif lowering is Lowering.ONEDNN:
        onednn_probe.require(platform, a.dtype)

    def run(a, b):
        return compute(what, lowering, a, b, geometry)

    summed = what is Pass.WEIGHT_GRADIENT
    return target.run(run, [a, b], [True, summed], lowering, summed)


def _lowering_rule(compute_on: Callable[..., jax.Array], platform: str):
    """Returns JAX's lowering rule for a function `(platform, target, *operands, **parameters)`."""

    def rule(context, *operands, **parameters):
        # `jax.export` rejects custom calls whose stability XLA does not guarantee.
        exported = context.module_context.lowering_parameters.for_export
        devices = devices_of(context)
        on_cpu = platform == "cpu" and not exported and devices > 0
        usable = on_cpu and keep_out_of_compilation_cache(onednn.TARGET)
        engine = onednn_probe.engine(context.avals_in[0].dtype) if usable else ""
        result = context.avals_out[0].sharding
        explicit = result.mesh.explicit_axes
        target = _Target(engine, partitioned=on_cpu and devices > 1 and not explicit)
        function = functools.partial(compute_on, platform, target, **parameters)
        if explicit:
            # The implementations contract over the batch, which explicit axes do not allow.
            function = jax.sharding.auto_axes(function, axes=explicit, out_sharding=result)
        # Inside, nothing depends on the axes of a `shard_map`. Loops start from constants, whose
        # types would differ from those of varying values.
        plain = [a.update(manual_axis_type=type(a.manual_axis_type)()) for a in context.avals_in]
        context = context.replace(avals_in=plain)
        return mlir.lower_fun(function, multiple_results=False)(context, *operands)

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
    # XLA's convolution can be batched over kernels, the other implementations cannot.

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
for _platform in ("cpu", "tpu", None):  # None: all others, which are treated like GPUs
    mlir.register_lowering(
        _conv3d_p, _lowering_rule(_compute_on, _platform or "gpu"), platform=_platform
    )


# --- conv3d_fused: a forward pass with its epilogue -----------------------------------------

_fused_p = core.Primitive("conv3d_fused")


def _composed(x, w, *epilogue, geometry, lowering, activation, with_bias):
    """Computes the same by separate operations, with the epilogue in f32."""
    y = _bind(Pass.FORWARD, x, w, geometry=geometry, lowering=lowering)
    wide = jnp.promote_types(y.dtype, jnp.float32)
    y = y.astype(wide)
    for array in epilogue:
        y = y + array.astype(wide)
    return ACTIVATIONS[activation](y).astype(x.dtype)


def _fused_on(platform, target, x, w, *epilogue, geometry, lowering, activation, with_bias):
    chosen = lowering
    if lowering is Lowering.AUTO and target.engine and onednn.fits(geometry):
        # oneDNN is fastest if the epilogue is included, and it compiles fastest.
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
    return _result((x.shape[0], *geometry.out_size, w.shape[4]), x, True)


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
