"""What the steps have read, of all ranks together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lcl_core.data.packing import DocumentBatch
from lcl_core.train.checkpoint import Progress
from lcl_core.train.ranks import Ranks


def count_read(progress: Progress, batches: Sequence[DocumentBatch], ranks: Ranks) -> None:
    """Add a step's batches to ``progress``. All ranks call it, and all end with the same numbers."""
    for own in ranks.gather(_of(batches)):
        progress.documents_seen += own["documents"]
        progress.images_seen += own["images"]
        progress.tokens_seen += own["tokens"]
        _add(progress.skipped, own["skipped"])
        _add(progress.left_out, own["left_out"])
        _add(progress.source_images, own["source_images"])


def furthest(cursor_position: int, ranks: Ranks) -> int:
    """The position of the rank that has read on the most."""
    return max(position for [position] in ranks.gather_numbers([cursor_position]))


def _of(batches: Sequence[DocumentBatch]) -> dict[str, Any]:
    sources: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    for batch in batches:
        skipped.update(batch.skipped)
        left_out.update(batch.left_out)
        sources.update({str(number): count.images for number, count in batch.by_source.items()})
    return {
        "documents": sum(len(batch.samples) for batch in batches),
        "images": sum(batch.images for batch in batches),
        "tokens": sum(batch.tokens for batch in batches),
        "skipped": skipped,
        "left_out": left_out,
        "source_images": sources,
    }


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, count in more.items():
        total[name] = total.get(name, 0) + count
