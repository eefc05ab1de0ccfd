"""A key gets a new secret; the old one opens for a grace, then no more."""

from datetime import UTC, datetime, timedelta

import httpx

from api.core import auth
from lcl_core.db.models import ApiKey


def opens(live_service, key):
    with httpx.Client(base_url=live_service.url, headers={"authorization": f"Bearer {key}"}, trust_env=False) as client:
        return client.get("/v1/workers").status_code == 200


def make(http, **more):
    made = http.post("/v1/keys", json={"owner": "guest", "role": "viewer", **more}).json()
    return made["prefix"], made["key"]


def test_the_old_secret_opens_for_the_grace_alone(live_service, http, monkeypatch):
    prefix, old = make(http)
    answer = http.post(f"/v1/keys/{prefix}/rotate", json={"grace_seconds": 60})
    assert answer.status_code == 200
    new = answer.json()["key"]
    assert new != old
    assert (new.partition(".")[0], answer.json()["owner"], answer.json()["role"]) == (prefix, "guest", "viewer")
    assert (opens(live_service, old), opens(live_service, new)) == (True, True)
    later = datetime.now(UTC) + timedelta(seconds=61)
    monkeypatch.setattr(auth, "utc_now", lambda: later)
    assert (opens(live_service, old), opens(live_service, new)) == (False, True)


def test_without_a_grace_the_old_secret_is_gone_at_once(live_service, http):
    prefix, old = make(http)
    new = http.post(f"/v1/keys/{prefix}/rotate", json={"grace_seconds": 0}).json()["key"]
    assert (opens(live_service, old), opens(live_service, new)) == (False, True)


def test_a_second_rotation_ends_the_first_secret(live_service, http):
    prefix, first = make(http)
    second = live_service.admin.rotate_key(prefix)["key"]
    third = live_service.admin.rotate_key(prefix, 60)["key"]
    assert [opens(live_service, key) for key in (first, second, third)] == [False, True, True]
    assert http.delete(f"/v1/keys/{prefix}").status_code == 204
    assert [opens(live_service, key) for key in (second, third)] == [False, False], "revoked is revoked"


def test_a_key_that_rotates_itself_goes_on(live_service):
    made = live_service.admin.create_key("boss", "admin")
    headers = {"authorization": f"Bearer {made['key']}"}
    with httpx.Client(base_url=live_service.url, headers=headers, trust_env=False) as boss:
        rotated = boss.post(f"/v1/keys/{made['prefix']}/rotate").json()
        assert boss.get("/v1/keys").status_code == 200
    kept = live_service.admin.keys()
    listed = next(row for row in kept if row["prefix"] == made["prefix"])
    until = datetime.fromisoformat(listed["previous_until"]) - datetime.fromisoformat(listed["rotated_at"])
    assert until == timedelta(days=1), "the default"
    assert opens(live_service, rotated["key"])


def test_a_secret_whose_grace_is_over_is_forgotten(live_service, monkeypatch):
    _, row = auth.new_key("guest", "viewer")
    auth.rotate_key(row, timedelta(seconds=60))
    auth.update_last_used(row)
    assert row.previous_hash is not None
    later = auth.utc_now() + timedelta(seconds=61)
    monkeypatch.setattr(auth, "utc_now", lambda: later)
    auth.update_last_used(row)
    assert (row.previous_hash, row.previous_until) == (None, None)


def test_what_cannot_be_rotated(live_service, http, refused):
    refused(http.post("/v1/keys/lcl_absent/rotate"), 404, "not_found")
    own = (live_service.home / "key").read_text().partition(".")[0]
    assert "start again" in refused(http.post(f"/v1/keys/{own}/rotate"), 409, "conflict")["message"]
    prefix, _ = make(http, expires=(datetime.now(UTC) - timedelta(seconds=1)).isoformat())
    refused(http.post(f"/v1/keys/{prefix}/rotate"), 409, "conflict")
    prefix, key = make(http)
    for grace in (-1, 31 * 86_400, "soon"):
        refused(http.post(f"/v1/keys/{prefix}/rotate", json={"grace_seconds": grace}), 422, field="grace_seconds")
    with live_service.context.database.reading() as session:
        assert session.get_one(ApiKey, prefix).rotated_at is None
    assert opens(live_service, key)
