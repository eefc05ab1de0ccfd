"""Successive halving, played through by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from lcl_core.specs import StudySpec
from lcl_core.studies.cells import Cell, expand
from lcl_core.studies.facts import CellFacts, RunFacts
from lcl_core.studies.halving import continuable, promoted
from lcl_core.studies.notes import notes_on
from lcl_core.studies.standing import standing_of

HalvingOf = Callable[..., StudySpec]
Scores = dict[str, float | None]


def judged(cells: Sequence[Cell], scores: Scores, first: int = 0, **more: Any) -> list[CellFacts]:
    """The cells with a validation that found these scores by trial; None: the pre-training failed."""
    facts = []
    for number, cell in enumerate(cells, start=first):
        score = scores[cell.labels["trial"]]
        run = RunFacts(f"run_{number}", "failed" if score is None else "succeeded", **more)
        rows = {"rows": [{"metric": "IR@5", "value": score}]}
        evaluation = None if score is None else RunFacts(f"eval_{number}", "succeeded", rows)
        facts.append(CellFacts(number, cell.labels, cell.parameters, cell.seed, cell.rung, run, evaluation))
    return facts


def names(cells: Sequence[Cell]) -> list[tuple[str, int, int]]:
    return [(cell.labels["trial"], cell.rung, cell.spec.steps) for cell in cells]


def test_the_best_half_trains_on_and_the_best_of_it_is_the_finalist(halving_of: HalvingOf) -> None:
    study = halving_of()
    first = judged(expand(study), {"t01": 0.1, "t02": 0.4, "t03": 0.2, "t04": 0.3})
    second = promoted(study, first)
    assert names(second) == [("t02", 1, 30), ("t04", 1, 30)]
    rates = {cell.labels["trial"]: cell.spec.optimizer.lr for cell in expand(study)}
    assert [cell.spec.optimizer.lr for cell in second] == [rates["t02"], rates["t04"]]
    both = first + judged(second, {"t02": 0.5, "t04": 0.6}, first=4)
    finalist = promoted(study, both)
    assert names(finalist) == [("t04", 2, 30)]
    assert finalist[0].hash == second[1].hash, "a finalist trains no further"
    done = both + judged(finalist, {"t04": 0.7}, first=6)
    assert promoted(study, done) == []
    assert standing_of(study, done, cancelled=False).state == "succeeded"


def test_a_rung_waits_for_its_last_cell(halving_of: HalvingOf) -> None:
    study = halving_of()
    cells = judged(expand(study), {"t01": 0.1, "t02": 0.4, "t03": 0.2, "t04": 0.3})
    waiting = CellFacts(**{**vars(cells[0]), "evaluation": RunFacts("eval_0", "running")})
    assert promoted(study, [waiting, *cells[1:]]) == []
    assert standing_of(study, [waiting, *cells[1:]], cancelled=False).state == "running"
    assert standing_of(study, cells, cancelled=False).state == "running", "the next rung is about to come"


def test_a_trial_that_failed_is_out_and_does_not_fail_the_study(halving_of: HalvingOf) -> None:
    study = halving_of(rungs=[10], finalists=2)
    cells = judged(expand(study), {"t01": None, "t02": 0.4, "t03": None, "t04": 0.5})
    finalists = promoted(study, cells)
    assert names(finalists) == [("t04", 1, 10), ("t02", 1, 10)]
    done = cells + judged(finalists, {"t02": 0.4, "t04": 0.5}, first=4)
    assert standing_of(study, done, cancelled=False).state == "succeeded"
    assert standing_of(study, done, cancelled=False).counts == {"succeeded": 4, "failed": 2}


def test_when_no_trial_is_left_the_study_has_failed(halving_of: HalvingOf) -> None:
    study = halving_of()
    cells = judged(expand(study), dict.fromkeys(("t01", "t02", "t03", "t04")))
    assert promoted(study, cells) == []
    assert standing_of(study, cells, cancelled=False).state == "failed"


def test_without_the_metric_the_study_has_failed_and_says_what_there_is(halving_of: HalvingOf) -> None:
    study = halving_of(metric={"name": "acc", "metric": "acc@1"})
    cells = judged(expand(study), dict.fromkeys(("t01", "t02", "t03", "t04"), 0.5))
    assert promoted(study, cells) == []
    assert standing_of(study, cells, cancelled=False).state == "failed"
    (note,) = notes_on(study, cells)
    assert note == "No result has a figure for validation acc. There are: IR@5."


def test_lower_may_be_better_and_of_equals_the_earlier_goes_on(halving_of: HalvingOf) -> None:
    study = halving_of(metric={"name": "rank", "metric": "IR@5", "better": "lower"})
    cells = judged(expand(study), {"t01": 0.9, "t02": 0.4, "t03": 0.4, "t04": 0.4})
    assert names(promoted(study, cells)) == [("t02", 1, 30), ("t03", 1, 30)]


@pytest.mark.parametrize(("keep", "count"), [(0.5, 2), (0.25, 1), (0.3, 2), (0.01, 1), (0.75, 3)])
def test_the_share_that_is_kept_is_rounded_up(halving_of: HalvingOf, keep: float, count: int) -> None:
    study = halving_of(keep=keep)
    cells = judged(expand(study), {"t01": 0.1, "t02": 0.4, "t03": 0.2, "t04": 0.3})
    assert len(promoted(study, cells)) == count


def test_only_under_a_constant_rate_is_a_longer_training_a_continued_one(halving_of: HalvingOf) -> None:
    study = halving_of()
    scores: Scores = {"t01": 0.1, "t02": 0.4, "t03": 0.2, "t04": 0.3}
    cosine = promoted(study, judged(expand(study), scores))
    assert not any(continuable(study, cell) for cell in cosine)
    constant = study.model_copy(update={"pretrain": {"optimizer": {"schedule": "constant"}}})
    first = judged(expand(constant), scores)
    second = promoted(constant, first)
    assert all(continuable(constant, cell) for cell in second)
    assert not any(continuable(constant, cell) for cell in expand(constant))
    finalist = promoted(constant, first + judged(second, scores, first=4))
    assert not continuable(constant, finalist[0])


def test_it_says_whether_promoted_trials_go_on_or_begin_anew(halving_of: HalvingOf) -> None:
    study = halving_of()
    scores: Scores = {"t01": 0.1, "t02": 0.4, "t03": 0.2, "t04": 0.3}
    first = judged(expand(study), scores)
    assert notes_on(study, first) == []
    anew = first + judged(promoted(study, first), scores, first=4)
    assert "begin anew with more steps" in notes_on(study, anew)[0]
    goes_on = first + judged(promoted(study, first), scores, first=4, continues="run_1")
    assert "go on from their checkpoints" in notes_on(study, goes_on)[0]
