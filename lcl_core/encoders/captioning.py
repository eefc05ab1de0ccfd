"""Text generation by encoders: options, listeners and prepared images. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lcl_core.common.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

FinishedTexts = list[tuple[int, str]]  # (row, text) of the texts that one step completed


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """Greedy by default; ``num_beams`` > 1: beam search; ``top_p``: nucleus sampling.

    Args:
        prompt: text that the caption continues.
        context: text before the image.
        max_new_tokens: 1 to 256.
        num_beams: 1 to 16.
        top_p: probability mass of the nucleus, above 0 to 1.
        temperature: of the sampling, above 0 to 10.
        seed: of the sampling; image i of a list is sampled with ``seed`` + i.

    Raises:
        UserError: ``invalid_value``, naming the field.
    """

    prompt: str = ""
    context: str = ""
    max_new_tokens: int = 24
    num_beams: int = 1
    top_p: float | None = None
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        _require(1 <= self.max_new_tokens <= 256, "max_new_tokens", "must be 1 to 256")
        _require(1 <= self.num_beams <= 16, "num_beams", "must be 1 to 16")
        _require(self.top_p is None or 0 < self.top_p <= 1, "top_p", "must be above 0 and at most 1")
        _require(0 < self.temperature <= 10, "temperature", "must be above 0 and at most 10")
        _require(self.top_p is None or self.num_beams == 1, "top_p", "goes only with num_beams 1")
        _require(0 <= self.seed < 2**31, "seed", "must be 0 to 2147483647")


def _require(holds: bool, field: str, rule: str) -> None:
    if not holds:
        raise UserError(f"{field} {rule}", field=field)


def _ignore(_: str) -> None:
    """For listeners of the whole text alone."""


@dataclass(slots=True, eq=False)
class StreamListener:
    """Receives each piece of a text, in the thread that generates it.

    Attributes:
        on_text: must not block. A listener that raises is cancelled.
        cancelled: set by any thread: generation of this text stops at the next step.
    """

    on_text: Callable[[str], None] = _ignore
    cancelled: bool = False

    def notify(self, piece: str) -> None:
        if piece and not self.cancelled:
            try:
                self.on_text(piece)
            except Exception:  # other texts of the batch must go on
                self.cancelled = True


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image as ``BatchedEngine.prepare`` returns it; the image itself need not be kept.

    Attributes:
        pixels: f32 [3, S, S], on the CPU; None where preprocessing failed.
        error: why it failed. A broken image fails alone, in its own future.
    """

    pixels: Tensor | None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class DocumentPrompt:
    """A document without its end.

    Attributes:
        ids: its tokens, placeholders of images included.
        pixels: f32 [k, 3, S, S], its images in order, on the CPU.
    """

    ids: list[int]
    pixels: Tensor
