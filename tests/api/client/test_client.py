"""The client: what it repeats and what not, where its key comes from, and how it tells errors."""

import json

import httpx
import pytest

from api.client import ApiError, Client
from tests.api.scripted_server import BUSY, FINE, scripted_server


@pytest.mark.parametrize("trouble", [BUSY, None])
@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.run("run_1"),
        lambda client: client.submit("pretrain", {}),
        lambda client: client.search("c", vector=[1.0]),
        lambda client: client.submit_study({}),
        lambda client: client.extend_study("study_1", seeds=[1]),
    ],
)
def test_calls_without_side_effects_are_repeated(trouble, call):
    with scripted_server(trouble, trouble, FINE) as server, Client(server.url, "k") as client:
        assert call(client)["id"] == "run_1"
        assert len(server.requests) == 3


def test_a_repeated_submission_carries_one_idempotency_key():
    with scripted_server(None, FINE) as server, Client(server.url, "k") as client:
        client.submit("pretrain", {"steps": 1}, tags=["a"])
        keys = {request[2]["idempotency-key"] for request in server.requests}
        assert len(keys) == 1
        sent = {"kind": "pretrain", "spec": {"steps": 1}, "name": None, "tags": ["a"]}
        assert json.loads(server.requests[1][3]) == sent
        client.submit("pretrain", {})
        assert server.requests[2][2]["idempotency-key"] not in keys
        client.submit("pretrain", {}, idempotency_key="mine")
        assert server.requests[3][2]["idempotency-key"] == "mine"


def test_a_study_is_looked_at_until_it_has_ended():
    def answer(state, *cells):
        study = {"state": state, "cells": [{"state": cell} for cell in cells]}
        return 200, {}, json.dumps(study).encode()

    reported = []
    script = [answer("queued", "queued"), answer("running", "running"), answer("running", "running")]
    with scripted_server(*script, answer("failed", "failed")) as server, Client(server.url, "k") as client:
        study = client.wait_for_study("study_1", lambda now: reported.append(now["state"]), poll_seconds=0)
        assert (study["state"], reported, len(server.requests)) == ("failed", ["queued", "running", "failed"], 4)


def test_labels_of_many_images_are_changed_in_several_requests(monkeypatch):
    monkeypatch.setattr("api.client.client.ITEMS_PER_CHANGE", 3)
    sent = []
    with scripted_server((200, {}, b'{"changed": 2}')) as server, Client(server.url, "k") as client:
        on_progress = lambda done, _: sent.append(done)  # noqa: E731
        assert client.change_labels("c", list("abcdefg"), add={"tags": ["red"]}, on_progress=on_progress) == 6
        requested = [json.loads(body)["ids"] for *_, body in server.requests]
        assert (requested, sent) == ([["a", "b", "c"], ["d", "e", "f"], ["g"]], [3, 6, 7])


@pytest.mark.parametrize("trouble", [BUSY, None])
def test_a_verb_is_sent_once(trouble):
    with scripted_server(trouble, FINE) as server, Client(server.url, "k") as client:
        with pytest.raises(ApiError):
            client.cancel("run_1")
        assert len(server.requests) == 1


def test_no_service_is_reported_in_words(free_port):
    with Client(f"http://127.0.0.1:{free_port}", "k", attempts=1) as client:
        for call in (lambda: client.run("x"), lambda: client.cancel("x")):
            with pytest.raises(ApiError, match="is the service up") as caught:
                call()
            assert (caught.value.status, caught.value.code) == (0, "unreachable")


def test_a_gateways_own_error_page_is_reported_by_its_status():
    with (
        scripted_server((502, {"content-type": "text/html"}, b"<html>")) as server,
        Client(server.url, attempts=1) as client,
    ):
        with pytest.raises(ApiError, match="502") as caught:
            client.datasets()
        assert caught.value.code == "http_error"


CALLS = [
    lambda client: client.datasets(),
    lambda client: client.submit("pretrain", {}),
    lambda client: client.delete_dataset("a"),
    lambda client: list(client.events("run_1")),
]


@pytest.mark.parametrize("call", CALLS)
def test_a_redirect_is_reported_with_its_target(call):
    moved = (301, {"location": "https://there.example/v1/x"}, b"")
    with scripted_server(moved) as server, Client(server.url, "k") as client:
        with pytest.raises(ApiError, match=r"redirects to https://there\.example/v1/x.*set LCL_API_URL") as caught:
            call(client)
        assert (caught.value.status, caught.value.code, len(server.requests)) == (301, "http_error", 1)


@pytest.mark.parametrize("call", [CALLS[0], CALLS[1], CALLS[3], lambda client: client.health()])
def test_a_page_instead_of_an_answer_is_reported(call):
    page = (200, {"content-type": "text/html"}, b"<html>\n\n<body>Log in</body></html>\n\n")
    with scripted_server(page) as server, Client(server.url, "k") as client:
        with pytest.raises(ApiError, match="LCL_API_URL may name another server") as caught:
            call(client)
        assert caught.value.code == "http_error"


def test_what_cannot_be_sent_is_reported_in_words():
    with scripted_server(FINE) as server, Client(server.url, "k") as client:
        for call in (lambda: client.embed_texts("e", ["\ud800"]), lambda: client.search("c", vector=[float("nan")])):
            with pytest.raises(ApiError, match="cannot be sent"):
                call()
        assert server.requests == []
    with pytest.raises(ApiError, match="malformed"):
        Client("http://\x00", "k")
    with pytest.raises(ApiError, match="malformed"):
        Client("http://127.0.0.1:1", "ke\u0301y")


def test_names_cannot_leave_their_place_in_the_address():
    with scripted_server(FINE) as server, Client(server.url, "k") as client:
        client.run("../keys?x=1#y")
        assert server.requests[0][1] == "/v1/runs/..%2Fkeys%3Fx%3D1%23y"


def test_a_broken_download_leaves_no_file(tmp_path):
    with scripted_server((200, {}, b"whole")) as server, Client(server.url, "k") as client:
        assert client.export_encoder("e", tmp_path / "whole.tar").read_bytes() == b"whole"
        server.script = [(404, {}, b'{"error": {"code": "not_found", "message": "no"}}')]
        with pytest.raises(ApiError, match="no"):
            client.export_encoder("e", tmp_path / "absent.tar")
    with scripted_server(None) as server, Client(server.url, "k") as client, pytest.raises(ApiError):
        client.export_encoder("e", tmp_path / "cut.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["whole.tar"]


def test_events_are_taken_up_where_they_broke():
    def event(number, name, data):
        return f"id: {number}\r\nevent: {name}\r\ndata: {json.dumps(data)}\r\n\r\n".encode()

    first = event(4, "metrics", {"step": 10})
    second = event(5, "metrics", {"step": 20}) + event(5, "state", {"state": "succeeded"})
    with scripted_server((200, {}, first), None, (200, {}, second)) as server, Client(server.url, "k") as client:
        found = list(client.events("run_1"))
        assert [one["data"] for one in found] == [{"step": 10}, {"step": 20}, {"state": "succeeded"}]
        assert [request[2].get("last-event-id") for request in server.requests] == [None, "4", "4"]


def test_events_outlast_a_restart_but_not_a_refusal():
    state = b'id: 1\nevent: state\ndata: {"state": "failed"}\n\n'
    refusal = (404, {}, b'{"error": {"code": "not_found", "message": "no such run"}}')
    with scripted_server(None, BUSY, (200, {}, b""), (200, {}, state)) as server, Client(server.url, "k") as client:
        assert [event["data"]["state"] for event in client.events("run_1")] == ["failed"]
        server.script = [refusal]
        with pytest.raises(ApiError, match="no such run"):
            list(client.events("run_1"))
        assert len(server.requests) == 5


def test_the_key_of_this_machine_is_sent_to_its_own_service_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("LCL_HOME", str(tmp_path))
    monkeypatch.delenv("LCL_API_KEY", raising=False)
    with scripted_server((401, {}, b'{"error": {"code": "unauthorized", "message": "send an API key"}}')) as server:
        with Client(server.url) as client, pytest.raises(ApiError, match=r"send an API key; .* set LCL_API_KEY"):
            client.datasets()
        with Client(server.url, "k") as client, pytest.raises(ApiError, match=r"^send an API key$"):
            client.datasets()
    (tmp_path / "key").write_text("of-an-admin\n")
    for url, sent in (
        ("http://127.0.0.1:1", "Bearer of-an-admin"),
        ("http://[::1]:1", "Bearer of-an-admin"),
        ("http://localhost", "Bearer of-an-admin"),
        ("http://127.0.0.1.example.org", None),
        ("https://lcl.example.org", None),
    ):
        assert Client(url)._http.headers.get("authorization") == sent, url
    assert Client("https://lcl.example.org", "given")._http.headers["authorization"] == "Bearer given"


def test_a_stream_is_repeated_until_it_begins():
    full = (429, {"retry-after": "0"}, b'{"error": {"code": "too_many_requests", "message": "later"}}')
    text = b'event: done\r\ndata: {"index": 0, "caption": "a word"}\r\n\r\n'
    with scripted_server(BUSY, full, None, (200, {}, text)) as server, Client(server.url, "k") as client:
        assert [delta.text for delta in client.stream_captions("e", [b"image"])] == ["a word"]
        assert len(server.requests) == 4
        server.script = [(200, {}, b"event: piece")]  # has begun, and breaks off
        with pytest.raises(ApiError, match="broke off"):
            list(client.stream_captions("e", [b"image"]))
        assert len(server.requests) == 5


def test_an_export_that_failed_is_not_asked_for_again(tmp_path):
    late = 503, {}, b'{"error": {"code": "export_failed", "message": "refused"}}'
    with scripted_server(late) as server, Client(server.url, "k") as client:
        with pytest.raises(ApiError, match="refused"):
            client.export_encoder("e", tmp_path / "late.tar", "onnx")
        assert len(server.requests) == 1


def test_exports_and_imports_may_take_as_long_as_the_service_lets_them(tmp_path, monkeypatch):
    with scripted_server((200, {}, b"{}")) as server, Client(server.url, "k", timeout=5) as client:
        build, seconds = client._http.build_request, list[float]()

        def record(*arguments, **options):
            request = build(*arguments, **options)
            seconds.append(request.extensions["timeout"]["read"])
            return request

        monkeypatch.setattr(client._http, "build_request", record)
        client.run("run_1")
        client.export_encoder("e", tmp_path / "e.tar")
        client.import_encoder("e", "/srv/e")
    assert seconds[0] == 5
    assert min(seconds[1:]) >= 300 + 120


def test_an_answer_that_does_not_come_is_not_waited_for_as_long_as_a_restart(monkeypatch):
    def late(*_, **__):
        calls.append(1)
        raise httpx.ReadTimeout("late")

    calls = []
    with Client("http://127.0.0.1:1", "k", attempts=1) as client:
        monkeypatch.setattr(client._http, "send", late)
        with pytest.raises(ApiError, match="late"):
            client.send("GET", "/v1/status", attempts=9)
    assert len(calls) == 1


def test_all_vectors_are_those_of_one_export():
    lines = [{"id": f"img_{number}", "captions": ["a\u2028b\x85"], "vector": [0.1, number]} for number in range(3)]
    body = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    counted = {"x-total-count": "3"}
    with scripted_server((200, counted, body)) as server, Client(server.url, "k") as client:
        ids, rows = client.vectors("a/b", "texts")
    assert ids == ["img_0", "img_1", "img_2"]
    assert [row[1] for row in rows] == [0, 1, 2]
    assert rows[0][0] == pytest.approx(0.1)
    assert [path for _, path, _, _ in server.requests] == ["/v1/collections/a%2Fb/export?target=texts"]
    cut_off = {**counted, "content-length": str(len(body))}
    with (
        scripted_server((200, cut_off, body[:-5])) as server,
        Client(server.url, "k") as client,
        pytest.raises(ApiError, match="no answer"),
    ):
        client.vectors("a/b")
    with scripted_server((200, {"x-total-count": "0"}, b"")) as server, Client(server.url, "k") as client:
        assert client.vectors("a/b") == ([], [])
