"""What a reader of a study's table should be told."""

from __future__ import annotations

from collections.abc import Sequence

from lcl_core.specs import GridSearch, HalvingSearch, StudySpec
from lcl_core.studies.columns import Column, columns_of
from lcl_core.studies.draws import draws
from lcl_core.studies.facts import CellFacts
from lcl_core.studies.figures import SELECTORS
from lcl_core.studies.states import SUCCEEDED

SHOWN = 6


def notes_on(study: StudySpec, cells: Sequence[CellFacts]) -> list[str]:
    """Sentences; none when there is nothing to say."""
    found = [_equal_draws(study), _promotions(study, cells)]
    found += [_nothing_found(column, cells) for column in columns_of(study)]
    return [note for note in found if note]


def _equal_draws(study: StudySpec) -> str:
    if isinstance(study.search, GridSearch):
        return ""
    different = len(draws(study.search))
    if different == study.search.trials:
        return ""
    return f"Of {study.search.trials} settings drawn {different} differ; equal ones are tried once."


def _promotions(study: StudySpec, cells: Sequence[CellFacts]) -> str:
    """Whether promoted trials went on from their checkpoints."""
    if not isinstance(study.search, HalvingSearch):
        return ""
    trained = [cell for cell in cells if 0 < cell.rung < len(study.search.rungs)]
    if not trained:
        return ""
    if all(cell.run.continues for cell in trained):
        return "Promoted trials go on from their checkpoints; their figures are those of the whole training."
    return (
        "Promoted trials begin anew with more steps: under their learning-rate schedule a longer training differs from "
        "the first step on. With optimizer.schedule constant they go on from their checkpoints."
    )


def _nothing_found(column: Column, cells: Sequence[CellFacts]) -> str:
    """A column that stays empty although there are results, and what it could ask for."""
    ended = [cell for cell in cells if cell.state() == SUCCEEDED and column.covers(cell)]
    if not ended or any(column.figure(cell) for cell in ended):
        return ""
    if column.metric.of == "training":
        there = sorted({key for cell in ended for key in cell.run.result.get("final") or {}})
    else:
        rows = [row for cell in ended if cell.evaluation for row in cell.evaluation.result.get("rows", ())]
        there = sorted({" ".join(str(row[key]) for key in SELECTORS if row.get(key)) for row in rows})
    words = "; ".join(there[:SHOWN]) + (f" and {len(there) - SHOWN} more" if len(there) > SHOWN else "")
    return f"No result has a figure for {column.head}. There are: {words or 'none'}."
