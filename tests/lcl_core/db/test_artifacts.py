"""From a run's end to a named place in the store, through faults and kills; and what they leave is found."""

import hashlib
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from lcl_core.common.errors import UserError
from lcl_core.common.settings import Settings
from lcl_core.db import artifacts, complete_run, runs, uploads
from lcl_core.db.models import ArtifactUpload
from lcl_core.db.session import now

WEIGHTS = b"weights" * 1000
ENCODER = {"path": "artifacts/encoder", "hash": hashlib.sha256(WEIGHTS).hexdigest()}


@pytest.fixture
def database_url(tmp_path):
    return f"sqlite:///{tmp_path / 'lcl.db'}"


@pytest.fixture
def local_artifacts(tmp_path, store_url):
    return artifacts.Artifacts(Settings(home=tmp_path / "home", artifacts=store_url))


@pytest.fixture
def other(tmp_path, store_url):
    """Another machine: nothing in common but database and store."""
    return artifacts.Artifacts(Settings(home=tmp_path / "other home", artifacts=store_url))


@pytest.fixture
def ended(database, queue, claim, local_artifacts):
    """Settle a run that has made an encoder; its id."""

    def end(outcome=None):
        run_id = queue()
        folder = local_artifacts.home / "runs" / run_id
        (folder / "artifacts" / "encoder").mkdir(parents=True)
        (folder / "artifacts" / "encoder" / "model.safetensors").write_bytes(WEIGHTS)
        (folder / "log.txt").write_text("it went well")
        (folder / "metrics.jsonl").write_text("{}")
        outcome = outcome or complete_run.RunSucceeded({"encoder": ENCODER})
        complete_run.complete_run(database, claim(), outcome, folder, local_artifacts.home, 1.0, local_artifacts.holder)
        return run_id

    return end


def due_now(database):
    with database.session() as session:
        for row in session.query(ArtifactUpload):
            row.next_at = now(session) - timedelta(seconds=1)


def row_of(database, path):
    with database.reading() as session:
        return session.get_one(ArtifactUpload, path)


def encoder_of(run_id):
    return f"encoders/{run_id.replace('run_', 'enc_')}"


@pytest.mark.parametrize("store_url", ["s3"], indirect=True)
def test_what_a_run_made_is_on_every_machine(database, ended, local_artifacts, other, objects):
    run_id = ended()
    with database.reading() as session:
        assert uploads.runs_with_pending_uploads(session, [run_id]) == {run_id: None}
        with pytest.raises(UserError) as caught:
            other.folder(session, encoder_of(run_id))
    assert caught.value.code == "artifacts_pending"
    assert objects() == {}
    assert not artifacts.upload_next(database, other), "it has not the files"
    artifacts.upload_pending(database, local_artifacts)
    encoder, run = f"{encoder_of(run_id)}/1", f"runs/{run_id}/1"
    assert set(objects()) == {
        f"{encoder}/files/model.safetensors", f"{encoder}/manifest.json",
        f"{run}/files/artifacts/encoder/model.safetensors", f"{run}/files/log.txt", f"{run}/files/metrics.jsonl",
        f"{run}/manifest.json",
    }  # fmt: skip
    with database.reading() as session:
        assert uploads.runs_with_pending_uploads(session, [run_id]) == {}
        assert local_artifacts.find_remote_copy(session, encoder_of(run_id)) is None
        fetched = other.folder(session, encoder_of(run_id))
        assert fetched.is_relative_to(other.home / "cache")
        assert [path.name for path in fetched.iterdir()] == ["model.safetensors"]
        assert (fetched / "model.safetensors").read_bytes() == WEIGHTS
        part = other.folder(session, f"runs/{run_id}", "artifacts/encoder")
        assert (part / "model.safetensors").read_bytes() == WEIGHTS


def test_without_a_store_nothing_is_noted(database, tmp_path, queue, claim, objects):
    local_artifacts = artifacts.Artifacts(Settings(home=tmp_path / "home"))
    queue()
    complete_run.complete_run(
        database, claim(), complete_run.RunCancelled(), tmp_path, local_artifacts.home, 1.0, local_artifacts.holder
    )
    with database.reading() as session:
        assert session.query(ArtifactUpload).count() == 0
        assert local_artifacts.folder(session, "encoders/enc_x") == local_artifacts.home / "encoders" / "enc_x"
    assert not artifacts.upload_next(database, local_artifacts)


def test_a_store_that_is_away_holds_nothing_up_and_loses_nothing(database, ended, local_artifacts, run_of, monkeypatch):
    run_id = ended()
    files = local_artifacts.store._storage.files()[0]
    with monkeypatch.context() as patch:
        patch.setattr(local_artifacts.store._storage, "_first_wait", 0.0)
        patch.setattr(files, "find", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("refused")))
        artifacts.upload_pending(database, local_artifacts)
    assert run_of(run_id).state == "succeeded"
    for path in (encoder_of(run_id), f"runs/{run_id}"):
        row = row_of(database, path)
        assert (row.key, row.pending, row.attempts) == (None, 1, 1)
        assert "refused" in str(row.error)
    assert not artifacts.upload_next(database, local_artifacts), "not at once"
    due_now(database)
    artifacts.upload_pending(database, local_artifacts)
    assert row_of(database, f"runs/{run_id}").key == f"runs/{run_id}/1"
    assert row_of(database, encoder_of(run_id)).error is None


KILLED = """
import sys, time
from lcl_core.db import artifacts
from lcl_core.db.session import Database
from lcl_core.common.settings import Settings

local_artifacts = artifacts.Artifacts(Settings(home=sys.argv[1], artifacts=sys.argv[2]))
files = local_artifacts.store._storage.files()[0]
put_file = files.put_file

def slow(source, target, **more):
    if target.endswith("metrics.jsonl"):
        print("half", flush=True)
        time.sleep(600)
    put_file(source, target, **more)

files.put_file = slow
artifacts.upload_pending(Database(sys.argv[3]), local_artifacts)
"""


@pytest.mark.parametrize("store_url", ["file"], indirect=True)
def test_an_upload_that_is_killed_is_taken_up_where_it_broke(
    database, database_url, store_url, ended, local_artifacts, objects, monkeypatch
):
    run_id = ended()
    arguments = [sys.executable, "-c", KILLED, str(local_artifacts.home), store_url, database_url]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = next((line for line in process.stdout if line == "half\n"), None)
        process.kill()
    assert said is not None, "it ended by itself"
    run = f"runs/{run_id}/1"
    assert {name for name in objects() if name.startswith(run)} == {f"{run}/files/log.txt"}
    assert row_of(database, f"runs/{run_id}").key is None, "no row names half of it"
    assert not artifacts.upload_next(database, local_artifacts), "as if somebody were still at it"
    due_now(database)
    sent = []
    files = local_artifacts.store._storage.files()[0]
    put_file = files.put_file
    monkeypatch.setattr(
        files, "put_file", lambda source, target, **more: (sent.append(Path(target).name), put_file(source, target))[1]
    )
    artifacts.upload_pending(database, local_artifacts)
    assert "log.txt" not in sent, "what was there stayed"
    assert row_of(database, f"runs/{run_id}").key == run
    assert f"{run}/manifest.json" in objects()


def test_nobody_begins_an_upload_anew_that_goes_on(database, local_artifacts, monkeypatch):
    path = f"encoders/enc_{'0' * 18}"
    folder = local_artifacts.home / path
    folder.mkdir(parents=True)
    for name in ("a", "b", "c"):
        (folder / name).write_text(name)
    with database.session() as session:
        uploads.enqueue_upload(session, path, 1, str(local_artifacts.holder))
    files, begun = local_artifacts.store._storage.files()[0], []
    put_file = files.put_file

    def claim_again(source, target, **more):
        with database.session() as session:
            begun.append(uploads.claim_upload(session, str(local_artifacts.holder)))
        due_now(database)  # ten minutes for each file
        put_file(source, target, **more)

    monkeypatch.setattr(files, "put_file", claim_again)
    assert artifacts.upload_next(database, local_artifacts)
    assert begun == [None, None, None]
    assert row_of(database, path).pending is None


def test_a_run_that_ends_again_elsewhere_is_read_from_there(database, ended, claim, local_artifacts, other):
    run_id = ended(complete_run.RunFailed({"code": "crash", "message": "it fell over"}))
    artifacts.upload_pending(database, local_artifacts)
    with database.session() as session:
        runs.resume_run(session, run_id)
    folder = other.home / "runs" / run_id
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text("the second time")
    complete_run.complete_run(database, claim(), complete_run.RunCancelled(), folder, other.home, 1.0, other.holder)
    artifacts.upload_pending(database, other)
    with database.reading() as session:
        there = local_artifacts.find_remote_copy(session, f"runs/{run_id}")
        assert there is not None
        assert there.key == f"runs/{run_id}/2"
        assert other.find_remote_copy(session, f"runs/{run_id}") is None


def test_a_home_keeps_its_id(tmp_path):
    first = artifacts.home_id(tmp_path / "home")
    assert len(first) == 32
    assert artifacts.home_id(tmp_path / "home") == first != artifacts.home_id(tmp_path / "other")
