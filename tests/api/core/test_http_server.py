"""Connections: their requests' heads come in time and in one form, and there are not too many of them."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from api.core.settings import ApiSettings

ASK = b"GET /healthz HTTP/1.1\r\nHost: lcl\r\n\r\n"
MOST = 6
PATIENCE = 180


def connect(url: str) -> socket.socket:
    return socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=PATIENCE)


def read(line: socket.socket, until: bytes = b'{"status":"ok"}') -> bytes:
    """What comes until ``until`` did, or the end."""
    got = b""
    while until not in got and (piece := line.recv(65_536)):
        got += piece
    return got


def ended(line: socket.socket) -> bool:
    """Wait for the other side to hang up."""
    try:
        return line.recv(1) == b""
    except ConnectionError:
        return True


def open_still(line: socket.socket) -> bool:
    line.sendall(ASK)
    return read(line).startswith(b"HTTP/1.1 200")


@pytest.fixture
def hasty(tmp_path: Path, serve: Any) -> Iterator[str]:
    """A service in which a head has a third of a second."""
    with serve(ApiSettings(home=tmp_path, head_seconds=0.3, body_seconds=0.3)) as url:
        yield url


@pytest.fixture
def narrow(tmp_path: Path, serve: Any) -> Iterator[str]:
    """A service with few connections."""
    with serve(ApiSettings(home=tmp_path, max_connections=MOST)) as url:
        yield url


@pytest.mark.parametrize(
    "begin", [b"", b"GET /healthz HT", ASK[:-2], ASK[:-2] + b"X-Slow: 1\r\n"], ids=["none", "line", "head", "header"]
)
def test_who_does_not_finish_a_head_is_hung_up_on(hasty: str, begin: bytes) -> None:
    with connect(hasty) as line:
        line.sendall(begin)
        assert ended(line)


def test_the_next_request_of_a_connection_has_its_own_time(hasty: str) -> None:
    with connect(hasty) as line:
        for _ in range(3):
            assert open_still(line)
        line.sendall(ASK[:20])
        assert ended(line)


def test_an_answered_body_that_never_ends_holds_no_connection(hasty: str) -> None:
    with connect(hasty) as line:
        line.sendall(b"POST /v1/runs HTTP/1.1\r\nHost: lcl\r\nContent-Length: 1000000\r\n\r\n{")
        assert read(line, b"}}").startswith(b"HTTP/1.1 401")
        assert ended(line)


def test_a_newcomer_takes_the_connection_that_was_idle_longest(narrow: str, eventually: Callable[..., None]) -> None:
    with ExitStack() as stack:
        lines = [stack.enter_context(connect(narrow)) for _ in range(MOST)]
        assert all(open_still(line) for line in lines)
        assert open_still(lines[0]), "the second one is idle longest now"
        newcomer = stack.enter_context(connect(narrow))
        assert open_still(newcomer)
        assert ended(lines[1])
        assert all(open_still(line) for line in (lines[0], *lines[2:], newcomer))


def test_where_all_connections_are_at_work_a_further_one_is_reported_so(tmp_path: Path, serve: Any) -> None:
    settings = ApiSettings(home=tmp_path, max_connections=4, requests_at_once=128)
    with serve(settings) as url, ExitStack() as stack:
        key = (tmp_path / "key").read_text().strip()
        begun = f"POST /v1/runs HTTP/1.1\r\nHost: lcl\r\nAuthorization: Bearer {key}\r\nContent-Length: 9\r\n\r\n"
        lines = [stack.enter_context(connect(url)) for _ in range(4)]
        for line in lines:
            line.sendall(ASK + begun.encode())  # once the first is answered, the second one is under way
            read(line)
        further = stack.enter_context(connect(url))
        got = read(further, b"}}")
        assert got.startswith(b"HTTP/1.1 503")
        assert json.loads(got.partition(b"\r\n\r\n")[2])["error"]["code"] == "overloaded"


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (ASK.replace(b"\r\n", b"\n"), b"CR and LF"),
        (ASK.replace(b"lcl\r\n", b"lcl\n"), b"CR and LF"),
        (ASK[:-2] + b"\n", b"CR and LF"),
        (ASK[:-2] + b"X-Long: a\r\n b\r\n\r\n", b"goes on in the next line"),
        (ASK[:-2] + b"X-Long: a\r\n\tb\r\n\r\n", b"goes on in the next line"),
        (b"GET /healthz HTTP/1.1\r\n\r\n", b"Host"),
        (b"NONSENSE\r\n\r\n", b"request line"),
    ],
    ids=["LF", "one LF", "last LF", "fold", "fold with a tab", "no host", "nonsense"],
)
def test_a_head_that_others_read_otherwise_is_refused_in_the_one_form(
    live_service: Any, head: bytes, words: bytes
) -> None:
    with connect(live_service.url) as line:
        line.sendall(head)
        got = read(line, b"}}")
        assert got.startswith(b"HTTP/1.1 400")
        assert words in got
        assert json.loads(got.partition(b"\r\n\r\n")[2])["error"]["code"] == "bad_request"
        assert b"x-content-type-options: nosniff" in got
        assert ended(line)


def test_a_second_authorization_is_refused(live_service: Any) -> None:
    with connect(live_service.url) as line:
        twice = "".join(f"Authorization: Bearer {key}\r\n" for key in (live_service.keys["admin"], "nothing"))
        line.sendall(f"GET /v1/runs HTTP/1.1\r\nHost: lcl\r\n{twice}\r\n".encode())
        got = read(line, b"}}")
        assert got.startswith(b"HTTP/1.1 400")
        assert b"authorization once" in got


def test_requests_in_a_row_are_all_answered(live_service: Any) -> None:
    with connect(live_service.url) as line:
        line.sendall(ASK * 3)
        got = b""
        while got.count(b'{"status":"ok"}') < 3:
            got += line.recv(65_536)
        assert got.count(b"HTTP/1.1 200") == 3
