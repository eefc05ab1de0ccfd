"""A flat map of vectors for the eye: principal components, the same for the same vectors every time."""

from __future__ import annotations

import numpy as np

from lcl_core.errors import UserError


def project(vectors: np.ndarray) -> np.ndarray:
    """The first two principal components, [n, E] -> f32 [n, 2], scaled together so that all lies in [-1, 1].

    One scale for both axes keeps the shape of the cloud. Each axis is turned so that its largest weight is
    positive: the signs of an SVD are arbitrary. Vectors that do not differ lie at the origin.

    Raises:
        UserError: ``bad_vectors`` if they are not a matrix of finite numbers.
    """
    points = np.asarray(vectors, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] == 0 or not np.isfinite(points).all():
        raise UserError("a map needs rows of finite numbers, all of one length", code="bad_vectors")
    flat = np.zeros((len(points), 2))
    if len(points) > 1:
        centred = points - points.mean(axis=0)
        axes = _principal_axes(centred)
        flat[:, : len(axes)] = centred @ axes.T
    reach = np.abs(flat).max(initial=0.0)
    noise = np.abs(points).max(initial=0.0) * 1e-9  # what rounding alone leaves of equal vectors
    return (flat / reach if reach > noise else np.zeros_like(flat)).astype(np.float32)


def _principal_axes(centred: np.ndarray) -> np.ndarray:
    """Up to two unit axes [a, E] of the largest variance."""
    if len(centred) > centred.shape[1]:
        # Tall: the [E, E] product has the same right singular vectors and costs E/n of the memory.
        _, axes = np.linalg.eigh(centred.T @ centred)
        axes = axes.T[::-1][:2]
    else:
        axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
    peak = np.abs(axes).argmax(axis=1)
    signs = np.sign(axes[np.arange(len(axes)), peak])
    return axes * np.where(signs == 0, 1.0, signs)[:, None]
