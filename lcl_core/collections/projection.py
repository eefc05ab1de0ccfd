"""Vectors on a plane: principal components or t-SNE, and how much of the vectors' neighbourhoods the plane keeps.

Components are computed in blocks of rows, so that memory does not grow with their number beyond the vectors themselves.
t-SNE: L. van der Maaten and G. Hinton, JMLR 9, 2008, with openTSNE's Barnes-Hut approximation. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from lcl_core.common.errors import UserError

BLOCK_ROWS = 4096  # 16 MB of f64 at 512 numbers
NEIGHBOURS = 10
COMPARED_ROWS = 500  # the share of kept neighbours is then known within 2 points or so
_ROUNDING = 1e-6  # of a cosine in float32


@dataclass(frozen=True)
class Projection:
    """``points`` f32 [n, 2] on one scale within [-1, 1]; ``variance``: share of the vectors' variance, 0 to 1."""

    points: np.ndarray
    variance: float


def project_pca(vectors: np.ndarray) -> Projection:
    """The first two principal components of vectors [n, E].

    One scale for both axes keeps the shape of the cloud. The largest weight of each axis is positive, since the signs
    of an SVD are arbitrary. Equal vectors lie at the origin.

    Raises:
        UserError: ``invalid_value`` if they are not a matrix of finite numbers.
    """
    rows = np.asarray(vectors)
    if rows.ndim != 2 or rows.shape[1] == 0 or not all(np.isfinite(block).all() for block in _blocks(rows)):
        raise UserError("a map needs rows of finite numbers, all of one length")
    flat, variance = np.zeros((len(rows), 2)), 0.0
    if len(rows) > 1:
        with threadpool_limits(1, user_api="blas"):  # several threads gain little and take cores from searches
            mean = sum(block.sum(axis=0) for block in _blocks(rows)) / len(rows)
            axes, variance = _principal_axes(rows, mean)
            flat[:, : len(axes)] = np.concatenate([(block - mean) @ axes.T for block in _blocks(rows)])
    reach = np.abs(flat).max(initial=0.0)
    largest = max((float(np.abs(block).max(initial=0.0)) for block in _blocks(rows)), default=0.0)
    if reach <= largest * 1e-9:  # rounding of equal vectors
        return Projection(np.zeros_like(flat, np.float32), 0.0)
    return Projection((flat / reach).astype(np.float32), variance)


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """The rows in f64, some thousands at a time."""
    return (rows[start : start + BLOCK_ROWS].astype(np.float64) for start in range(0, len(rows), BLOCK_ROWS))


def _principal_axes(rows: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, float]:
    """Up to two unit axes [a, E] of the largest variance, and their share of it."""
    if len(rows) > rows.shape[1]:
        # Tall: the [E, E] product has the same right singular vectors, and needs one block of rows at a time.
        product = np.zeros((rows.shape[1],) * 2)
        for block in _blocks(rows):
            centred = block - mean
            product += centred.T @ centred
        powers, axes = np.linalg.eigh(product)
        powers, axes = powers[::-1], axes.T[::-1][:2]
    else:
        _, singular, axes = np.linalg.svd(rows.astype(np.float64) - mean, full_matrices=False)
        powers, axes = np.square(singular), axes[:2]
    peak = np.abs(axes).argmax(axis=1)
    signs = np.sign(axes[np.arange(len(axes)), peak])
    total = float(powers.sum())
    share = float(powers[:2].sum()) / total if total > 0 else 0.0
    return axes * np.where(signs == 0, 1.0, signs)[:, None], min(1.0, max(0.0, share))


def kept_neighbours(vectors: np.ndarray, points: np.ndarray, k: int = NEIGHBOURS) -> float | None:
    """Share, 0 to 1, of a row's ``k`` nearest on the plane that are among its ``k`` nearest by cosine.

    A mean over ``COMPARED_ROWS`` rows, evenly chosen, each compared with all rows. Of equal cosines each counts. None
    where no two rows can be told apart: fewer than ``k`` + 2.

    Args:
        vectors: [n, E], f32 or f16, of any length.
        points: f32 [n, 2].
    """
    total = len(vectors)
    if total < k + 2:
        return None
    chosen = np.unique(np.linspace(0, total - 1, num=min(COMPARED_ROWS, total)).round().astype(np.int64))
    starts, kept = range(0, total, BLOCK_ROWS), []
    with threadpool_limits(1, user_api="blas"):
        for some in np.array_split(chosen, -(-len(chosen) // 50)):  # so that all cosines need not be in memory
            own = np.arange(len(some))
            queries = _directions(vectors[some])
            blocks = [queries @ _directions(vectors[start : start + BLOCK_ROWS]).T for start in starts]
            cosines = np.concatenate(blocks, axis=1)
            distances = np.square(points[some, None] - points[None]).sum(axis=2)
            cosines[own, some], distances[own, some] = -np.inf, np.inf
            least = np.partition(cosines, -k, axis=1)[:, -k, None]
            near = np.argpartition(distances, k - 1, axis=1)[:, :k]
            kept.append(np.take_along_axis(cosines, near, axis=1) >= least - _ROUNDING)
    return float(np.mean(np.concatenate(kept)))


def _directions(vectors: np.ndarray) -> np.ndarray:
    """f32 [m, E] of length 1."""
    rows = vectors.astype(np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def spread_rows(total: int, limit: int) -> np.ndarray:
    """int64: at most ``limit`` of the rows 0 to ``total`` - 1, evenly chosen."""
    return np.unique(np.linspace(0, max(0, total - 1), num=min(limit, total)).round().astype(np.int64))


PERPLEXITY = 30.0
MIN_ROWS = 5  # fewer have no neighbourhoods
# As many as change the map: of 3,835 drawings, .507 of the ten nearest are kept after these, .505 after twice as many.
EXAGGERATED_STEPS, STEPS = 100, 250
TOLD_STEPS = 10  # between two calls of ``progress``


def project_neighbours(
    vectors: np.ndarray, progress: Callable[[int, int], None] = lambda done, total: None
) -> np.ndarray:
    """f32 [n, 2] within [-1, 1], centred, on one scale; the same for the same vectors [n, E] of length 1.

    Fewer than ``MIN_ROWS`` rows lie on their principal components.

    Args:
        progress: receives the number of steps done, and of all; its exceptions end the computation.
    """
    if len(vectors) < MIN_ROWS:
        return project_pca(vectors).points
    from openTSNE import TSNE  # a second to import

    told = iter(range(0, EXAGGERATED_STEPS + STEPS, TOLD_STEPS))  # openTSNE counts each of its two phases
    method = TSNE(
        perplexity=min(PERPLEXITY, (len(vectors) - 1) / 3),
        early_exaggeration_iter=EXAGGERATED_STEPS,
        n_iter=STEPS,
        initialization="pca",
        neighbors="exact",
        negative_gradient_method="bh",
        random_state=0,
        n_jobs=1,
        callbacks=lambda *_: progress(next(told, 0) + TOLD_STEPS, EXAGGERATED_STEPS + STEPS),
        callbacks_every_iters=TOLD_STEPS,
    )
    points = np.asarray(method.fit(np.asarray(vectors, np.float32)), np.float64)
    points -= (points.max(axis=0) + points.min(axis=0)) / 2
    reach = np.abs(points).max()
    return (points / reach if reach > 0 else points).astype(np.float32)
