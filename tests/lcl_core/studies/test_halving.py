"""Successive halving, played through by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from lcl_core.specs.study import StudySpec
from lcl_core.studies.results import CellRecord, RunRecord
from lcl_core.studies.status import can_continue, promoted_cells, study_status
from lcl_core.studies.table import table_notes
from lcl_core.studies.trials import PlannedCell, expand_study

HalvingOf = Callable[..., StudySpec]
Scores = dict[str, float | None]


def judged(cells: Sequence[PlannedCell], scores: Scores, first: int = 0, **more: Any) -> list[CellRecord]:
    """The cells with a validation that found these scores by trial; None: the pre-training failed."""
    facts = []
    for number, cell in enumerate(cells, start=first):
        score = scores[cell.labels["trial"]]
        run = RunRecord(f"run_{number}", "failed" if score is None else "succeeded", **more)
        rows = {"rows": [{"metric": "IR@5", "value": score}]}
        evaluation = None if score is None else RunRecord(f"eval_{number}", "succeeded", rows)
        facts.append(CellRecord(number, cell.labels, cell.parameters, cell.seed, cell.rung, run, evaluation))
    return facts


def names(cells: Sequence[PlannedCell]) -> list[tuple[str, int, int]]:
    return [(cell.labels["trial"], cell.rung, cell.spec.steps) for cell in cells]


def test_the_best_half_trains_on_and_the_best_of_it_is_the_finalist(halving_of: HalvingOf) -> None:
    study = halving_of()
    first = judged(expand_study(study), {"t01": 0.1, "t02": 0.4, "t03": 0.2, "t04": 0.3})
    second = promoted_cells(study, first)
    assert names(second) == [("t02", 1, 30), ("t04", 1, 30)]
    rates = {cell.labels["trial"]: cell.spec.optimizer.lr for cell in expand_study(study)}
    assert [cell.spec.optimizer.lr for cell in second] == [rates["t02"], rates["t04"]]
    both = first + judged(second, {"t02": 0.5, "t04": 0.6}, first=4)
    finalist = promoted_cells(study, both)
    assert names(finalist) == [("t04", 2, 30)]
    assert finalist[0].hash == second[1].hash, "a finalist trains no further"
    done = both + judged(finalist, {"t04": 0.7}, first=6)
    assert promoted_cells(study, done) == []
    assert study_status(study, done, cancelled=False).state == "succeeded"


def test_a_rung_waits_for_its_last_cell(halving_of: HalvingOf) -> None:
    study = halving_of()
    cells = judged(expand_study(study), {"t01": 0.1, "t02": 0.4, "t03": 0.2, "t04": 0.3})
    waiting = CellRecord(**{**vars(cells[0]), "evaluation": RunRecord("eval_0", "running")})
    assert promoted_cells(study, [waiting, *cells[1:]]) == []
    assert study_status(study, [waiting, *cells[1:]], cancelled=False).state == "running"
    assert study_status(study, cells, cancelled=False).state == "running", "the next rung is about to come"


def test_a_trial_that_failed_is_out_and_does_not_fail_the_study(halving_of: HalvingOf) -> None:
    study = halving_of(rungs=[10], finalists=2)
    cells = judged(expand_study(study), {"t01": None, "t02": 0.4, "t03": None, "t04": 0.5})
    finalists = promoted_cells(study, cells)
    assert names(finalists) == [("t04", 1, 10), ("t02", 1, 10)]
    done = cells + judged(finalists, {"t02": 0.4, "t04": 0.5}, first=4)
    assert study_status(study, done, cancelled=False).state == "succeeded"
    assert study_status(study, done, cancelled=False).counts == {"succeeded": 4, "failed": 2}


def test_when_no_trial_is_left_the_study_has_failed(halving_of: HalvingOf) -> None:
    study = halving_of()
    cells = judged(expand_study(study), dict.fromkeys(("t01", "t02", "t03", "t04")))
    assert promoted_cells(study, cells) == []
    assert study_status(study, cells, cancelled=False).state == "failed"


def test_without_the_metric_the_study_has_failed_and_says_what_there_is(halving_of: HalvingOf) -> None:
    study = halving_of(metric={"name": "acc", "metric": "acc@1"})
    cells = judged(expand_study(study), dict.fromkeys(("t01", "t02", "t03", "t04"), 0.5))
    assert promoted_cells(study, cells) == []
    assert study_status(study, cells, cancelled=False).state == "failed"
    (note,) = table_notes(study, cells)
    assert note == "No result has a figure for validation acc. There are: IR@5."


def test_lower_may_be_better_and_of_equals_the_earlier_goes_on(halving_of: HalvingOf) -> None:
    study = halving_of(metric={"name": "rank", "metric": "IR@5", "better": "lower"})
    cells = judged(expand_study(study), {"t01": 0.9, "t02": 0.4, "t03": 0.4, "t04": 0.4})
    assert names(promoted_cells(study, cells)) == [("t02", 1, 30), ("t03", 1, 30)]


@pytest.mark.parametrize(("keep", "count"), [(0.5, 2), (0.25, 1), (0.3, 2), (0.01, 1), (0.75, 3)])
def test_the_share_that_is_kept_is_rounded_up(halving_of: HalvingOf, keep: float, count: int) -> None:
    study = halving_of(keep=keep)
    cells = judged(expand_study(study), {"t01": 0.1, "t02": 0.4, "t03": 0.2, "t04": 0.3})
    assert len(promoted_cells(study, cells)) == count


def test_only_under_a_constant_rate_is_a_longer_training_a_continued_one(halving_of: HalvingOf) -> None:
    study = halving_of()
    scores: Scores = {"t01": 0.1, "t02": 0.4, "t03": 0.2, "t04": 0.3}
    cosine = promoted_cells(study, judged(expand_study(study), scores))
    assert not any(can_continue(study, cell) for cell in cosine)
    constant = study.model_copy(update={"pretrain": {"optimizer": {"schedule": "constant"}}})
    first = judged(expand_study(constant), scores)
    second = promoted_cells(constant, first)
    assert all(can_continue(constant, cell) for cell in second)
    assert not any(can_continue(constant, cell) for cell in expand_study(constant))
    finalist = promoted_cells(constant, first + judged(second, scores, first=4))
    assert not can_continue(constant, finalist[0])


@pytest.mark.parametrize(("export", "every", "expected"), [("best", 5, True), ("best", 4, False), ("last", 4, True)])
def test_exported_best_weights_are_those_of_measurements_that_a_longer_run_makes_too(
    halving_of: HalvingOf, export: str, every: int, expected: bool
) -> None:
    """The lowest rung ends after 10 steps, which are measured as its last."""
    monitor = {"dataset": "sample", "split": "val", "every": every, "export": export}
    study = halving_of().model_copy(update={"pretrain": {"optimizer": {"schedule": "constant"}, "monitor": monitor}})
    first = judged(expand_study(study), {"t01": 0.1, "t02": 0.4, "t03": 0.2, "t04": 0.3})
    assert [can_continue(study, cell) for cell in promoted_cells(study, first)] == [expected] * 2


def test_it_says_whether_promoted_trials_go_on_or_begin_anew(halving_of: HalvingOf) -> None:
    study = halving_of()
    scores: Scores = {"t01": 0.1, "t02": 0.4, "t03": 0.2, "t04": 0.3}
    first = judged(expand_study(study), scores)
    assert table_notes(study, first) == []
    anew = first + judged(promoted_cells(study, first), scores, first=4)
    assert "begin anew with more steps" in table_notes(study, anew)[0]
    goes_on = first + judged(promoted_cells(study, first), scores, first=4, continues="run_1")
    assert "go on from their checkpoints" in table_notes(study, goes_on)[0]
