"""A worker sends what its runs have made, by itself, and again when the store was away."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcl_core.common.run_dir import RunDir
from lcl_core.db import artifacts, leases, outbox, quotas, runs, submit
from lcl_core.db import outbox as db_outbox
from lcl_core.db import queue as db_queue
from lcl_core.db.artifact_store import ArtifactStore
from lcl_core.db.garbage import collect_for_all
from lcl_core.db.models import TaskLease
from lcl_core.db.session import Database
from tests.workers.in_process_worker import InProcessWorker
from tests.workers.worker_processes import WorkerProcesses
from workers.maintenance import upload_tasks
from workers.settings import WorkerSettings


def test_it_goes_on_until_the_store_has_everything(
    database: Database,
    settings: WorkerSettings,
    modules: dict[str, str],
    queue: Callable[..., str],
    run_of: Callable[[str], Any],
    eventually: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings.artifacts = f"memory://{uuid.uuid4().hex}/artifacts"
    monkeypatch.setattr(outbox.UPLOAD_OUTBOX, "first_delay", outbox.UPLOAD_OUTBOX.first_delay / 20)
    put, failures = ArtifactStore.put, iter((RuntimeError("a fault of ours"), OSError("no such disk")))

    def flaky(*arguments: Any) -> Any:
        for failure in failures:
            raise failure
        return put(*arguments)

    monkeypatch.setattr(ArtifactStore, "put", flaky)
    monkeypatch.setattr(outbox.UPLOAD_OUTBOX, "timeout", outbox.UPLOAD_OUTBOX.first_delay / 20)
    run_id = queue()
    InProcessWorker(database, settings, modules).work()
    assert run_of(run_id).state == "succeeded"

    def pending() -> dict[str, str | None]:
        with database.reading() as session:
            return db_outbox.runs_with_pending_uploads(session, [run_id])

    assert run_id in pending()
    (uploads,) = upload_tasks(database, settings)
    uploads.start()
    eventually(lambda: not pending(), "the last file")
    uploads.stop()
    places = dict(artifacts.Artifacts(settings).store.iter_keys())
    assert {place.rpartition("/")[0] for place in places} == {
        f"runs/{run_id}", f"encoders/{run_of(run_id).encoder_id}",
    }  # fmt: skip


def test_without_a_store_there_is_nothing_to_do(database: Database, settings: WorkerSettings) -> None:
    assert upload_tasks(database, settings) == []


def test_a_run_that_is_cancelled_between_attempts_is_charged_and_sent(
    database: Database,
    settings: WorkerSettings,
    modules: dict[str, str],
    queue: Callable[..., str],
    run_of: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings.artifacts = f"memory://{uuid.uuid4().hex}/artifacts"
    worker, collector = InProcessWorker(database, settings, modules), artifacts.Artifacts(settings)
    run_id = queue(owner="ada")
    monkeypatch.setenv("LCL_TOY", "killed@1")
    worker.work()
    assert run_of(run_id).state == "queued"
    size = quotas.folder_bytes(worker.run_dir(run_id).path)
    with database.session() as session:
        assert quotas.owner_bytes(session, "ada") == size > 0
        assert outbox.count_pending_uploads(session) == 0, "the attempt may be made again under its number"
        runs.cancel_run(session, run_id)
    collect_for_all(database, settings, collector, "w-1", settings.gc_seconds)
    with database.session() as session:
        assert quotas.owner_bytes(session, "ada") == size
        assert run_id in db_outbox.runs_with_pending_uploads(session, [run_id])
        runs.delete_run(session, run_id)
        assert (quotas.owner_bytes(session, "ada"), outbox.count_pending_uploads(session)) == (0, 0)


@pytest.mark.parametrize("stop", [runs.cancel_run, runs.pause_run])
def test_a_run_that_was_sent_before_and_is_cancelled_between_later_attempts_is_sent_again(
    database: Database,
    settings: WorkerSettings,
    modules: dict[str, str],
    queue: Callable[..., str],
    run_of: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
    stop: Callable[..., Any],
) -> None:
    settings.artifacts = f"memory://{uuid.uuid4().hex}/artifacts"
    worker, collector = InProcessWorker(database, settings, modules), artifacts.Artifacts(settings)
    run_id = queue(owner="ada")
    monkeypatch.setenv("LCL_TOY", "crash@1")
    worker.work()
    assert run_of(run_id).state == "failed"
    artifacts.upload_pending(database, collector)
    collect_for_all(database, settings, collector, "w-1", settings.gc_seconds)
    with database.session() as session:
        assert outbox.count_pending_uploads(session) == 0, "everything is in the store"
        runs.resume_run(session, run_id)
    monkeypatch.setenv("LCL_TOY", "killed@1")
    worker.work()
    assert run_of(run_id).state == "queued"
    with database.session() as session:
        stop(session, run_id)
    if stop is runs.pause_run:
        with database.session() as session:
            runs.cancel_run(session, run_id)
    with database.session() as session:
        session.query(TaskLease).delete()  # as if an hour had passed
    collect_for_all(database, settings, collector, "w-1", settings.gc_seconds)
    attempt = run_of(run_id).attempt
    artifacts.upload_pending(database, collector)
    with database.reading() as session:
        row = outbox.get_upload(session, f"runs/{run_id}")
    assert row is not None
    assert (row.key, attempt) == (f"runs/{run_id}/2", 2)


def test_the_folder_of_a_lost_worker_is_charged_and_sent_by_its_home(
    database: Database,
    settings: WorkerSettings,
    queue: Callable[..., str],
    run_of: Callable[[str], Any],
    tmp_path: Path,
) -> None:
    settings.artifacts = f"memory://{uuid.uuid4().hex}/artifacts"
    elsewhere = settings.model_copy(update={"home": tmp_path / "other"})
    run_id = queue(owner="ada", max_attempts=2)
    for place in (elsewhere, settings):
        with database.session() as session:
            claim = db_queue.claim_next(session, "w-1", lease_seconds=-1.0)
        assert isinstance(claim, leases.Claim)
        with database.session() as session:
            leases.expire_leases(session)
        run_dir = RunDir(place.runs_dir / run_id)
        run_dir.prepare({"attempt": claim.attempt})
        run_dir.log_file.write_bytes(b"x" * 3000)
    assert run_of(run_id).state == "failed"

    def charged_by(place: WorkerSettings) -> tuple[int, bool]:
        collect_for_all(database, place, artifacts.Artifacts(place), str(place.home), place.gc_seconds)
        with database.reading() as session:
            pending = db_outbox.runs_with_pending_uploads(session, [run_id])
            return quotas.owner_bytes(session, "ada"), run_id in pending

    assert charged_by(elsewhere) == (0, False), "its folder is of an earlier attempt"
    assert charged_by(settings) == (quotas.folder_bytes(settings.runs_dir / run_id), True)


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
def test_two_machines(
    database: Database,
    worker_processes: WorkerProcesses,
    run_of: Callable[[str], Any],
    queue: Callable[..., str],
    eventually: Callable[..., None],
    tmp_path: Path,
) -> None:
    """What a worker made, one on another home reads; the first one is gone by then."""
    store_url = f"file://{tmp_path / 'store'}"
    made = queue()
    first = worker_processes.start(LCL_ARTIFACTS=store_url)

    def stored() -> bool:
        with database.reading() as session:
            return run_of(made).state == "succeeded" and not db_outbox.runs_with_pending_uploads(session, [made])

    eventually(stored, "the upload")
    first.kill()
    first.wait()
    with database.session() as session:
        spec = {"encoder": run_of(made).encoder_id, "dataset": "sample"}
        read = submit.submit(session, "evaluate", spec).id
    worker_processes.start(LCL_ARTIFACTS=store_url, LCL_HOME=str(tmp_path / "other"))
    eventually(lambda: run_of(read).state == "succeeded", "the run on the other machine")
    assert list((tmp_path / "other" / "cache" / "artifacts").glob("encoders~enc_*~1/model.safetensors"))
