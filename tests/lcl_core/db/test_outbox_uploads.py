"""What is to be in the store and what is: noted with the end of a run, taken by one, named when it is there."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from lcl_core.common.errors import UserError
from lcl_core.db import outbox
from lcl_core.db.models import ArtifactUpload
from lcl_core.db.session import Database, now

HERE, THERE = "a" * 32, "b" * 32
FILES: dict[str, Any] = {"x": {"bytes": 1, "sha256": "s", "modified_at": "2030-01-01T00:00:00+00:00"}}
DIGITS = "0" * 18


def expect(database: Database, path: str = "encoders/enc_1", attempt: int = 1, holder: str = HERE) -> None:
    with database.session() as session:
        outbox.enqueue_upload(session, path, attempt, holder)


def claim_upload_of(database: Database, holder: str = HERE) -> outbox.UploadTask | None:
    with database.session() as session:
        return outbox.claim_upload(session, holder)


def row_of(database: Database, path: str = "encoders/enc_1") -> ArtifactUpload:
    with database.reading() as session:
        return session.get_one(ArtifactUpload, path)


def test_only_the_home_that_has_it_is_asked_to_send_it_and_once(database: Database) -> None:
    expect(database)
    with database.reading() as session:
        assert not outbox.has_due_uploads(session, THERE)
        assert outbox.has_due_uploads(session, HERE)
    assert claim_upload_of(database, THERE) is None
    task = claim_upload_of(database)
    assert task is not None
    assert (task.path, task.key) == ("encoders/enc_1", "encoders/enc_1/1")
    assert claim_upload_of(database) is None, "somebody is at it"


def test_a_row_names_a_place_once_everything_is_there(database: Database) -> None:
    expect(database)
    with pytest.raises(UserError) as caught:
        outbox.require_uploaded(row_of(database))
    assert caught.value.code == "artifacts_pending"
    task = claim_upload_of(database)
    assert task is not None
    with database.session() as session:
        outbox.record_uploaded(session, task, FILES)
    row = row_of(database)
    assert (outbox.require_uploaded(row), row.files, row.pending) == ("encoders/enc_1/1", FILES, None)
    assert claim_upload_of(database) is None


def test_what_fails_is_tried_again_later_and_later_for_ever(database: Database) -> None:
    expect(database)
    waits = []
    for _ in range(12):
        task = claim_upload_of(database)
        assert task is not None
        with database.session() as session:
            outbox.record_upload_failure(session, task, "the store is away")
            row = session.get_one(ArtifactUpload, task.path)
            waits.append((row.next_at - now(session)).total_seconds())
            row.next_at = now(session) - timedelta(seconds=1)
    assert [round(wait) for wait in waits[:4]] == [2, 4, 8, 16]
    assert 590 < max(waits) <= 600
    with pytest.raises(UserError, match="the store is away"):
        outbox.require_uploaded(row_of(database))


def test_a_later_attempt_replaces_and_the_earlier_one_is_named_until_it_is_there(database: Database) -> None:
    path = "runs/run_1"
    expect(database, path)
    first = claim_upload_of(database)
    assert first is not None
    with database.session() as session:
        outbox.record_uploaded(session, first, FILES)
    expect(database, path, 2, THERE)
    assert row_of(database, path).key == "runs/run_1/1"
    with database.reading() as session:
        assert outbox.referenced_keys(session, {"runs/run_1"}) == {"runs/run_1/1", "runs/run_1/2"}
        assert outbox.runs_with_pending_uploads(session, ["run_1", "run_2"]) == {"run_1": None}
    with database.session() as session:
        outbox.record_uploaded(session, first, {})  # somebody who was very slow
        outbox.record_upload_failure(session, first, "no")
    assert row_of(database, path).files == FILES
    second = claim_upload_of(database, THERE)
    assert second is not None
    with database.session() as session:
        outbox.record_uploaded(session, second, {})
    with database.reading() as session:
        assert outbox.referenced_keys(session, {"runs/run_1"}) == {"runs/run_1/2"}


def test_what_a_run_made_goes_first_and_need_not_travel_again(database: Database) -> None:
    expect(database, f"runs/run_{DIGITS}")
    expect(database, f"encoders/enc_{DIGITS}")
    expect(database, "encoders/enc_other")
    tasks = [claim_upload_of(database) for _ in range(2)]
    for task in tasks:
        assert task is not None
        with database.session() as session:
            outbox.record_uploaded(session, task, {task.path: {**FILES["x"], "sha256": task.path}})
    last = claim_upload_of(database)
    assert last is not None
    assert last.path == f"runs/run_{DIGITS}"
    mine = f"encoders/enc_{DIGITS}"
    assert last.copy_sources == {mine: (f"{mine}/1", mine)}


def test_the_one_of_a_deleted_run_is_named_by_nobody(database: Database, queue: Callable[..., str]) -> None:
    from lcl_core.db import runs

    run_id = queue()
    expect(database, f"runs/{run_id}")
    with database.session() as session:
        runs.cancel_run(session, run_id)
    with database.session() as session:
        runs.delete_run(session, run_id)
    with database.reading() as session:
        assert outbox.referenced_keys(session, {"runs/run_1"}) == set()


def test_what_a_lost_home_had_is_given_up(database: Database) -> None:
    expect(database, "runs/run_1", holder=THERE)
    expect(database, "runs/run_2")
    first = claim_upload_of(database)
    assert first is not None
    with database.session() as session:
        outbox.record_uploaded(session, first, FILES)
        outbox.enqueue_upload(session, "runs/run_2", 2, THERE)
        outbox.enqueue_upload(session, "encoders/enc_1", 1, HERE)
    with database.session() as session:
        found = outbox.pending_uploads(session)
        assert [(each.home, each.paths) for each in found] == [
            (HERE, ["encoders/enc_1"]),
            (THERE, ["runs/run_1", "runs/run_2"]),
        ]
        given_up = outbox.abandon_uploads(session, THERE)
    assert (given_up.folders, given_up.error) == (2, None)
    assert claim_upload_of(database, THERE) is None
    for run_id in ("run_1", "run_2"):
        with pytest.raises(UserError, match="submit the run that made them again") as caught:
            outbox.require_uploaded(row_of(database, f"runs/{run_id}"))
        assert caught.value.code == "artifacts_lost"
    with database.session() as session:
        assert outbox.count_pending_uploads(session) == 1
        assert outbox.runs_with_pending_uploads(session, ["run_1", "run_3"]) == {"run_1": outbox.LOST}
        with pytest.raises(UserError, match="lcl homes list") as caught:
            outbox.abandon_uploads(session, THERE)
        outbox.enqueue_upload(session, "runs/run_1", 3, HERE)
        assert outbox.runs_with_pending_uploads(session, ["run_1"]) == {"run_1": None}
    assert caught.value.code == "unknown_home"


def waited(database: Database, seconds_later: float = 0.0) -> float:
    """What would be exported so much later."""
    with database.session() as session:
        for row in session.scalars(select(ArtifactUpload)):
            row.next_at -= timedelta(seconds=seconds_later)
    with database.reading() as session:
        return outbox.longest_upload_wait(session)


def test_a_busy_service_whose_uploads_succeed_has_no_long_wait(database: Database) -> None:
    assert waited(database) == 0
    for number in range(5):
        expect(database, f"encoders/enc_{number}")
        assert waited(database, 60.0) == pytest.approx(60, abs=30)
        task = claim_upload_of(database)
        assert task is not None
        for _ in range(20):
            with database.session() as session:
                assert outbox.renew_upload(session, task)
            assert waited(database, 60.0) == 0, "it advances"
        with database.session() as session:
            outbox.record_uploaded(session, task, FILES)
    assert waited(database, 7200.0) == 0


def test_a_folder_that_no_upload_brings_to_the_store_waits_since_it_was_enqueued(database: Database) -> None:
    expect(database)
    expect(database, "runs/run_1", holder=THERE)
    assert waited(database, 7200.0) == pytest.approx(7200, abs=60), "no worker of its machine is alive"
    with database.session() as session:
        outbox.abandon_uploads(session, THERE)
    while claim_upload_of(database) is not None:
        pass
    with database.session() as session:
        outbox.enqueue_upload(session, "encoders/enc_1", 2, HERE)
    elapsed = 0.0
    for _ in range(14):
        task = claim_upload_of(database)
        assert task is not None
        with database.session() as session:
            outbox.record_upload_failure(session, task, "the store is away")
        assert waited(database) == pytest.approx(elapsed, abs=60)
        delay = outbox.UPLOAD_OUTBOX.delay(task.tries).total_seconds()
        elapsed += delay
        assert waited(database, delay) == pytest.approx(elapsed, abs=60)
    assert elapsed > 3600
