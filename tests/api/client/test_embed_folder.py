"""A folder of images becomes vectors, by both clients; what is no image is named and left out."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from api.client import ApiError, Client, Skipped
from api.client._io import async_parallel_map, parallel_map
from api.client._sync import inference
from tests.api.client.sync_adapter import SyncAdapter
from tests.api.sample_assets import png
from tests.api.scripted_server import scripted_server


@pytest.fixture
def folder(tmp_path: Path, sample_images: dict[str, bytes]) -> Path:
    for place, (name, data) in enumerate(sorted(sample_images.items())):
        file = tmp_path / f"{'below/' * (place % 2)}{name}.{'PNG' if place else 'png'}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(data)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no more")
    (tmp_path / "below" / "dangling.png").symlink_to("nowhere")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    return tmp_path


@pytest.fixture(params=[Client, SyncAdapter])
def client(request: pytest.FixtureRequest, live_service: Any) -> Iterator[Any]:
    with request.param(live_service.url, live_service.keys["viewer"], attempts=1) as client:
        yield client


def test_every_image_has_its_vector_and_the_rest_a_reason(
    client: Any, live_service: Any, encoder: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skipped: list[Skipped] = []
    progress: list[tuple[int, int | None]] = []
    monkeypatch.setattr(inference, "MAX_REQUEST_BYTES", 150)  # two of them at most
    found = dict(
        client.embed_folder(
            "tiny", folder, batch=4, at_once=2, on_skip=skipped.append, on_progress=lambda *at: progress.append(at)
        )
    )
    assert list(found) == sorted(found)
    assert sorted(path.stem for path in found) == ["blue", "green", "red", "white"]
    for path, vector in found.items():
        np.testing.assert_allclose(vector, live_service.admin.embed_images("tiny", [path.read_bytes()])[0], atol=1e-5)
    assert {each.path.name: each.reason for each in skipped}.keys() == {"broken.jpg", "dangling.png"}
    assert all("No such file" in each.reason or "input.0" in each.reason for each in skipped)
    assert [at[0] for at in progress] == [4, 6]
    assert {at[1] for at in progress} == {6}


def test_a_refusal_that_is_no_images_fault_ends_it(client: Any, encoder: Any, folder: Path) -> None:
    with pytest.raises(ApiError, match="absent"):
        list(client.embed_folder("absent", folder))
    with pytest.raises(NotADirectoryError):
        list(client.embed_folder("tiny", folder / "nowhere"))


def test_an_image_that_is_too_large_alone_is_skipped(folder: Path) -> None:
    large = 413, {}, json.dumps({"error": {"code": "body_too_large", "message": "too large"}}).encode()
    skipped: list[Skipped] = []
    with scripted_server(large) as server, Client(server.url, "k") as client:
        assert list(client.embed_folder("tiny", folder / "below", batch=1, on_skip=skipped.append)) == []
        with pytest.raises(ApiError, match="too large"):
            list(client.embed_folder("tiny", folder, batch=9))
    assert {each.reason for each in skipped} == {"too large", "No such file or directory"}


def test_only_so_many_are_under_way_and_order_is_kept() -> None:
    lock, now, most = threading.Lock(), 0, 0

    def call(item: int) -> int:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.002 * (item % 3))
        with lock:
            now -= 1
        return item

    assert list(parallel_map(call, range(20), 3)) == list(range(20))
    assert 1 < most <= 3


def test_whoever_leaves_early_leaves_nothing_behind() -> None:
    import asyncio

    started: list[int] = []

    async def call(item: int) -> int:
        started.append(item)
        await asyncio.sleep(0 if item == 0 else 60)
        return item

    async def leave() -> None:
        found = async_parallel_map(call, range(100), 3)
        assert await anext(found) == 0
        await found.aclose()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(leave())
    assert len(started) <= 4


def test_images_of_too_many_pixels_together_are_sent_in_parts(client: Any, encoder: Any, tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(png("red", (490, 490)))  # two of them are all that a request may have
    skipped: list[Skipped] = []
    found = dict(client.embed_folder("tiny", tmp_path, on_skip=skipped.append))
    assert [path.name for path in found] == [f"{number}.png" for number in range(5)]
    assert not skipped
