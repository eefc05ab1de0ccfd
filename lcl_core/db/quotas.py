"""Usage of each owner, which quotas limit: stored bytes and unfinished runs.

Bytes are recorded where something is stored and deleted where it is removed. A folder is charged to the owner of the
row that names it, and what was added to a collection to whoever added it. The folder of a run counts from the end of
its attempt, without the files that are hard-linked to the run's output; after a lost worker a worker of its home
records it.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from lcl_core.common.files import regular_files
from lcl_core.db.models import Run, StoredBytes
from lcl_core.db.session import dialect_insert, has_prefix
from lcl_core.db.states import FINISHED, State

UNFINISHED_STATES = [state.value for state in State if state not in FINISHED]


def folder_bytes(folder: Path, *, shared: bool = True) -> int:
    """Bytes of the regular files below ``folder``; 0 where there is no folder.

    Args:
        shared: include files with further hard links.
    """
    return sum(status.st_size for _, status in regular_files(folder) if shared or status.st_nlink == 1)


def record_bytes(session: Session, path: str, owner: str, size: int) -> None:
    """Set the bytes of the folder ``path``."""
    statement = dialect_insert(session, StoredBytes).values(path=path, owner=owner, bytes=size)
    session.execute(statement.on_conflict_do_update(index_elements=["path"], set_={"owner": owner, "bytes": size}))


def add_collection_bytes(session: Session, collection_id: str, owner: str, size: int) -> None:
    """Change the bytes that ``owner`` has added to a collection by ``size``, which may be below 0."""
    path = f"{_collection_prefix(collection_id)}{owner}"
    statement = dialect_insert(session, StoredBytes).values(path=path, owner=owner, bytes=size)
    total = {"bytes": StoredBytes.bytes + statement.excluded.bytes}
    session.execute(statement.on_conflict_do_update(index_elements=["path"], set_=total))
    session.execute(delete(StoredBytes).where(StoredBytes.path == path, StoredBytes.bytes <= 0))


def delete_bytes(session: Session, path: str) -> None:
    session.execute(delete(StoredBytes).where(StoredBytes.path == path))


def delete_collection_bytes(session: Session, collection_id: str) -> None:
    """Delete the additions of all owners to a collection."""
    of_collection = has_prefix(session, StoredBytes.path, _collection_prefix(collection_id))
    session.execute(delete(StoredBytes).where(of_collection))


def owner_bytes(session: Session, owner: str) -> int:
    """Bytes of everything that ``owner`` stores."""
    query = select(func.coalesce(func.sum(StoredBytes.bytes), 0)).where(StoredBytes.owner == owner)
    return int(session.scalars(query).one())


def count_unfinished_runs(session: Session, owner: str) -> int:
    """Number of unfinished runs of ``owner``."""
    query = select(func.count()).select_from(Run).where(Run.owner == owner, Run.state.in_(UNFINISHED_STATES))
    return session.scalars(query).one()


def usage_by_owner(session: Session) -> dict[str, tuple[int, int]]:
    """{owner: (unfinished runs, bytes)} of every owner with either."""
    runs = select(Run.owner, func.count()).where(Run.state.in_(UNFINISHED_STATES)).group_by(Run.owner)
    sizes = select(StoredBytes.owner, func.sum(StoredBytes.bytes)).group_by(StoredBytes.owner)
    counts, stored = dict(session.execute(runs).tuples().all()), dict(session.execute(sizes).tuples().all())
    return {owner: (counts.get(owner, 0), int(stored.get(owner, 0))) for owner in sorted({*counts, *stored})}


def _collection_prefix(collection_id: str) -> str:
    return f"additions/{collection_id}/"
