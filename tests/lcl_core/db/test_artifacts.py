"""From a run's end to a named place in the store, through faults and kills; and what they leave is found."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lcl_core.common.errors import UserError
from lcl_core.common.settings import Settings
from lcl_core.db import artifacts, complete_run, garbage, leases, outbox, runs
from lcl_core.db.models import ArtifactUpload, Garbage
from lcl_core.db.outbox import referenced_keys
from lcl_core.db.session import Database, now

WEIGHTS = b"weights" * 1000
ENCODER = {"path": "artifacts/encoder", "hash": hashlib.sha256(WEIGHTS).hexdigest()}
GRACE = 3600.0
Queue = Callable[..., str]
Take = Callable[..., leases.Claim]
Objects = Callable[[], dict[str, int]]


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """SQLite alone: test_deposits asks both databases."""
    return f"sqlite:///{tmp_path / 'lcl.db'}"


@pytest.fixture
def local_artifacts(tmp_path: Path, store_url: str) -> artifacts.Artifacts:
    return artifacts.Artifacts(Settings(home=tmp_path / "home", artifacts=store_url))


@pytest.fixture
def other(tmp_path: Path, store_url: str) -> artifacts.Artifacts:
    """Another machine: nothing in common but database and store."""
    return artifacts.Artifacts(Settings(home=tmp_path / "other home", artifacts=store_url))


@pytest.fixture
def ended(database: Database, queue: Queue, claim: Take, local_artifacts: artifacts.Artifacts) -> Callable[..., str]:
    """Settle a run that has made an encoder; its id."""

    def end(outcome: complete_run.RunOutcome | None = None) -> str:
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


def due_now(database: Database) -> None:
    with database.session() as session:
        for row in session.query(ArtifactUpload):
            row.next_at = now(session) - timedelta(seconds=1)


def row_of(database: Database, path: str) -> ArtifactUpload:
    with database.reading() as session:
        return session.get_one(ArtifactUpload, path)


def encoder_of(run_id: str) -> str:
    return f"encoders/{run_id.replace('run_', 'enc_')}"


@pytest.mark.parametrize("store_url", ["s3"], indirect=True)
def test_what_a_run_made_is_on_every_machine(
    database: Database,
    ended: Callable[..., str],
    local_artifacts: artifacts.Artifacts,
    other: artifacts.Artifacts,
    objects: Objects,
) -> None:
    run_id = ended()
    with database.reading() as session:
        assert outbox.runs_with_pending_uploads(session, [run_id]) == {run_id: None}
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
        assert outbox.runs_with_pending_uploads(session, [run_id]) == {}
        assert local_artifacts.find_remote_copy(session, encoder_of(run_id)) is None
        fetched = other.folder(session, encoder_of(run_id))
        assert fetched.is_relative_to(other.home / "cache")
        assert [path.name for path in fetched.iterdir()] == ["model.safetensors"]
        assert (fetched / "model.safetensors").read_bytes() == WEIGHTS
        part = other.folder(session, f"runs/{run_id}", "artifacts/encoder")
        assert (part / "model.safetensors").read_bytes() == WEIGHTS


def test_without_a_store_nothing_is_noted(
    database: Database, tmp_path: Path, queue: Queue, claim: Take, objects: Objects
) -> None:
    local_artifacts = artifacts.Artifacts(Settings(home=tmp_path / "home"))
    queue()
    complete_run.complete_run(
        database, claim(), complete_run.RunCancelled(), tmp_path, local_artifacts.home, 1.0, local_artifacts.holder
    )
    with database.reading() as session:
        assert session.query(ArtifactUpload).count() == 0
        assert local_artifacts.folder(session, "encoders/enc_x") == local_artifacts.home / "encoders" / "enc_x"
    assert not artifacts.upload_next(database, local_artifacts)


def test_a_store_that_is_away_holds_nothing_up_and_loses_nothing(
    database: Database,
    ended: Callable[..., str],
    local_artifacts: artifacts.Artifacts,
    run_of: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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
    database: Database,
    database_url: str,
    store_url: str,
    ended: Callable[..., str],
    local_artifacts: artifacts.Artifacts,
    objects: Objects,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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
    assert collected(database, local_artifacts) == set(), "and nobody takes it for garbage"
    assert not artifacts.upload_next(database, local_artifacts), "as if somebody were still at it"
    due_now(database)
    sent: list[str] = []
    files = local_artifacts.store._storage.files()[0]
    put_file = files.put_file
    monkeypatch.setattr(
        files, "put_file", lambda source, target, **more: (sent.append(Path(target).name), put_file(source, target))[1]
    )
    artifacts.upload_pending(database, local_artifacts)
    assert sent == ["metrics.jsonl"], "what was there stayed"
    assert row_of(database, f"runs/{run_id}").key == run
    assert f"{run}/manifest.json" in objects()


@pytest.fixture
def sending(
    database: Database, local_artifacts: artifacts.Artifacts, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[str]]:
    """Upload a folder of three files; ``during`` is called as each is sent, ten minutes after the one before."""
    path, clock = f"encoders/enc_{'0' * 18}", iter(range(0, 1 << 20, 600))
    monkeypatch.setattr(artifacts, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    folder = local_artifacts.home / path
    folder.mkdir(parents=True)
    for name in ("a", "b", "c"):
        (folder / name).write_text(name)
    with database.session() as session:
        outbox.enqueue_upload(session, path, 1, str(local_artifacts.holder))
    files, sent = local_artifacts.store._storage.files()[0], []
    put_file = files.put_file

    def put(source: str, target: str, **more: Any) -> None:
        sent.append(Path(source).name)
        during()
        put_file(source, target, **more)

    during: Callable[[], None]

    def send(act: Callable[[], None]) -> list[str]:
        nonlocal during
        during = act
        assert artifacts.upload_next(database, local_artifacts)
        return sent

    monkeypatch.setattr(files, "put_file", put)
    return send


def test_nobody_begins_an_upload_anew_that_goes_on(
    database: Database, local_artifacts: artifacts.Artifacts, sending: Callable[..., list[str]]
) -> None:
    begun: list[outbox.UploadTask | None] = []

    def claim_again() -> None:
        with database.session() as session:
            begun.append(outbox.claim_upload(session, str(local_artifacts.holder)))
        due_now(database)  # time has gone by

    assert sending(claim_again) == ["a", "b", "c"]
    assert begun == [None, None, None]
    assert row_of(database, f"encoders/enc_{'0' * 18}").pending is None


def test_an_upload_that_another_has_begun_anew_stops_after_the_file(
    database: Database,
    local_artifacts: artifacts.Artifacts,
    sending: Callable[..., list[str]],
    objects: Objects,
) -> None:
    def lose() -> None:
        due_now(database)
        with database.session() as session:
            assert outbox.claim_upload(session, str(local_artifacts.holder)) is not None

    assert sending(lose) == ["a"]
    row = row_of(database, f"encoders/enc_{'0' * 18}")
    assert (row.pending, row.attempts, row.error) == (1, 2, None), "the other's"
    assert {Path(name).name for name in objects()} == {"a"}


def collected(database: Database, local_artifacts: artifacts.Artifacts) -> set[str]:
    """What goes once everything that is garbage now has been known for longer than the grace."""
    garbage.record_garbage(database, local_artifacts.home, GRACE, local_artifacts.store.iter_keys())
    with database.session() as session:
        for row in session.query(Garbage):
            row.seen_at = now(session) - timedelta(seconds=GRACE + 1)
    found = garbage.collect_garbage(
        database, local_artifacts.home, GRACE, local_artifacts.store, local_artifacts.store.iter_keys()
    )
    return {leftover.path for leftover in found}


@pytest.mark.parametrize("store_url", ["memory", "s3"], indirect=True)
def test_objects_that_no_row_names_are_found_kept_for_their_grace_and_removed(
    database: Database, ended: Callable[..., str], local_artifacts: artifacts.Artifacts, objects: Objects
) -> None:
    run_id = ended()
    artifacts.upload_pending(database, local_artifacts)
    orphan = f"runs/run_{'0' * 18}/3"
    local_artifacts.store.put(orphan, local_artifacts.home / "runs" / run_id, {})
    [found] = garbage.list_garbage(database, local_artifacts.home, GRACE, local_artifacts.store.iter_keys())
    assert (found.path, found.due) == (f"store/{orphan}", False)
    assert found.bytes > len(WEIGHTS)
    assert (
        garbage.collect_garbage(
            database, local_artifacts.home, GRACE, local_artifacts.store, local_artifacts.store.iter_keys()
        )
        == []
    )
    assert collected(database, local_artifacts) == {f"store/{orphan}"}
    assert {name.split("/")[0] for name in objects()} == {"encoders", "runs"}
    with database.session() as session:
        runs.delete_run(session, run_id)
    assert collected(database, local_artifacts) == {f"runs/{run_id}", f"store/runs/{run_id}/1"}
    assert {name.split("/")[0] for name in objects()} == {"encoders"}, "what it made stays"


def test_the_garbage_of_one_home_is_not_forgotten_by_another(
    database: Database, local_artifacts: artifacts.Artifacts, other: artifacts.Artifacts
) -> None:
    (local_artifacts.home / "runs" / f"run_{'0' * 18}").mkdir(parents=True)
    garbage.collect_garbage(database, local_artifacts.home, GRACE)
    garbage.collect_garbage(database, other.home, GRACE)
    [found] = garbage.list_garbage(database, local_artifacts.home, GRACE)
    assert found.seen_at is not None
    assert garbage.list_garbage(database, other.home, GRACE) == []


def test_a_run_that_ends_again_elsewhere_is_read_from_there(
    database: Database,
    ended: Callable[..., str],
    claim: Take,
    local_artifacts: artifacts.Artifacts,
    other: artifacts.Artifacts,
) -> None:
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
        assert referenced_keys(session, {f"runs/{run_id}"}) == {f"runs/{run_id}/2"}
        assert other.find_remote_copy(session, f"runs/{run_id}") is None
    assert collected(database, local_artifacts) == {f"store/runs/{run_id}/1"}
