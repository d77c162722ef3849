"""Load the photographs and silhouettes of scikit-image's wheel."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from jaxvideo.data.motion.spec import TEXTURE, TRAIN_PHOTOS, VAL_PHOTOS
from jaxvideo.types import DataError


@functools.cache
def photos(split: str) -> tuple[np.ndarray, ...]:
    """Returns the RGB photographs of a split, uint8 `[H, W, 3]`, short side at most 300 px."""
    found = []
    for name in TRAIN_PHOTOS if split == "train" else VAL_PHOTOS:
        image = _read_picture(name, "RGB")
        ratio = 300 / min(image.shape[:2])
        if ratio < 1:
            image = cv2.resize(image, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
        found.append(image)
    return tuple(found)


@functools.cache
def faces() -> np.ndarray:
    """Returns uint8 `[200, 25, 25]`; the first 100 are faces."""
    return np.rint(np.load(_picture("lfw_subset.npy")) * 255).astype(np.uint8)


@functools.cache
def horse() -> np.ndarray:
    """Returns the alpha of scikit-image's horse silhouette, uint8 `[56, 56]`."""
    alpha = 255 - _read_picture("horse.png", "L")  # black on white
    side = max(alpha.shape)
    down, across = side - alpha.shape[0], side - alpha.shape[1]
    alpha = cv2.copyMakeBorder(
        alpha, down // 2, down - down // 2, across // 2, across - across // 2, cv2.BORDER_CONSTANT
    )
    return cv2.resize(alpha, (TEXTURE, TEXTURE), interpolation=cv2.INTER_AREA)


def _picture(name: str) -> Path:
    """Returns the path of a file in scikit-image's wheel.

    Avoids importing skimage (half a second) and `skimage.data`, which downloads missing files.
    """
    package = importlib.util.find_spec("skimage")
    folders = (package and package.submodule_search_locations) or []
    for folder in folders:
        path = Path(folder) / "data" / name
        if path.is_file():
            return path
    raise DataError(
        f"the motion data set is rendered from scikit-image's photograph {name}, which is not "
        "installed: pip install scikit-image"
    )


def _read_picture(name: str, mode: str) -> np.ndarray:
    """Reads an image: uint8 `[H, W, 3]` if `mode` is "RGB", `[H, W]` if it is "L".

    Uses Pillow, which scikit-image requires: OpenCV's libpng prints a warning about the color
    profile of motorcycle_left.png.
    """
    path = _picture(name)
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode))
    except OSError as error:
        raise DataError(
            f"{path} cannot be read as an image: pip install --force-reinstall scikit-image"
        ) from error
