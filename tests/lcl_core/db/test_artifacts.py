"""From a run's end to a named copy in the store and to another machine, through faults and kills."""

import hashlib
from datetime import timedelta

import pytest

from lcl_core.common.errors import UserError
from lcl_core.common.settings import Settings
from lcl_core.db import artifacts, complete_run, runs
from lcl_core.db.models import ArtifactUpload, Garbage
from lcl_core.db.session import now

WEIGHTS = b"weights" * 1000
ENCODER = {"path": "artifacts/encoder", "hash": hashlib.sha256(WEIGHTS).hexdigest()}
OTHER = "b" * 32


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
    """Complete a run that has made an encoder; its id."""

    def end(outcome=None):
        run_id = queue()
        folder = local_artifacts.home / "runs" / run_id
        files = {
            "artifacts/encoder/model.safetensors": WEIGHTS, "artifacts/.hidden": b"", "log.txt": b"it went well",
            "metrics.jsonl": b"{}", "run.json": b"paths", "checkpoints/1/state": b"large",
        }  # fmt: skip
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        (folder / "artifacts" / "link").symlink_to("/etc/passwd")
        outcome = outcome or complete_run.RunSucceeded({"encoder": ENCODER})
        complete_run.complete_run(database, claim(), outcome, folder, local_artifacts.home, 1.0, local_artifacts.holder)
        return run_id

    return end


def upload_all(database, of_home):
    while artifacts.upload_next(database, of_home):
        pass


def due_now(database):
    with database.session() as session:
        for row in session.query(ArtifactUpload):
            row.next_at = now(session) - timedelta(seconds=1)


def row_of(database, path):
    with database.reading() as session:
        return session.get_one(ArtifactUpload, path)


def encoder_of(run_id):
    return f"encoders/{run_id.replace('run_', 'enc_')}"


@pytest.mark.parametrize("store_url", ["memory", "file", "s3"], indirect=True)
def test_what_a_run_made_is_on_every_machine(database, ended, local_artifacts, other, objects, monkeypatch):
    run_id = ended()
    with database.reading() as session:
        assert artifacts.runs_with_pending_uploads(session, [run_id, "run_2"]) == {run_id: None}
        assert artifacts.pending_uploads(session)[0] == 2
        with pytest.raises(UserError) as caught:
            other.folder(session, encoder_of(run_id))
    assert caught.value.code == "artifacts_pending"
    assert not artifacts.upload_next(database, other), "it has not the files"
    assert artifacts.upload_next(database, local_artifacts)
    encoder, run = f"{encoder_of(run_id)}/1", f"runs/{run_id}/1"
    assert set(objects()) == {f"{encoder}/files/model.safetensors"}, "outputs come before the folders of runs"
    upload_all(database, local_artifacts)
    assert {name for name in objects() if name.startswith(run)} == {
        f"{run}/files/{name}" for name in ("artifacts/encoder/model.safetensors", "log.txt", "metrics.jsonl")
    }
    monkeypatch.setattr(artifacts, "CHUNK", 100)
    with database.reading() as session:
        assert artifacts.runs_with_pending_uploads(session, [run_id]) == {}
        assert local_artifacts.find_remote_copy(session, encoder_of(run_id)) is None
        fetched = other.folder(session, encoder_of(run_id))
        assert fetched.is_relative_to(other.home / "cache")
        assert [path.name for path in fetched.iterdir()] == ["model.safetensors"]
        part = other.folder(session, f"runs/{run_id}", "artifacts/encoder")
        source = local_artifacts.home / "runs" / run_id / "artifacts" / "encoder" / "model.safetensors"
        assert (part / "model.safetensors").read_bytes() == WEIGHTS
        assert (part / "model.safetensors").stat().st_mtime == pytest.approx(source.stat().st_mtime)
    assert b"".join(other.store.read_stream(run, "log.txt", 3, 7)) == b"went"
    for _ in range(2):
        local_artifacts.store.remove(run)
    assert not [name for name in objects() if name.startswith(run)]


def test_a_copy_with_other_bytes_is_refused_and_not_kept(database, ended, local_artifacts, other):
    path = encoder_of(ended())
    upload_all(database, local_artifacts)
    file = other.home / "x"
    file.parent.mkdir(parents=True)
    for data in (WEIGHTS[::-1], b"short"):
        file.write_bytes(data)
        other.store.send_file(f"{path}/1", "model.safetensors", file)
        with database.reading() as session, pytest.raises(UserError) as caught:
            other.folder(session, path)
        assert caught.value.code == "artifact_damaged"
    assert not list((other.home / "cache" / "artifacts").glob("*/"))


def test_without_a_store_nothing_is_enqueued(database, tmp_path, queue, claim):
    local = artifacts.Artifacts(Settings(home=tmp_path / "home"))
    queue()
    complete_run.complete_run(database, claim(), complete_run.RunCancelled(), tmp_path, local.home, 1.0, local.holder)
    with database.reading() as session:
        assert session.query(ArtifactUpload).count() == 0
        assert local.folder(session, "encoders/enc_x") == local.home / "encoders" / "enc_x"
    assert not artifacts.upload_next(database, local)


def test_a_store_that_does_not_answer_delays_no_run_and_loses_nothing(database, ended, local_artifacts, run_of):
    run_id = ended()
    files, storage = local_artifacts.store._storage.files()[0], local_artifacts.store._storage
    waits = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "_first_wait", 0.0)
        patch.setattr(files, "put_file", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("refused")))
        upload_all(database, local_artifacts)
        for _ in range(4):
            row = row_of(database, encoder_of(run_id))
            with database.reading() as session:
                waits.append(round((row.next_at - now(session)).total_seconds()))
            due_now(database)
            upload_all(database, local_artifacts)
    assert run_of(run_id).state == "succeeded"
    assert waits == [2, 4, 8, 16]
    for path in (encoder_of(run_id), f"runs/{run_id}"):
        row = row_of(database, path)
        assert (row.key, row.pending) == (None, 1)
        with pytest.raises(UserError, match="refused"):
            artifacts.require_uploaded(row)
    due_now(database)
    upload_all(database, local_artifacts)
    assert row_of(database, f"runs/{run_id}").key == f"runs/{run_id}/1"


def test_an_upload_in_progress_is_begun_by_no_other_process(database, local_artifacts, monkeypatch):
    path = f"encoders/enc_{'0' * 18}"
    folder = local_artifacts.home / path
    folder.mkdir(parents=True)
    for name in ("a", "b", "c"):
        (folder / name).write_text(name)
    with database.session() as session:
        artifacts.enqueue_upload(session, path, 1, str(local_artifacts.holder))
    files, begun = local_artifacts.store._storage.files()[0], []
    put_file = files.put_file

    def upload_again(source, target, **more):
        monkeypatch.setattr(files, "put_file", put_file)
        begun.append(artifacts.upload_next(database, local_artifacts))
        monkeypatch.setattr(files, "put_file", upload_again)
        due_now(database)  # ten minutes for each file
        put_file(source, target, **more)

    monkeypatch.setattr(files, "put_file", upload_again)
    assert artifacts.upload_next(database, local_artifacts)
    assert begun == [False, False, False]
    assert row_of(database, path).pending is None


def test_a_run_that_ends_again_elsewhere_is_read_from_there(database, ended, claim, local_artifacts, other):
    run_id = ended(complete_run.RunFailed({"code": "crash", "message": "it fell over"}))
    upload_all(database, local_artifacts)
    with database.session() as session:
        runs.resume_run(session, run_id)
    folder = other.home / "runs" / run_id
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text("the second time")
    complete_run.complete_run(database, claim(), complete_run.RunCancelled(), folder, other.home, 1.0, other.holder)
    assert row_of(database, f"runs/{run_id}").key == f"runs/{run_id}/1", "until the new files are in the store"
    upload_all(database, other)
    assert row_of(database, f"runs/{run_id}").key == f"runs/{run_id}/2"
    with database.reading() as session:
        assert local_artifacts.find_remote_copy(session, f"runs/{run_id}") is not None
        assert other.find_remote_copy(session, f"runs/{run_id}") is None


def test_a_deleted_run_leaves_its_folder_and_its_copies_to_be_removed(database, queue):
    run_id = queue()
    with database.session() as session:
        artifacts.enqueue_upload(session, f"runs/{run_id}", 1, OTHER)
        runs.cancel_run(session, run_id)
    with database.session() as session:
        runs.delete_run(session, run_id)
        found = {(row.home, row.path) for row in session.query(Garbage)}
        assert session.query(ArtifactUpload).count() == 0
    digits = run_id.removeprefix("run_")
    assert found == {
        (OTHER, f"runs/{run_id}"),
        (artifacts.STORE, f"runs/{run_id}"),
        (artifacts.STORE, f"checkpoints/{run_id}"),
        *(
            (artifacts.ANY_HOME, f"{folder}_{digits}")
            for folder in ("encoders/enc", "collections/col", "datasets/data")
        ),
    }
