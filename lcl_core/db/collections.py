"""Items added to a collection and removed from it between index runs.

The row of a collection counts its changes; each changed item has one row with the number of its last change. Writers
lock the collection's row, so numbers are committed in order: a reader that has all changes up to some number queries
those above it. An index run that
adds to the collection compacts the changes into a new directory, and their rows are deleted in the transaction that
names that directory.

The database does not know what a directory contains: the caller passes a ``CollectionRef`` for the directory it has
open, and ``CollectionReplaced`` is raised when the collection has another directory by now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from lcl_core.collections.changes import ChangeRecord, write_snapshot
from lcl_core.common.errors import Conflict, NotFound, UserError
from lcl_core.common.files import remove_tree
from lcl_core.db.artifacts import absolute_path, discard_folder
from lcl_core.db.models import CollectionChange, CollectionRow
from lcl_core.db.registry import get_collection
from lcl_core.db.session import Database, unknown_name
from lcl_core.specs.parsing import AnySpec
from lcl_core.vector_indexes import index_name

MAX_CHANGES = 10_000  # changed items of one collection since its last index run
_Change = CollectionChange
_NO_FETCHED: Mapping[str, Path] = {}
_NO_VALUES: dict[str, Any] = dict.fromkeys(("record", "picture", "vector", "text_vectors"))
_CHANGE_COLUMNS = (_Change.number, _Change.item, _Change.record, _Change.vector, _Change.text_vectors)
_KEEPS_IMAGE = _Change.vector.is_not(None) & _Change.picture.is_(None)


class CollectionReplaced(Exception):
    """The collection has another directory, or an item another change, by now; open it again and retry."""


@dataclass(frozen=True)
class CollectionRef:
    """A collection that the caller has open: its id, its stored path, and a test whether the directory has an item."""

    id: str
    path: str
    holds: Callable[[str], bool]


@dataclass(frozen=True)
class ItemAddition:
    """An item to add: ``change`` without a number, and the bytes of its thumbnail.

    Without bytes the change keeps the image: those of the directory are read.
    """

    change: ChangeRecord
    data: bytes | None


def add_items(
    session: Session,
    opened: CollectionRef,
    items: Sequence[ItemAddition],
    encoder_hash: str,
    *,
    replace: bool = False,
) -> tuple[list[str], CollectionRow]:
    """Add all items or none; ``replace`` those of the same name. An item that has been added before, with the same
    record and thumbnail, is left as it is.

    ``encoder_hash`` is that of the encoder that computed the vectors.

    Returns: ids of the items, and the collection. Raises: CollectionReplaced; UserError, for an item that exists with
    the field ``items.INDEX.name``.
    """
    row = _lock_collection(session, opened)
    if row.encoder_hash != encoder_hash:
        message = f"collection {row.name!r} is of encoder {row.encoder_hash[:12]}, the vectors are of another"
        raise Conflict(message, code="encoder_mismatch", field="encoder")
    ids = [item.change.item for item in items]
    present = _present_items(session, opened, ids)
    repeated = set() if replace else _repeated_items(session, row, items)
    for index, item in enumerate(items):
        if item.change.item in present - repeated and not replace:
            name = (item.change.record or {}).get("image")
            message = f"an image {name!r} is there already; give it another name, or say replace"
            raise Conflict(message, field=f"items.{index}.name")
    if new := [_change_values(item) for item in items if item.change.item not in repeated]:
        _insert_changes(session, row, new)
    row.images += len(set(ids) - present)
    session.flush()
    return ids, row


def replace_records(
    session: Session,
    opened: CollectionRef,
    items: Sequence[ItemAddition],
    last_change: int,
) -> None:
    """Replace the records of items that the collection has, all or none. They keep their vectors and thumbnails.

    Raises: CollectionReplaced, also if one of the items has changed after ``last_change``; UserError.
    """
    row = _lock_collection(session, opened)
    ids = [item.change.item for item in items]
    later = select(_Change.item).where(
        _Change.collection_id == opened.id, _Change.item.in_(ids), _Change.number > last_change
    )
    if session.scalars(later.limit(1)).first() is not None:
        raise CollectionReplaced
    _insert_changes(session, row, [_change_values(item) for item in items])
    session.flush()


def remove_item(session: Session, opened: CollectionRef, item: str) -> CollectionRow:
    """Raises: CollectionReplaced; UserError ``not_found``, ``conflict``."""
    row = _lock_collection(session, opened)
    if item not in _present_items(session, opened, [item]):
        raise NotFound(f"the collection holds no item {item!r}")
    _insert_changes(session, row, [{"item": item}])
    row.images -= 1
    session.flush()
    return row


def changes_since(session: Session, collection_id: str, path: str, number: int) -> list[ChangeRecord]:
    """Changes above ``number``, in order, without thumbnails. Raises: CollectionReplaced if ``path`` is outdated."""
    query = (
        select(*_CHANGE_COLUMNS, _KEEPS_IMAGE)
        .where(_Change.collection_id == collection_id, _Change.number > number)
        .order_by(_Change.number)
    )
    changes = [_change_record(*columns) for columns in session.execute(query).tuples()]
    # rows are deleted only together with a change of the path: if the path is still the same, none were missing
    if session.scalars(select(CollectionRow.path).where(CollectionRow.id == collection_id)).one_or_none() != path:
        raise CollectionReplaced
    return changes


def _change_record(
    number: int, item: str, record: Any, vector: bytes | None, texts: bytes | None, keeps_image: bool
) -> ChangeRecord:
    return ChangeRecord(number, item, record, vector or b"", texts or b"", keeps_image)


def item_image(session: Session, collection_id: str, item: str) -> bytes | None:
    """Thumbnail of an added item; None: the item is not among the changes, or its change keeps the image."""
    query = select(_Change.picture).where(_Change.collection_id == collection_id, _Change.item == item)
    return session.scalars(query).one_or_none()


def snapshot_changes(session: Session, row: CollectionRow, directory: Path) -> int:
    """Write all changes with their thumbnails for a run that compacts them. Returns: the number of the last one."""
    columns = (*_CHANGE_COLUMNS, _KEEPS_IMAGE, _Change.picture)
    query = select(*columns).where(_Change.collection_id == row.id).order_by(_Change.number)
    rows = session.execute(query.execution_options(yield_per=100)).tuples()
    changes = ((_change_record(*columns), thumbnail or b"") for *columns, thumbnail in rows)
    number = write_snapshot(directory, changes)
    if session.scalars(select(CollectionRow.path).where(CollectionRow.id == row.id)).one_or_none() != row.path:
        raise CollectionReplaced
    return number


def delete_compacted_changes(session: Session, row: CollectionRow, through: int) -> list[tuple[str, bool]]:
    """Delete the changes up to the number ``through``. Returns: (item, whether it is present) of those that stay."""
    session.execute(delete(_Change).where(_Change.collection_id == row.id, _Change.number <= through))
    later = select(_Change.item, _Change.vector.is_not(None)).where(_Change.collection_id == row.id)
    return list(session.execute(later).tuples().all())


def delete_collection(session: Session, row: CollectionRow) -> None:
    """Delete a collection with its changes; ``row`` gets the folder and index to be removed after the commit."""
    _lock_row(session, row.id)
    discard_folder(session, row.path)
    session.delete(row)
    session.flush()


def _lock_collection(session: Session, opened: CollectionRef) -> CollectionRow:
    row = _lock_row(session, opened.id)
    if row.path != opened.path:
        raise CollectionReplaced
    return row


def _lock_row(session: Session, collection_id: str) -> CollectionRow:
    """The row as it is now, locked."""
    query = select(CollectionRow).where(CollectionRow.id == collection_id).with_for_update()
    row = session.scalars(query.execution_options(populate_existing=True)).one_or_none()
    if row is None:
        raise unknown_name(session, CollectionRow, collection_id)
    return row


def _present_items(session: Session, opened: CollectionRef, ids: Sequence[str]) -> set[str]:
    """Those of ``ids`` that the collection has now."""
    query = select(_Change.item, _Change.vector.is_not(None)).where(
        _Change.collection_id == opened.id, _Change.item.in_(ids)
    )
    changed = dict(session.execute(query).tuples().all())
    return {item for item in ids if (changed[item] if item in changed else opened.holds(item))}


def _repeated_items(session: Session, row: CollectionRow, items: Sequence[ItemAddition]) -> set[str]:
    """Those that an earlier request has added alike: a client repeats one that it got no answer to."""
    wanted = {item.change.item: (item.change.record, item.data) for item in items}
    query = select(_Change.item, _Change.record, _Change.picture)
    rows = session.execute(query.where(_Change.collection_id == row.id, _Change.item.in_(wanted))).tuples()
    return {item for item, record, picture in rows if wanted[item] == (record, picture)}


def _insert_changes(session: Session, row: CollectionRow, values: list[dict[str, Any]]) -> None:
    """Replace earlier changes of the items by these."""
    ids = [value["item"] for value in values]
    session.execute(delete(_Change).where(_Change.collection_id == row.id, _Change.item.in_(ids)))
    count = session.scalars(select(func.count()).where(_Change.collection_id == row.id)).one() + len(values)
    if count > MAX_CHANGES:
        what = f"{count:,} changes since its last index run, of {MAX_CHANGES:,} that it may"
        way_out = 'fold them with an index run of mode "add" and dataset null, then go on'
        raise Conflict(f"collection {row.name!r} would have {what}; {way_out}")
    rows = [{**_NO_VALUES, **value, "number": number} for number, value in enumerate(values, row.changes + 1)]
    session.execute(insert(_Change), [{**each, "collection_id": row.id} for each in rows])
    row.changes += len(rows)


def _change_values(addition: ItemAddition) -> dict[str, Any]:
    change = addition.change
    vectors = {"vector": change.vector, "text_vectors": change.text_vectors}
    return {"item": change.item, "record": change.record, "picture": addition.data, **vectors}


def prepare_collection_snapshots(
    database: Database, spec: AnySpec, changes: Path, home: Path, fetched: Mapping[str, Path] = _NO_FETCHED
) -> dict[str, dict[str, Any]]:
    """Write the changes of the collections that an index run adds to into the directory ``changes``.

    ``fetched`` is {stored path: local path} of folders that another home has.

    Returns: {name: {"id", "stored": stored path, "path": local path, "changes": the directory, "through": number of its
        last change, "index": as in a spec}}.
    """
    snapshots = {}
    for name in spec.references().collections.values():
        remove_tree(changes)  # of an earlier attempt
        with database.reading() as session:
            row = get_collection(session, name)
            path = fetched.get(row.path) or absolute_path(home, row.path)
            try:
                through = snapshot_changes(session, row, changes)
            except CollectionReplaced:
                raise collection_changed_error(name) from None
        if not path.is_dir():
            raise collection_changed_error(name)
        snapshots[name] = {
            "id": row.id,
            "stored": row.path,
            "path": str(path),
            "changes": str(changes),
            "through": through,
            "index": index_name(row.vectors),
        }
    return snapshots


def collection_changed_error(name: str) -> UserError:
    message = f"collection {name!r} was made anew, or deleted, by another since this run began; retry the run"
    return Conflict(message, code="collection_changed", field="collection")
