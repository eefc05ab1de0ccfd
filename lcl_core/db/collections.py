"""Items added to a collection and removed from it between index runs.

The row of a collection counts its changes; each changed item has one row with the number of its last change. Writers
lock the collection's row, so numbers are committed in order: a reader that knows everything up to some number asks for
what is above it. An index run that adds to the collection compacts the changes into a new directory, and their rows are
deleted in the transaction that names that directory.

The database does not know what a directory holds: the caller passes a ``CollectionRef`` for the directory it has open,
and ``CollectionReplaced`` is raised when the collection has another directory by now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from lcl_core.collections.records import ChangeRecord, DeltaSnapshotWriter
from lcl_core.common.errors import UserError
from lcl_core.common.files import remove_tree
from lcl_core.db.models import CollectionAddition, CollectionChange, CollectionRow, new_id
from lcl_core.db.outbox import delete_stored_folder
from lcl_core.db.quotas import delete_collection_bytes
from lcl_core.db.registry import absolute_path, get_collection, unknown_collection
from lcl_core.db.session import Database, now
from lcl_core.db.submit import find_by_idempotency_key
from lcl_core.specs.parsing import AnySpec, collections_of

MAX_CHANGES = 10_000  # pictures of one collection that may have changed since its directory was written
IDEMPOTENCY_WINDOW = timedelta(days=1)
_Change = CollectionChange
_CHANGE_COLUMNS = (_Change.number, _Change.item, _Change.record, _Change.vector, _Change.text_vectors)


class CollectionReplaced(Exception):
    """The collection has another directory by now: open that one and do it again."""


@dataclass(frozen=True)
class CollectionRef:
    """Which collection somebody has open: its id, its stored path, and whether that directory holds an item."""

    id: str
    path: str
    holds: Callable[[str], bool]


@dataclass(frozen=True)
class ItemAddition:
    """What is to be added: ``change`` without a number, and the bytes that a gallery shows."""

    change: ChangeRecord
    data: bytes


@dataclass(frozen=True)
class IdempotentRequest:
    """By which the repetition of a request is known."""

    owner: str
    key: str
    body_hash: str


def add_items(
    session: Session,
    opened: CollectionRef,
    pictures: Sequence[ItemAddition],
    encoder_hash: str,
    *,
    replace: bool = False,
    request: IdempotentRequest | None = None,
) -> tuple[list[str], CollectionRow]:
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
    row = _lock_collection(session, opened)
    if (ids := find_repeated_addition(session, request)) is not None:
        return ids, row
    if row.encoder_hash != encoder_hash:
        message = f"collection {row.name!r} is of encoder {row.encoder_hash[:12]}, the vectors are of another"
        raise UserError(message, code="encoder_mismatch", field="encoder")
    ids = [picture.change.item for picture in pictures]
    there = _present_items(session, opened, ids)
    for place, picture in enumerate(pictures):
        if picture.change.item in there and not replace:
            name = (picture.change.record or {}).get("image")
            message = f"a picture {name!r} is there already; give it another name, or say replace"
            raise UserError(message, code="item_exists", field=f"items.{place}.name")
    _insert_changes(session, row, [_change_values(picture) for picture in pictures])
    row.images += len(set(ids) - there)
    if request is not None:
        _record_addition(session, row, request, ids)
    session.flush()
    return ids, row


def remove_item(session: Session, opened: CollectionRef, item: str) -> CollectionRow:
    """Raises: Moved; UserError ``unknown_collection``, ``item_not_found``, ``collection_full``."""
    row = _lock_collection(session, opened)
    if item not in _present_items(session, opened, [item]):
        raise UserError(f"the collection holds no item {item!r}", code="item_not_found")
    _insert_changes(session, row, [{"item": item}])
    row.images -= 1
    session.flush()
    return row


def find_repeated_addition(session: Session, request: IdempotentRequest | None) -> list[str] | None:
    """The ids that this request made before, if it did. Raises: UserError ``idempotency_conflict``."""
    if request is None:
        return None
    row = find_by_idempotency_key(session, CollectionAddition, request.owner, request.key, request.body_hash)
    return None if row is None else list(row.items)


def changes_since(session: Session, collection_id: str, path: str, number: int) -> list[ChangeRecord]:
    """Changes above ``number``, in their order, without pictures. Raises: Moved, when ``path`` is outdated."""
    query = (
        select(*_CHANGE_COLUMNS)
        .where(_Change.collection_id == collection_id, _Change.number > number)
        .order_by(_Change.number)
    )
    found = [_to_change(*facts) for facts in session.execute(query).tuples()]
    # rows go only with the path: if that is the same now, none were gone when they were read
    if session.scalars(select(CollectionRow.path).where(CollectionRow.id == collection_id)).one_or_none() != path:
        raise CollectionReplaced
    return found


def item_image(session: Session, collection_id: str, item: str) -> bytes | None:
    """The bytes of an added picture; None: it is not, or no longer, among the changes."""
    query = select(_Change.picture).where(_Change.collection_id == collection_id, _Change.item == item)
    return session.scalars(query).one_or_none()


def snapshot_changes(session: Session, row: CollectionRow, directory: Path) -> int:
    """Write all changes, pictures too, for a run that folds them. Returns: the number of the last one.

    Raises: Moved; OSError.
    """
    query = select(*_CHANGE_COLUMNS, _Change.picture).where(_Change.collection_id == row.id).order_by(_Change.number)
    number = 0
    with DeltaSnapshotWriter(directory) as writer:
        for *facts, picture in session.execute(query.execution_options(yield_per=100)).tuples():
            change = _to_change(*facts)
            writer.write(change, picture or b"")
            number = change.number
    if session.scalars(select(CollectionRow.path).where(CollectionRow.id == row.id)).one_or_none() != row.path:
        raise CollectionReplaced
    return number


def delete_compacted_changes(session: Session, row: CollectionRow, through: int) -> list[tuple[str, bool]]:
    """Forget the changes up to ``through``, and requests of long ago.

    Returns: of the changes that stay, the picture's id and whether it is there after them.
    """
    session.execute(delete(_Change).where(_Change.collection_id == row.id, _Change.number <= through))
    delete_collection_bytes(session, row.id)
    old = CollectionAddition.created_at < now(session) - IDEMPOTENCY_WINDOW
    session.execute(delete(CollectionAddition).where(CollectionAddition.collection_id == row.id, old))
    left = select(_Change.item, _Change.vector.is_not(None)).where(_Change.collection_id == row.id)
    return list(session.execute(left).tuples().all())


def delete_collection(session: Session, row: CollectionRow) -> None:
    """With its changes. Its folder and its tables of vectors are the caller's to remove, after the commit."""
    delete_stored_folder(session, row.path)
    delete_collection_bytes(session, row.id)
    session.delete(row)
    session.flush()


def _lock_collection(session: Session, opened: CollectionRef) -> CollectionRow:
    query = select(CollectionRow).where(CollectionRow.id == opened.id).with_for_update()
    row = session.scalars(query.execution_options(populate_existing=True)).one_or_none()
    if row is None:
        raise unknown_collection(opened.id)
    if row.path != opened.path:
        raise CollectionReplaced
    return row


def _present_items(session: Session, opened: CollectionRef, ids: Sequence[str]) -> set[str]:
    """Those of ``ids`` that the collection holds now."""
    query = select(_Change.item, _Change.vector.is_not(None)).where(
        _Change.collection_id == opened.id, _Change.item.in_(ids)
    )
    changed = dict(session.execute(query).tuples().all())
    return {item for item in ids if (changed[item] if item in changed else opened.holds(item))}


def _insert_changes(session: Session, row: CollectionRow, values: list[dict[str, Any]]) -> None:
    ids = [value["item"] for value in values]
    session.execute(delete(_Change).where(_Change.collection_id == row.id, _Change.item.in_(ids)))
    count = session.scalars(select(func.count()).where(_Change.collection_id == row.id)).one() + len(values)
    if count > MAX_CHANGES:
        message = (
            f"collection {row.name!r} would have {count:,} changes since its last index run, of {MAX_CHANGES:,} that "
            'it may; fold them with an index run of mode "add" and dataset null, then go on'
        )
        raise UserError(message, code="collection_full")
    rows = [{**_NO_VALUES, **value, "number": row.changes + place} for place, value in enumerate(values, 1)]
    session.execute(insert(_Change), [{**each, "collection_id": row.id} for each in rows])
    row.changes += len(rows)


_NO_VALUES: dict[str, Any] = dict.fromkeys(("record", "picture", "vector", "text_vectors"))


def _change_values(picture: ItemAddition) -> dict[str, Any]:
    change = picture.change
    facts = {"item": change.item, "record": change.record, "picture": picture.data}
    return facts | {"vector": change.vector, "text_vectors": change.text_vectors}


def _to_change(
    number: int, item: str, record: dict[str, Any] | None, vector: bytes | None, text_vectors: bytes | None
) -> ChangeRecord:
    return ChangeRecord(number, item, record, vector or b"", text_vectors or b"")


def _record_addition(session: Session, row: CollectionRow, request: IdempotentRequest, ids: list[str]) -> None:
    session.add(
        CollectionAddition(
            id=new_id("add"),
            collection_id=row.id,
            owner=request.owner,
            idempotency_key=request.key,
            body_hash=request.body_hash,
            items=ids,
            created_at=now(session),
        )
    )


_NO_FETCHED: Mapping[str, Path] = {}


def prepare_collection_snapshots(
    database: Database, spec: AnySpec, changes: Path, home: Path, fetched: Mapping[str, Path] = _NO_FETCHED
) -> dict[str, dict[str, Any]]:
    """By name: {"id", "stored": its path there, "path", "changes": directory, "through": the last change in it,
    "index": what searches it}.

    Args:
        changes: where to write what has changed.
        fetched: folders by their stored path that another home holds, and where they are here.

    Raises: UserError ``unknown_collection``, ``collection_changed``; OSError.
    """
    found = {}
    for name in collections_of(spec):
        remove_tree(changes)  # an earlier attempt's
        with database.reading() as session:
            row = get_collection(session, name)
            place = fetched.get(row.path) or absolute_path(home, row.path)
            try:
                through = snapshot_changes(session, row, changes)
            except CollectionReplaced:
                raise collection_changed_error(name) from None
        if not place.is_dir():
            raise collection_changed_error(name)
        place_of = {"path": str(place), "changes": str(changes)}
        facts = {"id": row.id, "stored": row.path, "through": through}
        found[name] = {**facts, **place_of, "index": "pgvector" if row.vectors else "files"}
    return found


def collection_changed_error(name: str) -> UserError:
    message = f"collection {name!r} was made anew, or deleted, by another since this run began; retry the run"
    return UserError(message, code="collection_changed", field="collection")
