"""Images and vectors that the page serves itself."""

from __future__ import annotations

import asyncio
import csv
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.client import ApiError
from ui.file_routes import FORMATS, MAX_READS, MAX_WAITING_READS, as_npy, build_file_routes, error_response

PNG = b"\x89PNG\r\n\x1a\n rest"


@pytest.fixture
def http(service: Any) -> Callable[..., TestClient]:
    def make(**answers: Any) -> TestClient:
        app = FastAPI()
        app.exception_handler(ApiError)(error_response)
        app.include_router(build_file_routes(service(**answers)))
        return TestClient(app)

    return make


def test_images_are_passed_on_with_their_type(http: Callable[..., TestClient]) -> None:
    answer = http(item_image=PNG).get("/media/col_1/item")
    assert answer.content == PNG
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["cache-control"].startswith("private")


def test_what_may_be_replaced_under_its_id_is_kept_for_minutes_only(http: Callable[..., TestClient]) -> None:
    client = http(item_image=PNG, dataset_image=PNG, item={"caption": "a square"})
    kept = {path: client.get(path).headers["cache-control"] for path in ("/media/c/i", "/item/c/i", "/corpus/d/i.png")}
    assert kept == {
        "/media/c/i": "private, max-age=300",
        "/item/c/i": "private, max-age=300",
        "/corpus/d/i.png": "private, max-age=3600",
    }


def test_what_is_no_image_is_never_a_page(http: Callable[..., TestClient]) -> None:
    answer = http(item_image=b"<script>alert(1)</script>").get("/media/col_1/item")
    assert answer.headers["content-type"] == "application/octet-stream"


def test_refusals_are_passed_on(http: Callable[..., TestClient], away: Exception) -> None:
    gone = http(item_image=ApiError(404, "not_found", "no such item")).get("/media/c/i")
    assert (gone.status_code, gone.text) == (404, "no such item")
    assert http(item_image=away).get("/media/c/i").status_code == 502
    assert http(vector_pages=away).get("/vectors/c.npy").status_code == 502


def test_a_map_and_captions_are_passed_on(http: Callable[..., TestClient], away: Exception) -> None:
    client = http(
        collection_map_file=lambda name, limit, method: f"{name} by {method}".encode(),
        item={"id": "i", "caption": "a <red> square", "captions": []},
    )
    assert client.get("/map/col?version=1").content == b"col by tsne"
    assert client.get("/map/col?version=1&method=pca").content == b"col by pca"
    assert client.get("/item/col/i").json() == {"caption": "a <red> square"}
    gone = http(collection_map_file=ApiError(404, "not_found", "no such collection"), item=away)
    assert (gone.get("/map/col").status_code, gone.get("/map/col").text) == (404, "no such collection")
    assert gone.get("/item/col/i").status_code == 502


def test_the_guide_is_passed_on_under_its_own_policy(http: Callable[..., TestClient]) -> None:
    policy = {"content-type": "text/html; charset=utf-8", "content-security-policy": "default-src 'none'"}
    pages = http(guide_file=lambda path: httpx.Response(200, headers=policy | {"server": "x"}, text=f"<h1>{path}</h1>"))
    answer = pages.get("/docs/guide/reference/settings.html")
    assert (answer.status_code, answer.text) == (200, "<h1>reference/settings.html</h1>")
    assert {name: answer.headers.get(name) for name in policy} == policy
    assert "server" not in answer.headers
    assert pages.get("/docs/guide", follow_redirects=False).headers["location"] == "guide/"
    missing = http(guide_file=ApiError(404, "not_found", "the guide has no x.html")).get("/docs/guide/x.html")
    assert (missing.status_code, missing.text) == (404, "the guide has no x.html")


def test_vectors_come_in_two_formats(http: Callable[..., TestClient]) -> None:
    pages = [
        {"ids": ["a"], "vectors": [[0.1, -0.2]], "total": 2},
        {"ids": ["b,c"], "vectors": [[0.3, 0.4]], "total": 2},
    ]
    client = http(vector_pages=lambda _: (page for page in pages))
    matrix = np.load(io.BytesIO(client.get("/vectors/col.npy").content), allow_pickle=False)
    np.testing.assert_allclose(matrix, [[0.1, -0.2], [0.3, 0.4]], rtol=1e-6)
    rows = list(csv.reader(io.StringIO(client.get("/vectors/col.csv").text)))
    assert rows == [["name", "v0", "v1"], ["a", "0.1", "-0.2"], ["b,c", "0.3", "0.4"]]
    assert "attachment" in client.get("/vectors/col.npy").headers["content-disposition"]


def test_another_format_is_refused(http: Callable[..., TestClient]) -> None:
    answer = http().get("/vectors/col.pkl")
    assert answer.status_code == 404
    assert "npy, csv" in answer.text


def test_a_collection_of_nothing_gives_empty_files(http: Callable[..., TestClient]) -> None:
    client = http(vector_pages=lambda _: (page for page in [{"ids": [], "vectors": [], "total": 0}]))
    assert client.get("/vectors/col.csv").text.strip() == "name"


def test_a_corpus_image_that_cannot_be_had_leaves_a_sign_in_its_place(
    http: Callable[..., TestClient], away: Exception
) -> None:
    gone = http(dataset_image=ApiError(404, "not_found", "images/x.png: missing")).get("/corpus/sample/x.png")
    assert (gone.status_code, gone.headers["content-type"]) == (200, "image/svg+xml")
    assert "cannot be read" in gone.text
    assert http(dataset_image=away).get("/corpus/sample/x.png").status_code == 502
    requests: list[tuple[str, ...]] = []

    def image(*names: str) -> bytes:
        requests.append(names)
        return PNG

    assert http(dataset_image=image).get("/corpus/a%20b/c/d%20e.png").headers["content-type"] == "image/png"
    assert requests == [("a b", "c/d e.png")]


def test_a_study_is_downloaded_and_never_shown_as_a_page(http: Callable[..., TestClient], away: Exception) -> None:
    files = http(study_table=lambda study, kind: f"{study} {kind}")
    table = files.get("/study/study_1/table.csv")
    assert (table.text, table.headers["content-disposition"]) == ("study_1 csv", 'attachment; filename="table.csv"')
    assert table.headers["content-type"] == "application/octet-stream"
    assert http(study_table=away).get("/study/study_1/table.csv").status_code == 502


def test_encoders_are_passed_on_as_they_come(http: Callable[..., TestClient]) -> None:
    open_now: list[str] = []

    @contextmanager
    def archive(encoder: str, form: str) -> Iterator[httpx.Response]:
        if form == "openclip":
            raise ApiError(422, "unsupported", "OpenCLIP cannot hold it", "format")
        open_now.append(form)
        yield httpx.Response(200, content=f"{encoder} {form}".encode(), headers={"server": "another"})
        open_now.remove(form)

    client = http(encoder_archive=archive)
    answer = client.get("/encoder/enc_1/onnx.tar")
    assert (answer.status_code, answer.content) == (200, b"enc_1 onnx")
    assert 'filename="enc_1-onnx.tar"' in answer.headers["content-disposition"]
    assert answer.headers["content-length"] == "10"
    assert open_now == []
    refused = client.get("/encoder/enc_1/openclip.tar")
    assert (refused.status_code, refused.text) == (422, "OpenCLIP cannot hold it")


def test_files_of_a_run_are_passed_on_as_downloads(http: Callable[..., TestClient]) -> None:
    """A page that a run has written would act with the visitor's session if it were shown."""
    asked: list[tuple[str, str]] = []

    @contextmanager
    def stream(run: str, name: str) -> Iterator[httpx.Response]:
        asked.append((run, name))
        if name == "gone.json":
            raise ApiError(404, "not_found", "there is no file 'gone.json' among the artifacts")
        yield httpx.Response(200, content=b"<script>", headers={"content-type": "text/html"})

    client = http(artifact_stream=stream)
    answer = client.get("/artifacts/run_1/plots/a%20b.html")
    assert (answer.status_code, answer.content) == (200, b"<script>")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == 'attachment; filename="a%20b.html"'
    assert client.get("/artifacts/run_1/gone.json").status_code == 404
    assert asked == [("run_1", "plots/a b.html"), ("run_1", "gone.json")]


def test_whether_an_encoder_is_loaded_is_asked_of_the_service(http: Callable[..., TestClient], away: ApiError) -> None:
    assert http(health={"ready": False, "checks": {}, "loading": 2}).get("/loading").json() == {"encoders": 2}
    assert http(health={"ready": True, "checks": {}}).get("/loading").json() == {"encoders": 0}, "an older service"
    assert http(health=away).get("/loading").json() == {"encoders": 0}


def test_vectors_are_written_as_they_come(service: Any) -> None:
    """A collection may be larger than the page's memory."""
    written: list[bytes] = []

    def pages() -> Iterator[tuple[list[str], list[list[float]]]]:
        for number in range(3):
            assert len(written) >= number
            yield [f"i{number}"], [[float(number), 1.0]]

    for write, _ in FORMATS.values():
        written.clear()
        for part in write(3, pages()):
            written.append(part)
    with pytest.raises(ValueError, match="3 vectors came and 4 were announced"):
        list(as_npy(4, pages()))


def test_the_page_is_alive_while_all_its_threads_wait_for_the_service(service: Any) -> None:
    answered = threading.Event()
    app = FastAPI()
    app.include_router(build_file_routes(service(health=lambda: answered.wait(30) and {})))

    async def ask() -> int:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://page") as client:
            waiting = [asyncio.create_task(client.get("/loading")) for _ in range(50)]
            await asyncio.sleep(0)  # they begin
            alive = await asyncio.wait_for(client.get("/healthz"), 20)
            assert not any(task.done() for task in waiting)
            answered.set()
            await asyncio.gather(*waiting)
            return alive.status_code

    assert asyncio.run(ask()) == 200


@pytest.mark.parametrize(("path", "most"), [("/media/c/i", MAX_READS + MAX_WAITING_READS), ("/vectors/c.csv", 8)])
def test_a_key_has_so_many_requests_at_one_time(service: Any, path: str, most: int) -> None:
    """A flood of one user takes some threads, and some connections to the service, of all."""
    go_on, asked = threading.Event(), list[str]()

    def wait(*_: Any) -> bytes:
        asked.append(path)
        assert go_on.wait(30)
        return PNG

    def pages(_: str) -> Iterator[Any]:
        yield {"ids": ["a"], "vectors": [[1.0]], "total": 2}
        wait()
        yield {"ids": ["b"], "vectors": [[1.0]], "total": 2}

    app = FastAPI()
    app.exception_handler(ApiError)(error_response)
    app.include_router(build_file_routes(service(item_image=wait, vector_pages=pages)))

    async def flood() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://page") as client:
            requests = [asyncio.create_task(client.get(path)) for _ in range(most + 3)]
            while len(asked) < MAX_READS or sum(task.done() for task in requests) < 3:
                await asyncio.sleep(0.01)
            assert len(asked) == 8
            go_on.set()
            return sorted(answer.status_code for answer in await asyncio.gather(*requests))

    assert asyncio.run(flood()) == [200] * most + [429] * 3
