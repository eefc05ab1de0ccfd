"""Bodies: whose they are is known before they are read, they are bounded, and mean one thing."""

import json
import socket
from http.client import HTTPResponse
from urllib.parse import urlsplit

import pytest

from api.core import middleware
from api.core.settings import ApiSettings
from api.services.state import AppState

RUN = b'{"kind": "pretrain", "spec": {"preset": "sample"}}'


def head(call, length, key):
    lines = [f"{call} HTTP/1.1", "Host: lcl", f"Authorization: Bearer {key}", "Content-Type: application/json"]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode("latin-1")


def connect(url):
    return socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=180)


def answer_of(line):
    answer = HTTPResponse(line)
    answer.begin()
    return answer.status, json.loads(answer.read()).get("error"), answer


@pytest.fixture
def small(tmp_path, serve, house_of, monkeypatch):
    """A service of small bodies."""
    monkeypatch.setattr(middleware, "MAX_BODY_BYTES", 1024)
    settings = ApiSettings(home=tmp_path)
    context = AppState(settings)
    with serve(settings) as url:
        yield house_of(url, tmp_path, context, (tmp_path / "key").read_text().strip())
    context.close()


@pytest.mark.parametrize("key", ["nothing", "lcl_0123456789ab.nothing", "\xe9"])
def test_a_made_up_key_is_refused_before_the_body(live_service, key):
    with connect(live_service.url) as line:
        line.sendall(head("POST /v1/embeddings", 60_000_000, key) + b"{")
        status, error, answer = answer_of(line)
        assert (status, error["code"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"


def test_a_large_body_is_refused_whether_it_is_announced_or_not(small, refused):
    with small.http() as client:
        refused(client.post("/v1/runs", content=b" " * 1025), 413, "too_large")
        refused(client.post("/v1/runs", content=iter([b" " * 1000] * 2)), 413, "too_large")


def test_a_body_that_breaks_off_is_not_taken_for_a_whole_one(live_service):
    before = len(live_service.admin.runs()["items"])
    with connect(live_service.url) as line:
        line.sendall(head("POST /v1/runs", len(RUN) + 10, live_service.keys["submitter"]) + RUN)
        line.shutdown(socket.SHUT_WR)
        line.recv(1)  # it is hung up on, or refused
    assert len(live_service.admin.runs()["items"]) == before
