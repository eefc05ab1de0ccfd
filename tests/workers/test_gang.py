"""Runs of two nodes: two real workers, one training over gloo; who is missing, lost, or leaves."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from lcl_core.common.errors import UserError
from lcl_core.common.rendezvous import NodeInfo
from lcl_core.common.run_dir import ExitCode, RunDir
from lcl_core.db import complete_run, datasets, gang, leases, runs
from lcl_core.db import queue as db_queue
from lcl_core.db import submit as db_submit
from lcl_core.db.session import Database
from lcl_core.db.workers import WorkerIdentity, record_heartbeat
from tests.lcl_core.train.small_runs import TINY
from tests.workers.worker_processes import WorkerProcesses
from workers import gang as gang_module
from workers.exit_outcome import ProcessExit, Requeue, StopReason
from workers.gang import (
    GangMember,
    advertised_address,
    combine_outcomes,
    gang_env,
    is_secondary_failure,
    published_rendezvous,
)
from workers.lease_keeper import LeaseKeeper
from workers.settings import WorkerSettings

pytestmark = pytest.mark.local_executor

Queue = Callable[..., str]
RunOf = Callable[[str], Any]
Steps = Callable[[str], list[int]]
Eventually = Callable[..., None]
STEPS = 90  # far more than are done while a test looks at the run
ON_TWO = {**TINY, "steps": STEPS, "log_every": 1, "checkpoint_every": 10, "engine": {"nodes": 2}}


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


def start(worker_processes: WorkerProcesses) -> subprocess.Popen[bytes]:
    return worker_processes.start(toy=False, OMP_NUM_THREADS="1", LCL_LEASE_SECONDS="4")


def other_than(worker_processes: WorkerProcesses, leader: str) -> subprocess.Popen[bytes]:
    """The worker that does not hold the lease."""
    [found] = [
        worker for worker in worker_processes.started if f"-{worker.pid}-" not in leader and worker.poll() is None
    ]
    return found


def told(worker_processes: WorkerProcesses) -> str:
    return "\n".join(
        worker_processes.log(number).read_text()[-3000:] for number in range(len(worker_processes.started))
    )


def test_a_lost_node_ends_the_attempt_for_all_and_the_run_goes_on_exactly(
    worker_processes: WorkerProcesses,
    settings: WorkerSettings,
    submit: Callable[..., str],
    run_of: RunOf,
    steps_of: Steps,
    eventually: Eventually,
) -> None:
    run_id = submit()
    start(worker_processes), start(worker_processes)
    eventually(lambda: len(steps_of(run_id)) > 15, "fifteen steps")
    leader = run_of(run_id).lease_owner
    other_than(worker_processes, leader).kill()
    eventually(lambda: run_of(run_id).state == "queued", "the end of the attempt")
    run = run_of(run_id)
    assert run.interruption["code"] == "handed_back", told(worker_processes)
    assert "node 1" in run.interruption["message"]
    start(worker_processes)
    eventually(lambda: run_of(run_id).state == "succeeded", "the second attempt")
    run = run_of(run_id)
    assert (run.attempt, trained(steps_of(run_id))) == (2, list(range(1, STEPS + 1)))
    undisturbed = submit()
    eventually(lambda: run_of(undisturbed).state == "succeeded", "a run that is left alone")
    assert run_of(undisturbed).attempt == 1, told(worker_processes)
    assert run_of(undisturbed).result["encoder"]["hash"] == run.result["encoder"]["hash"]
    log = settings.runs_dir / run_id / "artifacts" / "log-1.txt"
    assert "node 1 of 2" in log.read_text()


def test_a_node_that_leaves_in_order_costs_no_attempt_and_no_step(
    worker_processes: WorkerProcesses,
    settings: WorkerSettings,
    submit: Callable[..., str],
    run_of: RunOf,
    steps_of: Steps,
    eventually: Eventually,
) -> None:
    run_id = submit(steps=100_000, checkpoint_every=50_000)
    start(worker_processes), start(worker_processes)
    eventually(lambda: len(trained(steps_of(run_id))) >= 5, "five steps")
    leaving = other_than(worker_processes, run_of(run_id).lease_owner)
    leaving.send_signal(signal.SIGTERM)
    assert leaving.wait(180) == 0, told(worker_processes)
    eventually(lambda: run_of(run_id).state == "queued", "the run's coming back")
    done = len(trained(steps_of(run_id)))
    assert run_of(run_id).attempt == 0
    assert "is leaving" in run_of(run_id).interruption["message"], told(worker_processes)
    start(worker_processes)
    eventually(lambda: run_of(run_id).state == "running", "the second try")
    eventually(lambda: len(trained(steps_of(run_id))) > done, "its first steps")
    begun = settings.runs_dir / run_id / "metrics.jsonl"
    assert [json.loads(line)["step"] for line in begun.read_text().splitlines()].count(done) == 1, (
        "nothing is done twice"
    )


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
def test_a_cancel_reaches_all_nodes(
    worker_processes: WorkerProcesses,
    database: Database,
    submit: Callable[..., str],
    run_of: RunOf,
    steps_of: Steps,
    eventually: Eventually,
) -> None:
    run_id = submit(steps=100_000)
    start(worker_processes), start(worker_processes)
    eventually(lambda: trained(steps_of(run_id)))
    with database.session() as session:
        runs.cancel_run(session, run_id)
    eventually(lambda: run_of(run_id).state == "cancelled")
    eventually(
        lambda: all('"job_exited"' in worker_processes.log(number).read_text() for number in range(2)),
        "both processes' ends",
    )


def test_workers_do_what_else_there_is_while_too_few_are_alive(
    worker_processes: WorkerProcesses, queue: Queue, run_of: RunOf, eventually: Eventually
) -> None:
    wide = queue(spec={"engine": {"nodes": 2}}, priority=9)
    worker_processes.start()
    narrow = queue()
    eventually(lambda: run_of(narrow).state == "succeeded", "the run behind it")
    assert (run_of(wide).state, run_of(wide).attempt) == ("queued", 0)


FIRST = WorkerIdentity("w-1", "w-1", 1, 1, (), ("cpu", "gpu"), home="home")


@pytest.fixture
def joined(database: Database, queue: Queue) -> gang.MemberLease:
    """The first of two workers waits for the second."""
    queue(spec={"engine": {"nodes": 2}})
    alive(database, "w-1", "w-2")
    with database.session() as session:
        seat = db_queue.claim_next(session, "w-1", 20.0)
    assert isinstance(seat, gang.MemberLease)
    return seat


def alive(database: Database, *names: str, **facts: Any) -> None:
    with database.session() as session:
        for name in names:
            record_heartbeat(
                session, WorkerIdentity(name, facts.get("host", name), 1, 1, (), ("cpu", "gpu"), home="home")
            )


def test_a_worker_that_is_to_leave_gives_its_seat_back_at_once(
    database: Database, settings: WorkerSettings, modules: dict[str, str], joined: gang.MemberLease, run_of: RunOf
) -> None:
    stopping = threading.Event()
    stopping.set()
    assert GangMember(database, settings, modules, FIRST).run(joined, stopping) is None
    with database.session() as session:
        assert isinstance(db_queue.claim_next(session, "w-2"), gang.MemberLease), "the first one is gone"
        assert run_of(joined.run_id).state == "queued"


def test_a_worker_that_waits_goes_over_to_a_run_of_higher_priority(
    database: Database, settings: WorkerSettings, modules: dict[str, str], joined: gang.MemberLease, queue: Queue
) -> None:
    urgent = queue(priority=3)
    settings.reap_seconds = 0.0
    claimed = GangMember(database, settings, modules, FIRST).run(joined, threading.Event())
    assert isinstance(claimed, leases.Claim)
    assert claimed.run_id == urgent


def test_a_member_that_cannot_write_its_log_is_a_failure_with_its_cause(
    database: Database, settings: WorkerSettings, modules: dict[str, str], joined: gang.MemberLease
) -> None:
    """The folder of the run is not there."""
    with database.session() as session:
        claim = db_queue.claim_next(session, "w-2", 20.0)
        assert isinstance(claim, leases.Claim)
        gang.set_rendezvous(session, claim, "127.0.0.1:1")
    GangMember(database, settings, modules, FIRST).run(joined, threading.Event())
    with database.reading() as session:
        [failure], _ = gang.member_failures(session, claim)
    assert failure.reason is not None
    assert failure.reason["code"] == "storage"
    assert "No such file or directory" in failure.message
    assert str(settings.runs_dir / claim.run_id / "artifacts" / "log-1.txt") in failure.message
    assert failure.message.startswith("node 1 on w-1")


def test_a_member_that_cannot_renew_its_lease_ends_its_process_and_costs_no_attempt(
    database: Database,
    settings: WorkerSettings,
    modules: dict[str, str],
    joined: gang.MemberLease,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(*_: object) -> None:
        raise OperationalError("renewal", None, ConnectionError("away"))

    monkeypatch.setenv("LCL_TOY_SECONDS", "600")
    settings.lease_seconds = 6.0
    with database.session() as session:
        claim = db_queue.claim_next(session, "w-2", 600.0)
        assert isinstance(claim, leases.Claim)
        gang.set_rendezvous(session, claim, "127.0.0.1:1")
    run_dir = RunDir(settings.runs_dir / claim.run_id)
    run_dir.path.mkdir(parents=True)
    run_dir.prepare({"run_id": claim.run_id, "kind": claim.kind, "spec": claim.spec, "attempt": 1})
    member = GangMember(database, settings, modules, FIRST)
    thread = threading.Thread(target=member.run, args=(joined, threading.Event()), daemon=True)
    thread.start()
    log = run_dir.artifacts / "log-1.txt"
    eventually(lambda: log.exists() and "toy starts" in log.read_text(), "the start of its process")
    monkeypatch.setattr(gang_module, "renew_member_lease", away)
    eventually(lambda: not thread.is_alive(), "the end of its process")
    with database.reading() as session:
        [failure], _ = gang.member_failures(session, claim)
    assert (failure.code, failure.uses_attempt) == ("database_away", False)


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
        alive(database, "w-0", "w-1", "w-2")
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


class TestAddress:
    """Where the other nodes find node 0."""

    LOCAL_DATABASE = "postgresql+psycopg://lcl:x@127.0.0.1:5432/lcl"

    @pytest.fixture(autouse=True)
    def machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def entry(address: str) -> Any:
            return SimpleNamespace(family=socket.AF_INET, address=address)

        addresses = {"lo": [entry("127.0.0.1")], "eth7": [entry("10.0.0.7")], "ib0": [entry("10.9.0.7")]}
        monkeypatch.setattr(gang_module.psutil, "net_if_addrs", lambda: addresses)

    def test_nodes_of_one_host_meet_on_loopback(self) -> None:
        assert advertised_address("", "sqlite:////tmp/lcl.db", {"a"}) == "127.0.0.1"

    def test_a_database_on_this_host_does_not_mean_loopback_for_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gang_module, "_source_address", {"127.0.0.1": "127.0.0.1"}.get)
        assert advertised_address("", self.LOCAL_DATABASE, {"a", "b"}) == "10.0.0.7"

    def test_the_route_to_the_database_comes_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gang_module, "_source_address", {"db": "10.1.1.1"}.get)
        assert advertised_address("", "postgresql+psycopg://lcl:x@db/lcl", {"a", "b"}) == "10.1.1.1"

    @pytest.mark.parametrize(("setting", "address"), [("ib0", "10.9.0.7"), ("node7.cluster", "node7.cluster")])
    def test_a_setting_names_an_interface_or_an_address(
        self, settings: WorkerSettings, setting: str, address: str
    ) -> None:
        settings.worker_address = setting
        assert advertised_address(setting, self.LOCAL_DATABASE, {"a"}) == address
        env = gang_env(settings, NodeInfo(2, 4, address, 99, 60.0))
        expected = {"LCL_NODES": "4", "LCL_NODE": "2", "LCL_MEETING": f"{address}:99", "LCL_MEETING_SECONDS": "60.0"}
        assert expected.items() <= env.items()
        assert env.get("GLOO_SOCKET_IFNAME") == ("ib0" if setting == "ib0" else None)

    def test_a_machine_without_an_address_says_what_to_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gang_module, "_source_address", lambda _: None)
        monkeypatch.setattr(gang_module.psutil, "net_if_addrs", dict)
        with pytest.raises(UserError, match="LCL_WORKER_ADDRESS") as caught:
            advertised_address("", "sqlite:////tmp/lcl.db", {"a", "b"})
        assert caught.value.code == "no_worker_address"


def test_the_port_stays_taken_until_the_attempt_is_over(
    database: Database, settings: WorkerSettings, joined: gang.MemberLease
) -> None:
    with database.session() as session:
        claim = db_queue.claim_next(session, "w-2", 20.0)
    assert isinstance(claim, leases.Claim)
    keeper = LeaseKeeper(database, settings, claim.run_id, lambda _: None, threading.Event())
    with published_rendezvous(database, settings, claim, keeper) as env:
        port = int(env["LCL_MEETING"].rpartition(":")[2])
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("", port))
        with database.reading() as session:
            rendezvous = gang.check_member_lease(session, joined)
        assert rendezvous is not None
        assert rendezvous.address == env["LCL_MEETING"]
        assert not rendezvous.address.startswith("127."), "w-1 and w-2 are on two hosts"
