"""The store itself: what is in it is what was sent, whatever happens on the way."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from lcl_core.common.errors import UserError
from lcl_core.db import artifact_store as module
from lcl_core.db.artifact_store import ArtifactStore

DIGITS = "0" * 18
PLACE = f"encoders/enc_{DIGITS}/1"
EVERYWHERE = pytest.mark.parametrize("store_url", ["memory", "file", "s3"], indirect=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
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


def whole(target_store: ArtifactStore, place: str, name: str, size: int) -> bytes:
    return b"".join(target_store.read_stream(place, name, 0, size))


@EVERYWHERE
def test_a_folder_goes_there_and_comes_back(store_url: str, folder: Path, objects: Callable[[], Any]) -> None:
    target_store = ArtifactStore(store_url)
    files = target_store.put(PLACE, folder, {})
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
    assert dict(target_store.iter_keys()) == {PLACE: sum(objects().values())}
    target_store.remove(PLACE)
    target_store.remove(PLACE)
    assert (objects(), dict(target_store.iter_keys())) == ({}, {})


@EVERYWHERE
def test_ranges_are_read_as_ranges(store_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 100)
    data = bytes(range(256)) * 4
    (folder / "log.txt").write_bytes(data)
    target_store = ArtifactStore(store_url)
    target_store.put(PLACE, folder, {})
    chunks = list(target_store.read_stream(PLACE, "log.txt", 150, 420))
    assert [len(chunk) for chunk in chunks] == [100, 100, 70]
    assert b"".join(chunks) == data[150:420]
    with pytest.raises(UserError) as caught:
        list(target_store.read_stream(PLACE, "gone", 0, 5))
    assert caught.value.code == "file_missing"


class Counted:
    """The calls of a file system that send bytes, by the last part of the name."""

    def __init__(self, target_store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[str] = []
        self.copied: list[str] = []
        files = target_store._storage.files()[0]
        for method, names in (("put_file", self.sent), ("cp_file", self.copied)):
            monkeypatch.setattr(files, method, self._counted(getattr(files, method), names))

    def _counted(self, method: Callable[..., Any], names: list[str]) -> Callable[..., Any]:
        def call(source: str, target: str, **more: Any) -> Any:
            names.append(target.rpartition("/")[2])
            return method(source, target, **more)

        return call


@EVERYWHERE
def test_the_same_bytes_are_not_sent_twice(store_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target_store = ArtifactStore(store_url)
    encoder = folder / "artifacts" / "encoder"
    made = target_store.put(PLACE, encoder, {})
    counted = Counted(target_store, monkeypatch)
    assert target_store.put(PLACE, encoder, {}) == made
    assert (counted.sent, counted.copied) == ([], [])
    twins = {facts["sha256"]: (PLACE, name) for name, facts in made.items()}
    run = f"runs/run_{DIGITS}/1"
    files = target_store.put(run, folder, twins)
    assert "model.safetensors" in counted.copied
    assert not {"model.safetensors", "config.json"} & set(counted.sent) or store_url.startswith("file")
    assert whole(target_store, run, "artifacts/encoder/model.safetensors", 1000) == b"w" * 1000
    assert len(files) == 7


def test_a_twin_that_is_gone_is_no_harm(store_url: str, folder: Path) -> None:
    target_store = ArtifactStore(store_url)
    digest = hashlib.sha256(b"said").hexdigest()
    target_store.put(PLACE, folder, {digest: ("encoders/enc_gone/1", "log.txt")})
    assert whole(target_store, PLACE, "log.txt", 4) == b"said"


@EVERYWHERE
def test_what_arrives_damaged_is_told_and_mended_by_the_next_try(
    store_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target_store = ArtifactStore(store_url)
    files = target_store._storage.files()[0]
    put_file = files.put_file

    def damage(source: str, target: str, **more: Any) -> None:
        put_file(source, target, **more)
        if target.endswith("log.txt"):
            files.pipe_file(target, b"sair")

    with monkeypatch.context() as patch:
        patch.setattr(files, "put_file", damage)
        with pytest.raises(UserError) as caught:
            target_store.put(PLACE, folder, {})
    assert caught.value.code == "artifact_damaged"
    assert f"{PLACE}/manifest.json" not in target_store._sizes("")
    target_store.put(PLACE, folder, {})
    assert whole(target_store, PLACE, "log.txt", 4) == b"said"


@pytest.mark.parametrize("store_url", ["file", "memory"], indirect=True)
def test_a_file_in_the_store_is_whole_while_it_is_sent_again(
    store_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target_store = ArtifactStore(store_url)
    target_store.put(PLACE, folder, {})
    (folder / "log.txt").write_bytes(b"more than was said")
    files = target_store._storage.files()[0]
    monkeypatch.setattr(target_store._storage, "_first_wait", 0.0)

    def break_off(source: str, target: str, **more: Any) -> None:
        files.pipe_file(target, b"mo")
        raise ConnectionError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(files, "put_file", break_off)
        with pytest.raises(UserError, match="cut off"):
            target_store.put(PLACE, folder, {})
    assert whole(target_store, PLACE, "log.txt", 4) == b"said"
    assert any("/incoming/" in name for name in target_store._sizes(PLACE))
    target_store.put(PLACE, folder, {})
    assert whole(target_store, PLACE, "log.txt", 18) == b"more than was said"
    assert not any("/incoming/" in name for name in target_store._sizes(PLACE))


@EVERYWHERE
def test_progress_ends_an_upload_between_two_files(
    store_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target_store = ArtifactStore(store_url)
    calls: list[int] = []
    counted = Counted(target_store, monkeypatch)
    target_store.put(PLACE, folder, {}, lambda: calls.append(len(counted.sent)))
    sent = len(counted.sent)
    assert set(calls) == set(range(sent + 1)), "before each file, and after the last"

    class Stopped(Exception):
        pass

    def stop() -> None:
        if counted.sent:
            raise Stopped

    counted.sent.clear()
    with pytest.raises(Stopped):
        target_store.put(PLACE.replace("/1", "/2"), folder, {}, stop)
    assert len(counted.sent) == 1


def test_what_progress_raises_during_a_file_is_no_error_of_the_store(
    store_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target_store = ArtifactStore(store_url)
    files = target_store._storage.files()[0]
    put_file, tries = files.put_file, []

    def report(source: str, target: str, *, callback: Any) -> None:
        tries.append(target)
        for _ in range(3):
            callback.relative_update(1)
        put_file(source, target)

    def lose() -> None:
        if tries:
            raise RuntimeError("another has it")

    monkeypatch.setattr(files, "put_file", report)
    with pytest.raises(RuntimeError, match="another has it"):
        target_store.put(PLACE, folder, {}, lose)
    assert len(tries) == 1


def test_only_names_of_ours_are_looked_at(store_url: str) -> None:
    store, path = fsspec.core.url_to_fs(store_url)
    for name in ("precious", "runs/run_x/1/a", f"runs/run_{DIGITS}/a", f"else/enc_{DIGITS}/1/a", f"{PLACE}/files/a"):
        store.pipe_file(f"{path}/{name}", b"xyz")
    assert dict(ArtifactStore(store_url).iter_keys()) == {PLACE: 3}


def test_a_store_that_is_away_is_told_after_retries(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        ArtifactStore("s3://bucket/x").put(PLACE, folder, {})
    assert caught.value.code == "store_unreachable"
    assert "sesame" not in str(caught.value)
    s3.clear_instance_cache()
