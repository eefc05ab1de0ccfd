"""Pausing: a run at work gives its lease up without losing an attempt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lcl_core.db import leases, runs, states
from lcl_core.db.session import Database

Submit = Callable[..., str]
Take = Callable[..., leases.Claim]
RunOf = Callable[[str], Any]


def do(database: Database, verb: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    with database.session() as session:
        return verb(session, *arguments, **more)


def test_a_running_run_is_paused_by_its_worker_and_goes_on(
    database: Database, queue: Submit, claim: Take, run_of: RunOf
) -> None:
    run_id = queue(max_attempts=1)
    held = claim()
    do(database, runs.pause_run, run_id)
    assert do(database, leases.renew_lease, held) is states.State.PAUSING
    assert do(database, leases.release_lease, held, cause="it was paused") is states.State.PAUSED
    run = run_of(run_id)
    assert (run.attempt, run.lease_token, run.finished_at) == (0, None, None)
    assert run.interruption == {"code": "handed_back", "message": "it was paused, in attempt 1"}
    do(database, runs.unpause_run, run_id)
    assert claim().attempt == 1
