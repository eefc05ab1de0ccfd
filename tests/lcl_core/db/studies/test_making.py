"""A study makes runs, takes over those that are there, and grows."""

import threading

import pytest

from lcl_core.common.errors import UserError
from lcl_core.db import datasets
from lcl_core.db import runs as db_runs
from lcl_core.db import studies as db_studies
from lcl_core.db import submit as db_submit
from lcl_core.db.models import EncoderRow
from lcl_core.specs.parsing import parse_as, parse_spec, spec_hash
from lcl_core.specs.study import AdditionSpec


def test_every_cell_is_an_ordinary_run(studies):
    study_id = studies.make(name="two losses", owner="ada")
    cells, runs = studies.cells(study_id), {run.id: run for run in studies.runs()}
    assert [(cell.number, cell.labels["loss"], cell.seed) for cell in cells] == [
        (0, "both", 0),
        (1, "contrastive", 0),
        (2, "both", 1),
        (3, "contrastive", 1),
    ]
    assert {cell.run_id for cell in cells} == set(runs)
    first = runs[cells[1].run_id]
    assert (first.kind, first.state, first.owner, first.study_id) == ("pretrain", "queued", "ada", study_id)
    assert (first.name, first.spec["objective"]["generation_weight"]) == ("two-losses-contrastive-s0", 0.0)
    assert first.spec_hash == spec_hash("pretrain", parse_spec("pretrain", first.spec))
    assert studies.state(study_id) == "queued"


def test_a_study_that_is_made_again_runs_nothing_again(studies):
    first = studies.make()
    studies.finish(first)
    count = len(studies.runs())
    second = studies.make(name="the same once more")
    assert second != first
    assert [cell.run_id for cell in studies.cells(second)] == [cell.run_id for cell in studies.cells(first)]
    studies.advance(second)
    assert len(studies.runs()) == count
    assert studies.state(second) == "succeeded"


@pytest.mark.parametrize(
    ("state", "again"),
    [
        ("failed", True),
        ("cancelled", True),
        ("cancelling", True),
        ("running", False),
        ("waiting", False),
        ("pausing", False),
        ("paused", False),
    ],
)
def test_what_failed_is_run_again(studies, state, again):
    first = studies.make()
    studies.end(studies.cells(first)[0].run_id, state)
    second = studies.make()
    assert (studies.cells(second)[0].run_id != studies.cells(first)[0].run_id) is again
    assert studies.cells(second)[1].run_id == studies.cells(first)[1].run_id


def test_a_run_whose_encoder_was_deleted_is_run_again(studies, database):
    first = studies.make()
    studies.finish(first)
    with database.session() as session:
        gone = db_runs.get_run(session, studies.cells(first)[0].run_id)
        session.delete(session.get_one(EncoderRow, gone.encoder_id))
    with database.reading() as session:
        assert db_studies.plan_study(session, studies.spec())["reused"] == 3
    second = studies.make()
    kept = [a.run_id == b.run_id for a, b in zip(studies.cells(first), studies.cells(second), strict=True)]
    assert kept == [False, True, True, True]
    studies.finish(second)
    assert studies.state(second) == "succeeded"


def test_other_data_under_the_same_name_is_other_work(studies, database):
    """Data that were not known are other data too; the last run has not started, and will read the new ones."""
    first = studies.make(studies.spec(seeds=[0, 1, 2]))
    with database.session() as session:
        dataset = datasets.register_sample(session)
        for cell, read in zip(studies.cells(first), ("old", "new", None, "new", "new"), strict=False):
            db_runs.get_run(session, cell.run_id).inputs = {"datasets": {"sample": read}}
        datasets.record_version(session, dataset, "new", None)
    second = studies.make(studies.spec(seeds=[0, 1, 2]))
    kept = [a.run_id == b.run_id for a, b in zip(studies.cells(first), studies.cells(second), strict=True)]
    assert kept == [False, True, False, True, True, True]


def test_the_plan_says_how_many_runs_are_new(studies, database):
    with database.reading() as session:
        plan = db_studies.plan_study(session, studies.spec())
    assert [plan[name] for name in ("rows", "seeds", "cells", "reused")] == [2, 2, 4, 0]
    studies.make(studies.spec(seeds=[0]))
    with database.reading() as session:
        assert db_studies.plan_study(session, studies.spec())["reused"] == 2
    assert len(studies.runs()) == 2, "a plan queues nothing"


def test_studies_that_are_made_at_once_share_their_runs(studies):
    together = threading.Barrier(4)
    failed: list[Exception] = []

    def make(number):
        together.wait()
        try:
            studies.make(owner="one", idempotency_key=f"k-{number}")
            studies.make(owner="one", idempotency_key="k")
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(studies.runs()) == 4
    with studies.database.reading() as session:
        assert len(db_studies.list_studies(session).items) == 5


def test_extending_adds_cells_and_keeps_the_others(studies):
    study_id = studies.make()
    studies.finish(study_id)
    before = studies.cells(study_id)
    more = [{"name": "loss", "variants": [{"name": "heavy", "spec": {"objective.contrastive_weight": 5}}]}]
    addition = parse_as(AdditionSpec, {"seeds": [2], "axes": more})
    added = studies.act(db_studies.extend_study, study_id, addition)
    after = studies.cells(study_id)
    assert [(cell.number, cell.run_id, cell.evaluation_id) for cell in after[:4]] == [
        (cell.number, cell.run_id, cell.evaluation_id) for cell in before
    ]
    assert {(cell.labels["loss"], cell.seed) for cell in after[4:]} == {
        ("heavy", 0), ("heavy", 1), ("both", 2), ("contrastive", 2), ("heavy", 2)
    }  # fmt: skip
    assert [run.id for run in added] == [cell.run_id for cell in after[4:]]
    assert studies.state(study_id) == "running"
    assert studies.act(db_studies.extend_study, study_id, addition) == [], "asking twice changes nothing"
    with studies.database.reading() as session:
        assert db_studies.study_spec(db_studies.get_study(session, study_id)).seeds == (0, 1, 2)


def test_the_cells_branch_from_runs_of_the_studys_owner_alone(studies):
    with studies.database.session() as session:
        own, theirs = (db_submit.submit(session, "pretrain", {"steps": 10}, owner=who).id for who in ("ada", "bob"))
    spec = {
        run_id: studies.spec(pretrain={"steps": 20, "branch": {"run": run_id, "step": 10}}) for run_id in (own, theirs)
    }
    study_id = studies.make(spec[own], owner="ada")
    cells = {cell.run_id for cell in studies.cells(study_id)}
    assert {run.spec["branch"]["run"] for run in studies.runs() if run.id in cells} == {own}
    with pytest.raises(UserError) as caught:
        studies.make(spec[theirs], owner="ada")
    assert (caught.value.code, caught.value.field) == ("invalid_value", "branch.run")
