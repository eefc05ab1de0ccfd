"""Webhook outbox: enqueued with the event, claimed by one process at a time, retried until delivered or given up."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from lcl_core.db import leases, runs
from lcl_core.db.models import Webhook, WebhookDelivery
from lcl_core.db.outbox import (
    DELIVERY_ATTEMPTS,
    DELIVERY_OUTBOX,
    PendingDelivery,
    claim_deliveries,
    list_deliveries,
    pending_deliveries,
    record_delivery,
    webhooks_with_due_deliveries,
)
from lcl_core.db.session import Database, now

Submit = Callable[..., str]
Take = Callable[..., leases.Claim]


def hook(database: Database, *events: str, name: str = "hook_1") -> str:
    with database.session() as session:
        facts = {"url": "https://hooks.example.org/", "owner": "someone", "created_at": now(session)}
        session.add(Webhook(id=name, events=list(events), **facts))
    return name


def due(database: Database) -> list[PendingDelivery]:
    with database.session() as session:
        return claim_deliveries(session)


def record(database: Database, delivery: PendingDelivery, error: str | None = None) -> None:
    with database.session() as session:
        record_delivery(session, delivery, error)


def make_due(database: Database) -> None:
    with database.session() as session:
        for row in session.query(WebhookDelivery).filter(WebhookDelivery.done_at.is_(None)):
            row.next_at = now(session) - timedelta(seconds=1)


def test_each_is_told_what_it_asked_for(database: Database, queue: Submit, claim: Take) -> None:
    hook(database, "run.failed", "run.paused")
    hook(database, "run.cancelled", name="hook_2")
    run_id = queue(name="mine", tags=["t"], max_attempts=1)
    with database.session() as session:
        runs.pause_run(session, run_id)
        runs.unpause_run(session, run_id)
    claim(lease_seconds=-1.0)
    with database.session() as session:
        leases.expire_leases(session)
    other = queue()
    with database.session() as session:
        runs.cancel_run(session, other)
    found = due(database)
    assert [(each.webhook_id, each.event, each.attempt) for each in found] == [
        ("hook_1", "run.paused", 1),
        ("hook_1", "run.failed", 1),
        ("hook_2", "run.cancelled", 1),
    ]
    failed = found[1].payload
    assert (failed["id"], failed["event"]) == (found[1].id, "run.failed")
    assert (failed["run"]["id"], failed["run"]["name"], failed["run"]["tags"]) == (run_id, "mine", ["t"])
    assert failed["run"]["reason"]["code"] == "worker_lost"


def test_what_did_not_happen_is_not_told(database: Database, queue: Submit) -> None:
    hook(database, "run.cancelled")
    run_id = queue()

    def fail() -> None:
        with database.session() as session:
            runs.cancel_run(session, run_id)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert due(database) == []


@pytest.fixture
def webhook_id(database: Database, queue: Submit) -> str:
    """A webhook with one message to it."""
    name = hook(database, "run.cancelled")
    run_id = queue()
    with database.session() as session:
        runs.cancel_run(session, run_id)
    return name


def test_a_message_is_one_takers_at_a_time_and_anothers_when_that_is_gone(database: Database, webhook_id: str) -> None:
    (first,) = due(database)
    assert due(database) == []
    make_due(database)  # a minute later, and nothing was heard of the first taker
    (second,) = due(database)
    assert (second.id, second.attempt) == (first.id, 2)
    record(database, first, "too late")  # it comes back after all: the message is not its any more
    record(database, second)
    with database.reading() as session:
        (row,) = list_deliveries(session, webhook_id)
        assert (row.error, row.done_at is not None) == (None, True)


def test_what_fails_is_tried_after_ever_longer_waits_and_then_given_up(database: Database, webhook_id: str) -> None:
    for attempt in range(1, DELIVERY_ATTEMPTS + 1):
        with database.reading() as session:
            assert webhooks_with_due_deliveries(session)
        (delivery,) = due(database)
        assert delivery.attempt == attempt
        record(database, delivery, "x" * 900)
        with database.reading() as session:
            (row,) = list_deliveries(session, webhook_id)
            assert row.error == "x" * 500
            left = (row.next_at - now(session)).total_seconds()
        if attempt < DELIVERY_ATTEMPTS:
            assert 0 < DELIVERY_OUTBOX.delay(attempt).total_seconds() - left < 60
            make_due(database)
    assert due(database) == []
    with database.reading() as session:
        assert pending_deliveries(session) == (0, 0.0)
    assert DELIVERY_OUTBOX.delay(1) == timedelta(seconds=5)
    assert DELIVERY_OUTBOX.delay(2) == timedelta(seconds=10)
    assert DELIVERY_OUTBOX.delay(DELIVERY_ATTEMPTS) == timedelta(hours=1)


def test_a_removed_webhook_takes_its_messages_along(database: Database, webhook_id: str) -> None:
    (delivery,) = due(database)
    with database.session() as session:
        session.delete(session.get_one(Webhook, webhook_id))
    record(database, delivery, "gone")
    with database.reading() as session:
        assert pending_deliveries(session) == (0, 0.0)


def test_old_messages_are_forgotten(database: Database, webhook_id: str, queue: Submit) -> None:
    (delivery,) = due(database)
    record(database, delivery)
    with database.session() as session:
        session.get_one(WebhookDelivery, delivery.id).done_at = now(session) - timedelta(days=8)
    run_id = queue()
    with database.session() as session:
        runs.cancel_run(session, run_id)
    with database.reading() as session:
        count, seconds = pending_deliveries(session)
    assert count == 1
    assert 0 <= seconds < 300
    (another,) = due(database)
    record(database, another)
    with database.reading() as session:
        rows: list[Any] = list(list_deliveries(session, webhook_id))
    assert [row.id for row in rows] == [another.id]
