"""Checkpoints reach the store whole or not at all, under the lease, and come back with all that belongs to them."""

from __future__ import annotations

import hashlib
import json
import threading

import fsspec
import pytest

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import RunDir
from lcl_core.db import leases, queue, runs, submit
from lcl_core.db.artifacts import ArtifactStore, stored_checkpoints
from tests.workers.in_process_worker import attempt_at
from workers.mirror import CheckpointMirror

WEIGHTS = bytes(range(64))
EVERYWHERE = pytest.mark.parametrize("store_url", ["memory", "file", "s3"], indirect=True)


@pytest.fixture
def settings(settings, store_url):
    settings.artifacts, settings.checkpoints, settings.reap_seconds = store_url, "store", 0.01
    return settings


class Team:
    """Homes that share a database and a store."""

    def __init__(self, database, settings):
        self.database, self.settings = database, settings
        self.store = ArtifactStore(settings.artifacts)

    def submit(self, **spec):
        with self.database.session() as session:
            return submit.submit(session, "pretrain", {"keep_checkpoints": 2, **spec}, max_attempts=100).id

    def claim(self):
        with self.database.session() as session:
            claim = queue.claim_next(session, "worker", 60.0)
        assert isinstance(claim, leases.Claim)
        return claim

    def hand_back(self, claim):
        with self.database.session() as session:
            leases.release_lease(session, claim)

    def home(self, name):
        return self.settings.model_copy(update={"home": self.settings.home.parent / name})

    def run_dir(self, claim, home):
        run_dir = RunDir(self.home(home).runs_dir / claim.run_id)
        run_dir.checkpoints.mkdir(parents=True, exist_ok=True)
        run_dir.artifacts.mkdir(exist_ok=True)
        return run_dir

    def mirror(self, claim, home):
        attempt = attempt_at(claim, self.database, self.home(home))
        self.run_dir(claim, home)
        return CheckpointMirror(attempt)

    def copy(self, claim, home):
        """Copy what is there now."""
        mirror = self.mirror(claim, home)
        mirror._ending.set()
        mirror.copy_until_ended()

    def fetch(self, claim, home):
        mirror, run_dir = self.mirror(claim, home), self.run_dir(claim, home)
        with mirror._lease:
            mirror.fetch()
        return run_dir

    def stored(self, run_id):
        """{step: key}, newest first."""
        with self.database.reading() as session:
            return {each.step: each.key for each in stored_checkpoints(session, run_id)}

    def objects(self):
        files, path = fsspec.core.url_to_fs(self.settings.artifacts)
        files.invalidate_cache()
        found = files.find(path, detail=True) if files.exists(path) else {}
        return {name[len(path) :].strip("/"): facts["size"] for name, facts in found.items()}

    def change(self, name, data):
        """Overwrite or remove an object behind the service's back."""
        files, path = fsspec.core.url_to_fs(self.settings.artifacts)
        if data is None:
            files.rm(f"{path}/{name}")
        else:
            files.pipe_file(f"{path}/{name}", data)


@pytest.fixture
def team(database, settings):
    return Team(database, settings)


def save(run_dir, step, *, size=64):
    """What a job leaves at a checkpoint."""
    path = run_dir.checkpoints / f"step_{step:08d}"
    (path / "optimizer").mkdir(parents=True)
    files = {
        "model.safetensors": WEIGHTS[:size],
        "optimizer/rank_00000.safetensors": WEIGHTS[:size][::-1],
        "state.json": b'{"step": %d}' % step,
    }
    for name, data in files.items():
        (path / name).write_bytes(data)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    (path / "manifest.json").write_text(json.dumps({"step": step, "ranks": 1, "files": digests}))
    run_dir.tokenizer_file.write_text('{"merges": []}')
    return path


def train(run_dir, steps):
    for step in steps:
        run_dir.append_metrics(step=step, loss=1 / step)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@EVERYWHERE
def test_another_home_has_everything_of_the_newest(team):
    team.submit()
    claim = team.claim()
    run_dir = team.run_dir(claim, "a")
    train(run_dir, range(1, 13))
    run_dir.best_encoder.mkdir()
    (run_dir.best_encoder / "model.safetensors").write_bytes(b"best")
    save(run_dir, 10)
    team.copy(claim, "a")
    team.hand_back(claim)
    fetched = team.fetch(team.claim(), "b")
    assert contents(fetched.checkpoints) == contents(run_dir.checkpoints)
    assert fetched.tokenizer_file.read_text() == run_dir.tokenizer_file.read_text()
    assert contents(fetched.best_encoder) == {"model.safetensors": b"best"}
    assert fetched.metrics_file.read_text() == "".join(run_dir.metrics_file.read_text().splitlines(True)[:10])
    assert {each.name for each in fetched.path.iterdir()} == {
        "artifacts", "checkpoints", "metrics.jsonl", "tokenizer.json",
    }  # fmt: skip
    assert not list((run_dir.path).glob("uploading/*"))


def test_milestones_that_were_passed_meanwhile_are_copied_too(team):
    run_id = team.submit(milestone_every=20)
    claim = team.claim()
    for step in (10, 20, 30, 40, 50):
        save(team.run_dir(claim, "a"), step)
    team.copy(claim, "a")
    assert list(team.stored(run_id)) == [50, 40, 20]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("files/checkpoint/model.safetensors", b"x" * 64),
        ("files/checkpoint/state.json", None),
    ],
)
def test_a_damaged_copy_is_passed_over(team, name, content):
    run_id = team.submit()
    claim = team.claim()
    for step in (1, 2):
        train(team.run_dir(claim, "a"), range(step, step + 1))
        save(team.run_dir(claim, "a"), step)
        team.copy(claim, "a")
    team.change(f"{team.stored(run_id)[2]}/{name}", content)
    team.hand_back(claim)
    run_dir = team.fetch(team.claim(), "b")
    assert [path.name for path in run_dir.checkpoints.iterdir()] == ["step_00000001"]
    assert not (run_dir.path / "fetching").exists()


def test_an_attempt_that_has_lost_its_lease_replaces_nothing(team):
    run_id = team.submit()
    lost = team.claim()
    save(team.run_dir(lost, "a"), 1)
    stale = team.mirror(lost, "a")
    assert stale.copy_next()
    save(team.run_dir(lost, "a"), 2)
    team.hand_back(lost)  # as when its lease runs out
    claim = team.claim()
    save(team.fetch(claim, "b"), 2, size=32)
    team.copy(claim, "b")
    before, objects = team.stored(run_id), team.objects()
    with pytest.raises(leases.StaleLease):
        stale.copy_next()
    assert team.stored(run_id) == before
    assert {name: team.objects()[name] for name in objects} == objects
    stale.copy_until_ended()  # it ends by itself


def test_what_a_later_attempt_copied_counts_more_than_what_an_earlier_one_left(team):
    """As after a retry that another home began: the folder of the first home is of another time."""
    team.submit()
    first = team.claim()
    run_dir = team.run_dir(first, "a")
    run_dir.prepare({"attempt": first.attempt})
    save(run_dir, 500)
    with team.database.session() as session:
        leases.release_lease(session, first, uses_attempt=True)
    second = team.claim()
    save(team.run_dir(second, "b"), 50)
    team.copy(second, "b")
    with team.database.session() as session:
        leases.release_lease(session, second, uses_attempt=True)
    fetched = team.fetch(team.claim(), "a")
    assert [path.name for path in fetched.checkpoints.iterdir()] == ["step_00000050"]


def test_a_run_that_branches_from_another_has_its_milestone_in_any_home(team):
    """Beside what is there."""
    step = 2
    parent = team.submit(milestone_every=2)
    claim = team.claim()
    run_dir = team.run_dir(claim, "a")
    train(run_dir, range(1, 6))
    for saved in (2, 4, 5):
        save(run_dir, saved)
        team.copy(claim, "a")
    with team.database.session() as session:
        leases.transition(runs.get_run(session, parent), leases.State.SUCCEEDED, **leases.NO_LEASE)
        submit.submit(session, "pretrain", {"branch": {"run": parent, "step": step}})
    there = team.run_dir(claim, "b")
    later = save(there, 4).name
    child = team.fetch(team.claim(), "b")
    assert not list(child.checkpoints.iterdir())
    name = f"step_{step:08d}"
    assert sorted(path.name for path in there.checkpoints.iterdir()) == [name, later]
    assert contents(there.checkpoints / name) == contents(run_dir.checkpoints / name)
    assert there.tokenizer_file.exists()
    assert there.try_lock(), "the folder is left to others"
    there.unlock()


def test_the_store_may_be_away_while_the_run_goes_on(team, eventually, monkeypatch, caplog):
    run_id = team.submit()
    claim = team.claim()
    send, away, tried = ArtifactStore.send_file, threading.Event(), threading.Event()
    away.set()

    def flaky(store, *arguments):
        if away.is_set():
            tried.set()
            raise UserError("it is away", code="store_unreachable")
        return send(store, *arguments)

    monkeypatch.setattr(ArtifactStore, "send_file", flaky)
    run_dir = team.run_dir(claim, "a")
    with team.mirror(claim, "a").copying() as finish:
        save(run_dir, 1)
        eventually(tried.is_set, "a try")
        tried.clear()
        eventually(tried.is_set, "another try")
        save(run_dir, 2)
        away.clear()
        eventually(lambda: 2 in team.stored(run_id), "the newest checkpoint")
        save(run_dir, 3)
        finish()
        assert 3 in team.stored(run_id)
    assert not list(run_dir.path.glob("uploading/*"))


def test_a_checkpoint_that_the_job_removes_meanwhile_is_copied_whole(team, monkeypatch):
    run_id = team.submit()
    claim = team.claim()
    run_dir = team.run_dir(claim, "a")
    path = save(run_dir, 1)
    expected, send = contents(path), ArtifactStore.send_file

    def removed_meanwhile(store, *arguments):
        for name in expected:
            (path / name).unlink(missing_ok=True)
        return send(store, *arguments)

    monkeypatch.setattr(ArtifactStore, "send_file", removed_meanwhile)
    team.copy(claim, "a")
    assert list(team.stored(run_id)) == [1]
    team.hand_back(claim)
    assert contents(team.fetch(team.claim(), "b").checkpoints / path.name) == expected
