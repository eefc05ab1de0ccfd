"""The admin key of the settings: changing it revokes the one before."""

import pytest
from sqlalchemy import select

from api.core import auth
from api.core.settings import ApiSettings
from lcl_core.db.audit import list_audit
from lcl_core.db.models import ApiKey
from lcl_core.db.session import Database

CHOSEN, OTHER = "correct-horse-battery-staple-9", "another-horse-battery-staple-7"
MADE, MADE_LATER = "lcl_0123456789ab.bXkgdmVyeSBvd24gc2VjcmV0", "lcl_ba9876543210.c29tZWJvZHkgZWxzZXMgc2VjcmV0"


@pytest.fixture
def database(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'keys.db'}")
    database.migrate()
    yield database
    database.dispose()


@pytest.fixture
def start(database, tmp_path):
    """What a start with these settings makes of the keys."""

    def begin(**settings):
        auth.ensure_configured_key(ApiSettings(home=tmp_path / "home", **settings), database)

    return begin


def opens(database, key):
    with database.reading() as session:
        row = auth.verify_key(session, key)
        return row is not None and row.role == "admin"


def test_a_start_without_the_key_file_revokes_the_key_before(database, start, tmp_path):
    file = tmp_path / "home" / "key"
    start()
    old = file.read_text().strip()
    assert opens(database, old)
    file.unlink()
    start()
    assert not opens(database, old)
    assert opens(database, file.read_text().strip())


@pytest.mark.parametrize(
    ("first", "second"), [(MADE, CHOSEN), (MADE, MADE_LATER), (CHOSEN, MADE), (CHOSEN, OTHER), ("", CHOSEN)]
)
def test_a_changed_setting_revokes_the_key_before(database, start, tmp_path, first, second):
    start(admin_key=first)
    old = first or (tmp_path / "home" / "key").read_text().strip()
    assert opens(database, old)
    key, row = auth.new_key("boss", "admin")
    with database.session() as session:
        session.add(row)
    start(admin_key=second)
    start(admin_key=second)
    assert not opens(database, old)
    assert opens(database, second)
    assert opens(database, key), "keys of people stay"
    with database.reading() as session:
        assert len(session.scalars(select(ApiKey)).all()) == 2
        actions = [entry.action for entry in list_audit(session).items]
    assert actions.count("keys.configure") == 2, "the same settings again change nothing"
