"""What nothing names is found, kept for its grace, and removed; what anything names never is."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from lcl_core.common.files import stage
from lcl_core.common.run_dir import RunDir
from lcl_core.db import datasets, garbage, leases, runs, studies
from lcl_core.db.artifacts import home_id
from lcl_core.db.models import CollectionRow, Dataset, DatasetVersion, EncoderRow, Garbage, new_id, output_id
from lcl_core.db.session import Database, now
from lcl_core.specs.parsing import parse_as
from lcl_core.specs.study import StudySpec
from workers.prepare_run import prepare_run_dir
from workers.settings import WorkerSettings

GRACE = 3600.0
ENCODERS = "encoders"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def put(home: Path, place: str, size: int = 10) -> str:
    folder = home / place / "inner"
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(b"x" * size)
    return place


def paths(database: Database, home: Path) -> dict[str, bool]:
    """What is unnamed, and whether it is due."""
    return {found.path: found.due for found in garbage.list_garbage(database, home, GRACE)}


def collected(database: Database, home: Path) -> set[str]:
    """What goes once everything that is garbage now has been known for longer than the grace."""
    garbage.record_garbage(database, home, GRACE)
    with database.session() as session:
        for row in session.query(Garbage):
            row.seen_at = now(session) - timedelta(seconds=GRACE + 1)
    return {leftover.path for leftover in garbage.collect_garbage(database, home, GRACE)}


def test_a_folder_is_kept_for_its_grace_and_then_removed(database: Database, home: Path) -> None:
    orphan = put(home, f"runs/{new_id('run')}", size=1234)
    [found] = garbage.list_garbage(database, home, GRACE)
    assert (found.path, found.bytes, found.seen_at, found.due) == (orphan, 1234, None, False)
    assert garbage.collect_garbage(database, home, GRACE) == []
    assert (home / orphan).is_dir()
    assert collected(database, home) == {orphan}
    assert not (home / orphan).exists()
    assert garbage.collect_garbage(database, home, GRACE) == []
    with database.reading() as session:
        assert session.query(Garbage).count() == 0, "what is gone is forgotten"


def test_what_a_row_names_stays(database: Database, home: Path, queue: Callable[..., str]) -> None:
    run_id = queue()
    named = {kind: f"{folder}/{new_id(kind)}" for kind, folder in (("enc", ENCODERS), ("col", "collections"))}
    old, new = (f"datasets/{new_id('data')}" for _ in range(2))
    with database.session() as session:
        facts: dict[str, Any] = {"owner": "ada", "created_at": now(session)}
        session.add(EncoderRow(id="enc_1", name="e", path=named["enc"], hash="h", identity="h", info={}, **facts))
        session.add(
            CollectionRow(
                id="c",
                name="c",
                path=named["col"],
                encoder_hash="",
                encoder_identity="",
                images=1,
                texts=1,
                dim=1,
                **facts,
            )
        )
        session.add(Dataset(name="d", path=new, **facts))
        session.flush()
        for version, path in ((1, old), (2, new)):
            session.add(DatasetVersion(name="d", version=version, path=path, content_hash="h", **facts))
    kept = [put(home, place) for place in (f"runs/{run_id}", *named.values(), old, new)]
    assert collected(database, home) == set()
    assert all((home / place).is_dir() for place in kept)


def test_only_what_bears_the_services_own_names_is_looked_at(database: Database, home: Path, tmp_path: Path) -> None:
    for place in ("encoders/my_export", "datasets/data_2024", "runs/run_x", "data/enc_000000000000000000", "logs/x"):
        put(home, place)
    elsewhere = tmp_path / "precious"
    put(tmp_path, "precious")
    (home / ENCODERS / new_id("enc")).symlink_to(elsewhere)
    (home / "runs" / new_id("run")).write_text("a file, not a folder")
    assert paths(database, home) == {}


def test_a_link_inside_is_removed_and_what_it_leads_to_stays(database: Database, home: Path, tmp_path: Path) -> None:
    orphan = put(home, f"runs/{new_id('run')}")
    put(tmp_path, "precious")
    (home / orphan / "link").symlink_to(tmp_path / "precious")
    assert collected(database, home) == {orphan}
    assert (tmp_path / "precious" / "inner" / "file").exists()


@pytest.mark.parametrize(("state", "wanted"), [("failed", True), ("running", True), ("succeeded", False)])
def test_what_a_run_may_still_make_again_is_kept(
    database: Database, home: Path, queue: Callable[..., str], state: str, wanted: bool
) -> None:
    run_id = queue()
    with database.session() as session:
        runs.get_run(session, run_id).state = state
    encoder = output_id("enc", run_id)
    left = {put(home, f"{ENCODERS}/{encoder}"), put(home, f"{ENCODERS}/.{encoder}.0badcafe")}
    assert collected(database, home) == (set() if wanted else left)


def test_a_folder_that_a_dataset_has_left_stays_until_every_run_that_reads_it_has_ended(
    database: Database, home: Path, queue: Callable[..., str], claim: Callable[..., leases.Claim]
) -> None:
    old, new, other = (put(home, f"datasets/{new_id('data')}") for _ in range(3))
    with database.session() as session:
        session.add(Dataset(name="d", path=old, owner="ada", created_at=now(session)))
    run_id = queue("validate", {"dataset": "d"})
    settings = WorkerSettings(home=home, database_url=str(database.engine.url))
    prepare_run_dir(database, settings, claim(), RunDir(home / "runs" / run_id), {})
    with database.session() as session:
        datasets.upsert_dataset(session, "d", new, "ada")
    assert collected(database, home) == {other}
    with database.session() as session:
        runs.get_run(session, run_id).state = "succeeded"
    assert collected(database, home) == {old}


# kind and spec of a run that reads a path
READERS: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
    "corpus": ("validate", lambda path: {"path": path}),
    "images": ("convert", lambda path: {"path": "/data/mmc4", "name": "far", "options": {"images": path}}),
    "tokenizer": ("pretrain", lambda path: {"tokenizer": {"path": path}}),
    "instructions": (
        "evaluate",
        lambda path: {
            "encoder": "e",
            "dataset": "sample",
            "tasks": ["dialogue"],
            "dialogue": {"instructions": [{"path": path, "images": "/data/images"}]},
        },
    ),
}


@pytest.mark.parametrize("reader", READERS)
def test_an_upload_stays_until_every_run_that_reads_it_has_ended(
    database: Database, home: Path, queue: Callable[..., str], reader: str
) -> None:
    kind, spec = READERS[reader]
    read, other = (put(home, f"data/uploads/{new_id('upl')}") for _ in range(2))
    run_id = queue(kind, spec(f"{home}/{read}/inner"))
    assert collected(database, home) == {other}
    with database.session() as session:
        runs.get_run(session, run_id).state = "failed"
    assert collected(database, home) == {read}


def test_an_upload_stays_until_every_study_that_reads_it_has_ended(database: Database, home: Path) -> None:
    """Its evaluations, which read it, are submitted after its pre-trainings."""
    read = put(home, f"data/uploads/{new_id('upl')}")
    captioning = {"language_model": {"path": f"{home}/{read}/inner"}}
    spec = parse_as(
        StudySpec,
        {
            "axes": [{"name": "loss", "variants": [{"name": "both"}]}],
            "metrics": [{"name": "IR@5", "metric": "IR@5"}],
            "pretrain": {"steps": 10},
            "evaluate": {"tasks": ["retrieval", "captioning"], "captioning": captioning},
        },
    )
    with database.session() as session:
        study_id = studies.create_study(session, spec).id
    assert collected(database, home) == set()
    with database.session() as session:
        studies.cancel_study(session, studies.get_study(session, study_id))
    assert collected(database, home) == {read}


def test_broken_off_work_is_found(database: Database, home: Path) -> None:
    left = {
        put(home, f"{ENCODERS}/.import-{new_id('enc')}"),
        put(home, f"collections/.{new_id('col')}.0123abcd"),
        put(home, "runs/.removed-0123456789abcdef"),
    }
    assert collected(database, home) == left
    assert sorted(os.listdir(home / ENCODERS)) == []


def test_a_deleted_run_leaves_nothing_even_if_its_folder_was_not_removed_with_it(
    database: Database, home: Path, queue: Callable[..., str]
) -> None:
    run_id = queue()
    place = put(home, f"runs/{run_id}")
    with database.session() as session:
        runs.cancel_run(session, run_id)
    with database.session() as session:
        runs.delete_run(session, run_id)
    assert collected(database, home) == {place}


def test_what_is_named_again_is_forgotten(database: Database, home: Path) -> None:
    place = put(home, f"{ENCODERS}/{new_id('enc')}")
    garbage.record_garbage(database, home, GRACE)
    with database.session() as session:
        session.add(
            EncoderRow(
                id="e", name="e", path=place, hash="h", identity="h", info={}, owner="ada", created_at=now(session)
            )
        )
    assert garbage.record_garbage(database, home, GRACE) == []
    with database.reading() as session:
        assert session.query(Garbage).count() == 0


def test_linked_files_are_not_counted_as_freed(database: Database, home: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "shared").write_bytes(b"x" * 1000)
    stage(source, home / "datasets" / new_id("data"), link=True).publish()
    [found] = garbage.list_garbage(database, home, GRACE)
    assert found.bytes == 0


def test_several_collect_at_once(database: Database, home: Path) -> None:
    for _ in range(8):
        put(home, f"runs/{new_id('run')}")
    errors: list[Exception] = []

    def work() -> None:
        try:
            garbage.collect_garbage(database, home, 0.0)
        except Exception as error:
            errors.append(error)

    garbage.record_garbage(database, home, 0.0)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    garbage.collect_garbage(database, home, 0.0)
    assert list((home / "runs").glob("run_*")) == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_what_another_is_just_noting_is_noted_once(
    database: Database, home: Path, eventually: Callable[..., None]
) -> None:
    place = put(home, f"runs/{new_id('run')}")
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")

    def somebody_waits() -> bool:
        with database.reading() as session:
            return bool(session.execute(waiting).scalar_one())

    with ThreadPoolExecutor(1) as other:
        with database.session() as session:
            session.add(Garbage(home=home_id(home), path=place, seen_at=now(session)))
            session.flush()
            collecting = other.submit(garbage.collect_garbage, database, home, 3600)
            eventually(somebody_waits, "the other's wait for this transaction")
        assert collecting.result(180) == []
    assert paths(database, home) == {place: False}


class SlowFolders:
    """``os.scandir`` that opens folders of this name only when it may go on."""

    def __init__(self, name: str) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        self._name, self._scandir = name, os.scandir

    def __call__(self, path: Any = ".") -> Any:
        if Path(path).name == self._name:
            self.reached.set()
            assert self.go_on.wait(180)
        return self._scandir(path)


@pytest.mark.parametrize("folder", ["runs", "inner"], ids=["while listed", "while measured"])
def test_a_slow_file_system_stops_no_writer(
    database: Database, home: Path, queue: Callable[..., str], monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """PostgreSQL ends a transaction that idles, SQLite lets no other write: none is open while the disk is read."""
    for _ in range(6):
        put(home, f"runs/{new_id('run')}")
    slow = SlowFolders(folder)
    monkeypatch.setattr("lcl_core.db.garbage.os.scandir", slow)
    with ThreadPoolExecutor(1) as collector:
        collecting = collector.submit(garbage.collect_garbage, database, home, GRACE)
        assert slow.reached.wait(180)
        try:
            assert queue(), "a submission while the collector waits for the disk"
            open_transactions = _open_transactions(database)
        finally:
            slow.go_on.set()
        assert collecting.result(180) == []
    assert open_transactions == 0
    assert len(paths(database, home)) == 6


def _open_transactions(database: Database) -> int:
    """Of this database's other sessions; SQLite has let the submission through."""
    if database.engine.dialect.name == "sqlite":
        return 0
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' AND datname = current_database()"
    )
    with database.reading() as session:
        return int(session.execute(text(query)).scalar_one())


def test_batches_do_not_change_what_is_found(
    database: Database, home: Path, queue: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage, "_BATCH", 2)
    kept = [put(home, f"runs/{queue()}") for _ in range(5)]
    left = {put(home, f"runs/{new_id('run')}") for _ in range(5)}
    assert collected(database, home) == left
    assert all((home / place).is_dir() for place in kept)
    with database.reading() as session:
        assert session.query(Garbage).count() == 5
    assert garbage.collect_garbage(database, home, GRACE) == []
    with database.reading() as session:
        assert session.query(Garbage).count() == 0
