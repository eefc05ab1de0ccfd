"""The store itself: what is in it is what was sent, whatever happens on the way."""

import hashlib
import json
import socket

import fsspec
import pytest

from lcl_core.common.errors import UserError
from lcl_core.db import artifact_store as module
from lcl_core.db.artifact_store import ArtifactStore

DIGITS = "0" * 18
PLACE = f"encoders/enc_{DIGITS}/1"
EVERYWHERE = pytest.mark.parametrize("store_url", ["memory", "file", "s3"], indirect=True)


@pytest.fixture
def folder(tmp_path):
    """A run's folder, with much that is nobody's business."""
    folder = tmp_path / "runs" / "run_x"
    contents = {
        "artifacts/encoder/model.safetensors": b"w" * 1000, "artifacts/encoder/config.json": b"{}",
        "artifacts/empty": b"", "artifacts/ünïcode name.txt": b"x", "log.txt": b"said", "metrics.jsonl": b"{}\n",
        "result.json": b"{}", "run.json": b"secret places", "checkpoints/1/state": b"large", "artifacts/.hidden": b"no",
    }  # fmt: skip
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "artifacts" / "link").symlink_to("/etc/passwd")
    return folder


def whole(target_store, place, name, size):
    return b"".join(target_store.read_stream(place, name, 0, size))


@EVERYWHERE
def test_a_folder_goes_there_and_comes_back(store_url, folder, objects):
    target_store = ArtifactStore(store_url)
    files = target_store.put(PLACE, folder)
    assert set(files) == {
        "artifacts/encoder/model.safetensors", "artifacts/encoder/config.json", "artifacts/empty",
        "artifacts/ünïcode name.txt", "log.txt", "metrics.jsonl", "result.json",
    }  # fmt: skip
    for name, facts in files.items():
        data = (folder / name).read_bytes()
        assert (facts["bytes"], facts["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert whole(target_store, PLACE, name, len(data)) == data
    assert set(objects()) == {f"{PLACE}/manifest.json", *(f"{PLACE}/files/{name}" for name in files)}
    store, path = fsspec.core.url_to_fs(store_url)
    assert json.loads(store.cat_file(f"{path}/{PLACE}/manifest.json")) == {"format": 1, "files": files}
    target_store.remove(PLACE)
    target_store.remove(PLACE)
    assert objects() == {}


@EVERYWHERE
def test_ranges_are_read_as_ranges(store_url, folder, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 100)
    data = bytes(range(256)) * 4
    (folder / "log.txt").write_bytes(data)
    target_store = ArtifactStore(store_url)
    target_store.put(PLACE, folder)
    chunks = list(target_store.read_stream(PLACE, "log.txt", 150, 420))
    assert [len(chunk) for chunk in chunks] == [100, 100, 70]
    assert b"".join(chunks) == data[150:420]
    with pytest.raises(UserError) as caught:
        list(target_store.read_stream(PLACE, "gone", 0, 5))
    assert caught.value.code == "file_missing"


class Counted:
    """The calls of a file system that send bytes, by the last part of the name."""

    def __init__(self, target_store, monkeypatch):
        self.sent = []
        files = target_store._storage.files()[0]
        monkeypatch.setattr(files, "put_file", self._counted(files.put_file, self.sent))

    def _counted(self, method, names):
        def call(source, target, **more):
            names.append(target.rpartition("/")[2])
            return method(source, target, **more)

        return call


@EVERYWHERE
def test_the_same_bytes_are_not_sent_twice(store_url, folder, monkeypatch):
    target_store = ArtifactStore(store_url)
    encoder = folder / "artifacts" / "encoder"
    made = target_store.put(PLACE, encoder)
    counted = Counted(target_store, monkeypatch)
    assert target_store.put(PLACE, encoder) == made
    assert counted.sent == []


def test_progress_is_called_before_each_file(store_url, folder, monkeypatch):
    target_store, calls = ArtifactStore(store_url), []
    counted = Counted(target_store, monkeypatch)
    target_store.put(PLACE, folder, lambda: calls.append(len(counted.sent)))
    assert calls == list(range(len(counted.sent)))


def test_a_store_that_is_away_is_told_after_retries(folder, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}"
    names = {"AWS_ENDPOINT_URL": nobody, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "sesame"}
    for name, value in {**names, "AWS_MAX_ATTEMPTS": "1", "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    s3 = pytest.importorskip("s3fs").S3FileSystem
    monkeypatch.setattr(s3, "retries", 1)  # it would wait for half a minute, as long as a user may
    s3.clear_instance_cache()
    with pytest.raises(UserError) as caught:
        ArtifactStore("s3://bucket/x").put(PLACE, folder)
    assert caught.value.code == "store_unreachable"
    assert "sesame" not in str(caught.value)
    s3.clear_instance_cache()
