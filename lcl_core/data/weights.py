"""Weights in other units than documents: a share of images or of tokens becomes a share of documents.

The means that this needs are measured at a fixed number of positions that the seed of nothing changes, so that they
depend on the corpus and the spec alone and cost the same for a corpus of any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from lcl_core.data.order import Permutation
from lcl_core.data.sources import Size, Source
from lcl_core.errors import UserError

Unit = Literal["documents", "images", "tokens"]
_MEASURED = 128


def document_weights(sources: Sequence[Source], weights: Sequence[float], unit: Unit) -> list[float]:
    """Weights by documents that give the sources these shares of ``unit``.

    Raises: UserError where none of the documents measured can be used.
    """
    if unit == "documents":
        return list(weights)
    column = 0 if unit == "images" else 1
    return [
        weight / mean_size(source, f"data.sources.{number}")[column]
        for number, (source, weight) in enumerate(zip(sources, weights, strict=True))
    ]


def mean_size(source: Source, field: str, at_most: int = _MEASURED) -> tuple[float, float]:
    """Mean images and tokens of an item, over items that give no sample too, since they take positions as well.

    Raises: UserError ``empty_source`` where no item gives a sample.
    """
    order = Permutation(len(source))
    count = min(at_most, len(source))
    sizes: list[Size] = [source.measure(order[place]) or (0, 0) for place in range(count)]
    images, tokens = (sum(column) / count for column in zip(*sizes, strict=True))
    if images == 0:
        message = f"none of {count} documents can be used, so their size is not known; weigh by documents"
        raise UserError(message, code="empty_source", field=field)
    return images, tokens
