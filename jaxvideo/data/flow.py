"""Compute optical flow on the host.

The flow of T frames is `[T - 1, H, W, 2]` in pixels, x (to the right) then y (down): the point at
(x, y) in frame t is at (x, y) + flow in frame t + 1. `layers.tvl1` contains the method for the
device, `data.stored_flow` stores flow in files.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import cv2
import numpy as np

from jaxvideo.types import HOST_FLOWS, ConfigError, DataError, UsageError

# A homography from fewer matches or inliers is dominated by noise.
_MATCHES, _INLIERS = 50, 25


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
