"""An entry stands and falls with the change that it tells of."""

import pytest

from lcl_core.db import audit, submit


def actions(database, **wanted):
    with database.reading() as session:
        return [entry.object for entry in audit.list_audit(session, **wanted).items]


def test_an_entry_falls_with_its_change(database):
    with database.session() as session:
        kept = submit.submit(session, "pretrain", {}).id
        audit.record_action(session, "ada", "lcl_1", "runs.submit", kept, "r")
    with pytest.raises(ZeroDivisionError):
        _submit_and_fall(database)
    assert actions(database) == [kept]


def _submit_and_fall(database):
    with database.session() as session:
        lost = submit.submit(session, "pretrain", {}).id
        audit.record_action(session, "ada", "lcl_1", "runs.submit", lost, "r")
        session.flush()
        raise ZeroDivisionError
