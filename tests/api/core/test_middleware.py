"""Bodies: whose they are is known before they are read, they arrive in time, bounded, and mean one thing."""

import json
import socket
from http.client import HTTPResponse
from urllib.parse import urlsplit

import pytest

from api.core.middleware import find_json_problem
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
def small(tmp_path, serve, house_of):
    """A service of small bodies, which have half a second."""
    settings = ApiSettings(home=tmp_path, max_body_bytes=1024, body_seconds=0.5)
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


def test_a_body_that_does_not_arrive_in_time_is_given_up(small):
    with connect(small.url) as line:
        line.sendall(head("POST /v1/runs", len(RUN), small.keys["submitter"]) + RUN[:10])
        status, error, answer = answer_of(line)
        assert (status, error["code"]) == (408, "body_timeout")
        assert answer.headers["connection"] == "close"
    with connect(small.url) as line:
        line.sendall(head("POST /v1/runs", len(RUN), small.keys["submitter"]) + RUN)
        assert answer_of(line)[0] == 202


def test_a_large_body_is_refused_whether_it_is_announced_or_not(small, refused):
    with small.http() as client:
        refused(client.post("/v1/runs", content=b" " * 1025), 413, "body_too_large")
        refused(client.post("/v1/runs", content=iter([b" " * 1000] * 2)), 413, "body_too_large")


def test_the_bodies_of_all_requests_together_are_bounded(small, eventually):
    announced = head("POST /v1/runs", 1024, small.keys["submitter"]) + b" " * 1000
    lines = [connect(small.url) for _ in range(5)]
    for line in lines:
        line.sendall(announced)
    answers = [answer_of(line) for line in lines]
    assert sorted(status for status, _, _ in answers) == [408, 408, 408, 408, 503]
    for line in lines:
        line.close()
    with connect(small.url) as line:
        line.sendall(head("POST /v1/runs", len(RUN), small.keys["submitter"]) + RUN)
        assert answer_of(line)[0] == 202, "what was given up is not counted"


def test_a_body_that_breaks_off_is_not_taken_for_a_whole_one(live_service):
    before = len(live_service.admin.runs()["items"])
    with connect(live_service.url) as line:
        line.sendall(head("POST /v1/runs", len(RUN) + 10, live_service.keys["submitter"]) + RUN)
        line.shutdown(socket.SHUT_WR)
        line.recv(1)  # it is hung up on, or refused
    assert len(live_service.admin.runs()["items"]) == before


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"a": 1, "b": 2, "a": 3}', "the name 'a' appears twice"),
        (b'[{"a": {"b": 1, "\\u0062": 2}}]', "the name 'b' appears twice"),
        (b"[NaN]", "NaN"),
        (b"[1e999]", "too large"),
        (b"[" + b"9" * 21 + b"]", "20 digits"),
        (b"[" * 100_000, "recursion"),
        (b'["\xff"]', "utf-8"),
        (b'{"a": [{"a": 1}, {"a": 1.5e300}]}', None),
        (b"not JSON", None),  # which the application reports
    ],
)
def test_json_that_two_parsers_might_read_differently(body, words):
    problem = find_json_problem(body)
    assert (problem is None) if words is None else (words in problem)
