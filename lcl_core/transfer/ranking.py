"""Who is ranked where, both ways, without ever holding the image x text matrix.

Similarities are made block by block and counted at once, so memory is one block and the answers. Shapes: N
images, M texts, E dimensions, P right (image, text) pairs, Q queries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lcl_core.transfer.topk import RunningTop

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]

# Two scores this close are a tie: more than a dot product of unit vectors loses to rounding, far less than a
# difference that means anything. Without it, equal pictures would be ordered by the shape of the block.
TIE = {np.dtype(np.float32): 1e-6, np.dtype(np.float64): 1e-12}
_PAIRS_AT_ONCE = 65_536


@dataclass(frozen=True)
class Ranks:
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
class BothWays:
    text_to_image: Ranks
    image_to_text: Ranks


def rank_both_ways(
    images: Floats,
    texts: Floats,
    pairs: Ints,
    *,
    top: int = 5,
    block: int = 2048,
    on_block: Callable[[int, int], None] = lambda done, total: None,
) -> BothWays:
    """Rank every image for every text and every text for every image, by dot product.

    Args:
        images: [N, E] features, L2-normalised.
        texts: [M, E] features of the same dtype (float32 or float64).
        pairs: [P, 2] right (image row, text row) pairs, each once. Several texts an image and several images
            a text are both allowed: a query is found when its best right candidate is.
        top: how many best candidates to keep for each query.
        block: side of a block of similarities.
        on_block: called with (done, total) texts.
    """
    pairs = pairs[np.argsort(pairs[:, 1], kind="stable")]
    slack = TIE[images.dtype]
    best_of_image, best_of_text = _best_right(images, texts, pairs)
    ahead_of_image = np.zeros(len(images), np.int64)
    ahead_of_text = np.zeros(len(texts), np.int64)
    top_of_image, top_of_text = RunningTop(len(images), top), RunningTop(len(texts), top)
    for t in range(0, len(texts), block):
        here = slice(t, min(t + block, len(texts)))
        mine = pairs[slice(*np.searchsorted(pairs[:, 1], (here.start, here.stop)))]
        for i in range(0, len(images), block):
            there = slice(i, min(i + block, len(images)))
            scores = texts[here] @ images[there].T
            top_of_text.offer(here, scores, first=i)
            top_of_image.offer(there, scores.T, first=t)
            inside = mine[(mine[:, 0] >= i) & (mine[:, 0] < there.stop)]
            scores[inside[:, 1] - t, inside[:, 0] - i] = -np.inf  # right candidates are nobody's rivals
            ahead_of_text[here] += np.count_nonzero(scores >= best_of_text[here, None] - slack, axis=1)
            ahead_of_image[there] += np.count_nonzero(scores >= best_of_image[None, there] - slack, axis=0)
        on_block(here.stop, len(texts))
    return BothWays(
        text_to_image=_ranks(ahead_of_text, pairs[:, 1], top_of_text, len(images)),
        image_to_text=_ranks(ahead_of_image, pairs[:, 0], top_of_image, len(texts)),
    )


def _best_right(images: Floats, texts: Floats, pairs: Ints) -> tuple[Floats, Floats]:
    """[N] and [M] score of each one's best right partner; -inf where it has none."""
    best_of_image = np.full(len(images), -np.inf, images.dtype)
    best_of_text = np.full(len(texts), -np.inf, texts.dtype)
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        image, text = pairs[start : start + _PAIRS_AT_ONCE].T
        score = np.einsum("pe,pe->p", images[image], texts[text])
        np.maximum.at(best_of_image, image, score)
        np.maximum.at(best_of_text, text, score)
    return best_of_image, best_of_text


def _ranks(ahead: Ints, own: Ints, best: RunningTop, candidates: int) -> Ranks:
    right = np.bincount(own, minlength=len(ahead)).astype(np.int64)
    query = np.flatnonzero(right)
    return Ranks(query, ahead[query] + 1, right[query], best.index[query], candidates)
