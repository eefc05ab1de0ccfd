"""Bodies: whose they are is known before they are read, they arrive in time, and few bytes of them are kept."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx
import pytest

from api.core.errors import Problem
from api.core.limits import BodyBudget
from api.core.settings import ApiSettings
from api.services.state import AppState
from deploy.process import responds
from tests.api.test_startup import api

MEGABYTE = 2**20
ANNOUNCED = 62 * MEGABYTE
SENT = 2 * MEGABYTE  # of each: enough to tell who keeps it
STRANGERS = 100
RUN = b'{"kind": "pretrain", "spec": {"preset": "sample"}}'


def head(call: str, length: int, key: str) -> bytes:
    lines = [f"{call} HTTP/1.1", "Host: lcl", f"Authorization: Bearer {key}", "Content-Type: application/json"]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


def connect(url: str) -> socket.socket:
    return socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=180)


def answer_of(line: socket.socket) -> tuple[int, dict[str, Any], HTTPResponse]:
    answer = HTTPResponse(line)
    answer.begin()
    return answer.status, json.loads(answer.read()).get("error"), answer


def resident(process: subprocess.Popen[str]) -> int:
    """Bytes of the process that are in memory."""
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * resource.getpagesize()


def send_what_goes(lines: list[socket.socket], bytes_each: int) -> int:
    """Send so much on each of them as the other side takes within a moment; bytes in all."""
    chunk, sent = bytes(MEGABYTE // 4), 0
    for line in lines:
        line.settimeout(0.05)
        try:
            for _ in range(bytes_each // len(chunk)):
                line.sendall(chunk)
                sent += len(chunk)
        except OSError:  # not read any more, or hung up on
            continue
    return sent


@contextmanager
def running(home: Path, port: int, eventually: Callable[..., None], **more: str) -> Iterator[tuple[str, Any]]:
    """The service as a process of its own, whose memory is its own; warmed up."""
    with api(home, port, LCL_WELCOME="false", **more) as process:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: responds(f"{url}/healthz"), "the service")
        with httpx.Client(base_url=url, headers={"authorization": "Bearer nothing"}, trust_env=False) as client:
            for _ in range(50):
                assert client.post("/v1/embeddings", content=b"x" * 4096).status_code == 401
        yield url, process


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what a process keeps")
def test_a_hundred_anonymous_users_fill_no_memory(tmp_path: Path, free_port: int, eventually: Any) -> None:
    with running(tmp_path, free_port, eventually) as (url, process), ExitStack() as stack:
        before = resident(process)
        lines = [stack.enter_context(connect(url)) for _ in range(STRANGERS)]
        for line in lines:
            line.sendall(head("POST /v1/embeddings", ANNOUNCED, "nothing"))
        send_what_goes(lines, SENT)
        grown = resident(process) - before
        assert grown <= 20 * MEGABYTE, f"grew by {grown / MEGABYTE:.0f} MB"
        for line in lines:
            line.settimeout(180)
            status, error, _ = answer_of(line)
            assert (status, error["code"]) == (401, "unauthorized")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what a process keeps")
def test_a_viewer_fills_as_much_as_the_settings_say(tmp_path: Path, free_port: int, eventually: Any) -> None:
    bound = 32 * MEGABYTE
    small = {"LCL_BODY_BYTES_AT_ONCE": str(2 * bound), "LCL_MAX_MEDIA_BODY_BYTES": str(8 * MEGABYTE)}
    with running(tmp_path, free_port, eventually, **small) as (url, process), ExitStack() as stack:
        key = (tmp_path / "key").read_text().strip()
        made = httpx.post(
            f"{url}/v1/keys", json={"owner": "vic", "role": "viewer"}, headers={"authorization": f"Bearer {key}"},
            trust_env=False,
        ).json()["key"]  # fmt: skip
        before = resident(process)
        lines = [stack.enter_context(connect(url)) for _ in range(STRANGERS)]
        for line in lines:
            line.sendall(head("POST /v1/embeddings", 8 * MEGABYTE, made))
        sent = send_what_goes(lines, 7 * MEGABYTE)
        grown = resident(process) - before
        assert sent > bound // 2, "some of it was read"
        assert grown <= 1.5 * bound + 20 * MEGABYTE, f"grew by {grown / MEGABYTE:.0f} MB"
        figures = httpx.get(f"{url}/metrics", trust_env=False).text.splitlines()
        (held,) = (float(line.split()[1]) for line in figures if line.startswith("lcl_body_bytes "))
        assert held == bound, "one key's half"


@pytest.fixture
def small(tmp_path: Path, serve: Any, house_of: Callable[..., Any]) -> Iterator[Any]:
    """A service with 4 requests of a key at once, in which a body has half a second."""
    settings = ApiSettings(home=tmp_path, requests_at_once=2, body_seconds=0.5)
    context = AppState(settings)
    with serve(settings) as url:
        yield house_of(url, tmp_path, context, (tmp_path / "key").read_text().strip())
    context.close()


@pytest.mark.parametrize("key", ["nothing", "lcl_0123456789ab.nothing", "\xe9"])
def test_a_made_up_key_is_refused_before_the_body(live_service: Any, key: str) -> None:
    with connect(live_service.url) as line:
        line.sendall(head("POST /v1/embeddings", ANNOUNCED, "KEY").replace(b"KEY", key.encode("latin-1")) + b"{")
        status, error, answer = answer_of(line)
        assert (status, error["code"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"


def test_too_many_at_once_are_refused_before_their_bodies(small: Any, eventually: Any) -> None:
    request = head("POST /v1/runs", len(RUN), small.keys["submitter"])
    with connect(small.url) as one, connect(small.url) as two, connect(small.url) as three:
        for line in (one, two):
            line.sendall(request + RUN[:10])
        eventually(lambda: 'kind="request"} 2.0' in httpx.get(f"{small.url}/metrics").text, "both under way")
        three.sendall(request + RUN[:10])
        status, error, answer = answer_of(three)
        assert (status, error["code"]) == (429, "too_many_requests")
        assert answer.headers["retry-after"]


def test_a_body_that_does_not_arrive_in_time_is_given_up(small: Any) -> None:
    with connect(small.url) as line:
        line.sendall(head("POST /v1/runs", len(RUN), small.keys["submitter"]) + RUN[:10])
        status, error, answer = answer_of(line)
        assert (status, error["code"]) == (408, "body_timeout")
        assert answer.headers["connection"] == "close"
    with connect(small.url) as line:
        line.sendall(head("POST /v1/runs", len(RUN), small.keys["submitter"]) + RUN)
        assert answer_of(line)[0] == 202


def posts(url: str) -> float:
    """Requests with a body that are over."""
    lines = httpx.get(f"{url}/metrics", trust_env=False).text.splitlines()
    counts = (line for line in lines if line.startswith('lcl_request_seconds_count{method="POST"'))
    return sum(float(line.split()[-1]) for line in counts)


def test_a_body_that_breaks_off_is_not_taken_for_a_whole_one(live_service: Any, eventually: Any) -> None:
    before, over = len(live_service.admin.runs()["items"]), posts(live_service.url)
    with connect(live_service.url) as line:
        line.sendall(head("POST /v1/runs", len(RUN) + 10, live_service.keys["submitter"]) + RUN)
        for _ in range(10):  # meanwhile it has been read
            assert len(live_service.admin.runs()["items"]) == before
        line.shutdown(socket.SHUT_WR)
        line.recv(1)  # it is hung up on, or refused
    eventually(lambda: posts(live_service.url) > over, "the request's end")
    assert len(live_service.admin.runs()["items"]) == before


def test_a_packed_body_is_reported_so(http: httpx.Client, refused: Any) -> None:
    answer = http.post("/v1/runs", content=RUN, headers={"content-encoding": "gzip"})
    assert "Content-Encoding" in refused(answer, 415, "unsupported_media_type")["message"]
    assert http.post("/v1/runs", content=RUN, headers={"content-encoding": "identity"}).status_code == 422


def test_the_budget_is_shared_and_given_back() -> None:
    async def main() -> None:
        budget = BodyBudget(100, patience=0.01, small=0)
        with (
            budget.reservation_for("a") as first,
            budget.reservation_for("a") as second,
            budget.reservation_for("b") as third,
        ):
            await first.grow_to(30)
            await first.grow_to(20)  # it has that already
            with pytest.raises(Problem, match="this key's") as caught:
                await second.grow_to(21)
            assert (caught.value.status, caught.value.code) == (503, "overloaded")
            assert caught.value.headers is not None
            assert caught.value.headers["retry-after"]
            await second.grow_to(20)
            await third.grow_to(50)
            with budget.reservation_for("c") as fourth, pytest.raises(Problem, match="of requests as it keeps"):
                await fourth.grow_to(1)
            assert budget.in_use == 100
        assert budget.in_use == 0

    anyio.run(main)


def test_small_bodies_pass_where_large_ones_fill_it() -> None:
    async def main() -> None:
        budget = BodyBudget(100, patience=0.01, small=10)
        with (
            budget.reservation_for("a") as large,
            budget.reservation_for("b") as other,
            budget.reservation_for("c") as small,
        ):
            await large.grow_to(50)
            await other.grow_to(50)
            await small.grow_to(10)
            with pytest.raises(Problem):
                await small.grow_to(11)
            assert budget.in_use == 100

    anyio.run(main)


def test_who_waits_for_room_gets_it() -> None:
    async def main() -> None:
        budget = BodyBudget(100, patience=180, small=0)
        order: list[str] = []

        async def wait() -> None:
            with budget.reservation_for("b") as reservation:
                await reservation.grow_to(50)
                order.append("read")

        async with anyio.create_task_group() as group:
            with budget.reservation_for("a") as first, budget.reservation_for("c") as other:
                await first.grow_to(50)
                await other.grow_to(1)
                group.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                order.append("released")
        assert order == ["released", "read"]

    anyio.run(main)


def test_settings_under_which_no_large_body_would_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="LCL_BODY_BYTES_AT_ONCE must be at least"):
        ApiSettings(home=tmp_path, body_bytes_at_once=2**20)
