"""Bounds, headers, errors, health, figures and documentation of the service as a whole."""

import asyncio
import errno
import json
import re
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime

import httpx
import pytest
from fastapi import FastAPI

from api.app import create_app
from api.core import errors
from api.core.middleware import RequestContextMiddleware
from api.core.settings import ApiSettings
from deploy.embedded_redis import EmbeddedBroker
from lcl_core.db.models import Worker
from lcl_core.db.wakeup import WakeupProducer


def test_healthz_asks_for_nothing(live_service):
    with live_service.http(None) as anonymous:
        assert anonymous.get("/healthz").json() == {"status": "ok"}


def test_readyz_names_what_is_missing(live_service):
    with live_service.http(None) as anonymous:
        answer = anonymous.get("/readyz")
    assert answer.status_code == 503
    found = answer.json()
    assert found["ready"] is False
    assert found["checks"]["database"]["ok"] is True
    assert found["checks"]["broker"]["ok"] is False
    assert found["error"]["code"] == "not_ready"
    assert "broker" in found["error"]["message"]
    assert live_service.admin.health() == found


@pytest.fixture
def broker(tmp_path):
    with EmbeddedBroker(tmp_path) as running:
        yield running


def test_readyz_checks_once_for_all_who_ask_within_a_second(serve, tmp_path, monkeypatch):
    pings = []
    monkeypatch.setattr("api.routes.health.READINESS_SECONDS", 3600.0)
    monkeypatch.setattr(WakeupProducer, "wake", lambda self, run_id: not pings.append(run_id))
    with serve(ApiSettings(home=tmp_path)) as url, httpx.Client(base_url=url, trust_env=False) as client:
        answers = [client.get("/readyz").json() for _ in range(3)]
    assert answers[0]["checks"]["broker"]["ok"]
    assert answers == answers[:1] * 3
    assert pings == [None]


def test_readyz_wants_a_worker_that_is_alive(serve, broker, tmp_path, monkeypatch):
    monkeypatch.setattr("api.routes.health.READINESS_SECONDS", 0.0)
    monkeypatch.setattr("lcl_core.db.session.BUSY_TIMEOUT_SECONDS", 0.2)
    settings = ApiSettings(home=tmp_path, broker_url=broker.url)
    with serve(settings) as url, httpx.Client(base_url=url, trust_env=False) as client:
        checks = client.get("/readyz").json()["checks"]
        assert checks["broker"]["ok"]
        assert (checks["worker"]["ok"], checks["worker"]["detail"]) == (
            False,
            "none gave a sign of life lately; start one",
        )
        moment = datetime.now(UTC)
        worker = Worker(id="w", host="here", pid=1, devices=["cpu"], started_at=moment, seen_at=moment)
        _add(settings, worker)
        assert client.get("/readyz").status_code == 200
        with closing(sqlite3.connect(tmp_path / "lcl.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            found = client.get("/readyz")
        assert (found.status_code, found.json()["checks"]["database"]["ok"]) == (503, False), "nothing can be written"


def _add(settings, worker):
    from lcl_core.db.session import Database

    database = Database(settings.resolved_database_url)
    with database.session() as session:
        session.merge(worker)
    database.dispose()


def test_workers_are_listed(live_service):
    moment = datetime.now(UTC)
    with live_service.context.database.session() as session:
        session.add(Worker(id="w", host="here", pid=7, devices=["cpu"], started_at=moment, seen_at=moment))
    listed = live_service.admin.workers()
    assert [(row["id"], row["devices"], row["current_run"]) for row in listed] == [("w", ["cpu"], None)]


def test_every_answer_carries_its_headers(live_service):
    with live_service.http(None) as anonymous:
        for path in ("/healthz", "/v1/runs", "/nowhere", "/docs", "/openapi.json"):
            headers = anonymous.get(path).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert "default-src 'none'" in headers["content-security-policy"]
            assert re.fullmatch(r"[0-9a-f]{32}", headers["x-request-id"])
            assert "access-control-allow-origin" not in headers
            assert "server" not in headers
        given = anonymous.get("/healthz", headers={"x-request-id": "mine-1", "origin": "https://evil.example"})
        assert given.headers["x-request-id"] == "mine-1"
        assert "access-control-allow-origin" not in given.headers
        assert anonymous.get("/healthz", headers={"x-request-id": "a b\tc"}).headers["x-request-id"] != "a b\tc"


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, "invalid_value"),
        (b"", 422, "invalid_value"),
        (b"[1]", 422, "invalid_value"),
        (b'{"kind": "\xff"}', 400, "invalid_value"),
        (b"[" * 100_000, 400, "invalid_value"),
        (b'{"kind": "pretrain", "spec": {"\\ud800": 1}}', 422, "bad_spec"),
        (b'{"kind": "pretrain", "spec": {}, "name": "\\ud800"}', 422, "invalid_value"),
        (b'{"kind": "pretrain", "spec": {}, "tags": ["\\ud800"]}', 422, "invalid_value"),
    ],
)
def test_a_hostile_body_is_refused(http, refused, content, status, code):
    answer = http.post("/v1/runs", content=content, headers={"content-type": "application/json"})
    refused(answer, status, code)


@pytest.mark.parametrize("text", ["\0", "\ud800"])
@pytest.mark.parametrize(
    ("call", "body", "field"),
    [
        ("PATCH /v1/runs/{run}", lambda text: {"notes": f"a{text}b"}, "notes"),
        ("POST /v1/runs", lambda text: {"kind": "pretrain", "spec": {}, "after": ["x", text]}, "after"),
        ("POST /v1/runs", lambda text: {"kind": "evaluate", "spec": {"encoder": "e", "dataset": text}}, "dataset"),
        ("PATCH /v1/datasets/sample/tags", lambda text: {"items": [f"a{text}"], "add": ["b"]}, "items"),
        ("POST /v1/embeddings", lambda text: {"model": text, "input": "a"}, "model"),
        ("POST /v1/collections/absent/search", lambda text: {"item": text}, "item"),
    ],
)
def test_a_text_that_no_database_stores_names_its_field(live_service, http, refused, call, body, field, text):
    """JSON can write it as an escape."""
    method, path = call.format(run=live_service.submit()).split()
    answer = http.request(
        method, path, content=json.dumps(body(text)).encode(), headers={"content-type": "application/json"}
    )
    assert refused(answer, 422)["field"].startswith(field)


def ask(app, path, headers):
    """One call without a server; the application is not started."""

    async def call():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(call())


def test_a_database_that_is_away_is_no_server_error(tmp_path, free_port, refused):
    url = f"postgresql+psycopg://lcl:s3cret@127.0.0.1:{free_port}/lcl"
    app = create_app(ApiSettings(home=tmp_path, database_url=url))
    answer = ask(app, "/v1/runs", {"authorization": "Bearer some-key"})
    refused(answer, 503, "database_unavailable")
    assert answer.headers["retry-after"]
    assert "s3cret" not in answer.text
    ready = ask(app, "/readyz", {})
    assert ready.status_code == 503
    assert ready.json()["checks"]["database"]["ok"] is False
    assert ask(app, "/healthz", {}).status_code == 200


def test_an_unexpected_error_shows_its_number_alone(tmp_path):
    app = FastAPI()
    errors.install_error_handlers(app)
    seen = []
    app.add_middleware(RequestContextMiddleware, observe=lambda *reported: seen.append(reported[:3]), home=tmp_path)

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("the secret is 42")

    answer = ask(app, "/broken", {"x-request-id": "find-me"})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "find-me" in answer.json()["error"]["message"]
    assert "42" not in answer.text
    assert answer.headers["x-request-id"] == "find-me"
    assert seen == [("GET", "/broken", 500)]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (MemoryError(), 503, "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 503, "out_of_memory"),
        (OSError(errno.ENOSPC, "No space left on device"), 507, "disk_full"),
        (OSError(errno.EROFS, "Read-only file system", "/data/x"), 507, "read_only"),
        (OSError(errno.EIO, "Input/output error"), 500, "internal_error"),
    ],
)
def test_what_the_machine_lacks_is_said(error, status, code, tmp_path):
    app = FastAPI()
    app.add_middleware(RequestContextMiddleware, observe=lambda *_: None, home=tmp_path)

    @app.get("/broken")
    def broken() -> None:
        raise error

    answer = ask(app, "/broken", {"x-request-id": "find-me"})
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert "find-me" in answer.json()["error"]["message"]
    assert ("retry-after" in answer.headers) == (status == 503)


@pytest.mark.parametrize(
    "media_type", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x"]
)
def test_a_form_is_reported_what_to_send(http, refused, media_type):
    answer = http.post("/v1/runs", content=b"kind=pretrain", headers={"content-type": media_type})
    message = refused(answer, 422, "invalid_value")["message"]
    assert "Content-Type: application/json" in message
    assert media_type in message


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"kind": "pretrain", "spec": {"stepz": 3}}, "stepz", "did you mean 'steps'?"),
        ({"kind": "pretrain", "spec": {"optimizer": {"learning": 3}}}, "optimizer.learning", "there are "),
        ({"kind": "pretrain", "spec": {}, "tag": ["a"]}, "tag", "did you mean 'tags'?"),
        ({"kind": "pretrain", "spec": {}, "tags": ["-a"]}, "tags.0", "a tag starts with a letter or digit"),
        ({"kind": "validate", "spec": {"dataset": "../x"}}, "dataset", "a name starts with a letter or digit"),
    ],
)
def test_what_is_wrong_with_a_submission_is_said_in_words(http, refused, body, field, words):
    message = refused(http.post("/v1/runs", json=body), 422, field=field)["message"]
    assert words in message
    assert "Extra inputs" not in message


def test_the_documentation_loads_nothing_from_elsewhere(live_service):
    with live_service.http(None) as anonymous:
        page = anonymous.get("/docs")
        assert page.headers["content-type"].startswith("text/html")
        assert "script-src 'self'" in page.headers["content-security-policy"]
        addresses = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert addresses
        for address in addresses:
            if address in ("data:,", "/docs/guide/"):  # the empty icon, and a link to what may not be built
                continue
            assert address.startswith("/")
            loaded = anonymous.get(address)
            assert loaded.status_code == 200
            if address == "/openapi.json":  # data, whose examples name webhooks
                continue
            assert "http://" not in loaded.text
            assert "https://" not in loaded.text
        assert anonymous.get("/docs/docs.js").headers["content-type"].startswith("text/javascript")
        assert anonymous.get("/docs/docs.css").headers["content-type"].startswith("text/css")


def test_many_writers_at_once_are_all_served(live_service):
    failures = []

    def write():
        with live_service.http("submitter") as client:
            for _ in range(3):
                answer = client.post("/v1/runs", json={"kind": "pretrain", "spec": {"preset": "sample"}})
                if answer.status_code != 202:
                    failures.append(answer.text)

    threads = [threading.Thread(target=write) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
