"""Optical flow of whole videos, for the command line."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxvideo.data import flow, stored_flow
from jaxvideo.data.decode import read_frames
from jaxvideo.data.flow_pictures import pictures_info, write_colors, write_jpegs
from jaxvideo.data.video import FLOW_ENDING, VideoFile, open_video
from jaxvideo.types import HOST_FLOWS, DataError, UsageError, VideoError

# Flow fields per block. Memory does not depend on the length of the video.
_BLOCK = 32

FLOW_METHODS = ("tvl1", *HOST_FLOWS, *(f"warped_{method}" for method in ("tvl1", *HOST_FLOWS)))


#: Forms of output: a lossless video, pairs of JPEG pictures, color pictures.
FLOW_FORMATS = ("mkv", "jpeg", "png")


@dataclasses.dataclass(frozen=True)
class FlowRequest:
    """The flow to compute.

    Attributes:
      method: one of `FLOW_METHODS`. "warped_" methods compensate the motion of the camera.
      size: short side in pixels to which frames are scaled down first.
      format: one of `FLOW_FORMATS`. "mkv": the file that networks with stored flow read. "jpeg":
        `flow_x_00001.jpg` and `flow_y_00001.jpg`, as mmaction2 names them. "png": colors.
    """

    method: str = "tvl1"
    size: int = 256
    format: str = "mkv"

    def __post_init__(self):
        for name, value, allowed in (
            ("method", self.method, FLOW_METHODS),
            ("format", self.format, FLOW_FORMATS),
        ):
            if value not in allowed:
                raise UsageError(f"flow {name} {value!r}: allowed are {', '.join(allowed)}")
        if self.size < 16:
            raise UsageError(f"flow: the short side is {self.size} pixels; it must be at least 16")

    def target(self, video: str, out: Path | None = None) -> Path:
        """Returns the file or folder of a video's flow.

        Args:
          video: path of the video.
          out: the path that replaces that of the video; None: beside the video.
        """
        beside = stored_flow.flow_path(video)
        beside = beside if out is None else out.with_name(beside.name)
        if self.format == "mkv":
            return beside
        return beside.with_name(beside.name.removesuffix(FLOW_ENDING))


def difference(target: Path, request: FlowRequest) -> str | None:
    """Compares existing flow with a request.

    Returns:
      None if `target` does not exist, "" if it is what the request would write, and otherwise a
      description of the difference.
    """
    wanted = f"{request.method}, stored at short side {request.size}"
    try:
        if request.format != "mkv":
            info = pictures_info(target)
        else:
            info = stored_flow.stored_info(target) if target.exists() else None
    except VideoError as error:
        return str(error)
    if info is None:
        return None
    sides = info.height, info.width
    same = info.method == request.method and min(info.size, *sides) == min(request.size, *sides)
    return "" if same else f"{target} has {info.settings}; requested: {wanted}"


def store_flow(path: str, request: FlowRequest, target: Path | None = None) -> None:
    """Computes the flow of a video and writes it, replacing what is there.

    Args:
      path: a video.
      request: the flow to compute.
      target: the file or folder to write; None (default): beside the video.

    Raises:
      VideoError: the video cannot be read, or has only one frame.
      DataError: the flow cannot be written.

    Example:
      store_flow("clip.mp4", FlowRequest("dis", 256))
    """
    target = target or request.target(path)
    with open_video(path) as video:
        if video.num_frames < 2:
            raise VideoError(f"{path}: the video has one frame; flow needs at least 2")
        info = stored_flow.FlowInfo(request.method, video.height, video.width, size=request.size)
        fields = _fields(video, request.method, request.size)
        if request.format == "mkv":
            _make_folder(target.parent)
            stored_flow.write_flow(target, fields, video.fps or 25.0, info)
        else:
            write = write_jpegs if request.format == "jpeg" else write_colors
            write(target, fields, info)


def store_or_reason(job: tuple[str, Path], request: FlowRequest) -> str:
    """Calls `store_flow` for a (video, target), for `data.engines.map_items`.

    Returns:
      The error if the video cannot be read or the flow cannot be written, otherwise "".
    """
    try:
        store_flow(job[0], request, job[1])
    except DataError as error:
        return str(error)
    return ""


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be created ({error.strerror})") from error


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
