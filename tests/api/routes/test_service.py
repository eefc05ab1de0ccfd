"""Bounds, headers, errors, health, figures and documentation of the service as a whole."""

from __future__ import annotations

import asyncio
import errno
import json
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from api.app import create_app
from api.core import errors
from api.core.middleware import RequestContextMiddleware, nesting_depth
from api.core.settings import ApiSettings
from deploy.embedded_redis import EmbeddedBroker
from lcl_core.db.models import Worker
from lcl_core.db.wakeup import WakeupProducer
from lcl_core.specs.parsing import SPECS
from lcl_core.specs.validation_messages import PATTERNS
from tests.api.hostile.case import Case, send


def test_healthz_asks_for_nothing(live_service: Any) -> None:
    with live_service.http(None) as anonymous:
        assert anonymous.get("/healthz").json() == {"status": "ok"}


def test_readyz_names_what_is_missing(live_service: Any) -> None:
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
def broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(tmp_path) as running:
        yield running


def test_readyz_checks_once_for_all_who_ask_within_a_second(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pings: list[str] = []
    monkeypatch.setattr("api.services.state.READINESS_SECONDS", 3600.0)
    monkeypatch.setattr(WakeupProducer, "ping", lambda self, sender: not pings.append(sender))
    with serve(ApiSettings(home=tmp_path)) as url, httpx.Client(base_url=url, trust_env=False) as client:
        answers = [client.get("/readyz").json() for _ in range(3)]
    assert answers[0]["checks"]["broker"]["ok"]
    assert answers == answers[:1] * 3
    assert pings == ["api"]


def test_readyz_wants_a_worker_that_consumes(
    serve: Any, broker: EmbeddedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.services.state.READINESS_SECONDS", 0.0)
    settings = ApiSettings(home=tmp_path, broker_url=broker.url)
    with serve(settings) as url, httpx.Client(base_url=url, trust_env=False) as client:
        checks = client.get("/readyz").json()["checks"]
        assert checks["broker"]["ok"]
        assert (checks["worker"]["ok"], checks["worker"]["detail"]) == (False, "none has registered; start one")
        moment = datetime.now(UTC)
        worker = Worker(id="w", host="here", pid=1, devices=["cpu"], started_at=moment, seen_at=moment)
        _add(settings, worker)
        assert "no message" in client.get("/readyz").json()["checks"]["worker"]["detail"]
        worker.consumed_at = moment
        _add(settings, worker)
        assert client.get("/readyz").status_code == 200


def _add(settings: ApiSettings, worker: Worker) -> None:
    from lcl_core.db.session import Database

    database = Database(settings.resolved_database_url)
    with database.session() as session:
        session.merge(worker)
    database.dispose()


def test_workers_are_listed(live_service: Any) -> None:
    moment = datetime.now(UTC)
    with live_service.context.database.session() as session:
        session.add(Worker(id="w", host="here", pid=7, devices=["cpu"], started_at=moment, seen_at=moment))
    listed = live_service.admin.workers()
    assert [(row["id"], row["devices"], row["current_run"]) for row in listed] == [("w", ["cpu"], None)]


def test_every_answer_carries_its_headers(live_service: Any) -> None:
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


def test_what_is_not_there_and_not_allowed(http: httpx.Client, refused: Any) -> None:
    refused(http.get("/v1/nowhere"), 404, "not_found")
    answer = http.put("/v1/runs")
    refused(answer, 405, "method_not_allowed")
    assert answer.headers["allow"]


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, "bad_json"),
        (b"", 422, "bad_request"),
        (b"[1]", 422, "bad_request"),
        (b'{"kind": "\xff"}', 422, "bad_json"),
        ('{"kind": "pretrain"}'.encode("utf-16"), 422, "bad_json"),
        (b"[" * 65 + b"]" * 65, 422, "bad_json"),
        (b"[" * 100_000, 422, "bad_json"),
        (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, 422, "bad_json"),
        (b'{"kind": "pretrain", "spec": {"\\ud800": 1}}', 422, "bad_spec"),
        (b'{"kind": "pretrain", "spec": {}, "name": "\\ud800"}', 422, "bad_request"),
        (b'{"kind": "pretrain", "spec": {}, "tags": ["\\ud800"]}', 422, "bad_request"),
        (b"x" * (2 * 2**20 + 1), 413, "body_too_large"),
    ],
)
def test_a_hostile_body_is_refused(http: httpx.Client, refused: Any, content: bytes, status: int, code: str) -> None:
    answer = http.post("/v1/runs", content=content, headers={"content-type": "application/json"})
    refused(answer, status, code)


@pytest.mark.parametrize("text", ["\0", "\ud800"])
@pytest.mark.parametrize(
    ("call", "body", "field"),
    [
        ("PATCH /v1/runs/{run}", lambda text: {"notes": f"a{text}b"}, "notes"),
        ("POST /v1/runs", lambda text: {"kind": "pretrain", "spec": {}, "after": ["x", text]}, "after"),
        ("POST /v1/runs", lambda text: {"kind": "evaluate", "spec": {"encoder": "e", "dataset": text}}, "dataset"),
        ("POST /v1/datasets/validate", lambda text: {"path": "/x", "options": {"a": text}}, "options"),
        ("PATCH /v1/datasets/sample/tags", lambda text: {"items": [f"a{text}"], "add": ["b"]}, "items"),
        ("POST /v1/embeddings", lambda text: {"model": text, "input": "a"}, "model"),
        ("POST /v1/collections/absent/search", lambda text: {"item": text}, "item"),
    ],
)
def test_a_text_that_no_database_stores_names_its_field(
    live_service: Any, http: httpx.Client, refused: Any, call: str, body: Callable[[str], Any], field: str, text: str
) -> None:
    """JSON can write it as an escape."""
    method, path = call.format(run=live_service.submit()).split()
    answer = http.request(
        method, path, content=json.dumps(body(text)).encode(), headers={"content-type": "application/json"}
    )
    assert refused(answer, 422)["field"].startswith(field)


def test_a_body_without_a_length_is_bounded_too(http: httpx.Client, refused: Any) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b"x" * 2**16

    answer = http.post("/v1/runs", content=chunks(), headers={"content-type": "application/json"})
    refused(answer, 413, "body_too_large")


def test_what_an_anonymous_user_sends_is_not_read(live_service: Any) -> None:
    case = Case("", "", "POST /v1/embeddings", b"{", {"Content-Length": "60000000"}, key=False)
    answer = send(live_service.url, case, "", {})  # answered before the other 60 MB are there
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (401, "unauthorized")


def test_another_media_type_is_refused(http: httpx.Client, refused: Any) -> None:
    answer = http.post("/v1/runs", content=b"kind=pretrain", headers={"content-type": "text/plain"})
    refused(answer, 422, "bad_request")


def test_depth_is_counted_outside_strings() -> None:
    assert nesting_depth(b'["' + b"[" * 99 + b'"]', 50) == 1
    assert nesting_depth(b'["\\"' + b"{" * 99 + b'"]', 50) == 1
    assert nesting_depth(b"[[], []]" * 40, 50) == 2
    assert nesting_depth(b"[" * 99, 50) == 51


def ask(app: FastAPI, path: str, headers: dict[str, str]) -> httpx.Response:
    """One call without a server; the application is not started."""

    async def call() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(call())


def test_a_database_that_is_away_is_no_server_error(tmp_path: Path, free_port: int, refused: Any) -> None:
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


def test_an_unexpected_error_shows_its_number_alone(tmp_path: Path) -> None:
    app = FastAPI()
    errors.install_error_handlers(app)
    seen: list[tuple[str, str, int]] = []
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


class Panic(BaseException):
    """As a library in Rust raises when it panics: no Exception."""


@pytest.mark.parametrize("threaded", [False, True])
def test_a_panic_is_answered_in_the_one_form(threaded: bool, tmp_path: Path) -> None:
    app = FastAPI()
    seen: list[Any] = []
    app.add_middleware(RequestContextMiddleware, observe=lambda *reported: seen.append(reported[:3]), home=tmp_path)

    def panic() -> None:
        raise Panic("byte index 3 is not a character")

    async def panic_at_once() -> None:
        panic()

    app.get("/broken")(panic if threaded else panic_at_once)
    answer = ask(app, "/broken", {"x-request-id": "find-me"})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "find-me" in answer.json()["error"]["message"]
    assert "byte index" not in answer.text
    assert seen == [("GET", "/broken", 500)]


@pytest.mark.parametrize("end", [asyncio.CancelledError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_who_wishes_to_end_is_let_go(end: type[BaseException], tmp_path: Path) -> None:
    async def leave(*_: Any) -> None:
        raise end

    async def nothing(_: Any) -> None:
        pytest.fail("nobody answers")

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
    call = RequestContextMiddleware(leave, lambda *_: None, tmp_path)(scope, leave, nothing)
    with pytest.raises(end):
        call.send(None)


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
def test_what_the_machine_lacks_is_said(error: Exception, status: int, code: str, tmp_path: Path) -> None:
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


def test_an_address_with_a_slash_behind_it_leads_nowhere(http: httpx.Client, refused: Any) -> None:
    answer = http.get("/v1/runs/", headers={"host": "evil.example"}, follow_redirects=False)
    assert "without a slash" in refused(answer, 404, "not_found")["message"]
    assert "location" not in answer.headers


def test_a_method_that_is_not_there_is_reported_those_that_are(http: httpx.Client, refused: Any) -> None:
    answer = http.put("/v1/runs")
    assert "GET and POST" in refused(answer, 405, "method_not_allowed")["message"]
    assert answer.headers["allow"] == "GET, POST"
    assert "/docs" in refused(http.get("/v1/nowhere"), 404, "not_found")["message"]


@pytest.mark.parametrize(
    "media_type", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x"]
)
def test_a_form_is_reported_what_to_send(http: httpx.Client, refused: Any, media_type: str) -> None:
    answer = http.post("/v1/runs", content=b"kind=pretrain", headers={"content-type": media_type})
    message = refused(answer, 422, "bad_request")["message"]
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
def test_what_is_wrong_with_a_submission_is_said_in_words(
    http: httpx.Client, refused: Any, body: dict[str, Any], field: str, words: str
) -> None:
    message = refused(http.post("/v1/runs", json=body), 422, field=field)["message"]
    assert words in message
    assert "pattern" not in message
    assert "Extra inputs" not in message


def test_every_pattern_of_the_description_has_words(live_service: Any) -> None:
    with live_service.http(None) as anonymous:
        described = anonymous.get("/openapi.json").text
    specs = json.dumps([model.model_json_schema() for model in SPECS.values()])
    patterns = {json.loads(found) for found in re.findall(r'"pattern":\s*("(?:[^"\\]|\\.)*")', described + specs)}
    assert patterns - PATTERNS.keys() == set()


def test_the_documentation_loads_nothing_from_elsewhere(live_service: Any) -> None:
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


def test_the_description_covers_every_call_and_its_errors(live_service: Any) -> None:
    with live_service.http(None) as anonymous:
        described = anonymous.get("/openapi.json").json()
    for path, operations in described["paths"].items():
        for verb, operation in operations.items():
            for status in map(str, errors.STATUS_DESCRIPTIONS):
                refusal = operation["responses"][status]["content"]["application/json"]["schema"]
                assert refusal == {"$ref": "#/components/schemas/ErrorBody"}, f"{verb} {path} {status}"
            if path.startswith("/v1/"):
                assert operation["security"] == [{"HTTPBearer": []}], f"{verb} {path}"
    assert "HTTPValidationError" not in json.dumps(described)


def test_every_status_that_an_error_may_have_is_described() -> None:
    given = {*errors.STATUS_OF_CODE.values(), *errors.CODE_OF_STATUS}
    for file in (Path(errors.__file__).parents[1]).rglob("*.py"):
        given |= {int(status) for status in re.findall(r"(?:Problem|error_response)\(\s*(\d{3})", file.read_text())}
    assert given - errors.STATUS_DESCRIPTIONS.keys() == set()


def test_many_writers_at_once_are_all_served(live_service: Any) -> None:
    failures: list[str] = []

    def write() -> None:
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
