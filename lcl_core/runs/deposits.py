"""What is to be in the store of artifacts, and what is.

A run's end and the wish to have its files in the store are one transaction, and sending them comes after it. So a
store that is away holds no run up and loses nothing: the run has succeeded, its files lie in the home where they were
made, and whoever works on that home sends them as soon as that is possible. Until then ``pending`` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from lcl_core.errors import UserError
from lcl_core.runs.database import now
from lcl_core.runs.ids import sibling_id
from lcl_core.runs.stored_bytes import forget_bytes
from lcl_core.runs.tables import Deposit

Files = dict[str, dict[str, Any]]  # {name: {"bytes", "sha256", "modified_at"}}
_BEING_SENT = timedelta(minutes=10)  # after that somebody else may send it too, which does no harm
_FIRST_WAIT, _LONGEST_WAIT = timedelta(seconds=2), timedelta(minutes=10)


@dataclass(frozen=True)
class Task:
    """A folder that the taker is to send now.

    Attributes:
        twins: objects of other deposits of the same run by the sha256 of their bytes.
    """

    path: str
    attempt: int
    tries: int
    twins: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return place_of(self.path, self.attempt)


def place_of(path: str, attempt: int) -> str:
    """Where in the store: an attempt ends once, so a place is only ever written with the same files."""
    return f"{path}/{attempt}"


def expect(session: Session, path: str, attempt: int, holder: str) -> None:
    """Note that a folder of the home ``holder`` is to be sent. What an earlier attempt left stays until it is."""
    moment, row = now(session), session.get(Deposit, path, with_for_update=True)
    if row is None:
        row = Deposit(path=path)
        session.add(row)
    row.pending, row.holder, row.next_at, row.tries, row.error = attempt, holder, moment, 0, None
    session.flush()


def count_pending(session: Session) -> int:
    """How many folders of all homes are not in the store yet, those included that are on their way."""
    return session.scalars(select(func.count()).where(Deposit.pending.is_not(None))).one()


def any_to_send(session: Session, holder: str) -> bool:
    """Whether ``take`` would find something; only reads."""
    query = select(Deposit.path).where(*_due(session, holder))
    return session.scalars(query.limit(1)).first() is not None


def take(session: Session, holder: str) -> Task | None:
    """A folder of the home ``holder`` that is due. Nobody else gets it for ten minutes.

    A run's own folder comes after what it made: most of that is in it again, and need not travel twice.
    """
    query = select(Deposit).where(*_due(session, holder))
    query = query.order_by(Deposit.path.startswith("runs/"), Deposit.next_at, Deposit.path).limit(1)
    row = session.scalars(query.with_for_update(of=Deposit, skip_locked=True)).first()
    if row is None or row.pending is None:
        return None
    row.tries += 1
    row.next_at = now(session) + _BEING_SENT
    return Task(row.path, row.pending, row.tries, _twins(session, row.path))


def note_sent(session: Session, task: Task, files: Files) -> None:
    """All of the files are in the store: from now on the row names them."""
    row = session.get(Deposit, task.path, with_for_update=True)
    if row is None or row.pending != task.attempt:
        return  # what it was of is deleted, or a later attempt has ended
    row.place, row.files, row.pending, row.error = task.place, files, None, None


def note_failed(session: Session, task: Task, error: str) -> None:
    """It is due again after a wait that doubles, up to ten minutes. It is never given up."""
    row = session.get(Deposit, task.path, with_for_update=True)
    if row is None or row.pending != task.attempt:
        return
    row.error = error[:500]
    row.next_at = now(session) + min(_FIRST_WAIT * 2 ** min(task.tries - 1, 20), _LONGEST_WAIT)


def forget(session: Session, path: str) -> None:
    """The folder is nobody's any more; its objects in the store are garbage, and its bytes count for nobody."""
    session.execute(delete(Deposit).where(Deposit.path == path))
    forget_bytes(session, path)


def deposit_of(session: Session, path: str) -> Deposit | None:
    return session.get(Deposit, path)


def pending_runs(session: Session, run_ids: Sequence[str]) -> dict[str, str | None]:
    """Of runs of which something is not in the store yet, why the last try failed (None: none did)."""
    run_of = {path: run_id for run_id in run_ids for path in (f"runs/{run_id}", *_made_by(run_id))}
    query = select(Deposit.path, Deposit.error).where(Deposit.path.in_(run_of), Deposit.pending.is_not(None))
    found: dict[str, str | None] = {}
    for path, error in session.execute(query).tuples():
        found[run_of[path]] = found.get(run_of[path]) or error
    return found


def named_places(session: Session) -> set[str]:
    """Places that rows name, and those that are being written."""
    rows = session.execute(select(Deposit.path, Deposit.place, Deposit.pending)).tuples().all()
    named = {place for _, place, _ in rows if place is not None}
    return named | {place_of(path, pending) for path, _, pending in rows if pending is not None}


def check_there(row: Deposit) -> str:
    """Its place in the store. Raises: UserError ``artifacts_pending``."""
    if row.place is None:
        why = f" ({row.error})" if row.error else ""
        message = (
            f"the files of {row.path} are still on the machine that made them and on their way to the store{why}; "
            "try again in a while, and see that a worker of that machine is running"
        )
        raise UserError(message, code="artifacts_pending")
    return row.place


def _made_by(run_id: str) -> list[str]:
    """What a run may have made, by path."""
    rooms = {"encoders": "enc", "collections": "col", "datasets": "data"}
    return [f"{room}/{sibling_id(prefix, run_id)}" for room, prefix in rooms.items()]


def _due(session: Session, holder: str) -> tuple[Any, ...]:
    return Deposit.pending.is_not(None), Deposit.holder == holder, Deposit.next_at <= now(session)


def _twins(session: Session, path: str) -> dict[str, tuple[str, str]]:
    if not path.startswith("runs/"):
        return {}
    rows = session.scalars(select(Deposit).where(Deposit.path.in_(_made_by(path.removeprefix("runs/")))))
    return {
        facts["sha256"]: (row.place, name)
        for row in rows
        if row.place is not None
        for name, facts in (row.files or {}).items()
    }
