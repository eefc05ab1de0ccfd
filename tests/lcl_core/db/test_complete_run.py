"""The end of a run: state, files and rows change together or not at all."""

import hashlib

import pytest

from lcl_core.common.settings import Settings
from lcl_core.db import artifacts, complete_run, garbage, leases, registry, runs
from lcl_core.db.artifacts import Artifacts
from lcl_core.encoders.files import identity_hash

WEIGHTS = b"weights"
ENCODER = {"path": "artifacts/encoder", "hash": hashlib.sha256(WEIGHTS).hexdigest(), "parameters": 5, "steps": 2}
COLLECTION = {"path": "artifacts/collection", "name": "c", "encoder_hash": "h", "images": 3, "texts": 4, "dim": 8}


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def run_dir(tmp_path):
    """A finished run's directory."""
    for folder, name in (("encoder", "model.safetensors"), ("collection", "vectors.bin")):
        path = tmp_path / "run" / "artifacts" / folder
        path.mkdir(parents=True)
        (path / name).write_bytes(WEIGHTS)
    return tmp_path / "run"


def stored(home, room):
    """Every name in a room of the home folder, hidden ones too."""
    folder = home / room
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_success_of_a_pretrain_run_registers_its_encoder(database, queue, claim, run_dir, home):
    run_id = queue(name="mine", owner="ada")
    result = {"encoder": ENCODER, "final": {"loss": float("nan")}}
    assert (
        complete_run.complete_run(database, claim(), complete_run.RunSucceeded(result), run_dir, home, 12.5)
        == "succeeded"
    )
    with database.reading() as session:
        run, encoder = runs.get_run(session, run_id), registry.get_encoder(session, "mine")
        assert (run.state, run.encoder_id, run.lease_token, run.ran_seconds) == ("succeeded", encoder.id, None, 12.5)
        assert run.result["final"] == {"loss": None}
        assert (encoder.hash, encoder.owner, encoder.run_id) == (ENCODER["hash"], "ada", run_id)
        files = {"model.safetensors": ENCODER["hash"]}
        assert encoder.info == {"parameters": 5, "steps": 2, "files": files}
        assert encoder.identity == identity_hash(files)
        assert registry.get_encoder(session, encoder.id).name == "mine"
        assert (artifacts.absolute_path(home, encoder.path) / "model.safetensors").read_bytes() == WEIGHTS
    assert stored(home, "encoders") == [encoder.id]


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({**ENCODER, "hash": "0" * 64}, "invalid_value"),
        ({**ENCODER, "path": "artifacts/nothing"}, "invalid_value"),
        ({**ENCODER, "path": ".."}, "invalid_value"),
        (None, "invalid_value"),
    ],
)
def test_a_result_that_does_not_hold_fails_the_run_and_leaves_nothing(
    database, queue, claim, run_dir, home, facts, code
):
    run_id = queue()
    assert (
        complete_run.complete_run(database, claim(), complete_run.RunSucceeded({"encoder": facts}), run_dir, home, 1.0)
        == "failed"
    )
    with database.reading() as session:
        assert runs.get_run(session, run_id).reason["code"] == code
        assert registry.list_encoders(session) == []
    assert stored(home, "encoders") == []


def test_a_stale_worker_registers_nothing(database, queue, claim, run_dir, home):
    queue()
    stale = claim(lease_seconds=-1.0)
    with database.session() as session:
        leases.expire_leases(session)
    with pytest.raises(leases.StaleLease):
        complete_run.complete_run(database, stale, complete_run.RunSucceeded({"encoder": ENCODER}), run_dir, home, 1.0)
    assert stored(home, "encoders") == []


def test_what_an_interrupted_attempt_left_is_replaced(database, queue, claim, run_dir, home):
    run_id = queue()
    name = run_id.replace("run_", "enc_")
    for folder in (name, f".{name}.0a1b2c3d"):
        (home / "encoders" / folder).mkdir(parents=True)
        (home / "encoders" / folder / "torn").touch()
    complete_run.complete_run(database, claim(), complete_run.RunSucceeded({"encoder": ENCODER}), run_dir, home, 1.0)
    assert stored(home, "encoders") == [name]
    assert [path.name for path in (home / "encoders" / name).iterdir()] == ["model.safetensors"]


def test_a_collection_of_the_same_name_is_replaced(database, queue, claim, run_dir, home):
    made = []
    for _ in range(2):
        run_id = queue("index", {"encoder": "e", "collection": "emoji"})
        complete_run.complete_run(
            database, claim(), complete_run.RunSucceeded({"collection": COLLECTION}), run_dir, home, 1.0
        )
        with database.reading() as session:
            made.append((run_id, registry.get_collection(session, "emoji")))
    (_, old), (last_run, new) = made
    assert old.id != new.id
    assert (new.run_id, new.images, new.texts, new.dim, new.dataset) == (last_run, 3, 4, 8, "sample")
    assert stored(home, "collections") == [old.id, new.id], "a database that is restored names the older one again"
    settings = Settings(home=home, gc_grace_seconds=0.0)
    assert garbage.collect_garbage(database, settings, Artifacts(settings)) == 1
    assert stored(home, "collections") == [new.id]
    with database.reading() as session:
        assert [collection.id for collection in registry.list_collections(session)] == [new.id]
        assert runs.get_run(session, last_run).collection_id == new.id


def test_failure_and_cancellation(database, queue, claim, run_of, run_dir, home):
    failed, cancelled, finished = queue(), queue(), queue()
    reason = {"code": "bad_spec", "message": "no", "field": "steps"}
    complete_run.complete_run(database, claim(), complete_run.RunFailed(reason), run_dir, home, 1.0)
    for wanted, outcome in (
        (cancelled, complete_run.RunCancelled()),
        (finished, complete_run.RunSucceeded({"encoder": ENCODER})),
    ):
        held = claim()
        with database.session() as session:
            runs.cancel_run(session, wanted)
        complete_run.complete_run(database, held, outcome, run_dir, home, 1.0)
    assert (run_of(failed).state, run_of(failed).reason) == ("failed", reason)
    assert run_of(cancelled).state == "cancelled"
    assert run_of(finished).state == "succeeded"  # it got there before the cancel
    assert all(run_of(run_id).finished_at is not None for run_id in (failed, cancelled, finished))
