"""What large images take of a service's memory: a process of its own, its resident set read from /proc.

``pytest -n 0 -s tests/api/services/test_image_memory.py`` prints the figures.
"""

from __future__ import annotations

import base64
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.core.settings import ApiSettings
from api.services.state import AppState
from tests.api.sample_assets import images_by_colour, make_collection, png, save_encoder
from tests.api.service_fixture import ServiceFixture, serve_app
from tests.api.test_startup import ROOT, environment

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads /proc")
MB = 1_000_000
SIDES = 6_324, 6_324  # nearly forty million pixels, the most that one image may have by default
ABOVE_IDLE = 600 * MB
KEPT = 150 * MB
DEADLINE = 300


def one_colour(width: int, height: int) -> bytes:
    """A PNG of RGB zeros, a thousandth as large as its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = bytes(3 * width + 1) * 64
    packed = b"".join(packer.compress(rows[: (3 * width + 1) * min(64, height - top)]) for top in range(0, height, 64))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", packed + packer.flush()) + chunk(b"IEND", b"")


def url_of(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


@dataclass
class Service:
    """A service with an encoder ``tiny`` and a collection ``squares``, and its process."""

    live_service: ServiceFixture
    process: int

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.live_service.keys['submitter']}"}
        return httpx.post(self.live_service.url + path, json=body, headers=headers, timeout=DEADLINE, trust_env=False)

    def memory(self, line: str = "VmRSS") -> int:
        """Bytes of its resident set; ``VmHWM``: the most since ``begin``."""
        status = Path(f"/proc/{self.process}/status").read_text()
        return int(status.partition(f"{line}:")[2].split()[0]) * 1024

    def begin(self) -> int:
        """Forget the peak so far. Returns: what is resident now."""
        Path(f"/proc/{self.process}/clear_refs").write_text("5")
        return self.memory()


def body_of(path: str, images: Sequence[str]) -> dict[str, Any]:
    """What a request to ``path`` says about these images."""
    shown = [{"type": "image_url", "image_url": {"url": url}} for url in images]
    return {
        EMBEDDINGS: {"model": "tiny", "input": shown},
        "/v1/captions": {"model": "tiny", "images": images, "max_new_tokens": 2},
        "/v1/attention": {"model": "tiny", "images": images},
        "/v1/continuations": {"model": "tiny", "document": [{"image": url} for url in images], "max_new_tokens": 2},
        SEARCH: {"image": images[0]},
        ADD: {
            "items": [{"image": url, "name": f"{number}.png"} for number, url in enumerate(images)], "replace": True,
        },
    }[path]  # fmt: skip


EMBEDDINGS, SEARCH, ADD = "/v1/embeddings", "/v1/collections/squares/search", "/v1/collections/squares/items"
SEVERAL = (EMBEDDINGS, "/v1/captions", "/v1/attention", "/v1/continuations", ADD)
START = """
import socket, uvicorn
from api.app import create_app
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(create_app(), log_level="error")).run(sockets=[listening])
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    home, data = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("data")
    save_encoder(data / "tiny")
    values = {"LCL_DATA_ROOTS": str(data), "LCL_WELCOME": "0", "LCL_IMAGE_WAIT_SECONDS": str(DEADLINE)}
    process = subprocess.Popen(
        [sys.executable, "-c", START], cwd=ROOT, env=environment(home, **values), stdout=subprocess.PIPE, text=True
    )
    context = AppState(ApiSettings(home=home, data_roots=[data], _env_file=None))  # type: ignore[call-arg]
    try:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
        until = time.monotonic() + DEADLINE
        while not _answers(url):
            assert process.poll() is None, "the service did not start"
            assert time.monotonic() < until, "the service does not answer"
            time.sleep(0.05)
        live_service = ServiceFixture(url, home, context, (home / "key").read_text().strip())
        encoder = live_service.admin.import_encoder("tiny", str(data / "tiny"))
        make_collection(live_service, encoder, data / "tiny", images_by_colour())
        yield Service(live_service, process.pid)
    finally:
        process.kill()
        process.communicate()
        context.close()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def large() -> str:
    data = one_colour(*SIDES)
    assert len(data) < 140_000
    return url_of(data)


def under_load(service: Service, path: str, body: dict[str, Any], at_once: int) -> list[httpx.Response]:
    """Send a request so many times at once, and small ones meanwhile. Checks the memory, and that those are served."""
    small = url_of(png("red"))
    for other in (*SEVERAL, SEARCH):  # loads what any of them needs
        answer = service.post(other, body_of(other, [small]))
        assert answer.is_success, answer.text
    idle = service.begin()
    with ThreadPoolExecutor(at_once) as clients:
        sent = [clients.submit(service.post, path, body) for _ in range(at_once)]
        served = 0
        while wait(sent, timeout=0.2).not_done:
            answer = service.post(EMBEDDINGS, body_of(EMBEDDINGS, [small]))
            assert answer.status_code == 200, answer.text
            served += 1
        answers = [each.result() for each in sent]
    assert service.post(EMBEDDINGS, body_of(EMBEDDINGS, [small])).status_code == 200
    peak, kept = service.memory("VmHWM") - idle, service.memory() - idle
    figures = f"peak +{peak / MB:.0f} MB, afterwards {kept / MB:+.0f} MB, {served} small requests meanwhile"
    sys.stdout.write(f"\n{path}: {figures}\n")
    assert peak <= ABOVE_IDLE
    assert kept <= KEPT
    return answers


def test_more_pixels_than_a_request_may_have_are_refused_before_they_are_decoded(service: Service, large: str) -> None:
    answers = under_load(service, EMBEDDINGS, body_of(EMBEDDINGS, [large] * 12), 8)
    assert {answer.status_code for answer in answers} == {422}
    facts = answers[0].json()["error"]
    assert (facts["code"], facts["field"]) == ("too_many_pixels", "input.5")
    assert "LCL_MAX_REQUEST_PIXELS" in facts["message"]


def test_large_images_of_many_requests_are_decoded_in_bounded_memory(service: Service, large: str) -> None:
    answers = under_load(service, EMBEDDINGS, body_of(EMBEDDINGS, [large] * 2), 8)
    assert [answer.status_code for answer in answers] == [200] * 8
    vectors = {tuple(row["embedding"]) for answer in answers for row in answer.json()["data"]}
    assert len(vectors) == 1


@pytest.mark.parametrize("path", [*SEVERAL[1:], SEARCH])
def test_so_they_are_wherever_images_are_sent(service: Service, large: str, path: str) -> None:
    answers = under_load(service, path, body_of(path, [large] * 2), 3)
    assert all(answer.is_success for answer in answers), answers[0].text


@pytest.mark.parametrize("path", [*SEVERAL, SEARCH])
def test_without_memory_a_request_is_refused_and_the_next_one_served(
    service: Service, monkeypatch: pytest.MonkeyPatch, path: str, refused: Any
) -> None:
    """In this process: another one cannot be made to lack memory at a certain place."""
    from api.services import request_images

    with serve_app(service.live_service.context.settings) as url:
        here = Service(_elsewhere(service.live_service, url), service.process)
        body = body_of(path, [url_of(png("red"))])
        with monkeypatch.context() as patched:
            patched.setattr(request_images, "decode_image", _no_memory)
            answer = here.post(path, body)
        refused(answer, 503, "out_of_memory")
        assert int(answer.headers["retry-after"]) >= 1
        assert here.post(path, body).is_success


def _no_memory(*_: object, **__: object) -> None:
    raise MemoryError


def _elsewhere(live_service: ServiceFixture, url: str) -> ServiceFixture:
    """The same rows and keys behind another address."""
    found = copy(live_service)
    found.url = url
    return found
