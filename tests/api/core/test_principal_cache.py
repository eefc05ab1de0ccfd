"""Valid keys are remembered for a second, and forgotten when keys change."""

from datetime import UTC, datetime, timedelta

import httpx
import pytest
from sqlalchemy import event

from api.core.auth import CACHE_SECONDS, Principal, PrincipalCache

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
SOMEBODY = Principal("somebody", "viewer", "lcl_1")


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def cache(clock):
    return PrincipalCache(clock)


def test_for_a_second_and_no_other_key(cache, clock):
    cache.put("key", SOMEBODY, None)
    assert (cache.get("key", NOON), cache.get("kez", NOON)) == (SOMEBODY, None)
    clock.now += CACHE_SECONDS
    assert cache.get("key", NOON) is None


def test_never_longer_than_the_key_is_valid(cache):
    cache.put("key", SOMEBODY, NOON)
    assert cache.get("key", NOON - timedelta(milliseconds=1)) == SOMEBODY
    assert cache.get("key", NOON) is None


def test_a_busy_client_is_looked_up_once_a_second(live_service, http):
    made = http.post("/v1/keys", json={"owner": "busy", "role": "viewer"}).json()
    looks = []

    def note(_connection, _cursor, statement, *_):
        if "FROM api_key" in statement:
            looks.append(statement)

    event.listen(live_service.context.database.engine, "before_cursor_execute", note)
    try:
        with httpx.Client(
            base_url=live_service.url, headers={"authorization": f"Bearer {made['key']}"}, trust_env=False
        ) as client:
            assert {client.get("/v1/workers").status_code for _ in range(10)} == {200}
            assert len(looks) < 10
            assert http.delete(f"/v1/keys/{made['prefix']}").status_code == 204
            assert client.get("/v1/workers").status_code == 401, "revoked is revoked, at once"
    finally:
        event.remove(live_service.context.database.engine, "before_cursor_execute", note)
