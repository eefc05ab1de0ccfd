"""An image as an encoder reads it: prepared by one thread, queued by whoever has all images of a request together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Prepared:
    """What ``BatchingSession.prepare`` makes of an image, which need not be kept any longer.

    Attributes:
        pixels: f32 [3, S, S], on the CPU; None where the encoder's own preparation failed.
        error: why it failed. A broken image fails alone, in its own future.
    """

    pixels: Tensor | None
    error: Exception | None = None
