"""A run goes on with another number of ranks, and uses each document of an epoch once."""

from __future__ import annotations

import json
import socket
from collections import Counter

import pytest

from lcl_core.data.sampling.loader import Cursor, redistribute_cursors
from tests.lcl_core.train.rank_processes import run_ranks
from tests.lcl_core.train.small_runs import prepared

MODULE = "tests.lcl_core.train.resized_run"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def attempt(run_dir, ranks, stop):
    """Positions of the documents used by ``ranks`` processes until ``stop``."""
    port = free_port()
    run_ranks([[MODULE, str(run_dir.path), str(rank), str(ranks), str(stop), port] for rank in range(ranks)])
    files = [run_dir.path / f"used.{ranks}.{rank}.json" for rank in range(ranks)]
    return Counter(position for file in files for step in json.loads(file.read_text()) for position in step)


def newest_state(run_dir):
    return json.loads((max(run_dir.checkpoints.glob("step_*")) / "state.json").read_text())


@pytest.mark.extended
def test_two_one_and_three_ranks_use_each_document_of_an_epoch_once(tmp_path, sample_zip):
    few = {"batch": {"tokens": 256, "images": 8}, "steps": 100, "log_every": 50, "checkpoint_every": 100}
    run_dir = prepared(tmp_path, sample_zip, **few)
    used = Counter()
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
