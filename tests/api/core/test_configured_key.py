"""The admin key of the settings: changing it revokes the one before, and the database alone gives no guess away."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from api.core import auth
from api.core.auth import ConfiguredKey, ensure_configured_key
from api.core.settings import ApiSettings
from lcl_core.common.errors import UserError
from lcl_core.db.audit import list_audit
from lcl_core.db.models import ApiKey
from lcl_core.db.session import Database

CHOSEN, OTHER = "correct-horse-battery-staple-9", "another-horse-battery-staple-7"
MADE, MADE_LATER = "lcl_0123456789ab.bXkgdmVyeSBvd24gc2VjcmV0", "lcl_ba9876543210.c29tZWJvZHkgZWxzZXMgc2VjcmV0"


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    on_postgres = request.param == "postgresql"
    url = request.getfixturevalue("empty_postgres") if on_postgres else f"sqlite:///{tmp_path / 'keys.db'}"
    database = Database(url)
    database.migrate()
    yield database
    database.dispose()


@pytest.fixture
def start(database: Database, tmp_path: Path) -> Callable[..., ConfiguredKey]:
    """What a start with these settings makes of the keys."""

    def begin(home: str = "home", **settings: Any) -> ConfiguredKey:
        return ensure_configured_key(ApiSettings(home=tmp_path / home, **settings), database)

    return begin


def opens(database: Database, key: str, configured: ConfiguredKey) -> bool:
    with database.reading() as session:
        row = auth.verify_key(session, key, configured)
        return row is not None and row.role == "admin"


def test_a_start_without_the_key_file_revokes_the_key_before(
    database: Database, start: Callable[..., ConfiguredKey], tmp_path: Path
) -> None:
    file = tmp_path / "home" / "key"
    before = start()
    old = file.read_text().strip()
    assert opens(database, old, before)
    file.unlink()
    after = start()
    assert [opens(database, old, each) for each in (before, after)] == [False, False]
    assert opens(database, file.read_text().strip(), after)


@pytest.mark.parametrize(
    ("first", "second"), [(MADE, CHOSEN), (MADE, MADE_LATER), (CHOSEN, MADE), (CHOSEN, OTHER), ("", CHOSEN)]
)
def test_a_changed_setting_revokes_the_key_before(
    database: Database, start: Callable[..., ConfiguredKey], tmp_path: Path, first: str, second: str
) -> None:
    before = start(admin_key=first)
    old = first or (tmp_path / "home" / "key").read_text().strip()
    assert opens(database, old, before)
    after = start(admin_key=second)
    assert [opens(database, old, each) for each in (before, after)] == [False, False]
    assert opens(database, second, after)
    with database.reading() as session:
        assert len(session.scalars(select(ApiKey)).all()) == 1
        noted = [(entry.action, entry.object) for entry in list_audit(session).items]
    assert noted[-1] == ("keys.configure", before.prefix)
    assert ("keys.configure", after.prefix) in noted[:2]
    assert (("keys.revoke", before.prefix) in noted) == (before.prefix != after.prefix)


def test_keys_of_people_outlive_a_change(database: Database, start: Callable[..., ConfiguredKey]) -> None:
    start(admin_key=MADE)
    key, row = auth.new_key("boss", "admin")
    with database.session() as session:
        session.add(row)
    assert opens(database, key, start(admin_key=CHOSEN))


def test_a_start_with_the_same_settings_changes_nothing(
    database: Database, start: Callable[..., ConfiguredKey]
) -> None:
    first, second = start(admin_key=CHOSEN), start(admin_key=CHOSEN)
    assert first.hash == second.hash
    assert all(opens(database, CHOSEN, each) for each in (first, second))
    with database.reading() as session:
        assert [entry.action for entry in list_audit(session).items] == ["keys.configure"]


def test_the_database_alone_does_not_tell_whether_a_guess_is_right(
    database: Database, start: Callable[..., ConfiguredKey], tmp_path: Path
) -> None:
    configured = start(admin_key=CHOSEN)
    with database.reading() as session:
        kept = session.scalars(select(ApiKey)).one().hash
    public = [b"configured", b"lcl_", CHOSEN.encode(), b""]
    guesses = [hmac.digest(name, CHOSEN.encode(), "sha256").hex() for name in public]
    guesses += [hashlib.sha256(CHOSEN.encode()).hexdigest()]
    assert not [guess for guess in guesses if guess in kept]
    assert kept == configured.hash
    assert kept != ConfiguredKey(CHOSEN, b"another pepper, of another installation").hash
    assert (tmp_path / "home" / "key-pepper").stat().st_mode & 0o777 == 0o600


def test_a_database_of_an_earlier_version_is_hashed_anew(
    database: Database, start: Callable[..., ConfiguredKey]
) -> None:
    with database.session() as session:
        old = hmac.digest(b"configured", CHOSEN.encode(), "sha256").hex()
        row = ApiKey(prefix="configured", hash=old, role="admin", owner="admin", created_at=auth.utc_now())
        session.add(row)
        row.configured = True
    configured = start(admin_key=CHOSEN)
    assert opens(database, CHOSEN, configured)
    with database.reading() as session:
        assert session.get_one(ApiKey, "configured").hash == configured.hash != old


def test_machines_with_homes_of_their_own_do_not_lock_each_other_out(
    database: Database, start: Callable[..., ConfiguredKey]
) -> None:
    one, other = start("one", admin_key=CHOSEN), start("other", admin_key=CHOSEN)
    assert one.hash != other.hash
    assert [opens(database, CHOSEN, each) for each in (one, other)] == [True, True]
    assert [opens(database, OTHER, each) for each in (one, other)] == [False, False]
    pepper = "9b1c7f0e5d3a48629b1c7f0e5d3a4862"
    one, other = (start(home, admin_key=CHOSEN, key_pepper=pepper) for home in ("one", "other"))
    assert one.hash == other.hash


def test_a_short_pepper_is_refused(start: Callable[..., ConfiguredKey]) -> None:
    with pytest.raises(UserError, match="LCL_KEY_PEPPER is shorter than 32") as caught:
        start(admin_key=CHOSEN, key_pepper="9b1c7f0e5d3a48629b1c7f0e5d")
    assert "9b1c" not in str(caught.value)


def test_a_damaged_pepper_is_reported(start: Callable[..., ConfiguredKey], tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "key-pepper").write_text("\n")
    with pytest.raises(UserError, match="key-pepper is damaged; remove it"):
        start()
