"""Folders of homes as the database knows them: uploads to the artifact store, and folders that no row names any more.

An upload is enqueued in the transaction that registers the folder, and made afterwards by a process of its home. A
store that does not answer therefore delays no run: a failed upload is due again after a doubling delay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from lcl_core.common.errors import Busy
from lcl_core.db.models import OUTPUT_FOLDERS, ArtifactUpload, EncoderRow, Garbage, output_id
from lcl_core.db.session import dialect_insert, now

CLAIMED_FOR = timedelta(minutes=10)  # renewed while the upload advances
_FIRST_DELAY, _LONGEST_DELAY = timedelta(seconds=2), timedelta(minutes=10)
# where a folder is that is to be removed, if not in the home with that id
ANY_HOME, STORE, SERVER = "", "store", "server"
_PENDING = ArtifactUpload.pending.is_not(None)

FileEntries = dict[str, dict[str, Any]]  # {name: {"bytes", "sha256", "modified_at"}}


@dataclass(frozen=True)
class UploadTask:
    """A folder that the caller has claimed and must upload.

    Attributes:
        path: relative to the home folder.
        attempt: of the run that wrote the folder.
        tries: number of upload attempts, this one included.
    """

    path: str
    attempt: int
    tries: int

    @property
    def key(self) -> str:
        """Key in the store. An attempt ends once, so every upload to a key has the same files."""
        return f"{self.path}/{self.attempt}"


def enqueue_upload(session: Session, path: str, attempt: int, holder: str) -> None:
    """Enqueue the upload of a folder of the home ``holder``. An earlier attempt's copy stays until the upload."""
    moment, row = now(session), session.get(ArtifactUpload, path, with_for_update=True)
    if row is None:
        row = ArtifactUpload(path=path)
        session.add(row)
    row.pending, row.holder, row.attempts, row.error = attempt, holder, 0, None
    row.enqueued_at = row.next_at = moment
    session.flush()


def due_uploads(session: Session, holder: str, *, imports: bool = False) -> Select[ArtifactUpload]:
    """Uploads of the home ``holder`` that are due, those of runs last. ``imports``: encoders that no run has made."""
    query = select(ArtifactUpload).where(
        _PENDING, ArtifactUpload.holder == holder, ArtifactUpload.next_at <= now(session)
    )
    if imports:
        imported = select(EncoderRow.path).where(EncoderRow.path == ArtifactUpload.path, EncoderRow.run_id.is_(None))
        query = query.where(imported.exists())
    return query.order_by(ArtifactUpload.path.startswith("runs/"), ArtifactUpload.next_at, ArtifactUpload.path).limit(1)


def claim_upload(session: Session, holder: str, *, imports: bool = False) -> UploadTask | None:
    """Claim a folder that is due; None: there is none."""
    query = due_uploads(session, holder, imports=imports).with_for_update(of=ArtifactUpload, skip_locked=True)
    row = session.scalars(query).one_or_none()
    if row is None or row.pending is None:
        return None
    row.attempts += 1
    row.next_at = now(session) + CLAIMED_FOR
    return UploadTask(row.path, row.pending, row.attempts)


def renew_upload(session: Session, task: UploadTask) -> None:
    """Keep a claimed folder for another timeout."""
    row = _lock_claimed(session, task)
    if row is not None:
        row.next_at = now(session) + CLAIMED_FOR


def record_uploaded(session: Session, task: UploadTask, files: FileEntries) -> None:
    """Record that all files are in the store."""
    row = session.get(ArtifactUpload, task.path, with_for_update=True)
    if row is not None and row.pending == task.attempt:  # else it was deleted, or a later attempt has ended
        row.key, row.files, row.pending, row.error = task.key, files, None, None


def record_upload_failure(session: Session, task: UploadTask, error: str) -> None:
    """Record a failed upload. It is retried without limit."""
    row = _lock_claimed(session, task)
    if row is not None:
        row.error = error[:500]
        row.next_at = now(session) + min(_FIRST_DELAY * 2 ** min(task.tries - 1, 20), _LONGEST_DELAY)


def _lock_claimed(session: Session, task: UploadTask) -> ArtifactUpload | None:
    """None: the folder was deleted, a later attempt has ended, or another process has begun the upload again."""
    row = session.get(ArtifactUpload, task.path, with_for_update=True)
    return row if row is not None and (row.pending, row.attempts) == (task.attempt, task.tries) else None


def pending_uploads(session: Session) -> tuple[int, float]:
    """Number of folders that are not in the store yet, and seconds for which the first of them has waited."""
    oldest = func.min(ArtifactUpload.enqueued_at, type_=ArtifactUpload.enqueued_at.type)
    count, since = session.execute(select(func.count(), oldest).where(_PENDING)).tuples().one()
    return count, max(0.0, (now(session) - since).total_seconds()) if since else 0.0


def runs_with_pending_uploads(session: Session, run_ids: Sequence[str]) -> dict[str, str | None]:
    """{run id: error of the last upload, or None} of those runs with a folder that is not in the store yet."""
    run_of = {path: run_id for run_id in run_ids for path in (f"runs/{run_id}", *output_paths(run_id))}
    query = select(ArtifactUpload.path, ArtifactUpload.error).where(_PENDING, ArtifactUpload.path.in_(run_of))
    errors: dict[str, str | None] = {}
    for path, error in session.execute(query).tuples():
        errors[run_of[path]] = errors.get(run_of[path]) or error
    return errors


def output_paths(run_id: str) -> list[str]:
    """Paths that the output of a run may have."""
    return [f"{folder}/{output_id(prefix, run_id)}" for folder, prefix in OUTPUT_FOLDERS.items()]


def require_uploaded(row: ArtifactUpload) -> str:
    """Key of the folder in the store. Raises: Busy ``artifacts_pending``."""
    if row.key is None:
        error = f" ({row.error})" if row.error else ""
        message = (
            f"the files of {row.path} are still on the machine that made them and on their way to the store{error}; "
            "try again in a while, and see that a worker of that machine is running"
        )
        raise Busy(message, code="artifacts_pending")
    return row.key


def discard_folder(session: Session, path: str) -> None:
    """Record that no row names the folder any more: ``lcl_core.db.garbage`` removes it and its copy in the store."""
    row = session.get(ArtifactUpload, path)
    if row is None:
        discard(session, ANY_HOME, path)
        return
    discard(session, row.holder, path)
    discard(session, STORE, path)
    session.delete(row)
    session.flush()


def forget_checkpoints(session: Session, run_id: str) -> None:
    """Delete the rows about copies of a run's checkpoints; what they named is removed with the run."""
    of_run = ArtifactUpload.path.startswith(f"checkpoints/{run_id}/", autoescape=True)
    session.execute(delete(ArtifactUpload).where(of_run))


def discard(session: Session, home: str, path: str) -> None:
    """Record a folder to remove. ``home``: the id of its home, ``STORE``, ``SERVER`` or ``ANY_HOME``."""
    moment = now(session)
    row = dialect_insert(session, Garbage).values(home=home, path=path, seen_at=moment)
    session.execute(row.on_conflict_do_update(index_elements=["home", "path"], set_={"seen_at": moment}))
