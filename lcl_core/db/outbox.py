"""Outbox: webhook deliveries and artifact uploads, enqueued in the transaction of the event and sent afterwards.

The end of a run and its outgoing work are one transaction. A receiver or a store that does not answer therefore delays
no run and loses nothing: the work stays due and is retried with a doubling delay.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from lcl_core.common.errors import UserError
from lcl_core.db.metrics import DELIVERIES, record_increments
from lcl_core.db.models import ArtifactUpload, Run, Webhook, WebhookDelivery, new_id, output_id
from lcl_core.db.quotas import delete_bytes
from lcl_core.db.session import now
from lcl_core.db.states import State

NOTIFIED_STATES = (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.PAUSED)
WEBHOOK_EVENTS = tuple(f"run.{state.value}" for state in NOTIFIED_STATES)
DELIVERY_ATTEMPTS = 15  # with the waits below: about eight hours
_DELIVERY_FIRST_DELAY, _DELIVERY_MAX_DELAY = timedelta(seconds=5), timedelta(hours=1)
_DELIVERY_TIMEOUT = timedelta(minutes=1)  # longer than sending a batch takes at worst
_DELIVERIES_KEPT = timedelta(days=7)  # what has been delivered or given up


@dataclass(frozen=True)
class PendingDelivery:
    """A message that the taker is to send now."""

    id: str
    webhook_id: str
    url: str
    event: str
    payload: dict[str, Any]
    attempt: int


def enqueue_webhooks(session: Session, run: Run) -> None:
    """Put down what the run's new state means for those who want to hear it; sent only if this is committed."""
    event = f"run.{run.state}"
    for webhook in session.scalars(select(Webhook).order_by(Webhook.id)).all():
        if event not in webhook.events:
            continue
        moment, number = now(session), new_id("evt")
        payload = {"id": number, "event": event, "created_at": moment.isoformat(), "run": _run_payload(run)}
        row = WebhookDelivery(id=number, webhook_id=webhook.id, event=event, payload=payload, next_at=moment)
        row.created_at, row.attempts = moment, 0
        session.add(row)


def claim_deliveries(session: Session, most: int = 5, webhooks: Collection[str] | None = None) -> list[PendingDelivery]:
    """Messages that are due, for the caller to send within a minute; nobody else gets them meanwhile.

    Args:
        webhooks: ids of those whose messages are wanted; default all.
    """
    moment = now(session)
    query = (
        select(WebhookDelivery, Webhook.url)
        .join(Webhook, Webhook.id == WebhookDelivery.webhook_id)
        .where(WebhookDelivery.done_at.is_(None), WebhookDelivery.next_at <= moment)
        .order_by(WebhookDelivery.next_at, WebhookDelivery.id)
        .limit(most)
        .with_for_update(of=WebhookDelivery, skip_locked=True)
    )
    if webhooks is not None:
        query = query.where(WebhookDelivery.webhook_id.in_(webhooks))
    parcels = []
    for row, url in session.execute(query).tuples():
        row.attempts += 1
        row.next_at = moment + _DELIVERY_TIMEOUT
        parcels.append(PendingDelivery(row.id, row.webhook_id, url, row.event, row.payload, row.attempts))
    return parcels


def webhooks_with_due_deliveries(session: Session) -> list[tuple[str, str]]:
    """Id and address of each webhook that ``take`` would find messages of, the longest due first; only reads."""
    query = (
        select(Webhook.id, Webhook.url)
        .join(WebhookDelivery, WebhookDelivery.webhook_id == Webhook.id)
        .where(WebhookDelivery.done_at.is_(None), WebhookDelivery.next_at <= now(session))
        .group_by(Webhook.id, Webhook.url)
        .order_by(func.min(WebhookDelivery.next_at))
    )
    return [(webhook_id, url) for webhook_id, url in session.execute(query).tuples()]


def record_delivery(session: Session, parcel: PendingDelivery, error: str | None) -> None:
    """How sending ended. What failed is due again after a wait that doubles, until it is given up."""
    row = session.get(WebhookDelivery, parcel.id, with_for_update=True)
    if row is None or row.done_at is not None or row.attempts != parcel.attempt:
        return  # the webhook was removed, or somebody else has sent it meanwhile
    moment = now(session)
    row.error = None if error is None else error[:500]
    over = error is None or parcel.attempt >= DELIVERY_ATTEMPTS
    if over:
        row.done_at = moment
        session.execute(delete(WebhookDelivery).where(WebhookDelivery.done_at < moment - _DELIVERIES_KEPT))
    else:
        row.next_at = moment + delivery_delay(parcel.attempt)
    outcome = "delivered" if error is None else "given_up" if over else "failed"
    record_increments(session, [DELIVERIES.increment(outcome=outcome)])


def delivery_delay(attempt: int) -> timedelta:
    """Between this failed attempt (1 is the first) and the next one."""
    return min(_DELIVERY_FIRST_DELAY * 2 ** (attempt - 1), _DELIVERY_MAX_DELAY)


def list_deliveries(session: Session, webhook_id: str, limit: int = 50) -> Sequence[WebhookDelivery]:
    """Newest first."""
    query = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id).order_by(WebhookDelivery.id.desc())
    return session.scalars(query.limit(limit)).all()


def _run_payload(run: Run) -> dict[str, Any]:
    """What a receiver needs to know whether it is concerned; the rest it asks of ``GET /v1/runs/{id}``."""
    names = ("id", "kind", "name", "owner", "state", "reason", "attempt", "study_id")
    return {**{name: getattr(run, name) for name in names}, "tags": list(run.tags)}


def pending_deliveries(session: Session) -> tuple[int, float]:
    """How many messages wait, and the seconds since the oldest of them was put down (0 when there is none)."""
    oldest = func.min(WebhookDelivery.created_at, type_=WebhookDelivery.created_at.type)
    count, since = session.execute(select(func.count(), oldest).where(WebhookDelivery.done_at.is_(None))).tuples().one()
    return count, max(0.0, (now(session) - since).total_seconds()) if since else 0.0


FileEntries = dict[str, dict[str, Any]]  # {name: {"bytes", "sha256", "modified_at"}}
_UPLOAD_TIMEOUT = timedelta(minutes=10)  # after that somebody else may send it too, which does no harm
_UPLOAD_FIRST_DELAY, _UPLOAD_MAX_DELAY = timedelta(seconds=2), timedelta(minutes=10)


@dataclass(frozen=True)
class UploadTask:
    """A folder that the taker is to send now.

    Attributes:
        twins: objects of other deposits of the same run by the sha256 of their bytes.
    """

    path: str
    attempt: int
    tries: int
    copy_sources: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return upload_key(self.path, self.attempt)


def upload_key(path: str, attempt: int) -> str:
    """Where in the store: an attempt ends once, so a place is only ever written with the same files."""
    return f"{path}/{attempt}"


def enqueue_upload(session: Session, path: str, attempt: int, holder: str) -> None:
    """Note that a folder of the home ``holder`` is to be sent. What an earlier attempt left stays until it is."""
    moment, row = now(session), session.get(ArtifactUpload, path, with_for_update=True)
    if row is None:
        row = ArtifactUpload(path=path)
        session.add(row)
    row.pending, row.holder, row.next_at, row.tries, row.error = attempt, holder, moment, 0, None
    session.flush()


def count_pending_uploads(session: Session) -> int:
    """How many folders of all homes are not in the store yet, those included that are on their way."""
    return session.scalars(select(func.count()).where(ArtifactUpload.pending.is_not(None))).one()


def has_due_uploads(session: Session, holder: str) -> bool:
    """Whether ``take`` would find something; only reads."""
    query = select(ArtifactUpload.path).where(*_due_uploads(session, holder))
    return session.scalars(query.limit(1)).first() is not None


def claim_upload(session: Session, holder: str) -> UploadTask | None:
    """A folder of the home ``holder`` that is due. Nobody else gets it for ten minutes.

    A run's own folder comes after what it made: most of that is in it again, and need not travel twice.
    """
    query = select(ArtifactUpload).where(*_due_uploads(session, holder))
    query = query.order_by(ArtifactUpload.path.startswith("runs/"), ArtifactUpload.next_at, ArtifactUpload.path).limit(
        1
    )
    row = session.scalars(query.with_for_update(of=ArtifactUpload, skip_locked=True)).first()
    if row is None or row.pending is None:
        return None
    row.tries += 1
    row.next_at = now(session) + _UPLOAD_TIMEOUT
    return UploadTask(row.path, row.pending, row.tries, _same_content(session, row.path))


def record_uploaded(session: Session, task: UploadTask, files: FileEntries) -> None:
    """All of the files are in the store: from now on the row names them."""
    row = session.get(ArtifactUpload, task.path, with_for_update=True)
    if row is None or row.pending != task.attempt:
        return  # what it was of is deleted, or a later attempt has ended
    row.key, row.files, row.pending, row.error = task.key, files, None, None


def record_upload_failure(session: Session, task: UploadTask, error: str) -> None:
    """It is due again after a wait that doubles, up to ten minutes. It is never given up."""
    row = session.get(ArtifactUpload, task.path, with_for_update=True)
    if row is None or row.pending != task.attempt:
        return
    row.error = error[:500]
    row.next_at = now(session) + min(_UPLOAD_FIRST_DELAY * 2 ** min(task.tries - 1, 20), _UPLOAD_MAX_DELAY)


def delete_stored_folder(session: Session, path: str) -> None:
    """The folder is nobody's any more; its objects in the store are garbage, and its bytes count for nobody."""
    session.execute(delete(ArtifactUpload).where(ArtifactUpload.path == path))
    delete_bytes(session, path)


def get_upload(session: Session, path: str) -> ArtifactUpload | None:
    return session.get(ArtifactUpload, path)


def runs_with_pending_uploads(session: Session, run_ids: Sequence[str]) -> dict[str, str | None]:
    """Of runs of which something is not in the store yet, why the last try failed (None: none did)."""
    run_of = {path: run_id for run_id in run_ids for path in (f"runs/{run_id}", *_output_paths(run_id))}
    query = select(ArtifactUpload.path, ArtifactUpload.error).where(
        ArtifactUpload.path.in_(run_of), ArtifactUpload.pending.is_not(None)
    )
    found: dict[str, str | None] = {}
    for path, error in session.execute(query).tuples():
        found[run_of[path]] = found.get(run_of[path]) or error
    return found


def referenced_keys(session: Session) -> set[str]:
    """Places that rows name, and those that are being written."""
    rows = session.execute(select(ArtifactUpload.path, ArtifactUpload.key, ArtifactUpload.pending)).tuples().all()
    named = {place for _, place, _ in rows if place is not None}
    return named | {upload_key(path, pending) for path, _, pending in rows if pending is not None}


def require_uploaded(row: ArtifactUpload) -> str:
    """Its place in the store. Raises: UserError ``artifacts_pending``."""
    if row.key is None:
        why = f" ({row.error})" if row.error else ""
        message = (
            f"the files of {row.path} are still on the machine that made them and on their way to the store{why}; "
            "try again in a while, and see that a worker of that machine is running"
        )
        raise UserError(message, code="artifacts_pending")
    return row.key


def _output_paths(run_id: str) -> list[str]:
    """What a run may have made, by path."""
    rooms = {"encoders": "enc", "collections": "col", "datasets": "data"}
    return [f"{room}/{output_id(prefix, run_id)}" for room, prefix in rooms.items()]


def _due_uploads(session: Session, holder: str) -> tuple[Any, ...]:
    return ArtifactUpload.pending.is_not(None), ArtifactUpload.holder == holder, ArtifactUpload.next_at <= now(session)


def _same_content(session: Session, path: str) -> dict[str, tuple[str, str]]:
    if not path.startswith("runs/"):
        return {}
    rows = session.scalars(
        select(ArtifactUpload).where(ArtifactUpload.path.in_(_output_paths(path.removeprefix("runs/"))))
    )
    return {
        facts["sha256"]: (row.key, name)
        for row in rows
        if row.key is not None
        for name, facts in (row.files or {}).items()
    }
