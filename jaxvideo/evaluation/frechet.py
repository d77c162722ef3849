"""The Frechet distance between two sets of features, and the Frechet video distance. NumPy only.

Unterthiner, van Steenkiste, Kurach, Marinier, Michalski, Gelly, "Towards Accurate Generative
Models of Video: A New Metric & Challenges" (arXiv 1812.01717). As in their code (google-research,
frechet_video_distance): features are the 400 logits, averaged over time, of the I3D trained on
Kinetics-400; all frames are scaled bilinearly to 224 x 224, whatever their aspect, with values
in [-1, 1]; covariances are unbiased. Videos there have 16 frames; of a longer one, the 16 in the
middle are taken here. Papers that take the 1024 numbers of I3D's average pool instead call that
FVD too. Frames are scaled by OpenCV here and by TensorFlow 1 there, whose grids differ by half
a pixel.

FVD falls with the number of videos: compare only values of equal numbers (2048 are usual),
frames, features and scaling.
"""

from __future__ import annotations

import numpy as np

from jaxvideo.types import DataError


def statistics(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The Gaussian fitted to features `[M, D]`: f64 mean `[D]` and unbiased covariance `[D, D]`.

    Raises:
      DataError: another shape, or fewer than two features.
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
    """Squared Frechet (2-Wasserstein) distance of two Gaussians, not negative.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Dowson and Landau, 1982). The last trace is the
    sum of the singular values of C1^(1/2) C2^(1/2): symmetric roots always exist, also where
    there are fewer features than dimensions and the root of C1 C2 is not found to be real.

    Raises:
      DataError: shapes that do not fit, a number that is not finite.
    """
    m1, m2, c1, c2 = (np.asarray(a, np.float64) for a in (mean1, mean2, cov1, cov2))
    d = m1.size
    if (m1.shape, m2.shape, c1.shape, c2.shape) != ((d,), (d,), (d, d), (d, d)):
        raise DataError(
            f"means {m1.shape}, {m2.shape}, covariances {c1.shape}, {c2.shape}: must be [D], [D, D]"
        )
    if not all(np.isfinite(a).all() for a in (m1, m2, c1, c2)):
        raise DataError("means or covariances that are not finite")
    overlap = np.linalg.svd(_root(c1) @ _root(c2), compute_uv=False).sum()
    distance = np.square(m1 - m2).sum() + np.trace(c1) + np.trace(c2) - 2 * overlap
    return max(float(distance), 0.0)


def _root(cov: np.ndarray) -> np.ndarray:
    """Symmetric root of a symmetric matrix without negative eigenvalues but for rounding."""
    values, vectors = np.linalg.eigh((cov + cov.T) / 2)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
