"""Valid keys are remembered for a second, and forgotten when keys change."""

from datetime import UTC, datetime, timedelta

import anyio
import httpx
import pytest
from sqlalchemy import event

from api.core import auth
from api.core.errors import Problem
from lcl_core.db.session import Database

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize("expires", [None, NOON + timedelta(seconds=0.5)])
def test_a_key_is_remembered_for_a_second_and_no_longer_than_it_is_valid(tmp_path, monkeypatch, expires):
    database = Database(f"sqlite:///{tmp_path / 'lcl.db'}")
    database.migrate()
    monkeypatch.setattr(auth, "utc_now", lambda: NOON)
    key, row = auth.new_key("somebody", "viewer", expires)
    with database.session() as session:
        session.add(row)
    authenticator = auth.Authenticator(database)

    def owner():
        return anyio.run(authenticator.authenticate, f"Bearer {key}").owner

    assert owner() == "somebody"
    with database.session() as session:
        session.delete(session.get(auth.ApiKey, key.partition(".")[0]))
    assert owner() == "somebody"
    monkeypatch.setattr(auth, "utc_now", lambda: expires or NOON + auth.CACHE_TIME)
    with pytest.raises(Problem, match="unknown, revoked or expired"):
        owner()
    database.dispose()


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
