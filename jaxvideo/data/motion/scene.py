"""Render one video of the embedded data set."""

from __future__ import annotations

import cv2
import numpy as np

from jaxvideo.data.motion.drawing import NOISE_STD, draw_layers, inverse_pose, noise_field, paste
from jaxvideo.data.motion.spec import CLASSES, FRAMES, HEIGHT, SPLITS, TEXTURE, WIDTH
from jaxvideo.types import DataError

# Speed per frame along (x, y, rotation, zoom): px, px, rad, logarithm of the scale.
_SLOWEST = np.array([1.5, 1.2, np.deg2rad(7.0), 0.036])
_FASTEST = np.array([3.1, 2.4, np.deg2rad(14.0), 0.058])
# Maximum drift along the unlabeled axes. It is an eighth of the slowest labeled speed, so that the
# object moves along all axes, and motion along an axis alone does not identify the class.
_DRIFT = _SLOWEST / 8
# Range of the rest positions of unlabeled axes, as a fraction of the labeled axis's path.
_REST = 0.5
# Half range of the object's center around the middle of the frame; the angle is uniform.
_CENTER = np.array([7.0, 5.0, np.pi, 0.0])
# First class of each pair: left, up, clockwise on the screen (y points down), zoom_in.
_DIRECTION = np.array([-1.0, -1.0, 1.0, 1.0])


def render(seed: int, split: str, number: int) -> tuple[np.ndarray, int]:
    """Renders the frames of one video, before encoding.

    A pure function: a video depends only on the three arguments, so data sets of different sizes
    share their first videos, and any file can be rendered alone. In `val`, videos 2k and 2k+1 are
    each other's time reversal.

    Args:
      seed: 0 or more.
      split: "train" or "val".
      number: number of the video in its split, from 0.

    Returns:
      uint8 RGB frames `[24, 84, 112, 3]` and the label, an index into `CLASSES`.

    Raises:
      DataError: unknown split, negative number or seed, or scikit-image is not installed.
    """
    if split not in SPLITS or seed < 0 or number < 0:
        raise DataError(
            f"seed={seed}, split={split!r}, number={number}: seed and number must be at least 0, "
            f"split one of {', '.join(SPLITS)}"
        )
    label = number % len(CLASSES)
    axis, backwards = divmod(label, 2)
    drawn = number - backwards if split == "val" else number
    rng = np.random.default_rng((seed, SPLITS.index(split), drawn))
    frames = _render_forwards(rng, split, axis)
    return (np.ascontiguousarray(frames[::-1]) if backwards else frames), label


def _render_forwards(rng: np.random.Generator, split: str, axis: int) -> np.ndarray:
    """Renders a video of the first class of pair `axis`: uint8 RGB `[24, 84, 112, 3]`."""
    times = np.arange(FRAMES)[:, None] - (FRAMES - 1) / 2
    speed = rng.uniform(_SLOWEST, _FASTEST)
    rest = _REST * rng.uniform(_SLOWEST, _FASTEST) * rng.uniform(-FRAMES / 2, FRAMES / 2, 4)
    path = rest + rng.uniform(-_DRIFT, _DRIFT) * times
    path[:, axis] = _DIRECTION[axis] * speed[axis] * times[:, 0]
    path += rng.uniform(-_CENTER, _CENTER)
    x, y, angle, log_scale = path.T
    # An object's mean radius is 0.36 of its texture's side; 20 to 26 px in the middle of a zoom.
    scale = rng.uniform(20, 26) / (0.36 * TEXTURE) * np.exp(log_scale)

    background, color, keep = draw_layers(rng, split)
    height, width = background.shape[:2]
    pan = rng.uniform(-0.25, 0.25, 2) * times
    background_pose = inverse_pose(
        source=((width - 1) / 2, (height - 1) / 2),
        x=(WIDTH - 1) / 2 + pan[:, 0],
        y=(HEIGHT - 1) / 2 + pan[:, 1],
        angle=np.zeros(FRAMES),
        scale=np.exp(rng.uniform(-0.002, 0.002) * times[:, 0]),
    )
    target = {"x": (WIDTH - 1) / 2 + x, "y": (HEIGHT - 1) / 2 + y, "angle": angle}
    middle = (TEXTURE - 1) / 2
    object_pose = inverse_pose(source=(middle, middle), scale=scale, **target)
    # Below half size, bilinear sampling would skip texels and the texture would flicker.
    small_color, small_keep = (
        cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        for image in (color, keep)
    )
    middle = (TEXTURE / 2 - 1) / 2
    small_pose = inverse_pose(source=(middle, middle), scale=scale * 2, **target)

    gain = rng.uniform(0.75, 1.15) * rng.normal(1.0, 0.02, FRAMES)
    noise = noise_field()
    noise_gain = rng.uniform(1, 3.5) / NOISE_STD
    noise_top = rng.integers(0, noise.shape[0] - HEIGHT, FRAMES)
    noise_left = rng.integers(0, noise.shape[1] - WIDTH, FRAMES)

    frames = np.empty((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    for t in range(FRAMES):
        if scale[t] < 0.6:
            object_args = small_color, small_keep, small_pose[t]
        else:
            object_args = color, keep, object_pose[t]
        frame = cv2.warpAffine(
            background,
            background_pose[t],
            (WIDTH, HEIGHT),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        )
        frame = paste(frame, *object_args)
        top, left = noise_top[t], noise_left[t]
        grain = noise[top : top + HEIGHT, left : left + WIDTH]
        # One saturating uint8 operation: gain * frame + noise, without the field's mean (128).
        cv2.addWeighted(frame, gain[t], grain, noise_gain, -128 * noise_gain, dst=frames[t])
    return frames
