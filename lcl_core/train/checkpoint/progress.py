"""Where a run stands: all that is not a tensor."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Progress:
    """Where a run stands; all that is not a tensor.

    Attributes:
        step: optimiser steps done.
        position: the next document of the ranks' streams, one counter for all sources and epochs; the furthest rank's.
        images_seen, documents_seen, tokens_seen: what the steps have read.
        skipped: documents left out so far, by reason.
        left_out: images left out of documents so far, by error code.
        source_images: images read, by number of the source in the data spec.
        seconds: training time of all attempts.
        pending: losses and other numbers, by name, of each step since the last metric line.
    """

    step: int = 0
    position: int = 0
    images_seen: int = 0
    documents_seen: int = 0
    tokens_seen: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    source_images: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    pending: list[dict[str, float]] = field(default_factory=list)
