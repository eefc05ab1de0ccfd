"""What every executor whose jobs outlive their worker must show with real workers."""

from __future__ import annotations

import pytest

from lcl_core.db import leases, runs


@pytest.fixture
def kill_worker_of_run(worker_processes, database, queue, run_of, steps_of, eventually):
    """Kill the worker of a run; another one attaches to the same process, uncounted, and the run is then cancelled.

    The callable takes the environment of the workers and returns the run and a step that the second worker saw.
    """

    def kill(environment):
        worker_processes.start(**environment)
        run_id = queue(steps=100_000, checkpoint_every=100_000)
        eventually(lambda: len(steps_of(run_id)) >= 3, "steps")
        first = run_of(run_id)
        worker_processes.started[0].kill()
        eventually(lambda: worker_processes.started[0].poll() is not None, "the worker's death")
        worker_processes.start(**environment)
        eventually(lambda: run_of(run_id).lease_owner not in (None, first.lease_owner), "another worker")
        reached = len(steps_of(run_id))
        eventually(lambda: len(steps_of(run_id)) > reached, "more steps")
        run = run_of(run_id)
        assert (run.state, run.attempt) == ("running", 1)
        assert run.progress["pid"] == first.progress["pid"]
        assert run.setbacks == {leases.REATTACHED: 1}, "none that counts"
        with database.session() as session:
            runs.cancel_run(session, run_id)
        eventually(lambda: run_of(run_id).state == "cancelled", "the end")
        assert steps_of(run_id) == list(range(1, len(steps_of(run_id)) + 1))
        return run_id, reached

    return kill
