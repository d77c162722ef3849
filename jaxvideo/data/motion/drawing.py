"""Draw the layers of a scene: background, distractor and object."""

from __future__ import annotations

import functools

import cv2
import numpy as np

from jaxvideo.data.motion.photos import faces, horse, photos
from jaxvideo.data.motion.spec import HEIGHT, TEXTURE, TRAIN_FACES, VAL_FACES, WIDTH

NOISE_STD = 30.0  #: standard deviation of `noise_field`
_MARGIN = 10  # background beyond the frame in pixels, for its pan and zoom


def draw_layers(rng: np.random.Generator, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws the background with a distractor, and the object as (color * alpha, 255 - alpha).

    All are uint8 with three channels, also the alpha: `cv2.multiply` requires equal shapes.
    """
    size = (WIDTH + 2 * _MARGIN, HEIGHT + 2 * _MARGIN)
    level = rng.uniform(55, 195)
    background = _toned(rng, _crop(rng, split, size, (0.45, 0.95)), level, rng.uniform(16, 30))
    color, keep = _cutout(rng, split, level)
    # The distractor is part of the background and moves with it. Its appearance has the object's
    # distribution, so that only its motion distinguishes the object.
    pose = inverse_pose(
        source=((TEXTURE - 1) / 2, (TEXTURE - 1) / 2),
        x=rng.uniform(0.1, 0.9, 1) * size[0],
        y=rng.uniform(0.1, 0.9, 1) * size[1],
        angle=rng.uniform(-np.pi, np.pi, 1),
        scale=rng.uniform(7, 12, 1) / (0.36 * TEXTURE),
    )
    return paste(background, *_cutout(rng, split, level), pose[0]), color, keep


def _cutout(
    rng: np.random.Generator, split: str, background_level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a masked crop of a photograph: (color * alpha, 255 - alpha), uint8 `[56, 56, 3]`."""
    numbers = TRAIN_FACES if split == "train" else VAL_FACES
    if rng.random() < 0.2:
        face = faces()[rng.integers(numbers.start, numbers.stop)]
        texture = cv2.resize(face, (TEXTURE, TEXTURE), interpolation=cv2.INTER_CUBIC)
    else:
        # The crop with the most contrast of three: on a uniform texture a rotation is invisible.
        crops = [_crop(rng, split, (TEXTURE, TEXTURE), (0.2, 0.55)) for _ in range(3)]
        texture = max(crops, key=np.std)
    # Visible on any background: its mean is at least 55 of 255 levels brighter or darker.
    apart = rng.uniform(55, 95) * (1 if rng.random() < 0.5 else -1)
    if not 20 < background_level + apart < 230:
        apart = -apart
    texture = _toned(rng, texture, background_level + apart, rng.uniform(32, 46))
    alpha = cv2.cvtColor(_mask(rng, split), cv2.COLOR_GRAY2RGB)
    return cv2.multiply(texture, alpha, scale=1 / 255), 255 - alpha


def _mask(rng: np.random.Generator, split: str) -> np.ndarray:
    """Draws the alpha of an object, uint8 `[56, 56]`: an ellipse, blob, polygon or the horse.

    None has a rotational symmetry that, together with its texture, could hide a rotation.
    """
    radius, angle = _polar_grid()
    kind = rng.integers(4 if split == "train" else 3)
    if kind == 3:
        return horse()
    if kind == 2:
        corners = rng.integers(3, 7)
        turns = np.arange(corners) + rng.uniform(-0.3, 0.3, corners)
        turns = turns * 2 * np.pi / corners
        reach = rng.uniform(0.34, 0.48, corners) * TEXTURE
        points = np.stack([np.cos(turns), np.sin(turns)], -1) * reach[:, None]
        fixed_point = np.round((points + (TEXTURE - 1) / 2) * 16).astype(np.int32)
        mask = np.zeros((TEXTURE, TEXTURE), np.uint8)
        cv2.fillPoly(mask, [fixed_point], 255, cv2.LINE_AA, shift=4)
        return cv2.blur(mask, (3, 3))
    if kind == 1:
        edge = np.ones_like(angle)
        for waves in (2, 3, 4, 5):
            size = rng.uniform(-0.6, 0.6) / waves
            edge += size * np.cos(waves * angle + rng.uniform(-np.pi, np.pi))
        edge *= 0.36
    else:
        ratio = rng.uniform(0.45, 0.7)
        edge = 0.46 * ratio / np.hypot(ratio * np.cos(angle), np.sin(angle))
    edge = np.clip(edge, 0.12, 0.48) * TEXTURE
    return np.clip((edge - radius) * 127 + 127, 0, 255).astype(np.uint8)


def _crop(
    rng: np.random.Generator, split: str, size: tuple[int, int], share: tuple[float, float]
) -> np.ndarray:
    """Draws a random crop of a random photograph, uint8 `[size[1], size[0], 3]`.

    Args:
      rng: source of randomness.
      split: which photographs to use.
      size: (width, height) of the result in pixels.
      share: range of the crop's size, relative to the largest crop of its aspect that fits.
    """
    pictures = photos(split)
    photo = pictures[rng.integers(len(pictures))]
    height, width = photo.shape[:2]
    ratio = min(width / size[0], height / size[1]) * rng.uniform(*share)
    crop_width, crop_height = int(size[0] * ratio), int(size[1] * ratio)
    left = rng.integers(width - crop_width + 1)
    top = rng.integers(height - crop_height + 1)
    crop = photo[top : top + crop_height, left : left + crop_width]
    if rng.random() < 0.5:  # mirrors the texture, not the motion: the class does not change
        crop = crop[:, ::-1]
    method = cv2.INTER_AREA if ratio > 1 else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(crop), size, interpolation=method)


def _toned(rng: np.random.Generator, image: np.ndarray, level: float, std: float) -> np.ndarray:
    """Changes the mean and standard deviation of an image and adds a random tint: uint8 RGB."""
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    # At most 4 times the contrast: more would show JPEG blocks in uniform regions.
    gain = min(std / max(float(image.std()), 1e-3), 4.0)
    tint = rng.uniform(0.75, 1.25, 3)
    tint /= tint.mean()
    shifted = (image - np.float32(image.mean())) * np.float32(gain) + np.float32(level)
    return np.clip(shifted * tint.astype(np.float32), 0, 255).astype(np.uint8)


def inverse_pose(
    source: tuple[float, float],
    x: np.ndarray,
    y: np.ndarray,
    angle: np.ndarray,
    scale: np.ndarray,
) -> np.ndarray:
    """Returns affine maps `[T, 2, 3]` from the pixels of a frame to those of a layer.

    Args:
      source: pixel (x, y) of the layer that is mapped to the frame's pixel (`x`, `y`).
      x, y: position in the frame in pixels, `[T]`.
      angle: rotation from layer to frame in rad, clockwise on the screen, `[T]`.
      scale: scale from layer to frame, `[T]`.
    """
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    row_x = np.stack([cos, sin, source[0] - cos * x - sin * y], -1)
    row_y = np.stack([-sin, cos, source[1] + sin * x - cos * y], -1)
    return np.stack([row_x, row_y], 1)


def paste(below: np.ndarray, color: np.ndarray, keep: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Composites a cutout (see `_cutout`) onto `below`, uint8 `[H, W, 3]`, at `pose`."""
    size = below.shape[1::-1]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    color = cv2.warpAffine(color, pose, size, flags=flags)
    keep = cv2.warpAffine(keep, pose, size, flags=flags, borderValue=(255, 255, 255))
    return cv2.add(cv2.multiply(below, keep, scale=1 / 255), color)


@functools.cache
def _polar_grid() -> tuple[np.ndarray, np.ndarray]:
    ticks = np.arange(TEXTURE) - (TEXTURE - 1) / 2
    y, x = np.meshgrid(ticks, ticks, indexing="ij")
    return np.hypot(x, y), np.arctan2(y, x)


@functools.cache
def noise_field() -> np.ndarray:
    """Returns Gaussian noise with mean 128, uint8 `[252, 336, 3]`; frames use windows of it."""
    noise = np.random.default_rng(0).normal(128, NOISE_STD, (3 * HEIGHT, 3 * WIDTH, 3))
    return np.clip(np.rint(noise), 0, 255).astype(np.uint8)
