"""Cancel, resume, delete: what they do to runs that a study has for itself, and to those that it shares."""

import pytest

from lcl_core.common.errors import UserError
from lcl_core.db import runs
from lcl_core.db import studies as db_studies
from lcl_core.db.states import ForbiddenTransition


def states(studies):
    return {run.id: run.state for run in studies.runs()}


def test_cancelling_ends_what_is_unfinished(studies):
    study_id = studies.make()
    done, at_work, *waiting = (cell.run_id for cell in studies.cells(study_id))
    studies.end(done)
    studies.end(at_work, "running")
    studies.act(db_studies.cancel_study, study_id)
    assert states(studies) == {done: "succeeded", at_work: "cancelling", **dict.fromkeys(waiting, "cancelled")}
    assert studies.state(study_id) == "cancelling"
    studies.end(at_work, "cancelled")
    assert studies.state(study_id) == "cancelled"
    with pytest.raises(ForbiddenTransition, match="cancelled and cannot be cancelled"):
        studies.act(db_studies.cancel_study, study_id)


def test_what_others_wait_for_goes_on(studies, queue):
    by_hand = queue(spec={"steps": 10, "seed": 0})
    first = studies.make()
    second = studies.make(studies.spec(seeds=[1]))
    shared = {cell.run_id for cell in studies.cells(second)}
    assert studies.cells(first)[0].run_id == by_hand
    own = studies.cells(first)[1].run_id
    studies.act(db_studies.cancel_study, first)
    assert states(studies) == {by_hand: "queued", own: "cancelled", **dict.fromkeys(shared, "queued")}
    assert (studies.state(first), studies.state(second)) == ("cancelled", "queued")
    studies.act(db_studies.cancel_study, second)
    assert {states(studies)[run_id] for run_id in shared} == {"cancelled"}


def test_resuming_takes_up_what_did_not_succeed(studies):
    study_id = studies.make()
    done, failed, *others = (cell.run_id for cell in studies.cells(study_id))
    studies.end(done)
    studies.end(failed, "failed")
    with pytest.raises(ForbiddenTransition, match="running and cannot be resumed"):
        studies.act(db_studies.resume_study, study_id)
    studies.act(db_studies.cancel_study, study_id)
    assert studies.act(db_studies.resume_study, study_id)[0] == sorted([failed, *others])
    assert states(studies) == {done: "succeeded", **dict.fromkeys([failed, *others], "queued")}
    assert studies.state(study_id) == "running"
    assert studies.due() == [study_id], "the encoder that came out meanwhile is examined now"


def test_a_run_without_time_stays_and_the_others_are_resumed(studies, database):
    study_id = studies.make(studies.spec(pretrain={"steps": 10, "timeout_seconds": 60}))
    late, failed, *done = (cell.run_id for cell in studies.cells(study_id))
    for run_id in done:
        studies.end(run_id)
    for run_id in (late, failed):
        studies.end(run_id, "failed")
    studies.advance(study_id)
    for cell in studies.cells(study_id)[2:]:
        studies.end(cell.evaluation_id)
    with database.session() as session:
        runs.get_run(session, late).ran_seconds = 61.0
    queued, refused = studies.act(db_studies.resume_study, study_id)
    assert (queued, list(refused)) == ([failed], [late])
    assert f"lcl runs resume {late} --timeout" in refused[late].message
    assert (states(studies)[late], states(studies)[failed]) == ("failed", "queued")
    studies.end(failed)
    studies.advance(study_id)
    studies.end(studies.cells(study_id)[1].evaluation_id)
    with pytest.raises(UserError, match=late) as caught:
        studies.act(db_studies.resume_study, study_id)
    assert caught.value.code == "timeout_reached"
    with database.session() as session:
        runs.resume_run(session, late, {"timeout_seconds": 120.0})
    assert studies.state(study_id) == "running"


def test_deleting_a_study_keeps_its_runs(studies, database):
    study_id = studies.make()
    with pytest.raises(ForbiddenTransition, match="cancel it first"):
        studies.act(db_studies.delete_study, study_id)
    studies.finish(study_id)
    kept = set(states(studies))
    run_id = studies.cells(study_id)[0].run_id
    for wanted in (run_id, studies.cells(study_id)[0].evaluation_id):
        with pytest.raises(UserError, match=study_id) as caught, database.session() as session:
            runs.delete_run(session, wanted)
        assert caught.value.code == "conflict"
    studies.act(db_studies.delete_study, study_id)
    assert set(states(studies)) == kept
    assert studies.cells(study_id) == []
    with database.session() as session:
        assert runs.get_run(session, run_id).study_id is None
        runs.delete_run(session, run_id)
