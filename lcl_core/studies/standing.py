"""How a study stands, from its cells alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lcl_core.specs import HalvingSearch, StudySpec
from lcl_core.studies.facts import CellFacts
from lcl_core.studies.halving import promoted
from lcl_core.studies.states import FAILED, SUCCEEDED, counted, study_state


@dataclass(frozen=True)
class Standing:
    """A study's state, and how many of its cells are in each."""

    state: str
    counts: dict[str, int]


def standing_of(study: StudySpec, cells: Sequence[CellFacts], *, cancelled: bool) -> Standing:
    """Of a halving the finalists alone decide about success; without any it has failed."""
    counts = counted(cell.state(cancelled=cancelled) for cell in cells)
    if not isinstance(study.search, HalvingSearch):
        return Standing(study_state(counts, cancelled=cancelled), counts)
    finalists = [cell for cell in cells if cell.rung == len(study.search.rungs)]
    decide = counted(cell.state(cancelled=cancelled) for cell in finalists) if finalists else counts
    state = study_state(decide, cancelled=cancelled, more_to_come=bool(promoted(study, cells)))
    return Standing(FAILED if state == SUCCEEDED and not finalists else state, counts)
