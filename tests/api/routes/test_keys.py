"""Keys: hashed, revoked, expired; and every route asks for the role it needs."""

import re
import threading
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from fastapi.routing import APIRoute
from sqlalchemy import select

from api.app import ROUTERS
from api.core import auth
from api.core.auth import ensure_configured_key
from api.core.settings import ApiSettings
from lcl_core.common.errors import UserError
from lcl_core.db.models import ApiKey
from lcl_core.db.session import Database

OPEN = {"/healthz", "/readyz", "/metrics"}
NEEDS = {
    "submitter": {
        "POST /v1/runs",
        "POST /v1/runs/{run_id}/{action}",
        "DELETE /v1/runs/{run_id}",
        "PATCH /v1/runs/{run_id}",
        "POST /v1/datasets",
        "DELETE /v1/datasets/{name}",
        "POST /v1/uploads",
        "DELETE /v1/uploads/{upload_id}",
        "POST /v1/encoders",
        "DELETE /v1/encoders/{encoder}",
        "PATCH /v1/encoders/{encoder}",
        "POST /v1/studies",
        "POST /v1/studies/{study_id}/cancel",
        "POST /v1/studies/{study_id}/extend",
        "POST /v1/studies/{study_id}/resume",
        "DELETE /v1/studies/{study_id}",
        "POST /v1/collections/{name}/items",
        "PATCH /v1/collections/{name}/items",
        "DELETE /v1/collections/{name}/items/{item}",
        "DELETE /v1/collections/{name}",
        "PATCH /v1/datasets/{name}/tags",
    },
    "admin": {
        "POST /v1/keys",
        "GET /v1/keys",
        "DELETE /v1/keys/{prefix}",
        "GET /v1/audit",
        "POST /v1/webhooks",
        "GET /v1/webhooks",
        "GET /v1/webhooks/{webhook_id}/deliveries",
        "DELETE /v1/webhooks/{webhook_id}",
    },
}
BODIES = {
    "POST /v1/runs": {"kind": "pretrain", "spec": {}},
    "POST /v1/datasets": {"name": "x", "path": "/x"},
    "PATCH /v1/datasets/{name}/tags": {"items": ["x"], "add": ["x"]},
    "POST /v1/encoders": {"name": "x", "path": "/x"},
    "POST /v1/keys": {"owner": "x", "role": "viewer"},
    "POST /v1/embeddings": {"model": "x", "input": "x"},
    "POST /v1/specs/{kind}/estimate": {"spec": {}},
    "POST /v1/captions": {"model": "x", "images": []},
    "POST /v1/collections/{name}/search": {"text": "x"},
}


def calls():
    """``VERB path`` of every route that asks for a key."""
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    return sorted(f"{verb} {route.path}" for route in routes for verb in route.methods if route.path not in OPEN)


def call(client, which):
    verb, path = which.split(" ")
    params = {"left": "x", "right": "x"} if path.endswith("/compare") else {}
    url = re.sub(r"\{[^}]*\}", "absent", path)
    body = BODIES.get(which)
    if verb == "POST" and path == "/v1/runs":
        body = {"kind": "pretrain", "spec": {"nonsense": 1}}  # allowed callers get as far as 422
    return client.request(verb, url, json=body, params=params)


def test_the_table_of_roles_names_real_routes():
    assert NEEDS["submitter"] | NEEDS["admin"] <= set(calls())
    assert len(calls()) > 30


@pytest.mark.parametrize("which", calls())
def test_roles_crossed(live_service, refused, which):
    needed = next((role for role, names in NEEDS.items() if which in names), "viewer")
    with live_service.http(None) as anonymous:
        answer = call(anonymous, which)
        refused(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
    for role in auth.ROLES:
        with live_service.http(role) as client:
            answer = call(client, which)
        if auth.role_level(role) < auth.role_level(needed):
            assert needed in refused(answer, 403, "forbidden")["message"]
        else:
            assert answer.status_code not in (401, 403), f"{role}: {answer.text}"


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer x", "Basic x", "Bearer lcl_000000000000.secret", "Bearer lcl_.", "Bearer " + "x" * 5000],
)
def test_a_wrong_key_opens_nothing(live_service, refused, header):
    with httpx.Client(base_url=live_service.url, trust_env=False) as client:
        refused(client.get("/v1/runs", headers={"authorization": header}), 401, "unauthorized")


def test_a_key_lives_until_it_is_revoked(live_service, http, refused):
    made = http.post("/v1/keys", json={"owner": "guest", "role": "viewer"})
    assert made.status_code == 201
    prefix, key = made.json()["prefix"], made.json()["key"]
    with httpx.Client(base_url=live_service.url, headers={"authorization": f"Bearer {key}"}, trust_env=False) as guest:
        assert guest.get("/v1/runs").status_code == 200
        listed = {row["prefix"]: row for row in http.get("/v1/keys").json()["items"]}
        assert listed[prefix]["owner"] == "guest"
        assert listed[prefix]["last_used"] is not None
        assert all("key" not in row and "hash" not in row for row in listed.values())
        assert http.delete(f"/v1/keys/{prefix}").status_code == 204
        refused(guest.get("/v1/runs"), 401, "unauthorized")
    refused(http.delete(f"/v1/keys/{prefix}"), 404, "not_found")


def test_the_database_never_sees_a_secret(live_service):
    secret = live_service.keys["viewer"].partition(".")[2]
    with live_service.context.database.reading() as session:
        rows = session.scalars(select(ApiKey)).all()
    assert all(secret not in str(vars(row)) for row in rows)
    for file in live_service.home.glob("lcl.db*"):
        assert secret.encode() not in file.read_bytes()


def test_an_expired_key_opens_nothing(live_service, http, refused):
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    key = http.post("/v1/keys", json={"owner": "late", "role": "admin", "expires": past}).json()["key"]
    with httpx.Client(base_url=live_service.url, headers={"authorization": f"Bearer {key}"}, trust_env=False) as late:
        refused(late.get("/v1/runs"), 401, "unauthorized")
    naive = http.post("/v1/keys", json={"owner": "late", "role": "admin", "expires": "2030-01-01T00:00:00"})
    refused(naive, 422, field="expires")
    for seconds in (1893456000, "1893456000", True):
        since_1970 = http.post("/v1/keys", json={"owner": "late", "role": "admin", "expires": seconds})
        assert "such as 2030" in refused(since_1970, 422, field="expires")["message"]


def test_an_unknown_role_is_refused(http, refused):
    refused(http.post("/v1/keys", json={"owner": "x", "role": "root"}), 422, "invalid_value", "role")


def test_an_owner_is_not_another_one_in_other_letters(http, refused):
    http.post("/v1/keys", json={"owner": "grace", "role": "viewer"})
    refused(http.post("/v1/keys", json={"owner": "Grace", "role": "viewer"}), 409, "conflict", "owner")


def first_key(home, **more):
    settings = ApiSettings(home=home, **more)
    database = Database(settings.resolved_database_url)
    database.migrate()
    return database, settings, ensure_configured_key(settings, database)


def role_of(database, key):
    with database.reading() as session:
        row = auth.verify_key(session, key)
        return None if row is None else row.role


def test_processes_that_start_together_agree_on_the_key(tmp_path):
    settings = ApiSettings(home=tmp_path)
    database = Database(settings.resolved_database_url)
    database.migrate()
    gate = threading.Barrier(6)

    def start():
        gate.wait()
        ensure_configured_key(settings, database)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.reading() as session:
        assert len(session.scalars(select(ApiKey)).all()) == 1
    key = settings.key_file.read_text().strip()
    assert role_of(database, key) == "admin"
    database.dispose()


def test_a_damaged_key_file_is_reported(tmp_path):
    (tmp_path / "key").write_text("short")
    with pytest.raises(UserError, match="remove it") as caught:
        first_key(tmp_path)
    assert caught.value.code == "bad_setting"
