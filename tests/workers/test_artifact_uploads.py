"""A worker sends what its runs have made, by itself, and again when the store was away."""

from __future__ import annotations

import uuid

import pytest

from lcl_core.common.run_dir import RunDir
from lcl_core.db import artifacts, leases, outbox, quotas, runs, submit
from lcl_core.db import outbox as db_outbox
from lcl_core.db import queue as db_queue
from lcl_core.db.artifact_store import ArtifactStore
from lcl_core.db.garbage import collect_for_all
from tests.workers.in_process_worker import InProcessWorker
from workers.maintenance import upload_tasks


def test_it_goes_on_until_the_store_has_everything(database, settings, modules, queue, run_of, eventually, monkeypatch):
    settings.artifacts = f"memory://{uuid.uuid4().hex}/artifacts"
    monkeypatch.setattr(outbox.UPLOAD_OUTBOX, "first_delay", outbox.UPLOAD_OUTBOX.first_delay / 20)
    put, failures = ArtifactStore.put, iter((RuntimeError("a fault of ours"), OSError("no such disk")))

    def flaky(*arguments):
        for failure in failures:
            raise failure
        return put(*arguments)

    monkeypatch.setattr(ArtifactStore, "put", flaky)
    monkeypatch.setattr(outbox.UPLOAD_OUTBOX, "timeout", outbox.UPLOAD_OUTBOX.first_delay / 20)
    run_id = queue()
    InProcessWorker(database, settings, modules).work()
    assert run_of(run_id).state == "succeeded"

    def pending():
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


def test_without_a_store_there_is_nothing_to_do(database, settings):
    assert upload_tasks(database, settings) == []


def test_a_run_that_is_cancelled_between_attempts_is_charged_and_sent(
    database, settings, modules, queue, run_of, monkeypatch
):
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


def test_the_folder_of_a_lost_worker_is_charged_and_sent_by_its_home(database, settings, queue, run_of, tmp_path):
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

    def charged_by(place):
        collect_for_all(database, place, artifacts.Artifacts(place), str(place.home), place.gc_seconds)
        with database.reading() as session:
            pending = db_outbox.runs_with_pending_uploads(session, [run_id])
            return quotas.owner_bytes(session, "ada"), run_id in pending

    assert charged_by(elsewhere) == (0, False), "its folder is of an earlier attempt"
    assert charged_by(settings) == (quotas.folder_bytes(settings.runs_dir / run_id), True)


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
def test_two_machines(database, worker_processes, run_of, queue, eventually, tmp_path):
    """What a worker made, one on another home reads; the first one is gone by then."""
    store_url = f"file://{tmp_path / 'store'}"
    made = queue()
    first = worker_processes.start(LCL_ARTIFACTS=store_url)

    def stored():
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
