"""What comes next is submitted once, however many workers act, and whenever one of them dies."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest

from lcl_core.common.errors import UserError
from lcl_core.db import datasets, runs
from lcl_core.db import studies as db_studies
from lcl_core.db.models import EncoderRow, Study
from lcl_core.db.session import Database, now

CONSTANT = {"optimizer": {"schedule": "constant"}}


def test_an_encoder_that_came_out_is_examined(studies: Any) -> None:
    study_id = studies.make(studies.spec(evaluate={"splits": ["test_vendor"], "seed": 4}))
    assert studies.due() == []
    first, *others = studies.cells(study_id)
    studies.end(first.run_id)
    assert studies.due() == [study_id]
    (evaluation_id,) = studies.advance(study_id)
    (evaluation,) = studies.runs("evaluate")
    assert (evaluation.id, evaluation.study_id, evaluation.priority) == (evaluation_id, study_id, 0)
    encoder = first.run_id.replace("run_", "enc_")
    assert (evaluation.spec["encoder"], evaluation.spec["seed"]) == (encoder, 4)
    assert studies.cells(study_id)[0].evaluation_id == evaluation_id
    assert (studies.due(), studies.advance(study_id)) == ([], [])
    for cell in others:
        studies.end(cell.run_id, "failed")
    studies.end(evaluation_id)
    assert studies.due() == []
    assert studies.state(study_id) == "failed"


def test_racing_workers_submit_each_evaluation_once(studies: Any) -> None:
    """Two studies share their pre-trainings, so even different studies must not double an evaluation."""
    first, second = studies.make(), studies.make(name="again")
    for cell in studies.cells(first):
        studies.end(cell.run_id)
    together = threading.Barrier(6)
    queued: list[str] = []

    def work(number: int) -> None:
        together.wait()
        for study_id in (first, second) if number % 2 else (second, first):
            queued.extend(studies.advance(study_id))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    evaluations = studies.runs("evaluate")
    assert Counter(run.spec["encoder"] for run in evaluations) == {
        cell.run_id.replace("run_", "enc_"): 1 for cell in studies.cells(first)
    }
    linked = [[cell.evaluation_id for cell in studies.cells(study_id)] for study_id in (first, second)]
    assert linked[0] == linked[1]
    assert set(linked[0]) == {run.id for run in evaluations} == set(queued)


def test_a_worker_that_dies_in_the_middle_leaves_nothing_half_done(studies: Any) -> None:
    study_id = studies.make()
    studies.end(studies.cells(study_id)[0].run_id)

    def die() -> None:
        with studies.database.session() as session:
            db_studies.advance_study(session, study_id)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        die()
    assert studies.runs("evaluate") == []
    assert studies.due() == [study_id]
    assert len(studies.advance(study_id)) == 1


def test_nothing_more_is_submitted_for_a_cancelled_study(studies: Any) -> None:
    study_id = studies.make()
    studies.end(studies.cells(study_id)[0].run_id)
    studies.act(db_studies.cancel_study, study_id)
    assert (studies.due(), studies.advance(study_id)) == ([], [])
    assert studies.state(study_id) == "cancelled"
    assert studies.advance("study_gone") == []


def climb(studies: Any, study_id: str, best: int) -> list[Any]:
    """End the cells of the highest rung, the one of number ``best`` with the best figure; the cells that came."""
    before = studies.cells(study_id)
    top = [cell for cell in before if cell.rung == max(cell.rung for cell in before)]
    for cell in top:
        studies.end(cell.run_id)
    assert studies.due() == [study_id]
    studies.advance(study_id)
    for cell in studies.cells(study_id)[top[0].number :]:
        studies.end(cell.evaluation_id, value=1.0 if cell.number == best else 0.1)
    assert studies.due() == [study_id]
    studies.advance(study_id)
    return studies.cells(study_id)[len(before) :]


def test_a_halving_climbs_its_rungs(studies: Any) -> None:
    study_id = studies.make(studies.halving(), name="rates")
    second = climb(studies, study_id, best=2)
    assert [(cell.labels["trial"], cell.rung) for cell in second] == [("t03", 1), ("t01", 1)]
    assert [run.spec["splits"] for run in studies.runs("evaluate")] == [["val"]] * 4
    runs = {run.id: run for run in studies.runs()}
    assert [(runs[cell.run_id].spec["steps"], runs[cell.run_id].continues) for cell in second] == [(30, None)] * 2
    (finalist,) = climb(studies, study_id, best=5)
    assert (finalist.labels["trial"], finalist.run_id) == ("t01", second[1].run_id)
    assert studies.state(study_id) == "running"
    studies.advance(study_id)
    (finalist,) = [cell for cell in studies.cells(study_id) if cell.rung == 2]
    examined = {run.id: run for run in studies.runs("evaluate")}[finalist.evaluation_id]
    assert examined.spec["splits"] == ["test"]
    studies.end(examined.id)
    assert (studies.state(study_id), studies.due()) == ("succeeded", [])
    assert len(studies.runs("pretrain")) == 6


def test_finalists_have_the_runs_that_were_ranked_whatever_is_registered_since(studies: Any) -> None:
    study_id = studies.make(studies.halving())
    second = climb(studies, study_id, best=2)
    with studies.database.session() as session:
        sample = datasets.register_sample(session)
        for cell in second:
            runs.get_run(session, cell.run_id).inputs = {"datasets": {"sample": "old"}}
        datasets.record_version(session, sample, "new", None)
    (finalist,) = climb(studies, study_id, best=5)
    assert (finalist.rung, finalist.run_id) == (2, second[1].run_id)
    assert len(studies.runs("pretrain")) == 6


def test_under_a_constant_rate_a_promoted_trial_goes_on_from_its_run(studies: Any) -> None:
    spec = studies.halving().model_copy(update={"pretrain": CONSTANT})
    study_id = studies.make(spec)
    first = studies.cells(study_id)
    second = climb(studies, study_id, best=2)
    runs = {run.id: run for run in studies.runs()}
    assert [runs[cell.run_id].continues for cell in second] == [first[2].run_id, first[0].run_id]


@pytest.mark.parametrize("stored_by_name", [False, True], ids=["pinned", "of an older version"])
def test_promoted_trials_start_from_the_encoder_that_the_first_rung_had(studies: Any, stored_by_name: bool) -> None:
    """Also where a newer encoder has got its name since."""
    register(studies.database, "enc_1")
    spec = studies.halving()
    named = {**spec.pretrain, "model": {"init": "start"}}
    study_id = studies.make(spec.model_copy(update={"pretrain": named}))
    if stored_by_name:
        with studies.database.session() as session:
            study = session.get_one(Study, study_id)
            study.spec = {**study.spec, "pretrain": named}
    register(studies.database, "enc_2")
    second = climb(studies, study_id, best=2)
    runs = {run.id: run for run in studies.runs()}
    assert [runs[cell.run_id].spec["model"]["init"] for cell in second] == ["enc_1"] * 2


def register(database: Database, encoder_id: str) -> None:
    with database.session() as session:
        session.add(
            EncoderRow(
                id=encoder_id, name="start", path="encoders/start", hash="0" * 64, identity="0" * 64, owner="ada",
                info={}, created_at=now(session),
            )
        )  # fmt: skip


def test_a_rung_is_promoted_once_by_racing_workers(studies: Any) -> None:
    study_id = studies.make(studies.halving())
    for cell in studies.cells(study_id):
        studies.end(cell.run_id)
    studies.advance(study_id)
    for cell in studies.cells(study_id):
        studies.end(cell.evaluation_id, value=0.1 * cell.number)
    together = threading.Barrier(4)

    def work() -> None:
        together.wait()
        studies.advance(study_id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(cell.number, cell.rung, cell.labels["trial"]) for cell in studies.cells(study_id)[4:]] == [
        (4, 1, "t04"),
        (5, 1, "t03"),
    ]
    assert len(studies.runs("pretrain")) == 6


def test_a_spec_that_is_no_longer_understood_is_told_and_stops_no_other(studies: Any) -> None:
    stuck, fine = studies.make(studies.halving()), studies.make()
    with studies.database.session() as session:
        study = session.get_one(Study, stuck)
        study.spec = {**study.spec, "nonsense": 1}
    for study_id in (stuck, fine):
        for cell in studies.cells(study_id):
            studies.end(cell.run_id)
    assert studies.due() == sorted([stuck, fine])
    with pytest.raises(UserError, match="nonsense"):
        studies.advance(stuck)
    assert len(studies.advance(fine)) == 4
