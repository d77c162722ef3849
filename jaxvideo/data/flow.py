"""Compute optical flow on the host, and store it beside its video.

The flow of T frames is `[T - 1, H, W, 2]` in pixels, x (to the right) then y (down): the point at
(x, y) in frame t is at (x, y) + flow in frame t + 1. `layers.tvl1` contains the method for the
device.

Flow is stored as by the authors of Kinetics (kinetics-i3d, README): frames are first scaled, for
example to a short side of 256; flow is computed at that size, clipped to 20 pixels and mapped to
0..255. A stored value is therefore in pixels of the stored size. Cropping or scaling a field
afterwards, as in the augmentation of flow networks, does not change its values.

There is one file per video, NAME.flow.mkv beside NAME.mp4. It is a gray video whose frame t is the
x field above the y field, every frame a key frame, and is read by `data.decode`. FFV1 is lossless:
for a clip of 256 x 340, a field takes 7.0 kB and 0.7 ms to decode. JPEG of the highest quality
takes 5.5 kB and 0.3 ms, with errors of up to 5 of 255 levels (0.8 pixels).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.error import FFmpegError

from jaxvideo.data.decode import read_clip
from jaxvideo.data.probe import reason
from jaxvideo.data.video import FLOW_ENDING, VideoFile, open_video
from jaxvideo.progress import replacing
from jaxvideo.types import HOST_FLOWS, ConfigError, DataError, UsageError, VideoError, View, Window

# A homography from fewer matches or inliers is dominated by noise.
_MATCHES, _INLIERS = 50, 25

# Number of files that `describe_stored` examines.
_EXAMINED = 200

# Metadata key of the `FlowInfo` in a file, as JSON.
_TAG = "JAXVIDEO_FLOW"

# Without random identifiers: equal fields are equal files.
_SAME = {"fflags": "+bitexact"}


@dataclasses.dataclass(frozen=True)
class FlowInfo:
    """Metadata of a stored flow.

    Attributes:
      method: name of the method; those of OpenCV are in `types.HOST_FLOWS`.
      height, width: size of the video's upright frames, to which windows refer.
      bound: 0 and 255 are -bound and +bound, in pixels of the stored size.
      size: short side in pixels to which larger frames were scaled; 0: not recorded.
    """

    method: str
    height: int
    width: int
    bound: float = 20.0
    size: int = 0

    @property
    def settings(self) -> str:
        """Describes what must be equal in a data set: the method and the size."""
        return f"{self.method}, stored at short side {self.size}"


# --- Computing ----------------------------------------------------------------------------


def host_flow(frames: np.ndarray, method: str = "dis") -> np.ndarray:
    """Computes the flow between consecutive frames by a method of OpenCV.

        flow = host_flow(np.zeros((8, 64, 64, 3), np.uint8))  # f32 [7, 64, 64, 2]

    Args:
      frames: uint8 RGB `[T, H, W, 3]`.
      method: a row of `types.HOST_FLOWS`. "farneback" (with the settings of VMZ: the flow of
        R(2+1)D), "dis" (Kroeger et al., ECCV 2016, preset FAST: the only one that is fast on a
        CPU) or "dualtvl1" (OpenCV's TV-L1 with default parameters: the flow of Kinetics).

    Returns:
      f32 `[T - 1, H, W, 2]` in pixels.

    Raises:
      ConfigError: unknown method, or OpenCV was built without it.
      DataError: the frames have another shape or dtype, or there is only one.
    """
    calculate = _method(method)
    gray = _gray(frames)
    return np.stack([calculate(a, b) for a, b in itertools.pairwise(gray)])


def warped_flow(frames: np.ndarray, method: str = "dis") -> np.ndarray:
    """Computes `host_flow` after compensating for camera motion.

    TSN's third modality (arXiv 1608.00859, section 3.2), after improved trajectories (Wang and
    Schmid, ICCV 2013). Arguments, result and errors are those of `host_flow`.
    """
    calculate = _method(method)
    gray = _gray(frames), _gray(compensated(frames), fewest=1)
    return np.stack([calculate(a, b) for a, b in zip(gray[0][:-1], gray[1], strict=True)])


def compensated(frames: np.ndarray) -> np.ndarray:
    """Warps every frame but the first to the camera position of the frame before it.

    The flow from `frames[:-1]` to the result is the warped flow. Pixels that the warped frame does
    not cover are those of the frame before, so they have no motion.

    Args:
      frames: uint8 RGB `[T, H, W, 3]`.

    Returns:
      uint8 RGB `[T - 1, H, W, 3]`.
    """
    gray = _gray(frames)
    out = frames[:-1].copy()
    height, width = frames.shape[1:3]
    for t in range(len(out)):
        cv2.warpPerspective(
            frames[t + 1],
            camera_motion(gray[t], gray[t + 1]),
            (width, height),
            dst=out[t],
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_TRANSPARENT,
        )
    return out


def camera_motion(gray0: np.ndarray, gray1: np.ndarray) -> np.ndarray:
    """Estimates the homography from a frame to the next one.

    Corners are tracked by the method of Lucas and Kanade, and the homography is fitted by RANSAC.

    Args:
      gray0, gray1: consecutive frames, uint8 `[H, W]`.

    Returns:
      `[3, 3]`; the identity if fewer than 50 corners are tracked or fewer than 25 are inliers, as
      for frames without texture or at a cut.
    """
    still = np.eye(3)
    corners = cv2.goodFeaturesToTrack(gray0, maxCorners=1000, qualityLevel=0.001, minDistance=3)
    if corners is None or len(corners) < _MATCHES:
        return still
    moved, found, _ = cv2.calcOpticalFlowPyrLK(gray0, gray1, corners, corners.copy())
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(gray1, gray0, moved, moved.copy())
    returned = np.linalg.norm((back - corners).reshape(-1, 2), axis=1) < 0.5
    good = (found.ravel() == 1) & (found_back.ravel() == 1) & returned
    if good.sum() < _MATCHES:
        return still
    motion, inliers = cv2.findHomography(corners[good], moved[good], cv2.RANSAC, 1.0)
    return still if motion is None or np.count_nonzero(inliers) < _INLIERS else motion


def _method(name: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    if name == "farneback":
        # VMZ, optical_flow.cc: pyramid by sqrt(1/2), 5 levels, window 10, 2 iterations.
        settings = (0.5**0.5, 5, 10, 2, 7, 1.5, cv2.OPTFLOW_FARNEBACK_GAUSSIAN)
        return lambda a, b: cv2.calcOpticalFlowFarneback(
            a, b, np.empty((*a.shape, 2), np.float32), *settings
        )
    if name == "dis":
        dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        return lambda a, b: dis.calc(a, b, None)
    if name == "dualtvl1":
        if not hasattr(cv2, "optflow"):
            raise ConfigError(
                "flow method 'dualtvl1' needs OpenCV with its contributed modules. Two OpenCV "
                "packages overwrite each other, so replace the installed one: pip uninstall "
                "opencv-python-headless; pip install opencv-contrib-python-headless. Method "
                "'tvl1' needs neither"
            )
        dual = cv2.optflow.DualTVL1OpticalFlow_create()
        return lambda a, b: dual.calc(a, b, None)
    raise UsageError(f"flow method {name!r}: allowed are {', '.join(HOST_FLOWS)}")


def _gray(frames, fewest=2):
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise DataError(f"flow needs uint8 frames [T, H, W, 3], not {frames.dtype} {frames.shape}")
    if len(frames) < fewest:
        raise DataError(f"flow needs at least {fewest} frames, not {len(frames)}")
    return [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]


# --- Quantization -------------------------------------------------------------------------


def quantize(flow: np.ndarray, bound: float = 20.0) -> np.ndarray:
    """Maps flow in pixels linearly from [-bound, bound] to uint8, with clipping.

    Values are rounded to the nearest level, so the error is at most bound / 255 (0.08 pixels for
    20), and no motion is 128. MediaPipe's graph for Kinetics truncates instead, which reduces flow
    by half a level on average.
    """
    scaled = (np.asarray(flow, np.float32) + np.float32(bound)) * np.float32(255 / (2 * bound))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def dequantize(fields: np.ndarray, bound: float = 20.0) -> np.ndarray:
    """Maps uint8 to f32 pixels, the inverse of `quantize` up to rounding."""
    return fields.astype(np.float32) * np.float32(2 * bound / 255) - np.float32(bound)


def mirror(fields: np.ndarray) -> np.ndarray:
    """Returns the quantized flow `[..., H, W, 2]` of horizontally mirrored frames."""
    mirrored = fields[..., ::-1, :].copy()
    mirrored[..., 0] = 255 - mirrored[..., 0]
    return mirrored


# --- Files --------------------------------------------------------------------------------


def flow_path(video_path: str | os.PathLike[str]) -> Path:
    """Returns the path of a video's flow: NAME.flow.mkv beside NAME.mp4 or the folder NAME."""
    path = Path(video_path)
    return path.with_name((path.name if path.is_dir() else path.stem) + FLOW_ENDING)


def write_flow(
    path: str | os.PathLike[str], fields: Iterable[np.ndarray], fps: float, info: FlowInfo
) -> None:
    """Writes quantized fields to a flow file, atomically.

    Args:
      path: the file.
      fields: uint8 `[H, W, 2]` per pair of frames.
      fps: frame rate of the video.
      info: metadata.

    Raises:
      DataError: no field, one with another shape or dtype, or the file cannot be written. The
        message names the file.
    """
    path = Path(path)
    try:
        with (
            replacing(path) as temporary,
            av.open(os.fspath(temporary), "w", format="matroska", options=_SAME) as container,
        ):
            container.metadata[_TAG] = json.dumps(dataclasses.asdict(info))
            _encode(path, container, fields, fps)
    except (OSError, FFmpegError) as error:
        raise DataError(f"{path}: cannot be written ({error})") from error


def _encode(path, container, fields, fps):
    stream = shape = None
    for number, field in enumerate(fields):
        if field.ndim != 3 or field.shape[-1] != 2 or field.dtype != np.uint8:
            raise DataError(
                f"{path}: field {number} is {field.dtype} {field.shape}, not uint8 [H, W, 2]"
            )
        if stream is None:
            shape = field.shape
            stream = container.add_stream("ffv1", rate=Fraction(fps).limit_denominator(100_000))
            stream.height, stream.width, stream.pix_fmt = 2 * shape[0], shape[1], "gray"
            stream.options = {"level": "3", "g": "1"}
        elif field.shape != shape:
            raise DataError(f"{path}: field {number} is {field.shape}, the first is {shape}")
        planes = np.ascontiguousarray(np.moveaxis(field, -1, 0)).reshape(-1, field.shape[1])
        frame = av.VideoFrame.from_ndarray(planes, format="gray")
        frame.pts = number
        container.mux(stream.encode(frame))
    if stream is None:
        raise DataError(f"{path}: no field to store")
    container.mux(stream.encode())


def read_flow_clip(
    path: str | os.PathLike[str], indices: Sequence[int], window: Window, size: int
) -> np.ndarray:
    """Reads fields of a flow file, cropped and scaled like the frames of their video.

    Args:
      path: the flow file.
      indices: indices of fields in any order; field t is the motion from frame t to t + 1.
      window: window in pixels of the video's frames; it is scaled if the stored flow is smaller.
      size: side of the result in pixels. Values are not scaled; they stay in pixels of the stored
        size.

    Returns:
      uint8 `[T, size, size, 2]`.

    Raises:
      VideoError: the file is missing, damaged or not a flow file, a field does not exist, or the
        window is not inside the video's frames. The message names the file.
    """
    with open_video(path) as video:
        info = flow_info(video)
        if not len(indices) or min(indices) < 0 or max(indices) >= video.num_frames:
            raise VideoError(
                f"{video.path}: fields {list(indices)} do not all exist; allowed are 0 to "
                f"{video.num_frames - 1}"
            )
        x = _scaled(window, info, video)
        y = dataclasses.replace(x, top=x.top + video.height // 2)
        frames = tuple(indices)
        planes = read_clip(video, [View(frames, x), View(frames, y)], size)
    return np.stack([planes[0, ..., 0], planes[1, ..., 0]], -1)


def flow_info(video: VideoFile) -> FlowInfo:
    """Reads the metadata of an open flow file.

    Raises:
      VideoError: it was not written by `write_flow`.
    """
    return _info(video.path, video.container, video.height, video.width)


def stored_info(path: str | os.PathLike[str]) -> FlowInfo:
    """Reads the metadata of a flow file, without its fields.

    Raises:
      VideoError: it cannot be read, or was not written by `write_flow`.
    """
    try:
        with av.open(os.fspath(path)) as container:
            stream = container.streams.video[0]
            return _info(os.fspath(path), container, stream.height, stream.width)
    except (OSError, IndexError, FFmpegError) as error:
        raise VideoError(f"{path}: cannot be read as stored flow ({reason(error)})") from error


def _info(path: str, container, height: int, width: int) -> FlowInfo:
    try:
        info = FlowInfo(**json.loads(container.metadata[_TAG]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # also for a folder
        raise VideoError(f"{path}: is a video, but not a stored flow") from error
    if height % 2:
        raise VideoError(f"{path}: has {height} rows; a stored flow has an even number")
    # Files of older versions do not record the size.
    return info if info.size else dataclasses.replace(info, size=min(height // 2, width))


def describe_stored(paths: Sequence[str]) -> str:
    """Describes the stored flow of videos: "tvl1, stored at short side 256".

    At most 200 videos, evenly spaced in the list, are examined.

    Args:
      paths: the videos. Those without stored flow, or with a damaged file, are left out.

    Returns:
      The description; "" if no video has stored flow.

    Raises:
      DataError: two videos have flow of different methods or sizes.
    """
    found: dict[str, tuple[FlowInfo, Path]] = {}
    for path in paths[:: max(len(paths) // _EXAMINED, 1)]:
        stored = flow_path(path)
        if stored.is_file():
            with contextlib.suppress(VideoError):
                info = stored_info(stored)
                found.setdefault(info.settings, (info, stored))
    if not found:
        return ""
    largest, (info, _) = max(found.items(), key=lambda item: item[1][0].size)
    for other, _ in found.values():
        # Without a recorded size, a video that is smaller than the size cannot be told apart.
        small = other.size == min(info.size, other.height, other.width)
        if other.method != info.method or not small:
            files = "; ".join(f"{name} has {what}" for what, (_, name) in sorted(found.items()))
            raise DataError(
                f"stored flow of different settings is mixed: {files}. Compute it again by "
                "`python -m jaxvideo flow --overwrite`"
            )
    return largest


def _scaled(window: Window, info: FlowInfo, video: VideoFile) -> Window:
    """Maps a window of the video's frame to the stored x field."""
    w = window
    inside = min(w.top, w.left) >= 0 and min(w.height, w.width) > 0
    if not inside or w.top + w.height > info.height or w.left + w.width > info.width:
        raise VideoError(f"{video.path}: {w} is not inside frames of {info.height} x {info.width}")

    def span(start, length, whole, stored):
        first = min(round(start * stored / whole), stored - 1)
        last = max(round((start + length) * stored / whole), first + 1)
        return first, last - first

    top, height = span(w.top, w.height, info.height, video.height // 2)
    left, width = span(w.left, w.width, info.width, video.width)
    return Window(top, left, height, width)
