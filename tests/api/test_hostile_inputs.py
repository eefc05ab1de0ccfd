"""Hostile requests, each refused with a 4xx in the one form, and nothing written, run or fetched."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from lcl_core.db import complete_run
from lcl_core.db.models import Base
from tests.api.hostile import bombs, encoders, paths, wire
from tests.api.hostile.case import CUT, DATA, ENCODER, HOME, OWN, THEIRS, TRAP, Case, send
from tests.api.hostile.table import CASES, DOCUMENT, table
from tests.lcl_core.encoders.external_samples import save_huggingface

pytestmark = pytest.mark.extended


def test_they_are_many_and_each_stands_in_the_table() -> None:
    names = [(case.family, case.name) for case in CASES]
    assert len(names) == len(set(names)) >= 450
    assert DOCUMENT.read_text(encoding="utf-8") == table(), "write it anew: python -m tests.api.hostile"
    said = DOCUMENT.with_name("security.md").read_text(encoding="utf-8")
    assert f"[All {len(CASES)} requests" in said


class _Owned:
    """Unpickled, it leaves a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture(scope="module")
def trap() -> Iterator[socket.socket]:
    """A port that nobody may knock at."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


@pytest.fixture(scope="module")
def mark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What would be there if a pickle had been opened."""
    return tmp_path_factory.mktemp("marks") / "owned"


@pytest.fixture(scope="module")
def furnished(
    live_service: Any, data_root: Path, encoder_dir: Path, sample_zip: Path, mark: Path, tmp_path_factory: Any
) -> None:
    """Links, archives, pickles and encoders in the data root."""
    private = data_root.parent / f"{data_root.name}-private"
    (private / "deep").mkdir(parents=True)
    links = {"out": private, "home": live_service.home, "loop": data_root / "loop"}
    for name, target in links.items():
        (data_root / name).symlink_to(target)
    (private / "interleaved.jsonl").write_bytes(bombs.LINE)
    (data_root / "linked-corpus").mkdir()
    (data_root / "linked-corpus" / "interleaved.jsonl").symlink_to(private / "interleaved.jsonl")
    for name, linked in (("linked-weights", "model.safetensors"), ("linked-config", "config.json")):
        (data_root / name).mkdir()
        for file in encoder_dir.iterdir():
            place = data_root / name / file.name
            place.symlink_to(file) if file.name == linked else place.write_bytes(file.read_bytes())
    for name in paths.WEIGHTS:
        folder = data_root / "pickled" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_bytes((encoder_dir / "config.json").read_bytes())
        (folder / name).write_bytes(pickle.dumps(_Owned(mark)))
    twin = data_root / "twin"
    shutil.copytree(encoder_dir, twin)
    (twin / "tokenizer.json").write_bytes((twin / "tokenizer.json").read_bytes() + b"\n")
    (data_root / "whole.zip").write_bytes(sample_zip.read_bytes())
    bombs.make_archives(data_root)
    foreign = save_huggingface(tmp_path_factory.mktemp("foreign") / "encoder", "clip")
    encoders.make_encoders(data_root, encoder_dir, foreign)


@pytest.fixture(scope="module")
def places(live_service: Any, data_root: Path, furnished: None, encoder: Any, trap: socket.socket) -> dict[str, str]:
    """What the marks in the cases stand for: among others a finished run of the caller's owner, and another's."""
    with live_service.http("submitter") as caller:
        own = caller.post("/v1/runs", json=wire.RUN).json()["id"]
    theirs = live_service.submit()
    for run_id in (own, theirs):
        live_service.settle(live_service.claim(run_id), complete_run.RunCancelled())
    artifacts = live_service.run_dir(own).artifacts
    (artifacts / "report.json").write_text("{}")
    (artifacts / "leak").symlink_to(live_service.home / "key")
    (artifacts / "up").symlink_to(live_service.home)
    host, port = trap.getsockname()
    marks = {DATA: str(data_root), HOME: str(live_service.home), OWN: own, THEIRS: theirs, TRAP: f"{host}:{port}"}
    return {**marks, ENCODER: encoder["id"], "@KEY@": live_service.keys["admin"]}


def state(live_service: Any) -> tuple[dict[str, int], list[str]]:
    """Rows of every table, and every file of the home but what examinations of encoders found."""
    with live_service.context.database.reading() as session:
        tables = Base.metadata.sorted_tables
        counts = {table.name: session.scalar(select(func.count()).select_from(table)) or 0 for table in tables}
    files = (path.relative_to(live_service.home).as_posix() for path in live_service.home.rglob("*"))
    return counts, sorted(name for name in files if not name.startswith(("lcl.db", "examined")))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.family}: {case.name}")
def test_it_is_refused_and_nothing_is_written(
    live_service: Any, places: dict[str, str], trap: socket.socket, mark: Path, case: Case
) -> None:
    before = state(live_service)
    answer = send(live_service.url, case, live_service.keys["submitter"], places)
    assert answer.status in case.status, answer.body[:500]
    if answer.status != CUT:
        facts = json.loads(answer.body)["error"]
        assert facts["code"]
        assert facts["message"]
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert b"Traceback" not in answer.body
    assert b"root:" not in answer.body, "a file of the machine"
    assert places["@KEY@"].partition(".")[2].encode() not in answer.body
    assert not {"access-control-allow-origin", "set-cookie", "x-role"} & set(answer.headers)
    assert state(live_service) == before
    assert not mark.exists(), "a pickle was opened"
    with pytest.raises(BlockingIOError):
        trap.accept()


def test_the_service_is_well_afterwards(live_service: Any, places: dict[str, str]) -> None:
    with live_service.http("submitter") as caller:
        assert caller.get("/healthz").json() == {"status": "ok"}
        assert caller.get(f"/v1/runs/{places[OWN]}").json()["state"] == "cancelled"
        assert caller.get(f"/v1/runs/{places[OWN]}/artifacts/report.json").text == "{}"
        assert [row["name"] for row in caller.get("/v1/datasets").json()["items"]] == ["sample"]
