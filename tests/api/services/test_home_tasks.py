"""What the api does for a home that has no worker: its encoders are uploaded, garbage is removed."""

import threading
import uuid
from datetime import timedelta

import pytest

from api import app as service
from api.app import home_tasks
from api.core.settings import ApiSettings
from api.services.state import AppState
from lcl_core.common.errors import UserError
from lcl_core.db import artifacts
from lcl_core.db.artifacts import Artifacts, ArtifactStore, enqueue_upload
from lcl_core.db.models import ArtifactUpload, EncoderRow, new_id
from lcl_core.db.session import now


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Of an api with a store, in a hurry."""
    monkeypatch.setattr(service, "UPLOAD_SECONDS", 0.02)
    monkeypatch.setattr(artifacts, "_FIRST_DELAY", timedelta(0))
    url = f"memory://{uuid.uuid4().hex}/artifacts"
    home, root = tmp_path / "home", tmp_path / "data"
    return ApiSettings(home=home, data_roots=[root], artifacts=url, welcome=False, warm_encoders=False)


@pytest.fixture
def state(settings):
    state = AppState(settings)
    state.prepare()
    yield state
    state.close()


def upload_of(state, path):
    with state.database.reading() as session:
        return session.get_one(ArtifactUpload, path)


def add_encoder(state):
    """Path of an encoder of this home that is to be uploaded."""
    row_id = new_id("enc")
    path = f"encoders/{row_id}"
    folder = state.settings.home / path
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(row_id.encode())
    with state.database.session() as session:
        facts = {"hash": "0" * 64, "identity": "0" * 64, "owner": "local", "info": {}, "created_at": now(session)}
        session.add(EncoderRow(id=row_id, name=row_id, path=path, **facts))
        enqueue_upload(session, path, 1, str(state.artifacts.holder))
    return path


def test_an_import_is_uploaded_also_when_the_store_is_away_at_first(state, settings, serve, eventually, monkeypatch):
    put, tries = ArtifactStore.send_folder, [0]

    def refuse_twice(store, *args):
        tries[0] += 1
        if tries[0] <= 2:
            raise UserError("it is away", code="store_unreachable")
        return put(store, *args)

    monkeypatch.setattr(ArtifactStore, "send_folder", refuse_twice)
    with serve(settings):
        path = add_encoder(state)
        eventually(lambda: upload_of(state, path).key is not None, "the upload")
    row = upload_of(state, path)
    assert (row.pending, row.error, tries[0]) == (None, None, 3)
    assert not [thread for thread in threading.enumerate() if thread.name == "lcl-uploads"], "the task ends"


def test_several_processes_upload_it_once(state, settings, eventually, monkeypatch):
    put, started, rounds = ArtifactStore.send_folder, [], [0]
    may_go_on = threading.Event()

    def wait(store, key, *args):
        started.append(key)
        may_go_on.wait(60)
        return put(store, key, *args)

    def count(*args, **options):
        found = upload_next(*args, **options)
        rounds[0] += 1
        return found

    upload_next = service.upload_next
    monkeypatch.setattr(ArtifactStore, "send_folder", wait)
    monkeypatch.setattr(service, "upload_next", count)
    path = add_encoder(state)
    uploads = [home_tasks(state.database, settings, Artifacts(settings))[0] for _ in range(2)]
    for each in uploads:
        each.start()
    eventually(lambda: started and rounds[0] >= 3, "rounds of the one that does not upload")
    may_go_on.set()
    eventually(lambda: upload_of(state, path).key is not None, "the upload")
    for each in uploads:
        each.stop()
    assert started == [f"{path}/1"]


def test_garbage_of_the_home_is_removed(state, settings, eventually, monkeypatch):
    settings.gc_grace_seconds = 0.0
    monkeypatch.setattr("lcl_core.db.garbage.ROUND_SECONDS", 0.1)
    discarded = settings.encoders_dir / new_id("enc")
    discarded.mkdir(parents=True)
    with state.database.session() as session:
        artifacts.discard_folder(session, f"encoders/{discarded.name}")
    _, garbage = home_tasks(state.database, settings, state.artifacts)
    garbage.start()
    eventually(lambda: not discarded.exists(), "the removal")
    garbage.stop()


def test_without_a_store_there_is_nothing_to_do(state, settings):
    settings.artifacts = ""
    assert home_tasks(state.database, settings, Artifacts(settings)) == []
