"""Processes that are killed while they add to a collection: what they acknowledged is there, and nothing by half."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcl_core.collections.collection import Collection as Directory
from lcl_core.collections.delta import Delta
from lcl_core.collections.writer import build_collection
from lcl_core.db import collections
from lcl_core.db.models import CollectionRow
from lcl_core.db.session import Database, now
from tests.lcl_core.db.concurrent_writer import AT_ONCE, DIM, ENCODER, gallery, identity, unit

ROOT = Path(__file__).parents[3]
KILLS, WRITERS = 4, 2


@pytest.fixture
def adders(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """See ``tests.lcl_core.db.concurrent_writer``."""
    command = [sys.executable, "-m", "tests.lcl_core.db.concurrent_writer", f"sqlite:///{tmp_path / 'lcl.db'}"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, start_new_session=True, **pipes) as process:
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def kill_while_adding(adders: subprocess.Popen[str], words: list[str], most: int) -> list[str]:
    """Names of which processes said that they are there; all were killed at some moment of a later call."""
    assert adders.stdin is not None
    assert adders.stdout is not None
    adders.stdin.write(" ".join(words) + "\n")
    adders.stdin.flush()
    pids, kept = list[int](), list[str]()
    for line in adders.stdout:
        said, *rest = line.split()
        if said == "over":
            return kept
        if said == "pid":
            pids.append(int(rest[0]))
        else:
            kept += rest
        if len(pids) == len(words) and len(kept) >= most * AT_ONCE:
            while pids:
                os.kill(pids.pop(), signal.SIGKILL)  # wherever it is
            words = []
    raise AssertionError("the processes ended by themselves")


def test_what_was_acknowledged_is_found_and_nothing_is_half_there(
    tmp_path: Path, adders: subprocess.Popen[str]
) -> None:
    url = f"sqlite:///{tmp_path / 'lcl.db'}"
    database = Database(url)
    database.migrate()
    build_collection(tmp_path / "few", [], np.empty((0, DIM)), {}, name="few", encoder_hash=ENCODER)
    with database.session() as session:
        facts = {
            "encoder_hash": ENCODER,
            "encoder_identity": ENCODER,
            "owner": "ada",
            "images": 0,
            "texts": 0,
            "dim": DIM,
        }
        session.add(CollectionRow(id="col_1", name="few", path="collections/col_1", created_at=now(session), **facts))
    chance, said = random.Random(), list[str]()  # other moments each time
    overlay = Delta()
    for kill in range(KILLS):
        words = [f"{kill}-{writer}" for writer in range(WRITERS)]
        said += kill_while_adding(adders, words, chance.randrange(1, 12))
        with database.reading() as session:  # as a process of the service goes on that knew what was before
            overlay = overlay.with_changes(
                collections.changes_since(session, "col_1", "collections/col_1", overlay.number)
            )
            row = session.get_one(CollectionRow, "col_1")
            pictures = {item: collections.item_image(session, "col_1", item) for item in overlay.added}
        assert row.changes == overlay.number
        assert row.images == len(overlay.added)
    collection = Directory.open(tmp_path / "few").with_delta(overlay)
    assert len(said) >= KILLS * AT_ONCE
    for name in said:
        (hit,) = collection.search(unit(name), k=1)
        assert (hit.id, hit.metadata["labels"]) == (identity(name), {"name": name})
    names = [record["image"] for record in collection.items(0, len(collection))]
    assert len(names) % AT_ONCE == 0, "all of a call or nothing"
    for name in names:
        assert pictures[identity(name)] == gallery(name)
        assert np.array_equal(collection.vector(identity(name)), unit(name))
        (words,) = collection.search(unit(f"of {name}"), k=1, target="texts")
        assert words.metadata["items"] == [identity(name)]
    calls = {name.rpartition("-")[0] for name in names}
    assert len(calls) * AT_ONCE == len(names)
    database.dispose()
