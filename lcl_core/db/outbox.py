"""Outbox: webhook deliveries and artifact uploads, enqueued in the transaction of the event and sent afterwards.

The end of a run and its outgoing work are one transaction. A receiver or a store that does not answer therefore delays
no run and loses nothing: the work stays due and is retried with a doubling delay.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby, product
from typing import Any, Generic, Literal, TypeVar, get_args

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, update
from sqlalchemy.orm import Session

from lcl_core.common.errors import Busy, NotFound
from lcl_core.db.models import (
    OUTPUT_FOLDERS,
    ArtifactUpload,
    EncoderRow,
    Run,
    Webhook,
    WebhookDelivery,
    new_id,
    output_id,
)
from lcl_core.db.quotas import delete_bytes, record_bytes
from lcl_core.db.session import has_prefix, now
from lcl_core.db.states import FINISHED, State

RunEvent = Literal["run.succeeded", "run.failed", "run.cancelled", "run.paused"]  # of which webhooks are notified
NOTIFIED_STATES = tuple(State(event.removeprefix("run.")) for event in get_args(RunEvent))
DELIVERY_ATTEMPTS = 15  # with the delays of DELIVERY_OUTBOX: about eight hours
_DELIVERIES_KEPT = timedelta(days=7)  # delivered or given up

LOST = "the home that has them was declared lost"  # error of an upload that was abandoned with its home
_PATHS_SHOWN = 100

FileEntries = dict[str, dict[str, Any]]  # {name: {"bytes", "sha256", "modified_at"}}
OutboxRow = TypeVar("OutboxRow", ArtifactUpload, WebhookDelivery)


@dataclass
class Outbox(Generic[OutboxRow]):
    """Rows of one table that wait to be sent, claimed for ``timeout`` by one process at a time.

    A row has ``attempts``, ``next_at`` and ``error``. After a failed attempt it is due again in ``first_delay``,
    doubled with each attempt up to ``max_delay``.
    """

    table: type[OutboxRow]
    is_open: ColumnElement[bool]
    timeout: timedelta
    first_delay: timedelta
    max_delay: timedelta

    def due(self, session: Session) -> ColumnElement[bool]:
        """Condition on a row: it may be claimed now."""
        return and_(self.is_open, self.table.next_at <= now(session))

    def claim(self, session: Session, where: Sequence[Any], order_by: Sequence[Any], limit: int) -> list[OutboxRow]:
        """Due rows for the caller to send; no other process gets them before ``timeout``."""
        query = select(self.table).where(self.due(session), *where).order_by(*order_by).limit(limit)
        rows = list(session.scalars(query.with_for_update(of=self.table, skip_locked=True)))
        for row in rows:
            row.attempts += 1
            row.next_at = now(session) + self.timeout
        return rows

    def retry(self, session: Session, row: OutboxRow, error: str) -> None:
        """Record a failed attempt."""
        row.error, row.next_at = error[:500], now(session) + self.delay(row.attempts)

    def delay(self, attempt: int) -> timedelta:
        """Time between the failed ``attempt`` (from 1) and the next one."""
        return min(self.first_delay * 2 ** min(attempt - 1, 20), self.max_delay)

    def longest_wait(self, session: Session) -> timedelta:
        """How long the open row that was enqueued first has waited, without the time of its attempts. 0: there is none.

        A row is due when it is enqueued, and ``delay`` after each failed attempt. So the sum of these delays before
        ``next_at`` is never earlier than the time when it was enqueued. An attempt that moves ``next_at`` is no wait.
        """
        first_due = func.min(self.table.next_at, type_=self.table.next_at.type)
        query = select(self.table.attempts, first_due).where(self.is_open).group_by(self.table.attempts)
        moment = now(session)
        waits = (self._wait(attempts, due, moment) for attempts, due in session.execute(query).tuples())
        return max(waits, default=timedelta(0))

    def _wait(self, attempts: int, next_at: datetime, moment: datetime) -> timedelta:
        """Of a row after so many attempts."""
        delays = sum((self.delay(attempt) for attempt in range(1, attempts + 1)), timedelta(0))
        return max(moment - next_at + delays, timedelta(0))


DELIVERY_OUTBOX = Outbox(
    WebhookDelivery,
    WebhookDelivery.done_at.is_(None),
    timeout=timedelta(minutes=1),  # longer than sending one batch
    first_delay=timedelta(seconds=5),
    max_delay=timedelta(hours=1),
)
UPLOAD_OUTBOX = Outbox(
    ArtifactUpload,
    ArtifactUpload.pending.is_not(None),
    timeout=timedelta(minutes=10),  # renewed while the upload advances
    first_delay=timedelta(seconds=2),
    max_delay=timedelta(minutes=10),
)


@dataclass(frozen=True)
class PendingDelivery:
    """A message that the caller has claimed and must send."""

    id: str
    webhook_id: str
    url: str
    event: str
    payload: dict[str, Any]
    attempt: int


def enqueue_webhooks(session: Session, *runs: Run) -> None:
    """Enqueue a message about the new state of each run for every webhook that has subscribed to the event."""
    webhooks = session.scalars(select(Webhook).order_by(Webhook.id)).all()
    for run, webhook in product(runs, webhooks):
        event = f"run.{run.state}"
        if event not in webhook.events:
            continue
        moment, event_id = now(session), new_id("evt")
        payload = {"id": event_id, "event": event, "created_at": moment.isoformat(), "run": _run_payload(run)}
        row = WebhookDelivery(id=event_id, webhook_id=webhook.id, event=event, payload=payload, next_at=moment)
        row.created_at, row.attempts = moment, 0
        session.add(row)


def claim_deliveries(
    session: Session, limit: int = 5, webhooks: Collection[str] | None = None
) -> list[PendingDelivery]:
    """Claim messages that are due, for the caller to send within a minute.

    Args:
        webhooks: ids of the webhooks; None: all.
    """
    where = [] if webhooks is None else [WebhookDelivery.webhook_id.in_(webhooks)]
    rows = DELIVERY_OUTBOX.claim(session, where, (WebhookDelivery.next_at, WebhookDelivery.id), limit)
    return [
        PendingDelivery(
            row.id,
            row.webhook_id,
            session.get_one(Webhook, row.webhook_id).url,
            row.event,
            row.payload,
            row.attempts,
        )
        for row in rows
    ]


def webhooks_with_due_deliveries(session: Session) -> list[tuple[str, str]]:
    """(id, URL) of the webhooks with due messages, the longest due first; only reads."""
    query = (
        select(Webhook.id, Webhook.url)
        .join(WebhookDelivery, WebhookDelivery.webhook_id == Webhook.id)
        .where(DELIVERY_OUTBOX.due(session))
        .group_by(Webhook.id, Webhook.url)
        .order_by(func.min(WebhookDelivery.next_at))
    )
    return [(webhook_id, url) for webhook_id, url in session.execute(query).tuples()]


def record_delivery(session: Session, delivery: PendingDelivery, error: str | None) -> None:
    """Record a delivered message (``error`` None) or a failed attempt; the last failed attempt gives it up."""
    row = session.get(WebhookDelivery, delivery.id, with_for_update=True)
    if row is None or row.done_at is not None or row.attempts != delivery.attempt:
        return  # the webhook was deleted, or another process has sent the message
    given_up = error is not None and delivery.attempt >= DELIVERY_ATTEMPTS
    if error is None:
        row.error = None
    else:
        DELIVERY_OUTBOX.retry(session, row, error)
    if error is None or given_up:
        row.done_at = now(session)
        session.execute(delete(WebhookDelivery).where(WebhookDelivery.done_at < row.done_at - _DELIVERIES_KEPT))


def list_deliveries(session: Session, webhook_id: str, limit: int = 50) -> Sequence[WebhookDelivery]:
    """Newest first."""
    query = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id).order_by(WebhookDelivery.id.desc())
    return session.scalars(query.limit(limit)).all()


def pending_deliveries(session: Session) -> tuple[int, float]:
    """Number of undelivered messages, and the age of the oldest in seconds (0 where there is none)."""
    oldest = func.min(WebhookDelivery.created_at, type_=WebhookDelivery.created_at.type)
    count, since = session.execute(select(func.count(), oldest).where(DELIVERY_OUTBOX.is_open)).tuples().one()
    return count, max(0.0, (now(session) - since).total_seconds()) if since else 0.0


def _run_payload(run: Run) -> dict[str, Any]:
    """The run as in a message; ``GET /v1/runs/{id}`` has the other fields."""
    names = ("id", "kind", "name", "owner", "state", "reason", "attempt", "study_id")
    return {**{name: getattr(run, name) for name in names}, "tags": list(run.tags)}


@dataclass(frozen=True)
class UploadTask:
    """A folder that the caller has claimed and must upload.

    Attributes:
        path: relative to the home folder.
        attempt: of the run that wrote the folder.
        tries: number of upload attempts, this one included.
        copy_sources: (key, name) of objects in the store by the SHA-256 of their content.
    """

    path: str
    attempt: int
    tries: int
    copy_sources: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return upload_key(self.path, self.attempt)


def upload_key(path: str, attempt: int) -> str:
    """Key in the store. An attempt ends once, so every upload to a key has the same files."""
    return f"{path}/{attempt}"


def attempt_of_key(key: str) -> int:
    """The attempt of an ``upload_key``."""
    return int(key.rpartition("/")[2])


def enqueue_upload(session: Session, path: str, attempt: int, holder: str) -> None:
    """Enqueue the upload of a folder of the home ``holder``. An earlier attempt's copy stays until the upload."""
    moment, row = now(session), session.get(ArtifactUpload, path, with_for_update=True)
    if row is None:
        row = ArtifactUpload(path=path)
        session.add(row)
    row.pending, row.holder, row.next_at, row.attempts, row.error = attempt, holder, moment, 0, None
    session.flush()


def record_run_folder(session: Session, run: Run, size: int, holder: str | None) -> None:
    """Charge the folder of a run, of ``size`` bytes, to its owner; of a run that has ended, enqueue its upload.

    An attempt that is released may be made again under its number, so its folder is not uploaded.

    Args:
        holder: home of the folder, whose folders are uploaded; None: there is no folder, or no store.
    """
    record_bytes(session, f"runs/{run.id}", run.owner, size)
    if holder is not None and run.state in FINISHED:
        enqueue_upload(session, f"runs/{run.id}", run.attempt, holder)


def count_pending_uploads(session: Session) -> int:
    """Number of folders of all homes that are not in the store yet."""
    return session.scalars(select(func.count()).where(UPLOAD_OUTBOX.is_open)).one()


def longest_upload_wait(session: Session) -> float:
    """Seconds for which the folder whose upload was enqueued first has waited. 0: all are in the store."""
    return UPLOAD_OUTBOX.longest_wait(session).total_seconds()


@dataclass(frozen=True)
class HomeUploads:
    """Folders of one home that are not in the store yet.

    Attributes:
        home: its id.
        folders: their number.
        paths: of some of them, relative to the home.
        error: of the last upload of one of them, if it failed.
    """

    home: str
    folders: int
    paths: list[str]
    error: str | None


def pending_uploads(session: Session, home: str | None = None) -> list[HomeUploads]:
    """Of each home with pending uploads, or of one; in the order of their ids."""
    query = select(ArtifactUpload.holder, ArtifactUpload.path, ArtifactUpload.error).where(UPLOAD_OUTBOX.is_open)
    query = query if home is None else query.where(ArtifactUpload.holder == home)
    rows = session.execute(query.order_by(ArtifactUpload.holder, ArtifactUpload.path)).tuples()
    homes = []
    for holder, group in groupby(rows, lambda row: row[0]):
        folders = list(group)
        error = next((error for _, _, error in folders if error), None)
        homes.append(HomeUploads(holder, len(folders), [path for _, path, _ in folders[:_PATHS_SHOWN]], error))
    return homes


def abandon_uploads(session: Session, home: str) -> HomeUploads:
    """Give up all pending uploads of a home: their files are lost. Returns: what was pending.

    Raises: UserError ``unknown_home``.
    """
    pending = pending_uploads(session, home)
    if not pending:
        message = f"no folder of a home {home!r} waits for its upload; `lcl homes list` prints those that do"
        raise NotFound(message, code="unknown_home")
    of_home = UPLOAD_OUTBOX.is_open, ArtifactUpload.holder == home
    session.execute(update(ArtifactUpload).where(*of_home).values(pending=None, error=LOST))
    return pending[0]


def has_due_uploads(session: Session, holder: str, *, imports: bool = False) -> bool:
    """Whether ``claim_upload`` would find a folder; only reads."""
    query = select(ArtifactUpload.path).where(UPLOAD_OUTBOX.due(session), *_uploads_of(holder, imports=imports))
    return session.scalars(query.limit(1)).first() is not None


def claim_upload(session: Session, holder: str, *, imports: bool = False) -> UploadTask | None:
    """Claim a folder of the home ``holder`` that is due.

    The folder of a run comes after the run's output: the store copies the files that both have.

    Args:
        imports: only encoders that no run has made.
    """
    order = (ArtifactUpload.path.startswith("runs/"), ArtifactUpload.next_at, ArtifactUpload.path)
    for row in UPLOAD_OUTBOX.claim(session, _uploads_of(holder, imports=imports), order, 1):
        if row.pending is not None:
            return UploadTask(row.path, row.pending, row.attempts, _copy_sources(session, row.path))
    return None


def _uploads_of(holder: str, *, imports: bool) -> list[ColumnElement[bool]]:
    imported = select(EncoderRow.path).where(EncoderRow.path == ArtifactUpload.path, EncoderRow.run_id.is_(None))
    return [ArtifactUpload.holder == holder, *([imported.exists()] if imports else [])]


def renew_upload(session: Session, task: UploadTask) -> bool:
    """Keep a claimed folder for another timeout. False: the caller has lost it and must stop the upload."""
    row = session.get(ArtifactUpload, task.path, with_for_update=True)
    if row is None or (row.pending, row.attempts) != (task.attempt, task.tries):
        return False  # the folder was deleted, a later attempt has ended, or another process has restarted the upload
    row.next_at = now(session) + UPLOAD_OUTBOX.timeout
    return True


def record_uploaded(session: Session, task: UploadTask, files: FileEntries) -> None:
    """Record that all files are in the store."""
    row = session.get(ArtifactUpload, task.path, with_for_update=True)
    if row is None or row.pending != task.attempt:
        return  # the folder was deleted, or a later attempt has ended
    row.key, row.files, row.pending, row.error = task.key, files, None, None


def record_upload_failure(session: Session, task: UploadTask, error: str) -> None:
    """Record a failed upload. It is retried without limit."""
    row = session.get(ArtifactUpload, task.path, with_for_update=True)
    if row is not None and (row.pending, row.attempts) == (task.attempt, task.tries):
        UPLOAD_OUTBOX.retry(session, row, error)


def delete_stored_folder(session: Session, path: str) -> None:
    """Delete the rows about a folder: its objects in the store become garbage, and its bytes count for no owner."""
    session.execute(delete(ArtifactUpload).where(ArtifactUpload.path == path))
    delete_bytes(session, path)


def delete_stored_checkpoints(session: Session, run_id: str) -> None:
    """Delete the rows of a run's checkpoints in the store: their objects become garbage."""
    of_run = has_prefix(session, ArtifactUpload.path, f"checkpoints/{run_id}/")
    session.execute(delete(ArtifactUpload).where(of_run))


def get_upload(session: Session, path: str) -> ArtifactUpload | None:
    return session.get(ArtifactUpload, path)


def runs_with_pending_uploads(session: Session, run_ids: Sequence[str]) -> dict[str, str | None]:
    """{run id: error of the last upload, or None} of those runs with a folder that is not in the store yet.

    The error is ``LOST`` for a folder that will never be.
    """
    run_of = {path: run_id for run_id in run_ids for path in (f"runs/{run_id}", *_output_paths(run_id))}
    is_missing = or_(UPLOAD_OUTBOX.is_open, ArtifactUpload.error == LOST)
    query = select(ArtifactUpload.path, ArtifactUpload.error).where(is_missing, ArtifactUpload.path.in_(run_of))
    errors: dict[str, str | None] = {}
    for path, error in session.execute(query).tuples():
        errors[run_of[path]] = errors.get(run_of[path]) or error
    return errors


def referenced_keys(session: Session, paths: Collection[str]) -> set[str]:
    """Keys of the store that the rows of these folders name, and keys of their pending uploads."""
    query = select(ArtifactUpload.path, ArtifactUpload.key, ArtifactUpload.pending)
    rows = session.execute(query.where(ArtifactUpload.path.in_(paths))).tuples().all()
    keys = {key for _, key, _ in rows if key is not None}
    return keys | {upload_key(path, pending) for path, _, pending in rows if pending is not None}


def require_uploaded(row: ArtifactUpload) -> str:
    """Key of the folder in the store. Raises: UserError ``artifacts_pending`` or ``artifacts_lost``."""
    if row.pending is None and row.error == LOST:
        message = f"the files of {row.path} are lost: {LOST}; submit the run that made them again"
        raise NotFound(message, code="artifacts_lost")
    if row.key is None:
        error = f" ({row.error})" if row.error else ""
        message = (
            f"the files of {row.path} are still on the machine that made them and on their way to the store{error}; "
            "try again in a while, and see that a worker of that machine is running"
        )
        raise Busy(message, code="artifacts_pending")
    return row.key


def _output_paths(run_id: str) -> list[str]:
    """Paths that the output of a run may have."""
    return [f"{folder}/{output_id(prefix, run_id)}" for folder, prefix in OUTPUT_FOLDERS.items()]


def _copy_sources(session: Session, path: str) -> dict[str, tuple[str, str]]:
    """Of the folder of a run: the uploaded files of the run's output."""
    if not path.startswith("runs/"):
        return {}
    query = select(ArtifactUpload).where(ArtifactUpload.path.in_(_output_paths(path.removeprefix("runs/"))))
    return {
        entry["sha256"]: (row.key, name)
        for row in session.scalars(query)
        if row.key is not None
        for name, entry in (row.files or {}).items()
    }
