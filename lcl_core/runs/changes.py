"""Pictures added to a collection and removed from it between index runs.

The row of a collection counts its changes; of each picture that changed there is one row with the number of its last
change. Writers take turns at the collection's row, so numbers are seen in the order in which they were given: a
reader that knows everything up to some number asks for what is above it. An index run that adds to the collection
folds changes into a new directory, and their rows go in the transaction that names it.

What the directory holds is not known to the database: who changes a collection says so for the directory he has open
(``Opened``), and is told by ``Moved`` when that is not the collection's any more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from lcl_core.errors import UserError
from lcl_core.runs.database import now
from lcl_core.runs.deposits import forget
from lcl_core.runs.ids import new_id
from lcl_core.runs.registry import unknown_collection
from lcl_core.runs.repeats import earlier
from lcl_core.runs.stored_bytes import forget_additions
from lcl_core.runs.tables import Addition, Collection, CollectionChange
from lcl_core.serving.changes import Change, ChangesWriter

MOST = 10_000  # pictures of one collection that may have changed since its directory was written
REPEATS_KEPT = timedelta(days=1)
_Row = CollectionChange
_FACTS = (_Row.number, _Row.item, _Row.record, _Row.vector, _Row.text_vectors)


class Moved(Exception):
    """The collection has another directory by now: open that one and do it again."""


@dataclass(frozen=True)
class Opened:
    """Which collection somebody has open: its id, its stored path, and whether that directory holds an item."""

    id: str
    path: str
    holds: Callable[[str], bool]


@dataclass(frozen=True)
class Picture:
    """What is to be added: ``change`` without a number, and the bytes that a gallery shows."""

    change: Change
    data: bytes


@dataclass(frozen=True)
class Request:
    """By which the repetition of a request is known."""

    owner: str
    key: str
    body_hash: str


def add_pictures(
    session: Session,
    opened: Opened,
    pictures: Sequence[Picture],
    encoder_hash: str,
    *,
    replace: bool = False,
    request: Request | None = None,
) -> tuple[list[str], Collection]:
    """All of them or none. Returns: ids, of the earlier call if this is its repetition; the collection.

    Args:
        pictures: each once.
        encoder_hash: the encoder that made the vectors.
        replace: a picture of a name that is there takes the place of the older one.

    Raises:
        Moved.
        UserError: ``unknown_collection``, ``encoder_mismatch``, ``item_exists`` naming the place in the list,
            ``collection_full``, ``idempotency_conflict``.
    """
    row = _locked(session, opened)
    if (ids := repeated(session, request)) is not None:
        return ids, row
    if row.encoder_hash != encoder_hash:
        message = f"collection {row.name!r} is of encoder {row.encoder_hash[:12]}, the vectors are of another"
        raise UserError(message, code="encoder_mismatch", field="encoder")
    ids = [picture.change.item for picture in pictures]
    there = _there(session, opened, ids)
    for place, picture in enumerate(pictures):
        if picture.change.item in there and not replace:
            name = (picture.change.record or {}).get("image")
            message = f"a picture {name!r} is there already; give it another name, or say replace"
            raise UserError(message, code="item_exists", field=f"items.{place}.name")
    _write(session, row, [_values(picture) for picture in pictures])
    row.images += len(set(ids) - there)
    if request is not None:
        _remember(session, row, request, ids)
    session.flush()
    return ids, row


def remove_picture(session: Session, opened: Opened, item: str) -> Collection:
    """Raises: Moved; UserError ``unknown_collection``, ``item_not_found``, ``collection_full``."""
    row = _locked(session, opened)
    if item not in _there(session, opened, [item]):
        raise UserError(f"the collection holds no item {item!r}", code="item_not_found")
    _write(session, row, [{"item": item}])
    row.images -= 1
    session.flush()
    return row


def repeated(session: Session, request: Request | None) -> list[str] | None:
    """The ids that this request made before, if it did. Raises: UserError ``idempotency_conflict``."""
    if request is None:
        return None
    row = earlier(session, Addition, request.owner, request.key, request.body_hash)
    return None if row is None else list(row.items)


def changes_since(session: Session, collection_id: str, path: str, number: int) -> list[Change]:
    """Changes above ``number``, in their order, without pictures. Raises: Moved, when ``path`` is outdated."""
    query = select(*_FACTS).where(_Row.collection_id == collection_id, _Row.number > number).order_by(_Row.number)
    found = [_change(*facts) for facts in session.execute(query).tuples()]
    # rows go only with the path: if that is the same now, none were gone when they were read
    if session.scalars(select(Collection.path).where(Collection.id == collection_id)).one_or_none() != path:
        raise Moved
    return found


def picture_of(session: Session, collection_id: str, item: str) -> bytes | None:
    """The bytes of an added picture; None: it is not, or no longer, among the changes."""
    query = select(_Row.picture).where(_Row.collection_id == collection_id, _Row.item == item)
    return session.scalars(query).one_or_none()


def hand_over(session: Session, row: Collection, directory: Path) -> int:
    """Write all changes, pictures too, for a run that folds them. Returns: the number of the last one.

    Raises: Moved; OSError.
    """
    query = select(*_FACTS, _Row.picture).where(_Row.collection_id == row.id).order_by(_Row.number)
    number = 0
    with ChangesWriter(directory) as writer:
        for *facts, picture in session.execute(query.execution_options(yield_per=100)).tuples():
            change = _change(*facts)
            writer.write(change, picture or b"")
            number = change.number
    if session.scalars(select(Collection.path).where(Collection.id == row.id)).one_or_none() != row.path:
        raise Moved
    return number


def fold(session: Session, row: Collection, through: int) -> list[tuple[str, bool]]:
    """Forget the changes up to ``through``, and requests of long ago.

    Returns: of the changes that stay, the picture's id and whether it is there after them.
    """
    session.execute(delete(_Row).where(_Row.collection_id == row.id, _Row.number <= through))
    forget_additions(session, row.id)
    old = Addition.created_at < now(session) - REPEATS_KEPT
    session.execute(delete(Addition).where(Addition.collection_id == row.id, old))
    left = select(_Row.item, _Row.vector.is_not(None)).where(_Row.collection_id == row.id)
    return list(session.execute(left).tuples().all())


def delete_collection(session: Session, row: Collection) -> None:
    """With its changes. Its folder and its tables of vectors are the caller's to remove, after the commit."""
    forget(session, row.path)
    forget_additions(session, row.id)
    session.delete(row)
    session.flush()


def _locked(session: Session, opened: Opened) -> Collection:
    query = select(Collection).where(Collection.id == opened.id).with_for_update()
    row = session.scalars(query.execution_options(populate_existing=True)).one_or_none()
    if row is None:
        raise unknown_collection(opened.id)
    if row.path != opened.path:
        raise Moved
    return row


def _there(session: Session, opened: Opened, ids: Sequence[str]) -> set[str]:
    """Those of ``ids`` that the collection holds now."""
    query = select(_Row.item, _Row.vector.is_not(None)).where(_Row.collection_id == opened.id, _Row.item.in_(ids))
    changed = dict(session.execute(query).tuples().all())
    return {item for item in ids if (changed[item] if item in changed else opened.holds(item))}


def _write(session: Session, row: Collection, values: list[dict[str, Any]]) -> None:
    ids = [value["item"] for value in values]
    session.execute(delete(_Row).where(_Row.collection_id == row.id, _Row.item.in_(ids)))
    count = session.scalars(select(func.count()).where(_Row.collection_id == row.id)).one() + len(values)
    if count > MOST:
        message = (
            f"collection {row.name!r} would have {count:,} changes since its last index run, of {MOST:,} that it may; "
            'fold them with an index run of mode "add" and dataset null, then go on'
        )
        raise UserError(message, code="collection_full")
    rows = [{**_EMPTY, **value, "number": row.changes + place} for place, value in enumerate(values, 1)]
    session.execute(insert(_Row), [{**each, "collection_id": row.id} for each in rows])
    row.changes += len(rows)


_EMPTY: dict[str, Any] = dict.fromkeys(("record", "picture", "vector", "text_vectors"))


def _values(picture: Picture) -> dict[str, Any]:
    change = picture.change
    facts = {"item": change.item, "record": change.record, "picture": picture.data}
    return facts | {"vector": change.vector, "text_vectors": change.text_vectors}


def _change(
    number: int, item: str, record: dict[str, Any] | None, vector: bytes | None, text_vectors: bytes | None
) -> Change:
    return Change(number, item, record, vector or b"", text_vectors or b"")


def _remember(session: Session, row: Collection, request: Request, ids: list[str]) -> None:
    session.add(
        Addition(
            id=new_id("add"),
            collection_id=row.id,
            owner=request.owner,
            idempotency_key=request.key,
            body_hash=request.body_hash,
            items=ids,
            created_at=now(session),
        )
    )
