"""What a worker hands over to an index run that adds to a collection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lcl_core.collections.changes import ChangeRecord, DeltaSnapshot
from lcl_core.common.run_dir import RunDir
from lcl_core.db import collections, submit
from lcl_core.db.models import CollectionRow, EncoderRow
from lcl_core.db.session import now
from tests.lcl_core.collections.building import build_collection
from tests.workers.in_process_worker import InProcessWorker
from workers.executors import local
from workers.executors.local import JobProcess


def test_the_directory_and_what_has_changed_since(database, settings, modules, run_of, monkeypatch):
    seen: list[tuple[list[ChangeRecord], list[bytes]]] = []

    class Looks(JobProcess):
        """Begins as every process does, once it has been seen what lies there for it."""

        def __init__(self, module, run_dir, *more):
            handed = DeltaSnapshot(run_dir.changes)
            seen.append((handed.changes, [handed.image("img_1")]))
            super().__init__(module, run_dir, *more)

    monkeypatch.setattr(local, "JobProcess", Looks)
    place = settings.home / "collections" / "col_1"
    (settings.home / "encoders" / "enc_1").mkdir(parents=True)
    build_collection(place, [], np.empty((0, 4)), {}, name="few", encoder_hash="e" * 64)
    facts: dict[str, Any] = {"owner": "ada"}
    record = {"id": "img_1", "image": "a.png", "captions": [], "labels": {}}
    with database.session() as session:
        facts["created_at"] = now(session)
        session.add(
            EncoderRow(id="enc_1", name="e", path="encoders/enc_1", hash="e" * 64, identity="e" * 64, info={}, **facts)
        )
        session.flush()
        facts |= {
            "encoder_id": "enc_1",
            "encoder_hash": "e" * 64,
            "encoder_identity": "e" * 64,
            "images": 0,
            "texts": 0,
            "dim": 4,
        }
        session.add(CollectionRow(id="col_1", name="few", path="collections/col_1", **facts))
        session.flush()
        opened = collections.CollectionRef("col_1", "collections/col_1", lambda item: False)
        change = ChangeRecord(0, "img_1", record, np.ones(4, "<f4").tobytes())
        collections.add_items(session, opened, [collections.ItemAddition(change, b"bytes")], "e" * 64)
        spec = {"encoder": "enc_1", "collection": "few", "mode": "add", "dataset": None}
        run_id = submit.submit(session, "index", spec).id
    InProcessWorker(database, settings, modules).work()
    reason = run_of(run_id).reason or {}
    assert reason["message"] == "the run left no collection among its artifacts", "the toy makes none"
    handed = RunDir(settings.runs_dir / run_id).read_run()["collections"]["few"]
    assert (handed["path"], handed["stored"], handed["through"]) == (str(place), "collections/col_1", 1)
    ((changes, pictures),) = seen
    assert [change.record for change in changes] == [record]
    assert pictures == [b"bytes"]
    assert not Path(handed["changes"]).exists(), "it was for this attempt alone"
