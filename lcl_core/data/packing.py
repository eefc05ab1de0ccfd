"""Packing: documents are taken in stream order until a budget is full. Nothing is padded, nothing is buffered.

A document that no longer fits opens the next batch, so a batch is a pure function of the position it starts at and
the cursor of a run is one integer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from lcl_core.data.stream import Sample, Skipped
from lcl_core.errors import UserError
from lcl_core.specs import BatchSpec


@dataclass
class DocumentBatch:
    """Documents of one step.

    Attributes:
        samples: the documents, in stream order.
        next_position: where the next batch starts.
        skipped: documents left out on the way, by reason.
    """

    samples: list[Sample] = field(default_factory=list)
    next_position: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def tokens(self) -> int:
        return sum(len(sample.token_ids) for sample in self.samples)

    @property
    def images(self) -> int:
        return sum(len(sample.pixels) for sample in self.samples)


def pack_documents(
    stream: Iterable[Sample | Skipped], position: int, budget: BatchSpec, patience: int = 10_000
) -> Iterator[DocumentBatch]:
    """Batches from a stream whose first item is the one at ``position``.

    Raises:
        UserError: ``patience`` documents in a row were left out; the reasons are named.
    """
    batch = DocumentBatch()
    in_a_row = 0
    for place, item in enumerate(stream, start=position):
        reason = item.reason if isinstance(item, Skipped) else _too_large(item, budget)
        if reason is not None:
            batch.skipped[reason] += 1
            in_a_row += 1
            if in_a_row >= patience:
                raise UserError(f"no usable document among {patience}: {dict(batch.skipped)}", code="no_usable_data")
            continue
        in_a_row = 0
        assert isinstance(item, Sample)
        if batch.samples and not _fits(batch, item, budget):
            batch.next_position = place
            yield batch
            batch = DocumentBatch()
        batch.samples.append(item)


def _fits(batch: DocumentBatch, sample: Sample, budget: BatchSpec) -> bool:
    tokens = batch.tokens + len(sample.token_ids)
    return tokens <= budget.tokens and batch.images + len(sample.pixels) <= budget.images


def _too_large(sample: Sample, budget: BatchSpec) -> str | None:
    if len(sample.token_ids) > budget.tokens:
        return "more tokens than a batch holds"
    return "more images than a batch holds" if len(sample.pixels) > budget.images else None
