"""Nodes with homes of their own copy the files of their ranks; a checkpoint counts once the store has all of them."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import fsspec
import pytest

from lcl_core.common.run_dir import RunDir
from lcl_core.db import gang, leases, queue, submit
from lcl_core.db.artifacts import Artifacts, stored_checkpoints
from lcl_core.db.session import Database
from lcl_core.db.workers import WorkerIdentity, record_heartbeat
from lcl_core.train.checkpoint.manifest import CheckpointManifest
from workers.executors.local import LocalExecutor
from workers.fetch_checkpoints import fetch_checkpoints
from workers.lease_keeper import AttemptInterrupted, LeaseKeeper
from workers.node_checkpoints import copier_class, open_outgoing, prepared_node
from workers.prepare_run import prepare_run_dir
from workers.remote_checkpoints import CheckpointCopier
from workers.settings import WorkerSettings
from workers.worker import _identity

EVERYWHERE = pytest.mark.parametrize("store_url", ["memory", "file", "s3"], indirect=True)


@pytest.fixture
def settings(settings: WorkerSettings, store_url: str) -> WorkerSettings:
    settings.artifacts, settings.checkpoints, settings.watch_seconds = store_url, "store", 0.01
    return settings


class Pair:
    """A run of two nodes, whose homes share a database and a store."""

    def __init__(self, database: Database, settings: WorkerSettings) -> None:
        self.database, self.settings, self.numbers = database, settings, count()
        with database.session() as session:
            self.run_id = submit.submit(session, "pretrain", {"engine": {"nodes": 2}}, max_attempts=9).id

    def claim(self) -> tuple[leases.Claim, leases.Claim]:
        """Of both nodes, by number."""
        names = [f"w-{next(self.numbers)}" for _ in range(2)]
        with self.database.session() as session:
            for name in names:
                record_heartbeat(session, WorkerIdentity(name, name, 1, 1, (), ("cpu", "gpu"), home="store"))
        with self.database.session() as session:
            seat, first = (queue.claim_next(session, name, 600.0) for name in names)
            assert isinstance(seat, gang.MemberLease)
            assert isinstance(first, leases.Claim)
            gang.set_rendezvous(session, first, "127.0.0.1:1")
        with self.database.reading() as session:
            rendezvous = gang.check_member_lease(session, seat)
        assert rendezvous is not None
        return first, rendezvous.claim

    def give_back(self, claims: tuple[leases.Claim, leases.Claim]) -> None:
        with self.database.session() as session:
            leases.release_lease(session, claims[0])

    def home(self, name: str) -> WorkerSettings:
        return self.settings.model_copy(update={"home": self.settings.home.parent / name})

    def run_dir(self, home: str) -> RunDir:
        return RunDir(self.home(home).runs_dir / self.run_id)

    def keeper(self, claim: leases.Claim) -> LeaseKeeper:
        def renew(session: Any) -> Any:
            return leases.renew_lease(session, claim, 600.0)

        return LeaseKeeper(self.database, self.settings, claim.run_id, renew, threading.Event())

    def prepare(self, claim: leases.Claim, home: str) -> RunDir:
        settings, run_dir = self.home(home), self.run_dir(home)
        artifacts = Artifacts(settings)
        with self.keeper(claim) as keeper:
            if claim.node:
                with prepared_node(self.database, settings, artifacts, claim, run_dir, keeper):
                    return run_dir
            run_dir.path.mkdir(parents=True, exist_ok=True)
            fetch_checkpoints(self.database, settings, artifacts, claim, run_dir, keeper)
            prepare_run_dir(self.database, settings, claim, run_dir, {})
            open_outgoing(settings, claim, run_dir)
        return run_dir

    def copy(self, claim: leases.Claim, home: str) -> None:
        """All that waits to be copied."""
        copier, thread = self.start_copy(claim, home)
        copier.ending.set()
        thread.join()

    def start_copy(self, claim: leases.Claim, home: str) -> tuple[CheckpointCopier, threading.Thread]:
        settings = self.home(home)
        copier = copier_class(claim)(self.database, settings, Artifacts(settings), claim, self.run_dir(home))
        thread = threading.Thread(target=copier.serve, daemon=True)
        thread.start()
        return copier, thread

    def objects(self) -> str:
        """Names of all objects in the store."""
        files, path = fsspec.core.url_to_fs(self.settings.artifacts)
        files.invalidate_cache()
        return " ".join(files.find(path)) if files.exists(path) else ""

    def stored(self) -> dict[int, str]:
        """{step: key}, newest first."""
        with self.database.reading() as session:
            return {each.step: each.key for each in stored_checkpoints(session, self.run_id)}

    def change(self, name: str) -> None:
        files, path = fsspec.core.url_to_fs(self.settings.artifacts)
        files.pipe_file(f"{path}/{name}", b"other bytes")


@pytest.fixture
def pair(database: Database, settings: WorkerSettings) -> Pair:
    return Pair(database, settings)


def content(step: int, name: str) -> bytes:
    return f"{step} {name}".encode() * 9


def names(rank: int) -> list[str]:
    own = [f"model/rank_{rank:05d}.safetensors", f"rng.rank_{rank:05d}.safetensors"]
    return [*own, "state.json"] if rank == 0 else own


def save(run_dir: RunDir, step: int, *ranks: int, outgoing: bool = True) -> None:
    """The part of a checkpoint that these of two ranks write."""
    every = [name for rank in range(2) for name in names(rank)]
    digests = {name: hashlib.sha256(content(step, name)).hexdigest() for name in every}
    folders = [run_dir.checkpoints, *([run_dir.outgoing] if outgoing else [])]
    for folder in (folder / f"step_{step:08d}" for folder in folders):
        for name in (name for rank in ranks for name in names(rank)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content(step, name))
        (folder / "manifest.json").write_text(CheckpointManifest(step, 2, digests).to_json())


def found(run_dir: RunDir) -> dict[str, set[str]]:
    return {
        path.name: {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
        for path in run_dir.checkpoints.iterdir()
    }


def begin(pair: Pair) -> tuple[tuple[leases.Claim, leases.Claim], RunDir, RunDir]:
    claims = pair.claim()
    return claims, pair.prepare(claims[0], "a"), pair.prepare(claims[1], "b")


@EVERYWHERE
def test_a_checkpoint_is_named_once_both_nodes_have_sent_their_files(
    pair: Pair, eventually: Callable[..., None]
) -> None:
    claims, first, second = begin(pair)
    save(first, 10, 0), save(second, 10, 1)
    copier, thread = pair.start_copy(claims[0], "a")
    eventually(lambda: "model/rank_00000.safetensors" in pair.objects(), "the file that node 0 sends last")
    copier.abandon()
    thread.join()
    assert not pair.stored()
    assert list(first.outgoing.iterdir()), "the files stay until the copy is whole"
    pair.copy(claims[1], "b")
    assert not pair.stored(), "node 0 writes the row"
    assert not list(second.outgoing.iterdir())
    pair.copy(claims[0], "a")
    assert list(pair.stored()) == [10]
    assert not list(first.outgoing.iterdir())
    for home in ("a", "b"):
        assert not list((pair.run_dir(home).path / "uploading").glob("*"))


@EVERYWHERE
def test_nodes_elsewhere_fetch_what_their_ranks_read(pair: Pair) -> None:
    claims, first, second = begin(pair)
    save(first, 10, 0), save(second, 10, 1)
    pair.copy(claims[1], "b"), pair.copy(claims[0], "a")
    save(first, 12, 0, outgoing=False), save(second, 12, 1, outgoing=False)
    pair.give_back(claims)
    claims = pair.claim()
    both = {"manifest.json"}
    step = "step_00000010"
    swapped = pair.prepare(claims[0], "b"), pair.prepare(claims[1], "new")
    assert found(swapped[0])[step] >= {*names(0), *both}, "step 12 has no copy: its parts are gone"
    assert found(swapped[1]) == {step: {*names(1), *both}}
    for run_dir in swapped:
        for name in found(run_dir)[step] - both:
            assert (run_dir.checkpoints / step / name).read_bytes() == content(10, name)
    assert [*found(swapped[0])] == [step]
    assert json.loads(swapped[1].run_file.read_text())["home"] != json.loads(swapped[0].run_file.read_text())["home"]


def test_a_damaged_part_ends_the_attempt_and_the_next_one_takes_the_copy_before(pair: Pair) -> None:
    claims, first, second = begin(pair)
    for step in (10, 12):
        save(first, step, 0), save(second, step, 1)
        pair.copy(claims[1], "b"), pair.copy(claims[0], "a")
    assert list(pair.stored()) == [12, 10]
    pair.change(f"{pair.stored()[12]}/files/checkpoint/rng.rank_00001.safetensors")
    pair.give_back(claims)
    claims = pair.claim()
    pair.prepare(claims[0], "c")
    with pytest.raises(AttemptInterrupted, match="step 12"):
        pair.prepare(claims[1], "d")
    assert list(pair.stored()) == [10]
    pair.give_back(claims)
    claims = pair.claim()
    assert [*found(pair.prepare(claims[0], "c"))] == ["step_00000010"]
    assert [*found(pair.prepare(claims[1], "d"))] == ["step_00000010"]


def test_nodes_of_one_home_leave_the_copy_to_the_first(pair: Pair) -> None:
    claims = pair.claim()
    run_dir = pair.prepare(claims[0], "a")
    assert run_dir.try_lock(), "the job of node 0 locks the folder"
    save(run_dir, 10, 0, 1)
    assert pair.prepare(claims[1], "a").path == run_dir.path
    pair.copy(claims[1], "a")
    assert not pair.stored()
    pair.copy(claims[0], "a")
    assert list(pair.stored()) == [10]
    run_dir.unlock()


def test_node_0_waits_at_the_end_for_what_others_send(pair: Pair) -> None:
    claims, first, second = begin(pair)
    save(first, 10, 0), save(second, 10, 1)
    copier, thread = pair.start_copy(claims[0], "a")
    copier.ending.set()
    pair.copy(claims[1], "b")
    thread.join()
    assert list(pair.stored()) == [10]


def test_an_attempt_without_a_copy_begins_without_parts(pair: Pair) -> None:
    claims, first, second = begin(pair)
    save(first, 10, 0), save(second, 10, 1)
    pair.give_back(claims)
    claims = pair.claim()
    assert found(pair.prepare(claims[0], "a")) == {}
    assert found(pair.prepare(claims[1], "b")) == {}


def test_workers_of_one_store_are_one_place_for_the_nodes_of_a_run(settings: WorkerSettings, tmp_path: Path) -> None:
    def place(home: str, **changes: Any) -> str | None:
        own = settings.model_copy(update={"home": tmp_path / home, **changes})
        own.home.mkdir(exist_ok=True)
        return _identity(own, [], LocalExecutor(own)).home

    assert place("x") == place("y")
    assert place("x", checkpoints="local") != place("y", checkpoints="local")
    assert place("x") != place("x", artifacts="memory://another")


def test_the_id_of_an_attempt_is_that_of_its_lease(pair: Pair) -> None:
    first, second = pair.claim()
    assert first.attempt_id == second.attempt_id != replace(first, token="another").attempt_id
