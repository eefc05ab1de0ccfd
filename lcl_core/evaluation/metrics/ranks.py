"""Ranks of images for texts and of texts for images, without the whole similarity matrix in memory.

Similarities are computed and counted block by block. N images, M texts, E dimensions, P correct (image, text) pairs,
Q queries.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np
import torch
from numpy.typing import NDArray


class RunningTopK:
    """Keeps each row's k best candidates while blocks of candidates pass by; equal scores keep index order.

    Only rows whose best new score beats their k-th best are looked at further, so once the rows are warm a block costs
    one maximum a row.
    """

    def __init__(self, rows: int, k: int) -> None:
        self.k = k
        self.score = np.full((rows, k), -np.inf)
        self.index = np.full((rows, k), -1, np.int64)

    def offer(self, rows: slice, scores: NDArray[np.floating], best: NDArray[np.floating], first: int) -> None:
        """Take a block in.

        Args:
            rows: which rows the block is for.
            scores: [len(rows), B] finite scores of candidates first … first + B - 1.
            best: [len(rows)] the highest of each row.
        """
        kept = self.score[rows]
        moved = np.flatnonzero(best > kept[:, -1])
        if not len(moved):
            return
        kept, scores = kept[moved], scores[moved]
        new_row, column = np.divmod(np.flatnonzero(self._promising(kept, scores)), scores.shape[1])
        old_row = np.repeat(np.arange(len(moved)), self.k)
        all_rows = np.concatenate([old_row, new_row])
        all_scores = np.concatenate([kept.ravel(), scores[new_row, column]])
        all_index = np.concatenate([self.index[rows][moved].ravel(), column + first])
        order = np.lexsort((all_index, -all_scores, all_rows))
        starts = np.searchsorted(all_rows[order], np.arange(len(moved)))
        kept_now = order[starts[:, None] + np.arange(self.k)]
        self.score[rows.start + moved] = all_scores[kept_now]
        self.index[rows.start + moved] = all_index[kept_now]

    def merge(self, other: RunningTopK) -> None:
        """Take in what another one kept of other candidates for the same rows."""
        score = np.concatenate([self.score, other.score], axis=1)
        index = np.concatenate([self.index, other.index], axis=1)
        order = np.lexsort((index, -score), axis=1)[:, : self.k]
        self.score = np.take_along_axis(score, order, axis=1)
        self.index = np.take_along_axis(index, order, axis=1)

    def _promising(self, kept: NDArray[np.floating], scores: NDArray[np.floating]) -> NDArray[np.bool_]:
        """[len(kept), B] which candidates can enter; a row that is not yet full takes its block's k best."""
        full = np.isfinite(kept[:, -1])
        entering = scores > kept[:, -1:].astype(scores.dtype)  # a wider type would copy the block
        if not full.all() and scores.shape[1] > self.k:
            kth = np.partition(scores[~full], -self.k, axis=1)[:, -self.k, None]
            entering[~full] = scores[~full] >= kth
        return entering


Floats = NDArray[np.floating]
Ints = NDArray[np.int64]

# Two scores this close are a tie: more than a dot product of unit vectors loses to rounding, far less than a
# difference that means anything. Without it, equal pictures would be ordered by the shape of the block.
TIE_TOLERANCE = {np.dtype(np.float32): 1e-6, np.dtype(np.float64): 1e-12}
_PAIR_BATCH = 16_384
_ROW_BATCH = 256  # of a block: what is copied stays in the cache
_MAX_THREADS = 4  # beyond, the matrix product has the cores


@dataclass(frozen=True)
class RetrievalRanks:
    """Where each query found its best right candidate.

    Attributes:
        query: [Q] row of the query; rows with no right candidate are left out.
        rank: [Q] 1 + the number of wrong candidates that score as high or higher (a tie counts against us).
        right: [Q] number of right candidates.
        top: [Q, k] rows of the best candidates, best first; -1 where there are fewer than k.
        candidates: number of candidates that every query was ranked against.
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
        pairs: [P, 2] right (image row, text row) pairs, each once. Several texts an image and several images
            a text are both allowed: a query is found when its best right candidate is.
        top: how many best candidates to keep for each query.
        block: side of a block of similarities.
        threads: that count; none: one a core, at most four. The answer does not depend on it.
        on_block: called with (done, total) texts.
    """
    pairs = pairs[np.argsort(pairs[:, 1], kind="stable")]
    task = _RankingState(
        images, texts, pairs, *_best_correct_scores(images, texts, pairs), RunningTopK(len(texts), top), block
    )
    starts = range(0, len(texts), block)
    count = max(1, min(threads or _default_threads(), len(starts)))
    desks: SimpleQueue[_RankWorker] = SimpleQueue()
    seats = [_RankWorker(task, top) for _ in range(count)]
    for seat in seats:
        desks.put(seat)
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for here in pool.map(lambda start: _count_block(desks, start), starts):
            on_block(here.stop, len(texts))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
    first, *others = seats
    for other in others:
        first.ahead_of_image += other.ahead_of_image
        first.top_of_image.merge(other.top_of_image)
    return BidirectionalRanks(
        text_to_image=_retrieval_ranks(task.ahead_of_text, pairs[:, 1], task.top_of_text, len(images)),
        image_to_text=_retrieval_ranks(first.ahead_of_image, pairs[:, 0], first.top_of_image, len(texts)),
    )


def _default_threads() -> int:
    return min(_MAX_THREADS, os.cpu_count() or 1)


class _RankingState:
    """What all threads share. A row of texts belongs to the one thread that has its block."""

    def __init__(
        self,
        images: Floats,
        texts: Floats,
        pairs: Ints,
        best_of_image: Floats,
        best_of_text: Floats,
        top_of_text: RunningTopK,
        block: int,
    ) -> None:
        self.images = images
        self.texts = texts
        self.pairs = pairs  # in the order of the texts
        self.bar_of_image, self.bar_of_text = _score_threshold(best_of_image), _score_threshold(best_of_text)
        self.top_of_text = top_of_text
        self.ahead_of_text = np.zeros(len(texts), np.int64)
        self.block = block


def _score_threshold(best: Floats) -> Floats:
    """What a rival must reach; nobody does where there is no right candidate to be ahead of."""
    return np.where(np.isneginf(best), np.inf, best - TIE_TOLERANCE[best.dtype]).astype(best.dtype)


class _RankWorker:
    """One thread's workspace: a block of scores, and what it has counted for the images so far.

    Blocks of texts are handed out in order, so a desk too sees them in order, as RunningTop wants it.
    """

    def __init__(self, task: _RankingState, top: int) -> None:
        self._task = task
        self._scores = np.empty((task.block, task.block), task.images.dtype)
        self.ahead_of_image = np.zeros(len(task.images), np.int64)
        self.top_of_image = RunningTopK(len(task.images), top)

    def count(self, start: int) -> slice:
        """Take the block of texts that starts there against all images."""
        task = self._task
        here = slice(start, min(start + task.block, len(task.texts)))
        texts = np.require(task.texts[here], requirements="W")
        mine = task.pairs[slice(*np.searchsorted(task.pairs[:, 1], (here.start, here.stop)))]
        for i in range(0, len(task.images), task.block):
            there = slice(i, min(i + task.block, len(task.images)))
            scores = self._scores[: here.stop - start, : there.stop - i]
            _matmul_into(texts, task.images[there], scores)
            best_of_text, best_of_image = scores.max(axis=1), scores.max(axis=0)
            task.top_of_text.offer(here, scores, best_of_text, first=i)
            self.top_of_image.offer(there, scores.T, best_of_image, first=start)
            inside = mine[(mine[:, 0] >= i) & (mine[:, 0] < there.stop)]
            scores[inside[:, 1] - start, inside[:, 0] - i] = -np.inf  # right candidates are nobody's rivals
            task.ahead_of_text[here] += self._ahead(scores, best_of_text, task.bar_of_text[here])
            self.ahead_of_image[there] += self._ahead(scores.T, best_of_image, task.bar_of_image[there])
        return here

    def _ahead(self, scores: Floats, best: Floats, bar: Floats) -> Ints:
        """How many scores of each row [R, B] are at or above its bar [R].

        A row whose best is below its bar, and with a good encoder most are, has none and is not looked at.
        """
        rows = np.flatnonzero(best >= bar)
        counts = np.zeros(len(bar), np.int64)
        for some in np.array_split(rows, -(-len(rows) // _ROW_BATCH)) if len(rows) else ():
            reached = scores[some] >= bar[some, None]
            counts[some] = reached.view(np.uint8).sum(axis=1, dtype=np.uint32)
        return counts


def _matmul_into(texts: Floats, images: Floats, out: Floats) -> None:
    """[T, E] · [I, E] → ``out`` [T, I]. By torch: numpy's library shares its threads among callers, who then wait."""
    left, right = torch.from_numpy(texts), torch.from_numpy(np.require(images, requirements="W"))
    torch.mm(left, right.T, out=torch.from_numpy(out))


def _count_block(desks: SimpleQueue[_RankWorker], start: int) -> slice:
    desk = desks.get()
    try:
        return desk.count(start)
    finally:
        desks.put(desk)


def _best_correct_scores(images: Floats, texts: Floats, pairs: Ints) -> tuple[Floats, Floats]:
    """[N] and [M] score of each one's best right partner; -inf where it has none."""
    best_of_image = np.full(len(images), -np.inf, images.dtype)
    best_of_text = np.full(len(texts), -np.inf, texts.dtype)
    for start in range(0, len(pairs), _PAIR_BATCH):
        image, text = pairs[start : start + _PAIR_BATCH].T
        score = np.einsum("pe,pe->p", images[image], texts[text])
        np.maximum.at(best_of_image, image, score)
        np.maximum.at(best_of_text, text, score)
    return best_of_image, best_of_text


def _retrieval_ranks(ahead: Ints, own: Ints, best: RunningTopK, candidates: int) -> RetrievalRanks:
    right = np.bincount(own, minlength=len(ahead)).astype(np.int64)
    query = np.flatnonzero(right)
    return RetrievalRanks(query, ahead[query] + 1, right[query], best.index[query], candidates)
