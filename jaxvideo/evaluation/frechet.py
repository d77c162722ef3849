"""The Frechet distance between two sets of features, and the Frechet video distance. NumPy only.

Unterthiner, van Steenkiste, Kurach, Marinier, Michalski, Gelly, "Towards Accurate Generative
Models of Video: A New Metric & Challenges" (arXiv 1812.01717). Matches `frechet_video_distance` of
google-research: features are the 400 logits of I3D trained on Kinetics-400, averaged over time;
frames are scaled bilinearly to 224 x 224 without keeping the aspect ratio, with values in [-1, 1];
covariances are unbiased. Videos have 16 frames; longer videos are cut to the middle 16. Some papers
use the 1024 features of I3D's average pool instead. The original scales frames with TensorFlow 1,
whose grid differs from OpenCV's by half a pixel.

FVD decreases with the number of videos. Compare only values of equal numbers of videos (2048 is
common) and frames, with equal features and scaling.
"""

from __future__ import annotations

import numpy as np

from jaxvideo.types import DataError


def statistics(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fits a Gaussian to features `[M, D]`.

    Returns:
      f64 mean `[D]` and unbiased covariance `[D, D]`.

    Raises:
      DataError: another shape, or fewer than two rows.
    """
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise DataError(f"features of shape {features.shape}: must be [M, D] with M at least 2")
    mean = features.mean(0)
    deviations = features - mean
    return mean, deviations.T @ deviations / (len(features) - 1)


def frechet_distance(
    mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray
) -> float:
    """Computes the squared Frechet (2-Wasserstein) distance of two Gaussians.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Dowson and Landau, 1982). The last trace is the
    sum of the singular values of C1^(1/2) C2^(1/2), because symmetric roots exist even for
    singular covariances.

    Args:
      mean1, mean2: `[D]`.
      cov1, cov2: `[D, D]`.

    Returns:
      The distance, at least 0.

    Raises:
      DataError: the shapes do not match, or a number is not finite.

    Example:
      >>> frechet_distance(np.zeros(2), np.eye(2), np.ones(2), np.eye(2))
      2.0
    """
    m1, m2, c1, c2 = (np.asarray(a, np.float64) for a in (mean1, mean2, cov1, cov2))
    d = m1.size
    if (m1.shape, m2.shape, c1.shape, c2.shape) != ((d,), (d,), (d, d), (d, d)):
        raise DataError(
            f"means {m1.shape}, {m2.shape}, covariances {c1.shape}, {c2.shape}: must be [D], [D, D]"
        )
    if not all(np.isfinite(a).all() for a in (m1, m2, c1, c2)):
        raise DataError("means or covariances contain NaN or infinity")
    overlap = np.linalg.svd(_root(c1) @ _root(c2), compute_uv=False).sum()
    distance = np.square(m1 - m2).sum() + np.trace(c1) + np.trace(c2) - 2 * overlap
    return max(float(distance), 0.0)


def _root(cov: np.ndarray) -> np.ndarray:
    """Symmetric root of a positive semidefinite matrix; rounding errors below 0 are clipped."""
    values, vectors = np.linalg.eigh((cov + cov.T) / 2)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
