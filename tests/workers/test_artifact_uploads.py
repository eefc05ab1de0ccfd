"""A worker sends what its runs have made, by itself, and again when the store was away."""

from __future__ import annotations

import uuid
from datetime import timedelta

from lcl_core.db import artifacts
from lcl_core.db.artifacts import ArtifactStore
from tests.workers.in_process_worker import InProcessWorker
from workers.maintenance import upload_tasks


def test_it_goes_on_until_the_store_has_everything(database, settings, modules, queue, run_of, eventually, monkeypatch):
    settings.artifacts = f"memory://{uuid.uuid4().hex}/artifacts"
    monkeypatch.setattr(artifacts, "_FIRST_DELAY", timedelta(seconds=0.1))
    put, failures = ArtifactStore.send_folder, iter((RuntimeError("a fault of ours"), OSError("no such disk")))

    def flaky(*arguments):
        for failure in failures:
            raise failure
        return put(*arguments)

    monkeypatch.setattr(ArtifactStore, "send_folder", flaky)
    monkeypatch.setattr(artifacts, "CLAIMED_FOR", timedelta(seconds=0.1))
    run_id = queue()
    InProcessWorker(database, settings, modules).work()
    assert run_of(run_id).state == "succeeded"

    def pending():
        with database.reading() as session:
            return artifacts.runs_with_pending_uploads(session, [run_id])

    assert run_id in pending()
    (uploads,) = upload_tasks(database, settings)
    uploads.start()
    eventually(lambda: not pending(), "the last file")
    uploads.stop()


def test_without_a_store_there_is_nothing_to_do(database, settings):
    assert upload_tasks(database, settings) == []
