"""Runs of two nodes: two real workers, one training over gloo; who is missing, lost, or leaves."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lcl_core.common.run_dir import ExitCode, RunDir
from lcl_core.db import complete_run, datasets, gang, leases, runs
from lcl_core.db import queue as db_queue
from lcl_core.db import submit as db_submit
from lcl_core.db.session import Database
from tests.lcl_core.train.small_runs import TINY
from tests.workers.worker_processes import WorkerProcesses
from workers.exit_outcome import ProcessExit, Requeue, StopReason
from workers.gang import GangMember, combine_outcomes, gang_env, is_secondary_failure, local_address
from workers.lease_keeper import LeaseKeeper
from workers.settings import WorkerSettings

Queue = Callable[..., str]
RunOf = Callable[[str], Any]
Steps = Callable[[str], list[int]]
Eventually = Callable[..., None]
ON_TWO = {**TINY, "steps": 60, "log_every": 1, "checkpoint_every": 10, "engine": {"nodes": 2}}


@pytest.fixture
def submit(database: Database, sample_zip: Path) -> Callable[..., str]:
    """A real training on two nodes; returns its id."""
    with database.session() as session:
        datasets.register_sample(session).path = str(sample_zip)

    def send(**facts: Any) -> str:
        with database.session() as session:
            return db_submit.submit(session, "pretrain", {**ON_TWO, **facts}).id

    return send


def trained(steps: list[int]) -> list[int]:
    """Without the line of before the first step."""
    return [step for step in steps if step]


def start(crew: WorkerProcesses) -> subprocess.Popen[bytes]:
    return crew.start(toy=False, OMP_NUM_THREADS="1", LCL_LEASE_SECONDS="4")


def other_than(crew: WorkerProcesses, leader: str) -> subprocess.Popen[bytes]:
    """The worker that does not hold the lease."""
    [found] = [worker for worker in crew.started if f"-{worker.pid}-" not in leader and worker.poll() is None]
    return found


def told(crew: WorkerProcesses) -> str:
    return "\n".join(crew.log(number).read_text()[-3000:] for number in range(len(crew.started)))


def test_a_lost_node_ends_the_attempt_for_all_and_the_run_goes_on_exactly(
    crew: WorkerProcesses,
    settings: WorkerSettings,
    submit: Callable[..., str],
    run_of: RunOf,
    steps_of: Steps,
    eventually: Eventually,
) -> None:
    run_id = submit()
    start(crew), start(crew)
    eventually(lambda: len(steps_of(run_id)) > 15, "fifteen steps")
    leader = run_of(run_id).lease_owner
    other_than(crew, leader).kill()
    eventually(lambda: run_of(run_id).state == "queued", "the end of the attempt")
    run = run_of(run_id)
    assert run.interruption["code"] == "handed_back", told(crew)
    assert "node 1" in run.interruption["message"]
    start(crew)
    eventually(lambda: run_of(run_id).state == "succeeded", "the second attempt")
    run = run_of(run_id)
    assert (run.attempt, trained(steps_of(run_id))) == (2, list(range(1, 61)))
    undisturbed = submit()
    eventually(lambda: run_of(undisturbed).state == "succeeded", "a run that is left alone")
    assert run_of(undisturbed).attempt == 1, told(crew)
    assert run_of(undisturbed).result["encoder"]["hash"] == run.result["encoder"]["hash"]
    log = settings.runs_dir / run_id / "artifacts" / "log-1.txt"
    assert "node 1 of 2" in log.read_text()


def test_a_node_that_leaves_in_order_costs_no_attempt_and_no_step(
    crew: WorkerProcesses,
    settings: WorkerSettings,
    submit: Callable[..., str],
    run_of: RunOf,
    steps_of: Steps,
    eventually: Eventually,
) -> None:
    run_id = submit(steps=100_000, checkpoint_every=50_000)
    start(crew), start(crew)
    eventually(lambda: len(trained(steps_of(run_id))) >= 5, "five steps")
    leaving = other_than(crew, run_of(run_id).lease_owner)
    leaving.send_signal(signal.SIGTERM)
    assert leaving.wait(180) == 0, told(crew)
    eventually(lambda: run_of(run_id).state == "queued", "the run's coming back")
    done = len(trained(steps_of(run_id)))
    assert run_of(run_id).attempt == 0
    assert "is leaving" in run_of(run_id).interruption["message"], told(crew)
    start(crew)
    eventually(lambda: run_of(run_id).state == "running", "the second try")
    eventually(lambda: len(trained(steps_of(run_id))) > done, "its first steps")
    begun = settings.runs_dir / run_id / "metrics.jsonl"
    assert [json.loads(line)["step"] for line in begun.read_text().splitlines()].count(done) == 1, (
        "nothing is done twice"
    )


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
def test_a_cancel_reaches_all_nodes(
    crew: WorkerProcesses,
    database: Database,
    submit: Callable[..., str],
    run_of: RunOf,
    steps_of: Steps,
    eventually: Eventually,
) -> None:
    run_id = submit(steps=100_000)
    start(crew), start(crew)
    eventually(lambda: trained(steps_of(run_id)))
    with database.session() as session:
        runs.cancel_run(session, run_id)
    eventually(lambda: run_of(run_id).state == "cancelled")
    eventually(
        lambda: all('"job_exited"' in crew.log(number).read_text() for number in range(2)), "both processes' ends"
    )


def test_one_worker_alone_waits_then_does_what_else_there_is(
    crew: WorkerProcesses, queue: Queue, run_of: RunOf, eventually: Eventually
) -> None:
    wide = queue(spec={"engine": {"nodes": 2}}, priority=9)
    crew.start(LCL_GANG_SECONDS="0.5")
    narrow = queue()
    eventually(lambda: run_of(narrow).state == "succeeded", "the run behind it")
    assert (run_of(wide).state, run_of(wide).attempt) == ("queued", 0)


def test_a_worker_that_is_to_leave_gives_its_seat_back_at_once(
    database: Database, settings: WorkerSettings, modules: dict[str, str], queue: Queue
) -> None:
    run_id = queue(spec={"engine": {"nodes": 2}})
    with database.session() as session:
        seat = db_queue.claim_next(session, "w-1")
    assert isinstance(seat, gang.MemberLease)
    stopping = threading.Event()
    stopping.set()
    GangMember(database, settings, modules).run(seat, stopping)
    with database.session() as session:
        assert isinstance(db_queue.claim_next(session, "w-2"), gang.MemberLease), "the first one is gone"
        assert runs.get_run(session, run_id).state == "queued"


class TestVerdict:
    """What node 0 makes of its own end and of the others'."""

    OWN = complete_run.RunFailed({"code": "crash", "message": "Connection closed by peer"})

    @pytest.fixture
    def combine(self, database: Database, settings: WorkerSettings) -> Iterator[Callable[..., Any]]:
        with LeaseKeeper(database, settings, "run", lambda _: None, threading.Event()) as lease:
            yield lambda claim: combine_outcomes(database, settings, claim, lease, self.OWN)

    @pytest.fixture
    def seats(self, database: Database, queue: Queue) -> tuple[leases.Claim, list[gang.MemberLease]]:
        queue(spec={"engine": {"nodes": 3}})
        with database.session() as session:
            taken = [db_queue.claim_next(session, f"w-{number}") for number in range(3)]
        assert isinstance(taken[2], leases.Claim)
        return taken[2], [seat for seat in taken if isinstance(seat, gang.MemberLease)]

    def end(self, database: Database, seat: gang.MemberLease, loss: gang.MemberFailure | None) -> None:
        with database.session() as session:
            gang.record_member_exit(session, seat, loss)

    def test_a_lost_node_outweighs_the_crashes_that_follow(
        self, database: Database, combine: Callable[..., Any], seats: Any
    ) -> None:
        claim, (first, second) = seats
        self.end(database, first, gang.MemberFailure("w-0", "echo", reason={"code": "crash", "message": "echo"}))
        self.end(database, second, gang.MemberFailure("w-1", "killed from outside"))
        assert combine(claim) == Requeue.by("node_lost", "killed from outside")

    def test_a_network_error_of_one_node_may_follow_from_the_crash_of_another(
        self, database: Database, combine: Callable[..., Any], seats: Any
    ) -> None:
        claim, (first, second) = seats
        self.end(database, first, gang.MemberFailure("w-0", "NCCL error", uses_attempt=False, code="nccl"))
        self.end(database, second, None)
        assert combine(claim).reason["message"] == "Connection closed by peer; NCCL error"

    def test_too_little_memory_on_one_node_is_the_runs_end(
        self, database: Database, combine: Callable[..., Any], seats: Any
    ) -> None:
        claim, (first, _) = seats
        reason = {"code": "out_of_memory", "message": "lower batch.tokens"}
        self.end(database, first, gang.MemberFailure("w-0", "lower", reason=reason))
        assert combine(claim) == complete_run.RunFailed(reason)

    def test_crashes_everywhere_are_all_told(self, database: Database, combine: Callable[..., Any], seats: Any) -> None:
        claim, (first, second) = seats
        self.end(
            database, first, gang.MemberFailure("w-0", "node 1: KeyError", reason={"code": "crash", "message": "m"})
        )
        self.end(database, second, None)
        verdict = combine(claim)
        assert verdict == complete_run.RunFailed(
            {"code": "crash", "message": "Connection closed by peer; node 1: KeyError"}
        )

    def test_who_says_nothing_is_waited_for_no_longer_than_a_lease(
        self, combine: Callable[..., Any], settings: WorkerSettings, seats: Any
    ) -> None:
        settings.lease_seconds = 0.3
        assert combine(seats[0]) == self.OWN

    @pytest.mark.parametrize(
        ("status", "ending", "echo"),
        [
            (ExitCode.CRASH, None, True),
            (ExitCode.CANCELLED, None, True),
            (-signal.SIGKILL, StopReason.NODE, True),
            (-signal.SIGKILL, None, False),
            (ExitCode.CANCELLED, StopReason.CANCEL, False),
        ],
    )
    def test_what_may_be_an_echo(self, tmp_path: Path, status: int, ending: StopReason | None, echo: bool) -> None:
        run_dir = RunDir(tmp_path)
        assert is_secondary_failure(run_dir, ProcessExit(status, ending, 0)) is echo
        run_dir.write_result({})
        assert not is_secondary_failure(run_dir, ProcessExit(status, ending, 0)), "a result outweighs every exit status"


def test_a_machine_is_reached_where_the_database_reaches_it() -> None:
    assert local_address("sqlite:////tmp/lcl.db") == "127.0.0.1"
    assert local_address("postgresql+psycopg://lcl:x@127.0.0.1:5432/lcl") == "127.0.0.1"
    claim = leases.Claim("run_1", "t", "w", "pretrain", {}, 1, 3, False, 0.0, nodes=4, node=2)
    assert gang_env(claim, "10.0.0.1:99") == {"LCL_NODES": "4", "LCL_NODE": "2", "LCL_MEETING": "10.0.0.1:99"}
