"""Pausing: a run that is held back keeps its place, and one at work gives its lease up without losing an attempt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lcl_core.runs import store
from lcl_core.runs.database import Database

Submit = Callable[..., str]
Take = Callable[..., store.Claim]
RunOf = Callable[[str], Any]


def do(database: Database, verb: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    with database.session() as session:
        return verb(session, *arguments, **more)


def test_a_held_run_is_passed_over_and_keeps_its_place(database: Database, queue: Submit, claim: Take) -> None:
    first, second, third = queue(), queue(), queue()
    do(database, store.pause, first)
    assert claim().run_id == second
    do(database, store.unpause, first)
    assert [claim().run_id, claim().run_id] == [first, third]


def test_a_running_run_is_paused_by_its_worker_and_goes_on(
    database: Database, queue: Submit, claim: Take, run_of: RunOf
) -> None:
    run_id = queue(max_attempts=1)
    held = claim()
    do(database, store.pause, run_id)
    assert do(database, store.renew, held) is store.State.PAUSING
    assert do(database, store.hand_back, held, cause="it was paused") is store.State.PAUSED
    run = run_of(run_id)
    assert (run.attempt, run.lease_token, run.finished_at) == (0, None, None)
    assert run.interruption == {"code": "handed_back", "message": "it was paused, in attempt 1"}
    do(database, store.unpause, run_id)
    assert claim().attempt == 1


def test_a_worker_that_is_lost_meanwhile_leaves_it_paused(
    database: Database, queue: Submit, claim: Take, run_of: RunOf
) -> None:
    run_id = queue(max_attempts=1)
    claim(lease_seconds=-1.0)
    do(database, store.pause, run_id)
    do(database, store.expire)
    assert (run_of(run_id).state, run_of(run_id).interruption["code"]) == ("paused", "worker_lost")


def test_a_cancel_overtakes_a_pause(database: Database, queue: Submit, claim: Take, run_of: RunOf) -> None:
    run_id = queue()
    held = claim()
    do(database, store.pause, run_id)
    do(database, store.request_cancel, run_id)
    do(database, store.hand_back, held, cause="it was paused")
    assert run_of(run_id).state == "cancelled"


def test_a_run_may_end_before_the_pause_reaches_it(
    database: Database, queue: Submit, claim: Take, tmp_path: Path
) -> None:
    run_id = queue()
    held = claim()
    do(database, store.pause, run_id)
    reason = store.Failed({"code": "crash", "message": "m"})
    assert store.settle(database, held, reason, tmp_path, tmp_path, 1.0) is store.State.FAILED
