"""Optical flow on the host: OpenCV's methods, camera motion, and flow stored beside its video.

A flow is `[T - 1, H, W, 2]` for T frames, x (to the right) then y (down), in pixels: what
stands at (x, y) in frame t stands at (x, y) + flow in frame t + 1. `layers.tvl1` holds the
method for the device.

Flow is stored as Kinetics' authors do (kinetics-i3d, README): frames are first scaled, to a
short side of 256 for instance, flow is computed there, clipped to 20 pixels and mapped to
0..255. So a stored value is in pixels of the STORED size, and cropping or scaling a field
afterwards, as the augmentation of flow networks does, leaves the values alone.

One file per video, NAME.flow.mkv beside NAME.mp4: a gray video whose frame t is the x field
above the y field, every frame a key frame, read by `data.decode` like any other. FFV1 is
lossless; on a real clip of 256 x 340 a field takes 7.0 kB and 0.7 ms to decode, where JPEG
of the highest quality takes 5.5 kB and 0.3 ms and errs by up to 5 levels of 255 (0.8 pixels).
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

from jaxvideo.data.decode import FLOW_ENDING, VideoFile, open_video, read_clip
from jaxvideo.types import HOST_FLOWS, ConfigError, DataError, VideoError, View, Window

# A homography of fewer matches or inliers says more of noise than of the camera.
_MATCHES, _INLIERS = 50, 25

# Where a file keeps its `FlowInfo`, as JSON.
_TAG = "JAXVIDEO_FLOW"


@dataclasses.dataclass(frozen=True)
class FlowInfo:
    """What a stored flow is of.

    Attributes:
      method: any name; OpenCV's are in `types.HOST_FLOWS`.
      height, width: of the video's own, upright frames, in which windows are given.
      bound: what 0 and 255 stand for, minus and plus, in pixels of the stored size.
    """

    method: str
    height: int
    width: int
    bound: float = 20.0


# --- Computing ----------------------------------------------------------------------------


def host_flow(frames: np.ndarray, method: str = "dis") -> np.ndarray:
    """Flow between consecutive frames by one of OpenCV's methods, `types.HOST_FLOWS`.

    Args:
      frames: uint8 `[T, H, W, 3]`, RGB.
      method: "farneback" (with the settings of VMZ, the flow of R(2+1)D), "dis" (Kroeger et
        al., ECCV 2016, preset FAST: the one that is quick enough for a CPU) or "dualtvl1"
        (OpenCV's TV-L1 with its default parameters, which made Kinetics' flow).

    Returns:
      f32 `[T - 1, H, W, 2]`.

    Raises:
      ConfigError: no such method, or OpenCV lacks it.
      DataError: frames of another shape or type, or only one.
    """
    calculate = _method(method)
    gray = _gray(frames)
    return np.stack([calculate(a, b) for a, b in itertools.pairwise(gray)])


def warped_flow(frames: np.ndarray, method: str = "dis") -> np.ndarray:
    """`host_flow` after the camera's motion is taken out: TSN's third modality (arXiv
    1608.00859, section 3.2), after improved trajectories (Wang and Schmid, ICCV 2013)."""
    calculate = _method(method)
    gray = _gray(frames), _gray(compensated(frames), fewest=1)
    return np.stack([calculate(a, b) for a, b in zip(gray[0][:-1], gray[1], strict=True)])


def compensated(frames: np.ndarray) -> np.ndarray:
    """Every frame but the first, as it would be had the camera stood still since the one before.

    uint8 `[T, H, W, 3]` to `[T - 1, H, W, 3]`; flow from `frames[:-1]` to it is the warped
    flow, by whatever method. Where the moved frame shows nothing, it holds the one before, so
    that nothing moves there.
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
    """The homography `[3, 3]` that most corners of a frame follow to the next one.

    uint8 `[H, W]` each. Corners are followed by Lucas and Kanade's method and the homography
    fitted by RANSAC. Identity where fewer than 50 corners can be followed or fewer than 25
    agree: a picture without texture, or a cut.
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
                "flow method 'dualtvl1' needs OpenCV's contributed modules, in place of "
                "opencv-python-headless: pip install 'jaxvideo[flow]'"
            )
        dual = cv2.optflow.DualTVL1OpticalFlow_create()
        return lambda a, b: dual.calc(a, b, None)
    raise ConfigError(f"flow method {name!r}: allowed are {HOST_FLOWS}")


def _gray(frames, fewest=2):
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise DataError(f"flow wants uint8 frames [T, H, W, 3]: {frames.dtype} {frames.shape}")
    if len(frames) < fewest:
        raise DataError(f"flow wants at least {fewest} frames, not {len(frames)}")
    return [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]


# --- Bytes --------------------------------------------------------------------------------


def quantize(flow: np.ndarray, bound: float = 20.0) -> np.ndarray:
    """Pixels to uint8: [-bound, bound] linearly to 0..255, the rest clipped.

    The nearest level is taken, so an error is at most bound / 255 (0.08 pixels for 20) and no
    motion is 128. MediaPipe's graph for Kinetics cuts the fraction off instead, which makes
    every flow half a level smaller on average.
    """
    scaled = (np.asarray(flow, np.float32) + np.float32(bound)) * np.float32(255 / (2 * bound))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def dequantize(fields: np.ndarray, bound: float = 20.0) -> np.ndarray:
    """uint8 to f32 pixels, the inverse of `quantize` up to its rounding."""
    return fields.astype(np.float32) * np.float32(2 * bound / 255) - np.float32(bound)


def mirror(fields: np.ndarray) -> np.ndarray:
    """The quantized flow `[..., H, W, 2]` of the frames mirrored left to right."""
    mirrored = fields[..., ::-1, :].copy()
    mirrored[..., 0] = 255 - mirrored[..., 0]
    return mirrored


# --- Files --------------------------------------------------------------------------------


def flow_path(video_path: str | os.PathLike[str]) -> Path:
    """Where the flow of a video is stored: NAME.flow.mkv beside NAME.mp4 or the folder NAME."""
    path = Path(video_path)
    return path.with_name((path.name if path.is_dir() else path.stem) + FLOW_ENDING)


def write_flow(
    path: str | os.PathLike[str], fields: Iterable[np.ndarray], fps: float, info: FlowInfo
) -> None:
    """Stores quantized fields, uint8 `[H, W, 2]` each, one per pair of frames.

    The file appears whole or not at all: it is written under another name and then renamed.

    Raises:
      DataError: no field, or one of another shape or type than the first; the path is named.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with av.open(os.fspath(temporary), "w", format="matroska") as container:
            container.metadata[_TAG] = json.dumps(dataclasses.asdict(info))
            _encode(path, container, fields, fps)
        os.replace(temporary, path)
    except (OSError, FFmpegError) as error:
        raise DataError(f"{path}: cannot be written ({error})") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


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
        raise DataError(f"{path}: there is no field to store")
    container.mux(stream.encode())


def read_flow_clip(
    path: str | os.PathLike[str], indices: Sequence[int], window: Window, size: int
) -> np.ndarray:
    """Fields of a stored flow, cropped and scaled like the frames they belong to.

    Args:
      path: of the flow file.
      indices: of fields, in any order; field t lies between frames t and t + 1.
      window: in pixels of the VIDEO's frames; it is scaled if the flow is stored smaller.
      size: side in pixels of the result. Values are not scaled: they stay in pixels of the
        stored size.

    Returns:
      uint8 `[T, size, size, 2]`.

    Raises:
      VideoError: the file is missing, broken or not one of flow, it has no such field, or the
        window does not lie in its video's frames. The file is named.
    """
    with open_video(path) as video:
        info = flow_info(video)
        if not len(indices) or min(indices) < 0 or max(indices) >= video.num_frames:
            raise VideoError(
                f"{video.path}: fields {list(indices)} wanted, it has 0 to {video.num_frames - 1}"
            )
        x = _scaled(window, info, video)
        y = dataclasses.replace(x, top=x.top + video.height // 2)
        frames = tuple(indices)
        planes = read_clip(video, [View(frames, x), View(frames, y)], size)
    return np.stack([planes[0, ..., 0], planes[1, ..., 0]], -1)


def flow_info(video: VideoFile) -> FlowInfo:
    """What an open flow file says of itself.

    Raises:
      VideoError: it was not written by `write_flow`.
    """
    try:
        info = FlowInfo(**json.loads(video.container.metadata[_TAG]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # or a folder
        raise VideoError(f"{video.path}: is a video, but not a stored flow") from error
    if video.height % 2:
        raise VideoError(f"{video.path}: {video.height} rows cannot be two fields")
    return info


def _scaled(window: Window, info: FlowInfo, video: VideoFile) -> Window:
    """A window of the video's frame as one of the stored x field."""
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
