"""Ranks of images for texts and of texts for images, without the whole similarity matrix in memory.

Similarities are computed and counted block by block. N images, M texts, E dimensions, P correct (image, text) pairs,
Q queries.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np
import torch
from numpy.typing import NDArray

from lcl_core.common.threads import usable_cores
from lcl_core.evaluation.metrics.core import Ints

Floats = NDArray[np.floating]

# Two scores this close are a tie: more than a dot product of unit vectors loses to rounding, far less than a
# difference that means anything. Without it, equal images would be ordered by the shape of the block.
TIE_TOLERANCE = {np.dtype(np.float32): 1e-6, np.dtype(np.float64): 1e-12}
_PAIR_BATCH = 16_384
_ROW_BATCH = 256  # of a block, so that copies stay in the CPU cache
_MAX_THREADS = 4  # beyond, the matrix product needs the cores


@dataclass(frozen=True)
class RetrievalRanks:
    """Rank of each query's best correct candidate.

    Attributes:
        query: [Q] row of the query; rows without a correct candidate are left out.
        rank: [Q] 1 + the number of wrong candidates that score as high or higher (a tie counts against the query).
        right: [Q] number of correct candidates.
        top: [Q, k] rows of the best candidates, best first; -1 where there are fewer than k.
        candidates: size of the gallery.
    """

    query: Ints
    rank: Ints
    right: Ints
    top: Ints
    candidates: int


@dataclass(frozen=True)
class BidirectionalRanks:
    text_to_image: RetrievalRanks
    image_to_text: RetrievalRanks


def rank_bidirectional(
    images: Floats,
    texts: Floats,
    pairs: Ints,
    *,
    top: int = 5,
    block: int = 1024,
    threads: int | None = None,
    on_block: Callable[[int, int], None] = lambda done, total: None,
) -> BidirectionalRanks:
    """Rank every image for every text and every text for every image, by dot product.

    Args:
        images: [N, E] features, L2-normalised; may be memory-mapped.
        texts: [M, E] features of the same dtype (float32 or float64).
        pairs: [P, 2] correct (image row, text row) pairs, each once. Several texts an image and several images a text
            are both allowed: the best correct candidate counts.
        top: best candidates to keep for each query.
        block: side of a block of similarities.
        threads: None: one a core, at most four. The result does not depend on it.
    """
    pairs = pairs[np.argsort(pairs[:, 1], kind="stable")]
    state = _RankingState(images, texts, pairs, top, block)
    starts = range(0, len(texts), block)
    count = max(1, min(threads or min(_MAX_THREADS, usable_cores()), len(starts)))
    workers = [_RankWorker(state, top) for _ in range(count)]
    idle: SimpleQueue[_RankWorker] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def count_block(start: int) -> int:
        worker = idle.get()
        try:
            return worker.count(start)
        finally:
            idle.put(worker)

    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for done in pool.map(count_block, starts):
            on_block(done, len(texts))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
    first, *others = workers
    for other in others:
        first.better_of_image += other.better_of_image
        first.top_of_image.merge(other.top_of_image)
    return BidirectionalRanks(
        text_to_image=_retrieval_ranks(state.better_of_text, pairs[:, 1], state.top_of_text, len(images)),
        image_to_text=_retrieval_ranks(first.better_of_image, pairs[:, 0], first.top_of_image, len(texts)),
    )


class _RankingState:
    """Shared by all threads; a row of texts belongs to the one thread that has its block.

    Attributes:
        pairs: in the order of the texts.
        threshold_of_image, threshold_of_text: scores at or above count as better than the best correct candidate.
        better_of_text: [M] wrong images at or above the text's threshold.
    """

    def __init__(self, images: Floats, texts: Floats, pairs: Ints, top: int, block: int) -> None:
        self.images, self.texts, self.pairs, self.block = images, texts, pairs, block
        best_of_image, best_of_text = _best_correct_scores(images, texts, pairs)
        self.threshold_of_image, self.threshold_of_text = _threshold(best_of_image), _threshold(best_of_text)
        self.top_of_text = RunningTopK(len(texts), top)
        self.better_of_text = np.zeros(len(texts), np.int64)


def _threshold(best: Floats) -> Floats:
    """The lowest score that counts as better; infinite where there is no correct candidate."""
    return np.where(np.isneginf(best), np.inf, best - TIE_TOLERANCE[best.dtype]).astype(best.dtype)


class _RankWorker:
    """Workspace of one thread: a block of scores, and its counts for the images so far.

    Blocks of texts are handed out in order, so each worker too gets them in order, as RunningTopK requires.
    """

    def __init__(self, state: _RankingState, top: int) -> None:
        self._state = state
        self._scores = np.empty((state.block, state.block), state.images.dtype)
        self.better_of_image = np.zeros(len(state.images), np.int64)
        self.top_of_image = RunningTopK(len(state.images), top)

    def count(self, start: int) -> int:
        """Count the block of texts at ``start`` against all images; returns the end of the block."""
        state = self._state
        own = slice(start, min(start + state.block, len(state.texts)))
        texts = np.require(state.texts[own], requirements="W")
        pairs = state.pairs[slice(*np.searchsorted(state.pairs[:, 1], (own.start, own.stop)))]
        for i in range(0, len(state.images), state.block):
            other = slice(i, min(i + state.block, len(state.images)))
            scores = self._scores[: own.stop - start, : other.stop - i]
            _matmul_into(texts, state.images[other], scores)
            best_of_text, best_of_image = scores.max(axis=1), scores.max(axis=0)
            state.top_of_text.offer(own, scores, best_of_text, first=i)
            self.top_of_image.offer(other, scores.T, best_of_image, first=start)
            inside = pairs[(pairs[:, 0] >= i) & (pairs[:, 0] < other.stop)]
            scores[inside[:, 1] - start, inside[:, 0] - i] = -np.inf  # correct candidates never count as better
            state.better_of_text[own] += _count_better(scores, best_of_text, state.threshold_of_text[own])
            self.better_of_image[other] += _count_better(scores.T, best_of_image, state.threshold_of_image[other])
        return own.stop


def _count_better(scores: Floats, best: Floats, threshold: Floats) -> Ints:
    """[R] scores of each row [R, B] at or above its threshold [R]; rows whose best is below are skipped."""
    rows = np.flatnonzero(best >= threshold)
    counts = np.zeros(len(threshold), np.int64)
    for part in np.array_split(rows, -(-len(rows) // _ROW_BATCH)) if len(rows) else ():
        better = scores[part] >= threshold[part, None]
        counts[part] = better.view(np.uint8).sum(axis=1, dtype=np.uint32)
    return counts


def _matmul_into(texts: Floats, images: Floats, out: Floats) -> None:
    """[T, E] · [I, E] → ``out`` [T, I]. By torch: numpy's library shares its threads among callers, who then wait."""
    left, right = torch.from_numpy(texts), torch.from_numpy(np.require(images, requirements="W"))
    torch.mm(left, right.T, out=torch.from_numpy(out))


def _best_correct_scores(images: Floats, texts: Floats, pairs: Ints) -> tuple[Floats, Floats]:
    """[N] and [M] score of each one's best correct partner; -inf where it has none."""
    best_of_image = np.full(len(images), -np.inf, images.dtype)
    best_of_text = np.full(len(texts), -np.inf, texts.dtype)
    for start in range(0, len(pairs), _PAIR_BATCH):
        image, text = pairs[start : start + _PAIR_BATCH].T
        score = np.einsum("pe,pe->p", images[image], texts[text])
        np.maximum.at(best_of_image, image, score)
        np.maximum.at(best_of_text, text, score)
    return best_of_image, best_of_text


def _retrieval_ranks(better: Ints, own: Ints, best: RunningTopK, candidates: int) -> RetrievalRanks:
    right = np.bincount(own, minlength=len(better)).astype(np.int64)
    query = np.flatnonzero(right)
    return RetrievalRanks(query, better[query] + 1, right[query], best.index[query], candidates)


class RunningTopK:
    """Each row's k best candidates over a stream of blocks; equal scores keep index order.

    Only rows whose best new score beats their k-th best are processed, so once the rows are warm a block costs one
    maximum a row.
    """

    def __init__(self, rows: int, k: int) -> None:
        self.k = k
        self.score = np.full((rows, k), -np.inf)
        self.index = np.full((rows, k), -1, np.int64)

    def offer(self, rows: slice, scores: Floats, best: Floats, first: int) -> None:
        """Add a block.

        Args:
            rows: of the block.
            scores: [len(rows), B] finite scores of candidates first … first + B - 1.
            best: [len(rows)] the highest of each row.
        """
        kept = self.score[rows]
        changed = np.flatnonzero(best > kept[:, -1])
        if not len(changed):
            return
        kept, scores = kept[changed], scores[changed]
        new_row, column = np.divmod(np.flatnonzero(self._can_enter(kept, scores)), scores.shape[1])
        all_rows = np.concatenate([np.repeat(np.arange(len(changed)), self.k), new_row])
        all_scores = np.concatenate([kept.ravel(), scores[new_row, column]])
        all_index = np.concatenate([self.index[rows][changed].ravel(), column + first])
        order = np.lexsort((all_index, -all_scores, all_rows))
        starts = np.searchsorted(all_rows[order], np.arange(len(changed)))
        chosen = order[starts[:, None] + np.arange(self.k)]
        self.score[rows.start + changed] = all_scores[chosen]
        self.index[rows.start + changed] = all_index[chosen]

    def merge(self, other: RunningTopK) -> None:
        """Add the best of another instance, which has other candidates for the same rows."""
        score = np.concatenate([self.score, other.score], axis=1)
        index = np.concatenate([self.index, other.index], axis=1)
        order = np.lexsort((index, -score), axis=1)[:, : self.k]
        self.score = np.take_along_axis(score, order, axis=1)
        self.index = np.take_along_axis(index, order, axis=1)

    def _can_enter(self, kept: Floats, scores: Floats) -> NDArray[np.bool_]:
        """[len(kept), B] candidates that can enter; of a row that is not yet full the block's k best."""
        full = np.isfinite(kept[:, -1])
        entering = scores > kept[:, -1:].astype(scores.dtype)  # a wider type would copy the block
        if not full.all() and scores.shape[1] > self.k:
            kth = np.partition(scores[~full], -self.k, axis=1)[:, -self.k, None]
            entering[~full] = scores[~full] >= kth
        return entering
