"""One hostile request, and how it goes over the wire exactly as it is written."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit

JSON = "application/json"
# Stand for places and ids that are known only when the service runs.
DATA, HOME, THEIRS, OWN, TRAP = "@DATA@", "@HOME@", "@THEIRS@", "@OWN@", "@TRAP@"
ENCODER = "@ENCODER@"


CUT = 0  # no status: the connection was closed instead


@dataclass(frozen=True)
class Case:
    """A request that must be refused.

    Attributes:
        name: what it tries, for people; unique.
        body: bytes as they are, else JSON.
        status: the refusals that are right.
        key: whether a submitter's key goes along.
        parsed: whether the service's own code sees it; if not, the HTTP parser refuses it in plain text.
    """

    family: str
    name: str
    call: str
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    status: tuple[int, ...] = (422,)
    key: bool = True
    parsed: bool = True


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


def send(url: str, case: Case, key: str, places: Mapping[str, str]) -> Answer:
    """The case as bytes on a socket: no client tidies its address, headers or body."""
    verb, _, path = _filled(case.call, places).partition(" ")
    body = case.body if isinstance(case.body, bytes) else _filled(json.dumps(case.body), places).encode()
    body = b"" if case.body is None else body
    headers = {"Host": "lcl", "Connection": "close", **({"Authorization": f"Bearer {key}"} if case.key else {})}
    if case.body is not None:
        headers |= {"Content-Type": JSON, "Content-Length": str(len(body))}
    headers |= case.headers
    head = "".join(f"{name}: {_filled(value, places)}\r\n" for name, value in headers.items() if value != "-")
    try:
        return _exchange(url, verb, f"{verb} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body)
    except ConnectionError:  # hung up on while it still spoke
        return Answer(CUT, {}, b"")


def _exchange(url: str, verb: str, request: bytes) -> Answer:
    with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=180) as line:
        line.sendall(request)
        answer = HTTPResponse(line, method=verb)
        answer.begin()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())


def _filled(text: str, places: Mapping[str, str]) -> str:
    for mark, place in places.items():
        text = text.replace(mark, place)
    return text
