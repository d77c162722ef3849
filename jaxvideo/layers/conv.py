"""3-D convolution and its lowerings: the heart of the library.

A 3-D convolution can be computed in several ways that give the same numbers at very
different speeds. `conv3d` is the one function; `Lowering` names the ways; `resolve` chooses
one from the platform and the shape, and from nothing else. All lowerings have one signature,
`(x, w, strides, padding, groups) -> y`, with explicit padding.

Measured on 2 CPU cores, batch 8, 8x28x28 (milliseconds, forward / input gradient / weight
gradient); `python benchmarks/conv.py --batch 8` prints the table for any machine:

    1x3x3  8->18            DIRECT  6.6 / 22 / 10     FOLD_TIME         1.9 / 4.3 / 2.4
    3x1x1 18->8             DIRECT   14 / 3.0 / 10    FOLD_SPACE        1.8 / 0.9 / 2.2
    3x3x3  8->8             DIRECT   17 / 17 / 21     TIME_TO_CHANNELS  2.5 / 2.4 / 5.9
    3x3x3  8->16, stride 2  DIRECT  2.2 / 151 / 14    TIME_TO_CHANNELS  0.8 / 1.1 / 1.1
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxvideo.types import ConfigError, Lowering

Triple = tuple[int, int, int]
Pads = tuple[tuple[int, int], ...]
Padding = str | int | Sequence[int] | Sequence[tuple[int, int]]

# The platforms `resolve` tells apart; any other is treated like the GPU.
_PLATFORMS = ("cpu", "tpu")

# Blocks of the CPU's weight gradient are unfolded into about this many bytes, so that a
# block stays in the second-level cache between being written and being contracted.
_BLOCK_BYTES = 2 << 20


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


def resolve(
    platform: str, kernel: Sequence[int], strides: Sequence[int], groups: int, in_channels: int
) -> Lowering:
    """The lowering that AUTO stands for: a pure function of platform and shape."""
    del strides  # every lowering below handles them; the choice has not depended on them yet
    kt, kh, kw = kernel
    if groups != 1:
        return Lowering.DIRECT
    if kt == kh == kw == 1:
        return Lowering.MATMUL if platform == "cpu" else Lowering.DIRECT
    if platform == "cpu":
        if kt == 1:
            return Lowering.FOLD_TIME
        return Lowering.FOLD_SPACE if kh == kw == 1 else Lowering.TIME_TO_CHANNELS
    # The matrix unit is idle on a stem's 2 or 3 channels: 24.4 Mcycles against 2.3 (v5e
    # compiler's estimate). Wider layers lose by the rewriting, there and on GPUs.
    if platform == "tpu" and in_channels <= 4 and kt > 1:
        return Lowering.TIME_TO_CHANNELS
    return Lowering.DIRECT


def conv3d(
    x: jax.Array,
    w: jax.Array,
    strides: Sequence[int] = (1, 1, 1),
    padding: Padding = 0,
    groups: int = 1,
    lowering: Lowering = Lowering.AUTO,
) -> jax.Array:
    """3-D cross-correlation, NTHWC.

    Args:
      x: `[N, T, H, W, C]`.
      w: `[kt, kh, kw, C / groups, D]`, of x's dtype.
      strides: (t, h, w).
      padding: see `explicit_padding`.
      groups: feature groups; C for a depthwise convolution.
      lowering: how to compute it; the result does not depend on it beyond rounding. AUTO
        chooses per platform when the program is lowered, so that one traced program serves
        all. AUTO, FOLD_* and TIME_TO_CHANNELS have their own reverse-mode gradient; for
        forward mode (`jax.jvp`) use DIRECT or MATMUL.

    Returns:
      `[N, T', H', W', D]` in x's dtype, accumulated in f32 where the platform does.

    Raises:
      ConfigError: shapes that do not fit each other, or a lowering that cannot compute them.
    """
    if x.ndim != 5 or w.ndim != 5:
        raise ConfigError(f"conv3d wants x [N,T,H,W,C] and w [kt,kh,kw,C,D]: {x.shape}, {w.shape}")
    if x.shape[-1] != w.shape[3] * groups or w.shape[4] % groups:
        raise ConfigError(
            f"conv3d: {x.shape[-1]} channels, kernel {w.shape}, groups={groups} do not fit: the "
            "kernel's 4th axis must be channels / groups and its 5th a multiple of groups"
        )
    kernel = w.shape[:3]
    strides = tuple(int(s) for s in strides)
    pads = explicit_padding(padding, x.shape[1:4], kernel, strides)
    for axis, size, k, pad in zip("THW", x.shape[1:4], kernel, pads, strict=True):
        if size + sum(pad) < k:
            raise ConfigError(
                f"conv3d: {axis}={size} with padding {pad} is smaller than the kernel's {k} taps"
            )
    if lowering is not Lowering.AUTO:
        _check(lowering, kernel, groups)
        return _LOWERINGS[lowering](x, w, strides, pads, groups)
    return _auto(x, w, strides, pads, groups)


def _check(lowering: Lowering, kernel: Sequence[int], groups: int) -> None:
    kt, kh, kw = kernel
    fits = {
        Lowering.DIRECT: True,
        Lowering.FOLD_TIME: kt == 1 and groups == 1,
        Lowering.FOLD_SPACE: kh == kw == 1 and groups == 1,
        Lowering.TIME_TO_CHANNELS: groups == 1,
        Lowering.MATMUL: kt == kh == kw == 1 and groups == 1,
    }
    if not fits[lowering]:
        raise ConfigError(
            f"lowering={lowering} cannot compute a {kt}x{kh}x{kw} kernel with groups={groups}; "
            f"allowed here: {[one.name for one, ok in fits.items() if ok]}"
        )


# --- AUTO: one choice per platform, made when the program is lowered ---------------------


def _per_platform(function: Callable[..., Any], w: jax.Array, strides, groups: int, *operands):
    """`function(lowering, *operands)` with each platform's own lowering."""
    shape = (w.shape[:3], strides, groups, w.shape[3] * groups)
    choice = {platform: resolve(platform, *shape) for platform in (*_PLATFORMS, "default")}
    if len(set(choice.values())) == 1:
        return function(choice["default"], *operands)
    # Platforms that choose what everybody else chooses need no branch of their own.
    own = {p: c for p, c in choice.items() if p == "default" or c != choice["default"]}
    branches = {p: functools.partial(function, c) for p, c in own.items()}
    return lax.platform_dependent(*operands, **branches)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _auto(x, w, strides, pads, groups):
    def forward(lowering, x, w):
        return _LOWERINGS[lowering](x, w, strides, pads, groups)

    return _per_platform(forward, w, strides, groups, x, w)


def _auto_fwd(x, w, strides, pads, groups):
    # x and w only: what a lowering unfolds (three times the activations for
    # TIME_TO_CHANNELS) is made again in the backward pass, which is cheaper than keeping it.
    return _auto(x, w, strides, pads, groups), (x, w)


def _auto_bwd(strides, pads, groups, saved, g):
    x, w = saved

    def gradient(wrt, lowering, x, w, g):
        def of(operand):
            operands = (operand, w) if wrt == 0 else (x, operand)
            return _LOWERINGS[lowering](*operands, strides, pads, groups)

        return jax.vjp(of, (x, w)[wrt])[1](g)[0]

    # Two programs, not one, so that the unused gradient of a stem's input is never computed.
    return tuple(
        _per_platform(functools.partial(gradient, wrt), w, strides, groups, x, w, g)
        for wrt in (0, 1)
    )


_auto.defvjp(_auto_fwd, _auto_bwd)


# --- The lowerings ------------------------------------------------------------------------


def _direct(x, w, strides, pads, groups):
    return lax.conv_general_dilated(
        x,
        w,
        strides,
        pads,
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        feature_group_count=groups,
    )


def _fold_time(x, w, strides, pads, groups):
    del groups
    x = _pad_time(x, pads[0])[:, :: strides[0]]
    n, t = x.shape[:2]
    y = _conv2d(x.reshape(n * t, *x.shape[2:]), w[0], strides[1:], pads[1:])
    return y.reshape(n, t, *y.shape[1:])


def _fold_space(x, w, strides, pads, groups):
    del groups
    x = jnp.pad(x, ((0, 0), (0, 0), pads[1], pads[2], (0, 0)))
    x = x[:, :, :: strides[1], :: strides[2]]
    n, t, height, width, c = x.shape
    y = _conv2d(x.reshape(n, t, height * width, c), w[:, :, 0], (strides[0], 1), (pads[0], (0, 0)))
    return y.reshape(n, -1, height, width, w.shape[-1])


def _time_to_channels(x, w, strides, pads, groups):
    del groups
    kt, kh, kw, c, d = w.shape
    x = _pad_time(x, pads[0])
    frames = (x.shape[1] - kt) // strides[0] + 1
    taps = [
        lax.slice_in_dim(x, k, k + (frames - 1) * strides[0] + 1, strides[0], axis=1)
        for k in range(kt)
    ]
    x = jnp.concatenate(taps, axis=-1)
    y = _conv2d(
        x.reshape(-1, *x.shape[2:]),
        w.transpose(1, 2, 0, 3, 4).reshape(kh, kw, kt * c, d),
        strides[1:],
        pads[1:],
    )
    return y.reshape(-1, frames, *y.shape[1:])


def _matmul(x, w, strides, pads, groups):
    del groups
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    return x[:, :: strides[0], :: strides[1], :: strides[2]] @ w[0, 0, 0]


def _pad_time(x, pad):
    return jnp.pad(x, ((0, 0), pad, (0, 0), (0, 0), (0, 0))) if any(pad) else x


_LOWERINGS: dict[Lowering, Callable[..., jax.Array]] = {
    Lowering.DIRECT: _direct,
    Lowering.FOLD_TIME: _fold_time,
    Lowering.FOLD_SPACE: _fold_space,
    Lowering.TIME_TO_CHANNELS: _time_to_channels,
    Lowering.MATMUL: _matmul,
}


# --- 2-D convolution, with a weight gradient that a CPU computes in its caches -----------


def _plain_conv2d(x, w, strides, pads):
    return lax.conv_general_dilated(x, w, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


_conv2d = jax.custom_vjp(_plain_conv2d, nondiff_argnums=(2, 3))


def _conv2d_fwd(x, w, strides, pads):
    return _conv2d(x, w, strides, pads), (x, w)


def _conv2d_bwd(strides, pads, saved, g):
    x, w = saved

    def plain_dw(x, g):
        return jax.vjp(lambda w: _plain_conv2d(x, w, strides, pads), w)[1](g)[0]

    def blocked_dw(x, g):
        return _blocked_weight_gradient(x, g, w.shape, strides, pads).astype(w.dtype)

    dx = jax.vjp(lambda x: _plain_conv2d(x, w, strides, pads), x)[1](g)[0]
    block = _frames_per_block(x, w, g)
    dw = lax.platform_dependent(x, g, cpu=blocked_dw, default=plain_dw) if block else plain_dw(x, g)
    return dx, dw


_conv2d.defvjp(_conv2d_fwd, _conv2d_bwd)


def _frames_per_block(x, w, g) -> int:
    """How many images are unfolded at a time; 0 where one alone would overflow the caches."""
    kh, kw, c, _ = w.shape
    one = g.shape[1] * g.shape[2] * kh * kw * c * x.dtype.itemsize
    if one > 2 * _BLOCK_BYTES:
        return 0
    most = max(_BLOCK_BYTES // one, 1)
    return max(d for d in range(1, x.shape[0] + 1) if x.shape[0] % d == 0 and d <= most)


def _blocked_weight_gradient(x, g, w_shape, strides, pads):
    """dL/dw of a 2-D convolution: unfold a few images, contract, accumulate.

    XLA's CPU backend turns the weight gradient into a convolution with an image-sized kernel,
    at 8, 17 and 60 GFLOP/s for 8, 16 and 32 channels (1x3x3 of a (2+1)D block, batch 32, 2 cores);
    this one runs at 47, 68 and 89 there.
    """
    kh, kw, c, d = w_shape
    _, height, width, _ = g.shape
    block = _frames_per_block(x, jax.ShapeDtypeStruct(w_shape, x.dtype), g)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    sh, sw = strides

    def accumulate(total, operands):
        images, gradient = operands
        taps = [
            lax.slice(
                images,
                (0, i, j, 0),
                (block, i + (height - 1) * sh + 1, j + (width - 1) * sw + 1, c),
                (1, sh, sw, 1),
            )
            for i in range(kh)
            for j in range(kw)
        ]
        unfolded = jnp.concatenate(taps, axis=-1).reshape(-1, kh * kw * c)
        product = lax.dot_general(
            unfolded,
            gradient.reshape(-1, d),
            (((0,), (0,)), ((), ())),
            preferred_element_type=jnp.float32,
        )
        return total + product, None

    blocks = (x.reshape(-1, block, *x.shape[1:]), g.reshape(-1, block, height, width, d))
    total, _ = lax.scan(accumulate, jnp.zeros((kh * kw * c, d), jnp.float32), blocks)
    return total.reshape(w_shape)


# --- The module ---------------------------------------------------------------------------

#: Kaiming normal over fan-out, as VMZ and torchvision initialise video ResNets.
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

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (*self.kernel, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = conv3d(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            self.strides,
            self.padding,
            self.groups,
            self.lowering,
        )
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype)
        return y


def multiply_adds(out_shape: Sequence[int], w_shape: Sequence[int]) -> int:
    """Multiply-adds of one convolution, as papers count them (no bias)."""
    return int(np.prod(out_shape, dtype=np.int64) * np.prod(w_shape[:-1], dtype=np.int64))
