"""Valid keys are remembered for a second."""

from datetime import UTC, datetime, timedelta

import anyio
import pytest

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
