"""3-D convolution: the function `conv3d` and the module `Conv3D`.

A 3-D convolution can be computed in several ways that give the same numbers at very different
speeds. `Lowering` names them, and `layers.lowerings` contains them and chooses one for each
platform, pass and shape. `layers.primitive` connects both to JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvideo.layers.geometry import Geometry, Pads, Triple
from jaxvideo.layers.lowerings import LOWERINGS, fits
from jaxvideo.layers.parameters import parameter
from jaxvideo.layers.primitive import ACTIVATIONS, convolve, convolve_fused
from jaxvideo.types import ConfigError, Lowering

Padding = str | int | Sequence[int] | Sequence[tuple[int, int]]


def explicit_padding(
    padding: Padding, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int]
) -> Pads:
    """Returns padding as ((before, after), ...), one pair per axis.

    Args:
      padding: one of these:

        - an int, or an int or pair per axis: explicit, as in torch and Caffe. An int pads both
          sides.
        - "VALID": none.
        - "SAME": TensorFlow's, out = ceil(size / stride), with the odd pixel after. For stride 2
          on even sizes it differs from symmetric padding (7 taps on 112: (2, 3), torch (3, 3)).
        - "CEIL": Caffe's pooling: no padding before the input. The padding after it completes the
          last window that starts inside the input.

      sizes: sizes of the axes.
      kernel: taps per axis.
      strides: strides per axis.

    Raises:
      ConfigError: `padding` is another string.

    Example:
      >>> explicit_padding("SAME", [112], [7], [2])
      ((2, 3),)
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
      lowering: how to compute it; results differ by rounding only. AUTO (default) is resolved
        per platform and pass when the program is lowered, so that one traced program serves all
        platforms. Any other, or its name ("direct"), is used for the value and both gradients.
      bias: `[D]`, or None.
      residual: `[N, T', H', W', D]` of x's dtype, added before the activation, or None.
      activation: a key of `ACTIVATIONS`: "" (default: none), "relu", "sigmoid" or "swish".

    Returns:
      `[N, T', H', W', D]` in x's dtype, accumulated in f32 if the platform does so.

    Raises:
      ConfigError: the shapes or dtypes do not match, or the lowering cannot compute them.

    Example:
      >>> x, w = jnp.ones((2, 8, 16, 16, 3)), jnp.ones((3, 3, 3, 3, 4))
      >>> conv3d(x, w, strides=(1, 2, 2), padding=1).shape
      (2, 8, 8, 8, 4)
    """
    try:
        lowering = Lowering(lowering)
    except ValueError:
        allowed = [one.value for one in Lowering]
        raise ConfigError(f"lowering={lowering!r}: allowed are {allowed}") from None
    if x.ndim != 5 or w.ndim != 5:
        raise ConfigError(
            f"conv3d: x has shape {x.shape} and w {w.shape}; they must be [N, T, H, W, C] and "
            "[kt, kh, kw, C / groups, D]"
        )
    if x.shape[-1] != w.shape[3] * groups or w.shape[4] % groups:
        raise ConfigError(
            f"conv3d: x has {x.shape[-1]} channels, w has shape {w.shape}, groups={groups}; the "
            "4th axis of w must be channels / groups and its 5th a multiple of groups"
        )
    if x.dtype != w.dtype:
        raise ConfigError(f"conv3d: x is {x.dtype} and w {w.dtype}; cast one of them")
    kernel, size = _triple(w.shape[:3]), _triple(x.shape[1:4])
    strides = _triple(strides)
    pads = explicit_padding(padding, x.shape[1:4], kernel, strides)
    for axis, length, k, pad in zip("THW", size, kernel, pads, strict=True):
        if length + sum(pad) < k:
            raise ConfigError(
                f"conv3d: {axis}={length} with padding {pad} is smaller than the kernel ({k} taps)"
            )
    geometry = Geometry(kernel, size, strides, pads, groups)
    if lowering is not Lowering.AUTO:
        _check_fits(lowering, geometry, depthwise=groups == x.shape[-1] == w.shape[-1])
    if activation not in ACTIVATIONS:
        raise ConfigError(f"activation={activation!r}: allowed are {list(ACTIVATIONS)}")
    if bias is None and residual is None and not activation:
        return convolve(x, w, geometry, lowering)
    result = (x.shape[0], *geometry.out_size, w.shape[-1])
    for name, array, shape in (("bias", bias, result[-1:]), ("residual", residual, result)):
        if array is not None and array.shape != shape:
            raise ConfigError(f"conv3d: {name} has shape {array.shape}; it must be {shape}")
    return convolve_fused(x, w, geometry, lowering, bias, residual, activation)


def _triple(values: Sequence[int]) -> Triple:
    t, h, w = (int(value) for value in values)
    return t, h, w


def _check_fits(lowering: Lowering, geometry: Geometry, depthwise: bool) -> None:
    if not fits(lowering, geometry, depthwise):
        kt, kh, kw = geometry.kernel
        allowed = [one.value for one in LOWERINGS if fits(one, geometry, depthwise)]
        raise ConfigError(
            f"lowering={lowering.value!r} cannot compute a {kt}x{kh}x{kw} kernel with strides "
            f"{geometry.strides} and groups={geometry.groups}; allowed are {allowed} and 'auto'"
        )


#: Collection of the kernels and biases for inference, with BatchNorm folded into them and kernels
#: in the compute dtype. `models.folding.fold` computes it once per set of weights.
FOLDED = "folded"

#: Kaiming normal over fan-out, as VMZ and torchvision initialize video ResNets.
kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Conv3D(nn.Module):
    """3-D convolution over `[N, T, H, W, C]`.

    Parameters: `kernel [kt, kh, kw, C / groups, features]` and, with `use_bias`, `bias
    [features]`, both f32 for any compute `dtype`.
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
        """Convolves, and for inference also applies the epilogue; see `blocks.conv_norm`.

        Args:
          x: `[N, T, H, W, C]`.
          affine: returns (factor, shift), each `[features]`, of the following BatchNorm.
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
    """Returns the multiply-adds of one convolution, as papers count them (no bias).

    Args:
      out_shape: `[N, T', H', W', D]`.
      w_shape: `[kt, kh, kw, C / groups, D]`.

    Example:
      >>> multiply_adds((1, 8, 8, 8, 4), (3, 3, 3, 3, 4))
      165888
    """
    return int(np.prod(out_shape, dtype=np.int64) * np.prod(w_shape[:-1], dtype=np.int64))
