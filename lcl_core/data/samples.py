"""What a stream gives: a document as ids and pixels, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Sample:
    """One document, ready for the model.

    Attributes:
        id: where it was read: dataset, file and line, and the piece if it was cut.
        source: number of the source in the data spec.
        token_ids: int32 [L], no padding.
        pixels: float32 [k, 3, S, S], one image for each image block, in order.
        left_out: why each image that could not be read was left out, as error codes.
        position: where it stands in the stream of all ranks together.
    """

    id: str
    source: int
    token_ids: np.ndarray
    pixels: np.ndarray
    left_out: tuple[str, ...] = ()
    position: int = 0

    @property
    def unreadable(self) -> int:
        """Images of the document that had to be left out because they could not be read."""
        return len(self.left_out)


@dataclass(frozen=True, slots=True)
class Skipped:
    """An item that gives no sample.

    Attributes:
        reason: one of a few phrases, to be counted.
        detail: the particulars, such as which file could not be read.
        left_out: as in ``Sample``.
    """

    id: str
    reason: str
    detail: str = ""
    left_out: tuple[str, ...] = ()
