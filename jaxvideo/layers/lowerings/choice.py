"""The choice of a lowering from platform, pass and shapes, and from nothing else."""

from __future__ import annotations

from jaxvideo.layers.geometry import Geometry, Pass
from jaxvideo.layers.lowerings import onednn, space_to_depth, time_from_channels, winograd
from jaxvideo.types import Lowering


def resolve(
    platform: str,
    what: Pass,
    geometry: Geometry,
    in_channels: int,
    features: int,
    *,
    engine: str = "",
) -> Lowering:
    """Returns the lowering that AUTO stands for.

    Args:
      platform: "cpu", "gpu" or "tpu".
      what: the pass.
      geometry: sizes, strides, padding and groups.
      in_channels: C, over all groups.
      features: D, over all groups.
      engine: how oneDNN computes this dtype on this CPU, see `onednn_probe.engine`; "" (default)
        if it cannot be used.

    Example:
      >>> plain = Geometry((3, 3, 3), (8, 28, 28), (1, 1, 1), ((1, 1),) * 3)
      >>> resolve("gpu", Pass.FORWARD, plain, 64, 64).value
      'direct'
    """
    if engine and _onednn_pays(engine, what, geometry, in_channels, features):
        return Lowering.ONEDNN
    if geometry.groups != 1:
        if geometry.groups == in_channels == features:
            return _resolve_depthwise(platform, what, geometry)
        return Lowering.GROUP_BY_GROUP if platform == "cpu" else Lowering.DIRECT
    if platform == "cpu":
        return resolve_cpu(what, geometry, in_channels, features)
    if platform == "tpu" and space_to_depth.pays(geometry, in_channels, features):
        return Lowering.SPACE_TO_DEPTH
    return Lowering.DIRECT


def _onednn_pays(
    engine: str, what: Pass, geometry: Geometry, in_channels: int, features: int
) -> bool:
    """Returns True if oneDNN is the fastest on this kind of shape, by `benchmarks/conv.py`."""
    if not onednn.fits(geometry):
        return False
    kt, kh, kw = geometry.kernel
    strided = geometry.strides != (1, 1, 1)
    area = geometry.out_size[1] * geometry.out_size[2]
    positions = area * geometry.out_size[0]
    if geometry.groups != 1:
        # Groups have few channels, so a strided input gradient by phases is mostly copies.
        return what is Pass.FORWARD or (what is Pass.INPUT_GRADIENT and not strided)
    if what is Pass.WEIGHT_GRADIENT:
        # The product of each tap reads x and g. This is fast if they are small or taps are few.
        if kt == kh == kw == 1:
            return positions > 1
        if kt * kh * kw > 27 or min(in_channels, features) < 32:
            return False
        if engine == "bfloat16":
            return True
        return area <= 7 * 7 or (kt > 1 and kh > 1 and strided and area <= 14 * 14)
    # Winograd needs a fraction of the products; vectors of 512 bits outweigh that.
    return not (engine == "avx2" and _winograd_pays(what, geometry, in_channels, features))


def _winograd_pays(what: Pass, geometry: Geometry, in_channels: int, features: int) -> bool:
    """Returns True if WINOGRAD is faster than a direct convolution at full speed."""
    return (
        geometry.kernel[0] > 1
        and min(in_channels, features) >= 64
        and max(in_channels, features) >= 128
        and winograd.fits(geometry)
        and resolve_cpu(what, geometry, in_channels, features) is Lowering.WINOGRAD
    )


def _resolve_depthwise(platform: str, what: Pass, geometry: Geometry) -> Lowering:
    # If the kernel covers space, XLA for TPUs sums the weight gradient over the positions of all
    # taps at once, and inserts no zeros between the columns of a strided input gradient.
    strided_dx = what is Pass.INPUT_GRADIENT and geometry.strides != (1, 1, 1)
    if platform == "tpu" and geometry.kernel[1:] != (1, 1):
        return Lowering.DIRECT if what is Pass.WEIGHT_GRADIENT or strided_dx else Lowering.SHIFT
    return Lowering.SHIFT


def resolve_cpu(what: Pass, geometry: Geometry, in_channels: int, features: int) -> Lowering:
    """Returns the fastest lowering on a CPU without oneDNN, for one group.

    The rules follow `benchmarks/conv.py` on 2 cores of an x86 with AVX-512.
    """
    channels, more = sorted((in_channels, features))
    kt, kh, kw = geometry.kernel
    area = geometry.out_size[1] * geometry.out_size[2]
    if kt == kh == kw == 1:
        if geometry.strides != (1, 1, 1) and what is not Pass.FORWARD:
            return Lowering.FOLD_SPACE
        return Lowering.MATMUL
    forward, dx = what is Pass.FORWARD, what is Pass.INPUT_GRADIENT
    # The side that becomes kt times as large should be the one with few channels.
    to_few = what is Pass.WEIGHT_GRADIENT and geometry.strides[0] == 1
    if kh == kw == 1:
        few = to_few and in_channels >= 3 * features
        return Lowering.TIME_FROM_CHANNELS if few else Lowering.FOLD_SPACE
    if to_few and kt > 1 and in_channels <= 4 and features <= 16:  # stem of SlowFast's Fast pathway
        return Lowering.TIME_FROM_CHANNELS
    small, strided = area < 100, geometry.strides != (1, 1, 1)
    # On small maps the transformed kernels outweigh the tiles. With few channels the transforms
    # outweigh the products.
    if forward or dx:
        large = area >= 14 * 14 and area * geometry.out_size[0] >= 2000 and channels >= 32
    else:
        enough = 32 if kt > 1 else 64 if more <= 128 else 128
        large = area >= 14 * 14 and channels >= enough
    if large and winograd.fits(geometry):
        return Lowering.WINOGRAD
    if channels >= 32 and (
        (forward and (small or (strided and kt > 1 and area >= 20 * 20)))
        or (dx and small and not strided)
    ):
        return Lowering.UNFOLD
    if forward and channels <= 4 and kh * kw <= 9 and not strided:  # C3D's stem
        return Lowering.UNFOLD
    if kt == 1:
        return Lowering.FOLD_TIME
    if small and time_from_channels.fits(geometry):
        return Lowering.TIME_FROM_CHANNELS
    return Lowering.TIME_TO_CHANNELS
