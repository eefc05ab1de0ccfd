"""A claimed run whose processes outlived their worker, and whose engine does not answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lcl_core.db import leases, runs
from workers.executors.base import EngineUnreachable
from workers.failure_table import INFRASTRUCTURE_RETRIES


@pytest.mark.parametrize("retries", [0, INFRASTRUCTURE_RETRIES])
def test_an_engine_that_does_not_answer_a_worker_that_re_attaches_keeps_the_processes(
    in_process_worker, queue, run_of, monkeypatch, retries
):
    def attach(*_):
        raise EngineUnreachable("no answer")

    monkeypatch.setattr(in_process_worker._executor, "attach", attach)
    run_id, handle = queue(), {"executor": "ray", "name": "lcl-run", "nodes": 1}
    claim = in_process_worker.claim()
    with in_process_worker.database.session() as session:
        leases.record_handle(session, claim, handle)
        runs.get_run(session, run_id).setbacks = {"machine_lost": retries}
    in_process_worker.supervise(replace(claim, handle=handle))
    run = run_of(run_id)
    if retries:
        assert (run.state, run.reason["code"]) == ("failed", "machine_lost")
        assert run.handle == {**handle, leases.UNWANTED: True}
    else:
        assert (run.state, run.attempt, run.handle) == ("queued", 0, handle)
        assert run.setbacks == {"machine_lost": 1}
