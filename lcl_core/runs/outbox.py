"""Messages to webhooks: put down where a run's state is written, taken by whoever sends them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from lcl_core.runs.database import now
from lcl_core.runs.ids import new_id
from lcl_core.runs.states import State
from lcl_core.runs.tables import Delivery, Run, Webhook
from lcl_core.runs.tallies import DELIVERIES, tally

TOLD = (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.PAUSED)
EVENTS = tuple(f"run.{state.value}" for state in TOLD)
ATTEMPTS = 15  # with the waits below: about eight hours
_FIRST_WAIT, _LONGEST_WAIT = timedelta(seconds=5), timedelta(hours=1)
_BEING_SENT = timedelta(minutes=1)  # longer than sending a batch takes at worst
_KEPT = timedelta(days=7)  # what has been delivered or given up


@dataclass(frozen=True)
class Parcel:
    """A message that the taker is to send now."""

    id: str
    webhook_id: str
    url: str
    event: str
    payload: dict[str, Any]
    attempt: int


def announce(session: Session, run: Run) -> None:
    """Put down what the run's new state means for those who want to hear it; sent only if this is committed."""
    event = f"run.{run.state}"
    for webhook in session.scalars(select(Webhook).order_by(Webhook.id)).all():
        if event not in webhook.events:
            continue
        moment, number = now(session), new_id("evt")
        payload = {"id": number, "event": event, "created_at": moment.isoformat(), "run": _facts(run)}
        row = Delivery(id=number, webhook_id=webhook.id, event=event, payload=payload, next_at=moment)
        row.created_at, row.attempts = moment, 0
        session.add(row)


def take(session: Session, most: int = 5, webhooks: Collection[str] | None = None) -> list[Parcel]:
    """Messages that are due, for the caller to send within a minute; nobody else gets them meanwhile.

    Args:
        webhooks: ids of those whose messages are wanted; default all.
    """
    moment = now(session)
    query = (
        select(Delivery, Webhook.url)
        .join(Webhook, Webhook.id == Delivery.webhook_id)
        .where(Delivery.done_at.is_(None), Delivery.next_at <= moment)
        .order_by(Delivery.next_at, Delivery.id)
        .limit(most)
        .with_for_update(of=Delivery, skip_locked=True)
    )
    if webhooks is not None:
        query = query.where(Delivery.webhook_id.in_(webhooks))
    parcels = []
    for row, url in session.execute(query).tuples():
        row.attempts += 1
        row.next_at = moment + _BEING_SENT
        parcels.append(Parcel(row.id, row.webhook_id, url, row.event, row.payload, row.attempts))
    return parcels


def due_webhooks(session: Session) -> list[tuple[str, str]]:
    """Id and address of each webhook that ``take`` would find messages of, the longest due first; only reads."""
    query = (
        select(Webhook.id, Webhook.url)
        .join(Delivery, Delivery.webhook_id == Webhook.id)
        .where(Delivery.done_at.is_(None), Delivery.next_at <= now(session))
        .group_by(Webhook.id, Webhook.url)
        .order_by(func.min(Delivery.next_at))
    )
    return [(webhook_id, url) for webhook_id, url in session.execute(query).tuples()]


def note_sent(session: Session, parcel: Parcel, error: str | None) -> None:
    """How sending ended. What failed is due again after a wait that doubles, until it is given up."""
    row = session.get(Delivery, parcel.id, with_for_update=True)
    if row is None or row.done_at is not None or row.attempts != parcel.attempt:
        return  # the webhook was removed, or somebody else has sent it meanwhile
    moment = now(session)
    row.error = None if error is None else error[:500]
    over = error is None or parcel.attempt >= ATTEMPTS
    if over:
        row.done_at = moment
        session.execute(delete(Delivery).where(Delivery.done_at < moment - _KEPT))
    else:
        row.next_at = moment + wait_after(parcel.attempt)
    outcome = "delivered" if error is None else "given_up" if over else "failed"
    tally(session, [DELIVERIES.tick(outcome=outcome)])


def wait_after(attempt: int) -> timedelta:
    """Between this failed attempt (1 is the first) and the next one."""
    return min(_FIRST_WAIT * 2 ** (attempt - 1), _LONGEST_WAIT)


def last_deliveries(session: Session, webhook_id: str, limit: int = 50) -> Sequence[Delivery]:
    """Newest first."""
    query = select(Delivery).where(Delivery.webhook_id == webhook_id).order_by(Delivery.id.desc())
    return session.scalars(query.limit(limit)).all()


def _facts(run: Run) -> dict[str, Any]:
    """What a receiver needs to know whether it is concerned; the rest it asks of ``GET /v1/runs/{id}``."""
    names = ("id", "kind", "name", "owner", "state", "reason", "attempt", "study_id")
    return {**{name: getattr(run, name) for name in names}, "tags": list(run.tags)}


def pending(session: Session) -> tuple[int, float]:
    """How many messages wait, and the seconds since the oldest of them was put down (0 when there is none)."""
    oldest = func.min(Delivery.created_at, type_=Delivery.created_at.type)
    count, since = session.execute(select(func.count(), oldest).where(Delivery.done_at.is_(None))).tuples().one()
    return count, max(0.0, (now(session) - since).total_seconds()) if since else 0.0
