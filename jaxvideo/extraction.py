"""Whole videos through a flow method or a network, for the command line."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxvideo.data import flow
from jaxvideo.data.decode import VideoFile, open_video, read_frames
from jaxvideo.data.pipeline import read_views
from jaxvideo.data.views import protocol_views
from jaxvideo.types import HOST_FLOWS, ConfigError, Preprocessing, Protocol, VideoError

# Fields that are computed together: a video's memory does not grow with its length.
_BLOCK = 32

FLOW_METHODS = ("tvl1", *HOST_FLOWS, *(f"warped_{method}" for method in ("tvl1", *HOST_FLOWS)))


def store_flow(path: str, method: str, size: int) -> bool:
    """Computes the flow of a video and stores it beside it, where `data.flow` finds it.

    Args:
      method: a row of `FLOW_METHODS`; "warped_", with the camera's motion taken out.
      size: the short side in pixels that frames are scaled down to first.

    Returns:
      False if the file was there already.

    Raises:
      ConfigError: no such method.
      VideoError: the video cannot be read, or has one frame only.
    """
    if method not in FLOW_METHODS:
        raise ConfigError(f"flow method {method!r}: allowed are {', '.join(FLOW_METHODS)}")
    if size < 16:
        raise ConfigError(f"flow at a short side of {size}: at least 16")
    target = flow.flow_path(path)
    if target.exists():
        return False
    with open_video(path) as video:
        if video.num_frames < 2:
            raise VideoError(f"{path}: one frame has no flow")
        info = flow.FlowInfo(method, video.height, video.width)
        flow.write_flow(target, _fields(video, method, size), video.fps or 25.0, info)
    return True


def endpoint_features(
    paths: Iterable[str],
    model: Any,
    variables: Mapping[str, Any],
    preprocessing: Preprocessing,
    endpoint: str,
) -> np.ndarray:
    """An endpoint of the middle clip of every video, averaged over T, H and W: f32 `[M, C]`.

    Raises:
      ConfigError: the network has no such endpoint.
      VideoError: a video cannot be read.
    """
    import jax

    from jaxvideo.training.preprocess import prepare

    @jax.jit
    def features(variables, video):
        logits, endpoints = model.apply(
            variables, prepare(video, preprocessing, model.dtype), train=False
        )
        endpoints = {**endpoints, "logits": logits}
        if endpoint not in endpoints:
            raise ConfigError(f"endpoint {endpoint!r}: the network has {', '.join(endpoints)}")
        found = endpoints[endpoint].astype(np.float32)
        return found.mean(tuple(range(1, found.ndim - 1)))

    one = Protocol(clips=1)
    rows = []
    for path in paths:
        with open_video(path) as video:
            size = video.num_frames, video.height, video.width, video.fps
            (views,) = protocol_views(*size, preprocessing, one)
            rows.append(np.asarray(features(variables, read_views(video, views, preprocessing))))
    return np.concatenate(rows)


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
        return flow.quantise(compute(frames, name))
    seconds = flow.compensated(frames) if warped else frames[1:]
    return _tvl1(frames[:-1], seconds)


def _tvl1(frames: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    import jax

    # A block that is not full is filled, so that one program serves all videos of a size.
    missing = [(0, _BLOCK - len(frames)), *[(0, 0)] * 3]
    filled = (np.pad(part, missing) for part in (frames, seconds))
    together = 1 if jax.default_backend() == "cpu" else _BLOCK
    return np.asarray(_solver(together)(*filled))[: len(frames)]


@functools.cache
def _solver(together: int):
    import jax

    from jaxvideo.layers.flow import quantise, to_grey, tvl1

    def solve(pair):
        first, second = (to_grey(frame)[None] for frame in pair)
        return quantise(tvl1(first, second))[0]

    return jax.jit(lambda *pairs: jax.lax.map(solve, pairs, batch_size=together))
