"""The rows of the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lcl_core.errors import UserError
from lcl_core.transfer.records import Records, Sheet
from lcl_core.transfer.scoring.measure import Measure
from lcl_core.transfer.scoring.registry import SCORERS


@dataclass(frozen=True)
class Row:
    """One number of the table.

    Attributes:
        transfer: ``zero_shot``, ``frozen`` or ``full``.
        metric: ``TR@k`` and ``IR@k`` (image → text, text → image), ``TR median rank`` …, ``acc@k``, …
        value: of the trained encoder; shares lie in [0, 1].
        interval: 95 % bootstrap interval of ``value`` over the units.
        chance: what a random answer reaches, by arithmetic; none where that says nothing.
        majority: classification: what naming the most frequent training classes reaches.
        untrained: the same architecture with its initial weights, through the same code; none if not asked
            for.
        spread: standard deviation over repetitions of the task, where it was repeated.
        count: units: queries, pictures, questions.
        candidates: answers each query chose from; none where answers are free.
        left_out: pictures not asked about, by reason.
    """

    task: str
    split: str
    variant: str
    transfer: str
    metric: str
    value: float
    interval: tuple[float, float]
    chance: float | None
    majority: float | None
    untrained: float | None
    untrained_interval: tuple[float, float] | None
    spread: float | None
    count: int
    candidates: int | None
    left_out: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "interval": list(self.interval)}


def score(folder: Path, *, seed: int) -> list[Row]:
    """Score the records in ``folder``, trained beside untrained; ``seed`` drives the bootstrap."""
    found = [(sheet, measures_of(sheet, samples)) for sheet, samples in Records(folder).read()]
    twins = {
        (*sheet.question, each.metric): each
        for sheet, measures in found
        if sheet.encoder == "untrained"
        for each in measures
    }
    rows = []
    for sheet, measures in found:
        if sheet.encoder == "trained":
            rows += [_row(sheet, each, twins.get((*sheet.question, each.metric)), seed) for each in measures]
    return rows


def measures_of(sheet: Sheet, samples: list[dict[str, Any]]) -> Sequence[Measure]:
    """What one sheet says.

    Raises:
        UserError: ``records_unreadable`` for a kind that is not known.
    """
    if sheet.kind not in SCORERS:
        raise UserError(
            f"records of kind {sheet.kind!r} are not known; there are {', '.join(SCORERS)}; evaluate again",
            code="records_unreadable",
        )  # fmt: skip
    return SCORERS[sheet.kind](sheet, samples)


def _row(sheet: Sheet, own: Measure, twin: Measure | None, seed: int) -> Row:
    return Row(
        task=sheet.task,
        split=sheet.split,
        variant=sheet.variant,
        transfer=sheet.transfer,
        metric=own.metric,
        value=own.value,
        interval=own.interval(seed),
        chance=own.chance,
        majority=own.majority,
        untrained=None if twin is None else twin.value,
        untrained_interval=None if twin is None else twin.interval(seed),
        spread=own.spread,
        count=len(own.units),
        candidates=sheet.facts.get("candidates"),
        left_out=sheet.facts.get("left_out", {}),
    )
