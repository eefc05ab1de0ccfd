"""Webhook messages: written in the transaction of the event, sent afterwards, at least once.

A receiver that does not answer therefore delays no run and loses nothing: a failed message is due again after a
doubling delay. Messages are signed, and go to the hosts of the setting alone.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from sqlalchemy import ColumnElement, and_, delete, func, select
from sqlalchemy.orm import Session

from lcl_core.common.errors import UserError
from lcl_core.common.paths import load_or_create_secret
from lcl_core.db.models import Run, Webhook, WebhookDelivery, new_id
from lcl_core.db.session import now
from lcl_core.db.states import State

RunEvent = Literal["run.succeeded", "run.failed", "run.cancelled", "run.paused"]  # of which webhooks are notified
NOTIFIED_STATES = tuple(State(event.removeprefix("run.")) for event in get_args(RunEvent))
DELIVERY_ATTEMPTS = 15  # with these delays: about eight hours
_FIRST_DELAY, _LONGEST_DELAY = timedelta(seconds=5), timedelta(hours=1)
_CLAIMED_FOR = timedelta(minutes=1)  # longer than sending one batch
_KEPT = timedelta(days=7)  # delivered or given up
_PENDING = WebhookDelivery.done_at.is_(None)
_KEY_NAME = "webhook.key"


@dataclass(frozen=True)
class PendingDelivery:
    """A message that the caller has claimed and must send."""

    id: str
    webhook_id: str
    url: str
    event: str
    payload: dict[str, Any]
    attempt: int


def enqueue_webhooks(session: Session, run: Run) -> None:
    """Enqueue a message about the new state of a run for every webhook that has subscribed to the event."""
    event = f"run.{run.state}"
    for webhook in session.scalars(select(Webhook).order_by(Webhook.id)):
        if event not in webhook.events:
            continue
        moment, event_id = now(session), new_id("evt")
        names = ("id", "kind", "name", "owner", "state", "reason", "attempt", "study_id")
        described = {**{name: getattr(run, name) for name in names}, "tags": list(run.tags)}
        payload = {"id": event_id, "event": event, "created_at": moment.isoformat(), "run": described}
        times = {"next_at": moment, "created_at": moment}
        session.add(WebhookDelivery(id=event_id, webhook_id=webhook.id, event=event, payload=payload, **times))


def claim_deliveries(session: Session, webhooks: Collection[str], limit: int = 5) -> list[PendingDelivery]:
    """Claim messages of these webhooks (ids) that are due, for the caller to send within a minute."""
    query = select(WebhookDelivery).where(_is_due(session), WebhookDelivery.webhook_id.in_(webhooks))
    query = query.order_by(WebhookDelivery.next_at, WebhookDelivery.id).limit(limit)
    claimed = []
    for row in session.scalars(query.with_for_update(of=WebhookDelivery, skip_locked=True)):
        row.attempts += 1
        row.next_at = now(session) + _CLAIMED_FOR
        url = session.get_one(Webhook, row.webhook_id).url
        claimed.append(PendingDelivery(row.id, row.webhook_id, url, row.event, row.payload, row.attempts))
    return claimed


def webhooks_with_due_deliveries(session: Session) -> list[tuple[str, str]]:
    """(id, URL) of the webhooks with due messages, the longest due first."""
    query = (
        select(Webhook.id, Webhook.url)
        .join(WebhookDelivery, WebhookDelivery.webhook_id == Webhook.id)
        .where(_is_due(session))
        .group_by(Webhook.id, Webhook.url)
        .order_by(func.min(WebhookDelivery.next_at))
    )
    return [(webhook_id, url) for webhook_id, url in session.execute(query).tuples()]


def record_delivery(session: Session, delivery: PendingDelivery, error: str | None) -> None:
    """Record a delivered message (``error`` None) or a failed attempt; the last failed attempt gives it up."""
    row = session.get(WebhookDelivery, delivery.id, with_for_update=True)
    if row is None or row.done_at is not None or row.attempts != delivery.attempt:
        return  # the webhook was deleted, or another process has sent the message
    moment = now(session)
    row.error = None if error is None else error[:500]
    row.next_at = moment + min(_FIRST_DELAY * 2 ** (delivery.attempt - 1), _LONGEST_DELAY)
    if error is None or delivery.attempt >= DELIVERY_ATTEMPTS:
        row.done_at = moment
        session.execute(delete(WebhookDelivery).where(WebhookDelivery.done_at < moment - _KEPT))


def list_deliveries(session: Session, webhook_id: str, limit: int = 50) -> Sequence[WebhookDelivery]:
    """Newest first."""
    query = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id).order_by(WebhookDelivery.id.desc())
    return session.scalars(query.limit(limit)).all()


def pending_deliveries(session: Session) -> tuple[int, float]:
    """Number of undelivered messages, and the age of the oldest in seconds (0 where there is none)."""
    oldest = func.min(WebhookDelivery.created_at, type_=WebhookDelivery.created_at.type)
    count, since = session.execute(select(func.count(), oldest).where(_PENDING)).tuples().one()
    return count, max(0.0, (now(session) - since).total_seconds()) if since else 0.0


def _is_due(session: Session) -> ColumnElement[bool]:
    return and_(_PENDING, WebhookDelivery.next_at <= now(session))


def check_url(url: str, hosts: Collection[str], *, https_only: bool = False) -> None:
    """Check that ``url`` is http(s) on one of ``hosts``: ``name`` or ``name:port``, with or without a protocol.

    Names are compared as text. ``https_only``: http is allowed only for hosts listed with ``http://``.
    """
    try:
        parts = urlsplit(url)
        name = parts.hostname
    except ValueError as error:
        raise UserError(f"{url!r} is no address ({error})", field="url") from error
    if parts.scheme not in ("https", "http") or not name or "@" in parts.netloc or "\\" in url:
        message = "an address begins with https:// or http:// and a host, without a name or password before it"
        raise UserError(message, field="url")
    host, allowed = parts.netloc.lower(), {each.lower().rstrip("/") for each in hosts}
    if f"{parts.scheme}://{host}" in allowed:
        return
    if host not in allowed:
        raise UserError(f"the host {host!r} is not among those that LCL_WEBHOOK_HOSTS allows", field="url")
    if https_only and parts.scheme == "http":
        way_out = f"give an https address, or let LCL_WEBHOOK_HOSTS name http://{host}"
        raise UserError(f"http sends messages about runs unencrypted: {way_out}", field="url")


def master_secret(configured: str, home: Path) -> bytes:
    """Master secret of the api: the setting, else a key file in ``home`` that the first caller makes."""
    if configured:
        return configured.encode()
    return load_or_create_secret(home / _KEY_NAME, lambda: os.urandom(32).hex()).encode()


def existing_master_secret(configured: str, home: Path) -> bytes:
    """Master secret of a worker: the setting, else the key file of the api.

    It makes no key: where the worker has a ``home`` of its own, receivers would reject what it signs.
    """
    if not configured and not (home / _KEY_NAME).exists():
        raise UserError(
            f"the worker has no {home / _KEY_NAME}, from which the api derives the secrets of webhooks; copy that of "
            "the api's LCL_HOME there, or set the same LCL_WEBHOOK_SECRET for api and workers",
        )
    return master_secret(configured, home)


def webhook_secret(master: bytes, webhook_id: str) -> str:
    """Secret of one webhook, derived and never stored in the database."""
    return hmac.new(master, webhook_id.encode(), hashlib.sha256).hexdigest()


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """``sha256=`` and HMAC-SHA256 in hex over ``TIMESTAMP.BODY``."""
    return "sha256=" + hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
