"""Optical flow of whole videos, for the command line."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from jaxvideo.data import flow
from jaxvideo.data.decode import read_frames
from jaxvideo.data.video import VideoFile, open_video
from jaxvideo.types import HOST_FLOWS, ConfigError, UsageError, VideoError

# Flow fields per block. Memory does not depend on the length of the video.
_BLOCK = 32

FLOW_METHODS = ("tvl1", *HOST_FLOWS, *(f"warped_{method}" for method in ("tvl1", *HOST_FLOWS)))


def store_flow(path: str, method: str, size: int) -> bool:
    """Computes the flow of a video and writes it to `data.flow.flow_path(path)`, next to the video.

    Args:
      path: a video.
      method: one of `FLOW_METHODS`. "warped_" methods compensate the motion of the camera.
      size: short side in pixels to which frames are scaled down first.

    Returns:
      False if the file exists already; then nothing is computed.

    Raises:
      ConfigError: the method or the size is not allowed.
      VideoError: the video cannot be read, or has only one frame.

    Example:
      store_flow("clip.mp4", "dis", 256)
    """
    if method not in FLOW_METHODS:
        raise UsageError(f"flow method {method!r}: allowed are {', '.join(FLOW_METHODS)}")
    if size < 16:
        raise ConfigError(f"flow: the short side is {size} pixels; it must be at least 16")
    target = flow.flow_path(path)
    if target.exists():
        return False
    with open_video(path) as video:
        if video.num_frames < 2:
            raise VideoError(f"{path}: the video has one frame; flow needs at least 2")
        info = flow.FlowInfo(method, video.height, video.width)
        flow.write_flow(target, _fields(video, method, size), video.fps or 25.0, info)
    return True


def _fields(video: VideoFile, method: str, size: int) -> Iterator[np.ndarray]:
    scale = min(size / min(video.height, video.width), 1.0)
    height, width = round(video.height * scale), round(video.width * scale)
    for first in range(0, video.num_frames - 1, _BLOCK):
        last = min(first + _BLOCK, video.num_frames - 1)
        yield from _block_flow(read_frames(video, first, last + 1, height, width), method)


def _block_flow(frames: np.ndarray, method: str) -> np.ndarray:
    name, warped = method.removeprefix("warped_"), method.startswith("warped_")
    if name in HOST_FLOWS:
        compute = flow.warped_flow if warped else flow.host_flow
        return flow.quantize(compute(frames, name))
    seconds = flow.compensated(frames) if warped else frames[1:]
    return _tvl1(frames[:-1], seconds)


def _tvl1(frames: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    import jax

    # Pads the last block, so that one program is compiled per frame size.
    missing = [(0, _BLOCK - len(frames)), *[(0, 0)] * 3]
    filled = (np.pad(part, missing) for part in (frames, seconds))
    together = 1 if jax.default_backend() == "cpu" else _BLOCK
    return np.asarray(_solver(together)(*filled))[: len(frames)]


@functools.cache
def _solver(together: int):
    import jax

    from jaxvideo.layers.tvl1 import quantize, to_gray, tvl1

    def solve(pair):
        first, second = (to_gray(frame)[None] for frame in pair)
        return quantize(tvl1(first, second))[0]

    return jax.jit(lambda *pairs: jax.lax.map(solve, pairs, batch_size=together))
