"""How captions and continuations are decoded. Knows no torch."""

from __future__ import annotations

from dataclasses import dataclass

from lcl_core.errors import UserError


@dataclass(frozen=True, slots=True)
class CaptionOptions:
    """Greedy by default; ``num_beams`` > 1: beam search; ``top_p``: nucleus sampling.

    Args:
        prompt: text that the caption continues.
        context: text before the picture.
        max_new_tokens: length at most, 1 to 256 tokens.
        num_beams: 1 to 16.
        top_p: probability mass of the nucleus, above 0 to 1.
        temperature: of the sampling, above 0 to 10.
        seed: of the sampling; the same seed and pictures give the same captions. Picture i of a list is drawn with
            ``seed`` + i.

    Raises:
        UserError: ``bad_decoding``, naming the field.
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

    @property
    def sampled(self) -> bool:
        """Whether chance plays a part."""
        return self.top_p is not None


def _require(holds: bool, field: str, rule: str) -> None:
    if not holds:
        raise UserError(f"{field} {rule}", code="bad_decoding", field=field)
