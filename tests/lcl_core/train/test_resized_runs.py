"""A run goes on with another number of ranks, and uses each document of an epoch once."""

from __future__ import annotations

import json
import shutil
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lcl_core.common.files import sha256_file
from lcl_core.common.run_dir import RunDir
from lcl_core.data.sampling.packing import Cursor, redistribute_cursors
from lcl_core.train.checkpoint.manager import LoadedCheckpoint
from lcl_core.train.checkpoint.state import restored_cursors
from tests.lcl_core.train.rank_processes import run_ranks
from tests.lcl_core.train.small_runs import prepared

MODULE = "tests.lcl_core.train.resized_run"


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def attempt(run_dir: RunDir, ranks: int, stop: int) -> Counter[int]:
    """Positions of the documents used by ``ranks`` processes until ``stop``."""
    port = free_port()
    run_ranks([[MODULE, str(run_dir.path), str(rank), str(ranks), str(stop), port] for rank in range(ranks)])
    files = [run_dir.path / f"used.{ranks}.{rank}.json" for rank in range(ranks)]
    return Counter(position for file in files for step in json.loads(file.read_text()) for position in step)


def newest_state(run_dir: RunDir) -> dict[str, Any]:
    return json.loads((max(run_dir.checkpoints.glob("step_*")) / "state.json").read_text())


def test_two_one_and_three_ranks_use_each_document_of_an_epoch_once(tmp_path: Path, sample_zip: Path) -> None:
    few = {"batch": {"tokens": 256, "images": 8}, "steps": 100, "log_every": 50, "checkpoint_every": 100}
    run_dir = prepared(tmp_path, sample_zip, **few)
    used: Counter[int] = Counter()
    held = 0
    for ranks, stop in ((2, 4), (1, 8), (3, 12)):
        used += attempt(run_dir, ranks, stop)
        state = newest_state(run_dir)
        cursors = [Cursor.from_json(cursor) for cursor in state["cursors"]]
        assert (state["step"], len(cursors)) == (stop, ranks)
        held += sum(len(cursor.held) for cursor in cursors)
        assert set(used.values()) == {1}, "none twice"
        (end,) = redistribute_cursors(cursors, 1)
        assert sorted([*used, *end.held]) == list(range(end.position)), "none lost"
        assert state["documents_seen"] == len(used)
    assert held, "documents waited to be packed when the number changed"


def test_groups_of_ranks_that_share_weights_go_on_as_one_rank_and_back(tmp_path: Path, sample_zip: Path) -> None:
    engine = {"strategy": "fsdp2", "processes": 4, "shard_processes": 2}
    few = {"batch": {"tokens": 256, "images": 8}, "steps": 6, "log_every": 1, "checkpoint_every": 100, "engine": engine}
    run_dir = prepared(tmp_path, sample_zip, **few)
    used: Counter[int] = Counter()
    for ranks, stop in ((4, 2), (1, 4), (4, 9)):
        used += attempt(run_dir, ranks, stop)
        assert set(used.values()) == {1}, "none twice"
    assert (newest_state(run_dir)["step"], newest_state(run_dir)["documents_seen"]) == (6, len(used))
    assert (run_dir.artifacts / "encoder" / "model.safetensors").exists()


def test_a_checkpoint_of_each_ranks_own_positions_goes_on(tmp_path: Path, sample_zip: Path) -> None:
    """As an older version wrote it: with the same number of ranks where it was, with another one none twice or lost."""
    run_dir = prepared(tmp_path / "run", sample_zip, steps=100, log_every=50, batch={"tokens": 256, "images": 8})
    used = attempt(run_dir, 2, 4)
    older(max(run_dir.checkpoints.glob("step_*")))
    other = tmp_path / "other"
    shutil.copytree(run_dir.path, other)
    same = used + attempt(run_dir, 2, 6)
    fewer = used + attempt(RunDir(other), 1, 6)
    for found in (same, fewer):
        assert set(found.values()) == {1}


def older(checkpoint: Path) -> None:
    """Rewrite the state of two ranks as it was before there were positions of the whole stream."""
    state = json.loads((checkpoint / "state.json").read_text())
    cursors = state.pop("cursors")
    state["position"] = max(cursor[0] // 2 for cursor in cursors)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    texts = {"state.json": state}
    for rank, cursor in enumerate(cursors):
        texts[f"state.rank_{rank:05d}.json"] = {"cursor": [(number - rank) // 2 for number in cursor]}
    for name, value in texts.items():
        (checkpoint / name).write_text(json.dumps(value))
        manifest["files"][name] = sha256_file(checkpoint / name)
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("states", "ranks", "expected"),
    [
        ([{"cursor": [3, 1]}, {"cursor": [4, 2]}], 2, [Cursor(6, (2,)), Cursor(9, (5,))]),
        ([{"cursor": [3, 1]}, {"cursor": [4, 2]}], 1, [Cursor(9, (2, 5, 6, 8))]),
        ([], 2, [Cursor(8), Cursor(9)]),  # the oldest: one position for all, of the rank that had read furthest
        ([], 1, [Cursor(9, (8,))]),
    ],
)
def test_older_states_say_where_to_go_on(states: list[Any], ranks: int, expected: list[Cursor]) -> None:
    loaded = LoadedCheckpoint(5, {"step": 5, "position": 4}, 2, {}, {}, states)
    assert restored_cursors(loaded, ranks) == expected
