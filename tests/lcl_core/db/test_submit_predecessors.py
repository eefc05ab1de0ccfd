"""Runs that come after others: let go by success, ended by failure, whoever looks and however often."""

import pytest

from lcl_core.common.errors import UserError
from lcl_core.db import leases, runs, submit


def release(database):
    with database.reading() as session:
        due = submit.has_releasable(session)
    with database.session() as session:
        queued, _ = submit.release_dependents(session)
        assert due or not queued
    return queued


def end(database, run_id, state):
    with database.session() as session:
        run = runs.get_run(session, run_id)
        run.state, run.reason = state, {"code": "crash", "message": "it fell over"} if state == "failed" else None


def test_a_run_waits_for_all_and_then_takes_its_old_place(database, queue, claim, run_of):
    first, second = queue(), queue()
    waiting = queue(after=[second, first, first])
    assert (run_of(waiting).state, list(run_of(waiting).after)) == ("waiting", [first, second])
    later = queue()
    end(database, first, "succeeded")
    assert release(database) == []
    end(database, second, "succeeded")
    assert release(database) == [waiting]
    assert release(database) == []
    assert [claim().run_id, claim().run_id] == [waiting, later]


@pytest.mark.parametrize(("ended", "words"), [("failed", "failed: it fell over"), ("cancelled", "was cancelled")])
def test_a_lost_predecessor_ends_the_whole_chain_and_says_which(database, queue, run_of, ended, words):
    first, other = queue(), queue()
    second = queue(after=[first, other])
    third = queue(after=[second])
    end(database, first, ended)
    assert release(database) == []
    assert [run_of(run_id).state for run_id in (second, third, other)] == ["cancelled", "cancelled", "queued"]
    assert run_of(second).reason["code"] == "predecessor_failed"
    assert first in run_of(second).reason["message"]
    assert words in run_of(second).reason["message"]
    assert second in run_of(third).reason["message"]
    assert run_of(second).finished_at is not None


def test_a_chain_is_resumed_in_its_order(database, queue, run_of):
    first = queue()
    second = queue(after=[first])
    end(database, first, "failed")
    release(database)
    with database.session() as session:
        runs.resume_run(session, first)
        assert runs.resume_run(session, second).state == "waiting"
    assert release(database) == []
    end(database, first, "succeeded")
    assert release(database) == [second]
    assert run_of(second).reason is None


def test_what_cannot_be_waited_for_is_refused(database, queue):
    good, failed, others = queue(), queue(), queue(owner="grace")
    end(database, failed, "failed")
    for after, code, field in (
        ([good, "run_none"], "invalid_value", "after.1"),
        ([others], "invalid_value", "after.0"),
        ([failed], "predecessor_failed", "after.0"),
    ):
        with pytest.raises(UserError) as caught:
            queue(after=after, visible_to="local")
        assert (caught.value.code, caught.value.field) == (code, field)


def test_a_run_that_is_awaited_is_not_deleted(database, queue):
    first = queue()
    second = queue(after=[first])
    end(database, first, "failed")
    with pytest.raises(UserError, match=second), database.session() as session:
        runs.delete_run(session, first)
    release(database)
    with database.session() as session:
        runs.delete_run(session, first)
    with database.reading() as session:
        assert list(runs.get_run(session, second).after) == []


def test_a_run_is_not_deleted_before_those_that_start_from_it_have_a_checkpoint(database, queue, claim):
    trunk = queue("pretrain", {"steps": 9})
    end(database, trunk, "succeeded")
    second = queue("pretrain", {"steps": 9, "branch": {"run": trunk, "step": 3}})
    claimed = claim()

    def refused():
        with pytest.raises(UserError, match=second) as caught, database.session() as session:
            runs.delete_run(session, trunk)
        assert caught.value.code == "conflict"

    refused()
    with database.session() as session:
        leases.record_checkpoint(session, claimed, "step_00000004")
        leases.transition(runs.get_run(session, second), leases.State.FAILED, **leases.NO_LEASE)
    with database.session() as session:
        runs.retry_run(session, second)
    refused()
    again = claim()
    with database.session() as session:
        leases.record_checkpoint(session, again, "step_00000004")
    with database.session() as session:
        runs.delete_run(session, trunk)
