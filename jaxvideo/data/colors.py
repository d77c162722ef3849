"""Matrices from Y, Cb, Cr to RGB, for the host and the device."""

from __future__ import annotations

import numpy as np

# Weights of R and B in Y: ITU-R BT.709, FCC, BT.601, SMPTE 240M and BT.2020, by the number that
# ITU-T H.273 (table 4) and FFmpeg give the matrix.
_WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),
}
#: FFmpeg's choice for files that do not state a matrix.
UNSTATED = 5


def _matrix(weights: tuple[float, float], full: bool) -> np.ndarray:
    """Returns f32 `[3, 4]`: RGB = matrix @ (Y, Cb, Cr, 1), all 0 to 255 (H.273, section 8.3)."""
    red, blue = weights
    green = 1 - red - blue
    luma, chroma = (1.0, 1.0) if full else (255 / 219, 255 / 224)
    from_cb = np.array([0, -2 * blue * (1 - blue) / green, 2 * (1 - blue)]) * chroma
    from_cr = np.array([2 * (1 - red), -2 * red * (1 - red) / green, 0]) * chroma
    zero = (0 if full else 16) * luma + 128 * (from_cb + from_cr)
    return np.stack([np.full(3, luma), from_cb, from_cr, -zero], 1).astype(np.float32)


_KINDS = [(matrix, full) for matrix in sorted(_WEIGHTS) for full in (False, True)]
#: f32 `[K, 3, 4]`. Row 0 gives black for all planes: a frame of zeros is a black padding frame.
MATRICES = np.stack(
    [
        np.zeros((3, 4), np.float32),
        *(_matrix(_WEIGHTS[matrix], full) for matrix, full in _KINDS),
    ]
)


def matrix_index(matrix: int, full: bool) -> int:
    """Returns the row of `MATRICES`; unknown matrices are BT.601, as in FFmpeg."""
    return 1 + _KINDS.index((matrix if matrix in _WEIGHTS else UNSTATED, full))


def matrix_of(index: int) -> tuple[int, bool]:
    """Returns (number of the matrix in H.273, full range) of a row of `MATRICES`."""
    return _KINDS[index - 1]


def conversion(index: int, wanted: int) -> np.ndarray:
    """Returns f32 `[3, 4]`, which maps (Y, Cb, Cr, 1) of row `index` to (Y, Cb, Cr) of `wanted`."""
    source, target = (MATRICES[row].astype(np.float64) for row in (index, wanted))
    source[:, 3] -= target[:, 3]
    return np.linalg.solve(target[:, :3], source).astype(np.float32)
