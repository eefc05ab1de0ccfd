"""Tags know whose they are, those of before as well, and an owner's page of a tag is read in order."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import inspect, text

from lcl_core.db import runs
from lcl_core.db.session import Database
from tests.lcl_core.db.migrations.plans import check_read_in_order

NAME = "ix_run_tag_tag_owner_run_id"


def columns(database: Database) -> set[str]:
    return {column["name"] for column in inspect(database.engine).get_columns("run_tag")}


def test_tags_of_before_are_given_their_owners(database: Database, queue: Callable[..., str]) -> None:
    hers = queue(owner="ada", tags=["nightly"])
    his = queue(owner="ben", tags=["nightly", "paper"])
    queue(owner="ada", tags=["paper"])
    database.downgrade("0009")
    assert "owner" not in columns(database)
    database.migrate()
    assert "owner" in columns(database)
    with database.reading() as session:
        pages = {
            owner: [run.id for run in runs.list_runs(session, tag="nightly", owner=owner).items]
            for owner in ("ada", "ben", "eve", None)
        }
    assert pages == {"ada": [hers], "ben": [his], "eve": [], None: [his, hers]}


def test_tags_still_go_with_their_run(database: Database, queue: Callable[..., str]) -> None:
    run_id = queue(owner="ada", tags=["nightly"])
    database.downgrade("0009")
    database.migrate()
    with database.session() as session:
        runs.cancel_run(session, run_id)
    with database.session() as session:
        runs.delete_run(session, run_id)
    with database.reading() as session:
        assert session.execute(text("SELECT count(*) FROM run_tag")).scalar() == 0


def test_an_owners_page_of_a_tag_is_read_from_the_index(database: Database) -> None:
    query = (
        "SELECT run_id FROM run_tag WHERE tag = 'nightly' AND owner = 'ada' AND run_id < 'run_5' "
        "ORDER BY run_id DESC LIMIT 51"
    )
    check_read_in_order(database, query, NAME)
