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


def test_pages_do_not_shift_when_more_is_done(database):
    with database.session() as session:
        for number in range(5):
            audit.record_action(session, "ada", "lcl_1", "runs.submit", f"run_{number}")
    with database.reading() as session:
        first = audit.list_audit(session, limit=2)
    with database.session() as session:
        audit.record_action(session, "ada", "lcl_1", "runs.submit", "run_5")
    with database.reading() as session:
        second = audit.list_audit(session, limit=3, cursor=first.next_cursor)
    names = [entry.object for entry in (*first.items, *second.items)]
    assert names == ["run_4", "run_3", "run_2", "run_1", "run_0"]
    assert second.next_cursor is None
    assert all(entry.at.tzinfo is not None for entry in first.items)
