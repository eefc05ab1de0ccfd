"""A claimed run with a real process: how it starts, is watched, and ends."""

from __future__ import annotations

import json
import threading
from datetime import timedelta

import pytest

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import RunDir
from lcl_core.db import leases, registry, runs
from lcl_core.db import queue as db_queue
from lcl_core.db.session import Database, now
from tests.workers.in_process_worker import InProcessWorker
from workers.supervisor import Supervisor, copy_milestone


def test_a_run_succeeds(in_process_worker, queue, run_of, steps_of, monkeypatch):
    monkeypatch.setenv("LCL_DATABASE_URL", "postgresql://user:password@host/db")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LCL_HOME", "/somewhere")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    run_id = queue(steps=12, name="toy")
    in_process_worker.work()
    run = run_of(run_id)
    assert (run.state, run.attempt, run.reason) == ("succeeded", 1, None)
    final = run.result["final"]
    environment = {"LCL_HOME": "/somewhere", "CUDA_VISIBLE_DEVICES": ""}  # none was leased to it
    assert final["environment"] == {"LCL_DATABASE_URL": None, "RANK": None, **environment}
    assert list(final["inputs"][0]) == ["sample"]
    assert steps_of(run_id) == list(range(1, 13))
    assert (run.progress["step"], run.progress["total_steps"]) == (12, 12)
    assert 0 < run.ran_seconds < 60
    with in_process_worker.database.reading() as session:
        assert registry.get_encoder(session, "toy").id == run.encoder_id
    log = in_process_worker.run_dir(run_id).log_file.read_text()
    assert "attempt 1 on in-process" in log
    assert "toy starts at 0" in log


@pytest.mark.parametrize(
    ("toy", "code", "words"),
    [
        ("crash@1", "crash", "RuntimeError: the toy broke"),
        ("memory", "out_of_memory", "batch.tokens"),
        ("hungry@1", "out_of_memory", "MemoryError"),
        ("silent", "no_result", "without a result"),
        ("segfault", "crash", "SIGSEGV"),
        ("user_error", "bad_thing", "no such thing"),
    ],
)
def test_a_failure_says_why_and_is_not_tried_again(in_process_worker, queue, run_of, monkeypatch, toy, code, words):
    monkeypatch.setenv("LCL_TOY", toy)
    run_id = queue()
    in_process_worker.work()
    run = run_of(run_id)
    assert (run.state, run.attempt, run.reason["code"]) == ("failed", 1, code)
    assert words in run.reason["message"]
    if code == "bad_thing":
        assert (run.reason["field"], run.reason["file"], run.reason["line"]) == ("data", "corpus.jsonl", 3)
    else:
        assert run_id in run.reason["message"]


def test_a_pause_stops_the_process_at_a_checkpoint_and_it_goes_on_from_there(
    in_process_worker, queue, run_of, steps_of, eventually, monkeypatch
):
    monkeypatch.setenv("LCL_TOY", "helper@999")
    monkeypatch.setenv("LCL_TOY_SECONDS", "0.05")  # long enough for a busy machine to ask before the end
    run_id = queue(steps=400, checkpoint_every=1000, max_attempts=1)
    in_process_worker.start()
    eventually(lambda: len(steps_of(run_id)) >= 3)
    with in_process_worker.database.session() as session:
        runs.pause_run(session, run_id)
    in_process_worker.join()
    run, done = run_of(run_id), len(steps_of(run_id))
    assert (run.state, run.attempt, run.lease_token) == ("paused", 0, None)
    assert "paused" in run.interruption["message"]
    assert done < 400
    with in_process_worker.database.session() as session:
        runs.unpause_run(session, run_id)
    monkeypatch.setenv("LCL_TOY_SECONDS", "0")
    in_process_worker.work()
    run = run_of(run_id)
    assert (run.state, run.attempt, run.result["final"]["start"]) == ("succeeded", 1, done)
    assert steps_of(run_id) == list(range(1, 401))


def test_cancel_stops_the_process_and_resume_goes_on_from_its_checkpoint(
    in_process_worker, queue, run_of, steps_of, eventually, monkeypatch
):
    monkeypatch.setenv("LCL_TOY", "helper@999")
    monkeypatch.setenv("LCL_TOY_SECONDS", "0.05")  # long enough for a busy machine to ask before the end
    run_id = queue(steps=400, checkpoint_every=1000)
    in_process_worker.start()
    eventually(lambda: len(steps_of(run_id)) >= 3)
    with in_process_worker.database.session() as session:
        runs.cancel_run(session, run_id)
    in_process_worker.join()
    assert run_of(run_id).state == "cancelled"
    done = len(steps_of(run_id))
    assert done < 400
    with in_process_worker.database.session() as session:
        runs.resume_run(session, run_id)
    monkeypatch.setenv("LCL_TOY_SECONDS", "0")
    in_process_worker.work()
    run = run_of(run_id)
    assert (run.state, run.result["final"]["start"]) == ("succeeded", done)
    assert steps_of(run_id) == list(range(1, 401))


def test_resume_makes_the_steps_after_the_checkpoint_again_without_doubling_them(
    in_process_worker, queue, run_of, steps_of, monkeypatch
):
    monkeypatch.setenv("LCL_TOY", "crash@7")
    run_id = queue(steps=9)
    in_process_worker.work()
    assert steps_of(run_id) == [1, 2, 3, 4, 5, 6, 7]
    monkeypatch.delenv("LCL_TOY")
    with in_process_worker.database.session() as session:
        runs.resume_run(session, run_id)
    in_process_worker.work()
    assert run_of(run_id).result["final"]["start"] == 5
    assert steps_of(run_id) == list(range(1, 10))
    with in_process_worker.database.reading() as session:
        attempts = [row.values["attempt"] for row in runs.metrics_after(session, run_id)]
    assert attempts == [1] * 5 + [2] * 4


def test_a_worker_that_lost_its_lease_kills_the_process_and_writes_nothing(
    in_process_worker, queue, run_of, steps_of, eventually, alive
):
    run_id = queue(steps=10_000)
    in_process_worker.start()
    eventually(lambda: steps_of(run_id))
    pid = run_of(run_id).progress["pid"]
    with in_process_worker.database.session() as session:
        runs.get_run(session, run_id).lease_token = "somebody else's"
    in_process_worker.join()
    assert not alive(pid)
    run = run_of(run_id)
    assert (run.state, run.lease_token, run.result) == ("running", "somebody else's", None)


def test_a_new_attempt_waits_for_the_old_process_to_leave(in_process_worker, queue, run_of, steps_of, eventually):
    run_id = queue()
    held = in_process_worker.run_dir(run_id)
    held.path.mkdir(parents=True)
    held.lock()
    held.metrics_file.write_text("the other process's")
    claimed = in_process_worker.start()
    for _ in range(3):
        before = run_of(run_id).lease_expires_at
        eventually(lambda before=before: run_of(run_id).lease_expires_at > before, "a renewal while waiting")
    assert steps_of(run_id) == []
    assert held.metrics_file.read_text() == "the other process's", "nothing is touched without the lock"
    assert not held.run_file.exists()
    held.unlock()
    in_process_worker.join()
    assert (run_of(run_id).state, claimed.attempt) == ("succeeded", 1)


def test_a_folder_that_stays_locked_delays_the_run_and_costs_no_attempt(in_process_worker, queue, run_of, monkeypatch):
    run_id = queue(max_attempts=1)
    held = in_process_worker.run_dir(run_id)
    held.path.mkdir(parents=True)
    held.lock()
    monkeypatch.setattr("workers.supervisor._LOCK_SECONDS", 0.2)
    for times in (1, 2):
        in_process_worker.work()
        run = run_of(run_id)
        assert (run.state, run.attempt, run.setbacks) == ("queued", 0, {"run_dir_busy": times})
        assert "another process" in run.interruption["message"]
        make_due(in_process_worker.database, run_id)
    held.unlock()
    in_process_worker.work()
    assert (run_of(run_id).state, run_of(run_id).attempt) == ("succeeded", 1)


def make_due(database, run_id):
    """End the delay before the next attempt."""
    with database.session() as session:
        run = runs.get_run(session, run_id)
        assert run.ready_at is not None
        assert run.ready_at > now(session)
        assert next_claim(session) is None, "it waits"
        run.ready_at = now(session) - timedelta(seconds=1)


def next_claim(session):
    return db_queue.claim_next(session, "somebody else")


def test_a_fault_of_the_network_is_tried_again_later_and_not_counted(
    in_process_worker, queue, run_of, steps_of, monkeypatch
):
    monkeypatch.setenv("LCL_TOY", "nccl@6")
    run_id = queue(steps=8, max_attempts=1)
    in_process_worker.work()
    run = run_of(run_id)
    assert (run.state, run.attempt, run.setbacks) == ("queued", 0, {"nccl": 1})
    assert "NCCL error" in run.interruption["message"]
    assert "starts in 10 s" in run.interruption["message"]
    make_due(in_process_worker.database, run_id)
    monkeypatch.delenv("LCL_TOY")
    in_process_worker.work()
    run = run_of(run_id)
    assert (run.state, run.attempt, run.result["final"]["start"]) == ("succeeded", 1, 5)
    assert steps_of(run_id) == list(range(1, 9))


def test_a_job_that_hangs_is_ended_with_its_stacks_and_tried_again_once(in_process_worker, queue, run_of, monkeypatch):
    monkeypatch.setenv("LCL_TOY", "hang@3")
    in_process_worker.settings.hung_seconds = 1.0
    run_id = queue(steps=8, checkpoint_every=100)
    in_process_worker.work()
    run = run_of(run_id)
    assert (run.state, run.attempt, run.setbacks) == ("queued", 1, {"hung": 1, leases.COUNTED: 1})
    assert "no progress for" in run.interruption["message"]
    stacks = (in_process_worker.run_dir(run_id).artifacts / "stacks.txt").read_text()
    assert "in misbehave" in stacks
    assert "rank" in stacks
    in_process_worker.work()
    run = run_of(run_id)
    assert (run.state, run.reason["code"]) == ("failed", "hung")
    assert "stacks.txt" in run.reason["message"]


@pytest.fixture
def impatient_desk(database, settings, modules, monkeypatch):
    """A worker in this process that soon takes a locked database for one that is away."""
    monkeypatch.setattr("lcl_core.db.session.BUSY_TIMEOUT_SECONDS", 0.1)
    impatient = Database(database.url)
    yield InProcessWorker(impatient, settings, modules)
    impatient.dispose()


def test_a_worker_that_cannot_renew_stops_the_run_at_a_checkpoint_and_gives_it_back_uncounted(
    impatient_desk, database, queue, run_of, steps_of, eventually, alive
):
    in_process_worker, run_id = impatient_desk, queue(steps=10_000)
    in_process_worker.settings.lease_seconds = 2.0
    in_process_worker.start()
    eventually(lambda: steps_of(run_id))
    pid = run_of(run_id).progress["pid"]
    with database.session() as session:
        session.connection()  # takes the write lock
        eventually(lambda: not alive(pid))
        done = json.loads((in_process_worker.run_dir(run_id).checkpoints / "state.json").read_text())["step"]
    in_process_worker.join()
    run = run_of(run_id)
    assert (run.state, run.attempt, leases.COUNTED in run.setbacks) == ("queued", 0, False)
    assert "the database did not answer" in run.interruption["message"]
    lines = in_process_worker.run_dir(run_id).metrics_file.read_text().splitlines()
    assert json.loads(lines[-1])["step"] == done, "no step after the checkpoint is lost"


def test_an_evaluation_goes_before_the_studys_next_pre_training(database, settings, modules, study):
    study(seeds=[0, 1])
    supervisor = Supervisor(database, settings, modules)
    kinds = []
    while True:
        with database.session() as session:
            claim = db_queue.claim_next(session, "in-process")
        if claim is None:
            break
        kinds.append(claim.kind)
        supervisor.run(claim, threading.Event())
    assert kinds == ["pretrain", "evaluate", "pretrain", "evaluate"]


@pytest.fixture
def parent(tmp_path):
    run_dir = RunDir(tmp_path / "run_parent")
    checkpoint = run_dir.checkpoints / "step_00000010"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    run_dir.metrics_file.write_text('{"step": 10}\n')
    run_dir.tokenizer_file.write_text("{}")
    run_dir.best_encoder.mkdir(parents=True)
    (run_dir.best_encoder / "model.safetensors").write_bytes(b"best weights")
    return run_dir


@pytest.fixture
def heir(tmp_path):
    run_dir = RunDir(tmp_path / "run_heir")
    run_dir.path.mkdir()
    return run_dir


def test_a_branch_gets_the_milestone_and_what_was_before_it(parent, heir):
    later = parent.checkpoints / "step_00000020"
    later.mkdir()
    parent.metrics_file.write_text('{"step": 10}\n{"step": 20}\n')
    copy_milestone(parent, heir, 10)
    assert [path.name for path in heir.checkpoints.iterdir()] == ["step_00000010"]
    weights = heir.checkpoints / "step_00000010" / "model.safetensors"
    assert weights.read_bytes() == b"weights"
    weights.unlink()
    assert (parent.checkpoints / "step_00000010" / "model.safetensors").exists()
    assert heir.metrics_file.read_text() == '{"step": 10}\n'
    assert heir.tokenizer_file.read_text() == "{}"
    assert not heir.best_encoder.exists(), "they may be of a later step"


def test_a_branch_of_a_step_without_checkpoint_names_those_that_there_are(parent, heir):
    for step, known in ((20, "of step 10"), (10, "no checkpoint at all")):
        with pytest.raises(UserError, match=known) as caught:
            copy_milestone(parent if step == 20 else RunDir(heir.path.with_name("run_gone")), heir, step)
        assert (caught.value.code, caught.value.field) == ("invalid_value", "branch.step")
        assert not heir.checkpoints.exists()
