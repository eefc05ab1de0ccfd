"""Requests that read for long: they hold up neither who writes nor who asks, and are few at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

import api.routes.encoders
import api.routes.runs
import api.services.collection_views
import api.services.corpora
from api.core.errors import Problem
from api.core.long_reads import (
    MAX_LONG_READS,
    MAX_LONG_READS_PER_OWNER,
    MAX_WAITING_COMPARISONS_PER_OWNER,
    MAX_WAITING_READS_PER_OWNER,
    LongReadQueue,
)
from lcl_core.common.sandbox import SandboxResult
from tests.api.routes.test_datasets import write_corpus

IMPORTS = 24


class Slow:
    """Stands for a function whose files lie on a disk that does not answer until ``done`` is set."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.reading = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, *_: Any, **__: Any) -> Any:
        with self._lock:
            self.reading += 1
            self.most = max(self.most, self.reading)
        try:
            self.done.wait(180)
        finally:
            with self._lock:
                self.reading -= 1
        raise Problem(422, "bad_disk", "the disk did not answer")


@contextmanager
def under_way(
    live_service: Any, role: str, calls: list[Any], slow: Slow, eventually: Any, least: int = 2
) -> Iterator[list[Future[Any]]]:
    """The calls, each in a thread, once so many of them read; ended at the end of the block."""
    with live_service.http(role) as client, ThreadPoolExecutor(len(calls)) as pool:
        try:
            requested = [pool.submit(call, client) for call in calls]
            eventually(lambda: slow.reading >= least, "the calls", 60)
            yield requested
        finally:
            slow.done.set()


def requests_of(live_service: Any) -> float:
    with live_service.http(None) as anonymous:
        lines = anonymous.get("/metrics", timeout=60).text.splitlines()
    return float(next(line for line in lines if line.startswith('lcl_places{kind="request"}')).split()[-1])


def import_encoder(path: Path, client: httpx.Client) -> int:
    return client.post("/v1/encoders", json={"name": "slow", "path": str(path)}).status_code


def register(path: Path, number: int, client: httpx.Client) -> int:
    return client.post("/v1/datasets", json={"name": f"slow-{number}", "path": str(path)}).status_code


def others_go_on(live_service: Any) -> None:
    """What anybody else asks meanwhile is answered."""
    with live_service.http("admin") as other:
        for _ in range(3):
            answer = other.post("/v1/runs", json={"kind": "pretrain", "spec": {"preset": "sample"}}, timeout=60)
            assert answer.status_code == 202
        assert other.get("/healthz", timeout=60).status_code == 200
        assert other.get("/v1/encoders/absent/figures", timeout=60).status_code == 404


def test_imports_that_read_for_long_hold_up_nobody(
    live_service: Any, data_root: Path, monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    slow = Slow()
    monkeypatch.setattr(api.routes.encoders, "stage_import", slow)
    calls = [partial(import_encoder, data_root)] * IMPORTS
    with under_way(live_service, "submitter", calls, slow, eventually) as requested:
        eventually(lambda: requests_of(live_service) == IMPORTS, "all of them under way", 60)
        others_go_on(live_service)
        assert not any(call.done() for call in requested), "all are reading still, or waiting for it"
        assert slow.most == MAX_LONG_READS_PER_OWNER
    assert {call.result() for call in requested} == {422}


def test_registrations_that_read_for_long_hold_up_nobody(
    live_service: Any, data_root: Path, monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    slow, corpus = Slow(), write_corpus(data_root / "slow corpus")
    monkeypatch.setattr(api.services.corpora, "compute_statistics", slow)
    calls = [partial(register, corpus, number) for number in range(IMPORTS)]
    with under_way(live_service, "submitter", calls, slow, eventually) as requested:
        others_go_on(live_service)
        assert slow.most == MAX_LONG_READS_PER_OWNER
    assert {call.result() for call in requested} == {422}


def test_maps_that_are_drawn_take_nobodys_thread(
    live_service: Any, collection: Any, monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    slow = Slow()
    monkeypatch.setattr(api.services.collection_views, "project_points", slow)
    calls = [lambda client: client.get("/v1/collections/squares/map").status_code] * 60
    with under_way(live_service, "viewer", calls, slow, eventually):
        others_go_on(live_service)


def test_metric_lines_that_are_read_take_nobodys_thread(
    live_service: Any, monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    slow = Slow()
    with live_service.http("submitter") as client:
        run_id = client.post("/v1/runs", json={"kind": "pretrain", "spec": {"preset": "sample"}}).json()["id"]
    monkeypatch.setattr(api.routes.runs, "metrics_json", slow)
    calls = [lambda client: client.get(f"/v1/runs/{run_id}/metrics").status_code] * 60  # more than there are threads
    with under_way(live_service, "submitter", calls, slow, eventually):
        others_go_on(live_service)


def test_healthz_needs_no_thread(
    live_service: Any, encoder: Any, monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    slow = Slow()
    monkeypatch.setattr(api.routes.encoders, "evaluation_figures", slow)
    calls = [lambda client: client.get("/v1/encoders/tiny/figures").status_code] * 60  # more than there are threads
    with under_way(live_service, "viewer", calls, slow, eventually, least=20), live_service.http(None) as anonymous:
        assert anonymous.get("/healthz", timeout=60).json() == {"status": "ok"}


def test_a_map_is_drawn_once(live_service: Any, collection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    draw = api.services.collection_views.project_points

    def count(opened: Any, limit: int) -> Any:
        drawn.append(limit)
        return draw(opened, limit)

    monkeypatch.setattr(api.services.collection_views, "project_points", count)
    with live_service.http("viewer") as viewer:
        first, again, smaller = (
            viewer.get("/v1/collections/squares/map", params={"limit": limit}).json() for limit in (3000, 2999, 2)
        )
    assert first == again
    assert (len(first["points"]), len(smaller["points"])) == (4, 2)
    assert drawn == [4, 2], "as many as there are is the same map"


def test_requests_at_one_time_for_the_file_of_a_map_compute_it_once(
    live_service: Any, collection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    draw = api.services.collection_views.map_file

    def count(opened: Any, limit: int, method: Any) -> Any:
        drawn.append(limit)
        return draw(opened, limit, method)

    monkeypatch.setattr(api.services.collection_views, "map_file", count)
    with ThreadPoolExecutor(4) as pool, live_service.http("viewer") as viewer:
        path = "/v1/collections/squares/map.safetensors"
        files = list(pool.map(lambda _: viewer.get(path).content, range(4)))
    assert len(set(files)) == 1
    assert len(drawn) == 1


def test_maps_by_neighbours_hold_up_no_others(
    live_service: Any, collection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def fail_later(*_: Any) -> SandboxResult:
        begun.set()
        assert go_on.wait(60)
        return SandboxResult(1, b"", "MemoryError")

    monkeypatch.setattr(api.services.collection_views, "run_sandboxed", fail_later)
    with ThreadPoolExecutor(4) as pool, live_service.http("viewer") as viewer:
        path = "/v1/collections/squares/map.safetensors"
        waiting = [pool.submit(viewer.get, path, params={"method": "tsne", "limit": 1 + each}) for each in range(4)]
        try:
            assert begun.wait(60)
            assert viewer.get(path, params={"limit": 3}).status_code == 200
            assert viewer.get("/v1/collections/squares/map", params={"limit": 3}).status_code == 200
            assert not any(each.done() for each in waiting)
        finally:
            go_on.set()
        answers = [each.result() for each in waiting]
    assert [(each.status_code, each.json()["error"]["code"]) for each in answers] == [(503, "map_failed")] * 4


def request_map(client: httpx.Client, number: int) -> httpx.Response:
    return client.get("/v1/collections/squares/map.safetensors", params={"method": "tsne", "limit": 1 + number % 4})


def request_duplicates(client: httpx.Client, number: int) -> httpx.Response:
    return client.get("/v1/collections/squares/duplicates", params={"threshold": number / 100})


@pytest.mark.parametrize(
    ("call", "patched"),
    [
        (request_map, "api.services.collection_views.MapCache.get_file"),
        (request_duplicates, "api.services.collection_views.DuplicateCache.page"),
    ],
)
def test_many_comparisons_of_one_owner_delay_no_other(
    live_service: Any, collection: Any, monkeypatch: pytest.MonkeyPatch, eventually: Any, call: Any, patched: str
) -> None:
    computed: list[Any] = []
    go_on = threading.Event()

    def compute(_cache: Any, _collection: Any, limit_or_threshold: Any, *_: Any) -> Any:
        computed.append(limit_or_threshold)
        assert go_on.wait(180)
        return b"" if call is request_map else ([], 0)

    monkeypatch.setattr(patched, compute)
    key = live_service.admin.create_key("another", "viewer")["key"]
    most, others = 1 + MAX_WAITING_COMPARISONS_PER_OWNER, 3
    with (
        live_service.http("viewer") as viewer,
        live_service.http(None) as another,
        ThreadPoolExecutor(most + others + 1) as pool,
    ):
        another.headers["authorization"] = f"Bearer {key}"
        sent = [pool.submit(call, viewer, 0) for _ in range(most + others)]
        try:
            eventually(lambda: sum(each.done() for each in sent) == others, "those that are refused", 60)
            refused = [each.result() for each in sent if each.done()]
            sent.append(pool.submit(call, another, 3))
            eventually(lambda: requests_of(live_service) == most + 1, "the other owner's", 60)
        finally:
            go_on.set()
        statuses = [each.result().status_code for each in sent]
    assert {(each.status_code, each.headers["retry-after"]) for each in refused} == {(429, "5")}
    assert sorted(statuses) == [200] * (most + 1) + [429] * others
    assert len(computed) == most + 1
    assert computed.index(4 if call is request_map else 0.03) == 1, "the other owner waited for one alone"


def test_each_owner_has_a_few_and_a_queue_with_an_end() -> None:
    async def main() -> None:
        reads, slow = LongReadQueue(), Slow()
        refused: list[Problem] = []

        async def read(owner: str) -> None:
            try:
                await reads.run(owner, slow)
            except Problem as error:
                refused.append(error)

        async with anyio.create_task_group() as group:
            for _ in range(MAX_LONG_READS_PER_OWNER + MAX_WAITING_READS_PER_OWNER):
                group.start_soon(read, "ada")
            for owner in ("bob", "cleo", "dan", "eve"):
                group.start_soon(read, owner)
            with anyio.fail_after(180):
                while slow.reading < 6:
                    await anyio.sleep(0.01)
            await read("ada")
            assert [error.status for error in refused] == [429]
            assert refused[0].headers == {"retry-after": "5"}
            slow.done.set()
        assert slow.most <= MAX_LONG_READS
        assert len(refused) == 1 + MAX_LONG_READS_PER_OWNER + MAX_WAITING_READS_PER_OWNER + 4
        with pytest.raises(Problem, match="the disk did not answer"):
            await reads.run("ada", slow)

    anyio.run(main)
