"""What a search reads, and the vector that it compares with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from api.context import Context
from api.encoders import is_imported
from api.errors import Problem
from lcl_core.errors import UserError
from lcl_core.runs import store
from lcl_core.runs.tables import Collection as Row
from lcl_core.runs.tables import Encoder

if TYPE_CHECKING:
    from lcl_core.serving.batching_session import BatchingSession
    from lcl_core.serving.collection import Collection


_TRIES = 5  # directories of a collection that may come and go while it is being opened


@dataclass(frozen=True)
class Searched:
    """A collection and, for queries that are no vectors yet, the encoder that made its own."""

    id: str
    path: str  # as the row has it
    collection: Collection
    encoder: BatchingSession | None


def open_collection(context: Context, session: Session, name: str) -> tuple[Row, Collection]:
    """The row, and what it stands for with all its changes, opened. ``session`` only reads.

    While nothing has changed it costs no more than to read the row. Raises: UserError.
    """
    for _ in range(_TRIES):
        row = store.get_collection(session, name)
        load = partial(store.changes_since, session, row.id, row.path)
        try:
            directory = context.supply.folder(session, row.path)
            ask = store.Neighbours(context.database, row.vectors, row.dim) if row.vectors else None
            return row, context.inference().collection(directory, row.changes, load, ask)
        except store.Moved:
            session.close()
        except UserError as error:
            session.close()
            if error.code != "collection_unreadable" or store.get_collection(session, name).path == row.path:
                raise
            session.close()
    raise _busy(name)


def picture_of(context: Context, session: Session, name: str, item: str) -> tuple[bytes, str]:
    """A picture's bytes and media type, wherever they are. ``session`` only reads. Raises: UserError."""
    for _ in range(_TRIES):
        row, collection = open_collection(context, session, name)
        media_type = collection.item(item)["media_type"]
        if not collection.is_added(item):
            return collection.image_bytes(item), media_type
        data = store.picture_of(session, row.id, item)
        if data is not None:
            return data, media_type
        session.close()  # it was removed or folded since: look anew
    raise _busy(name)


def _busy(name: str) -> Problem:
    message = f"collection {name!r} is being made anew at this moment; try again"
    return Problem(503, "collection_busy", message, headers={"retry-after": "1"})


def open_for_search(context: Context, session: Session, name: str, encodes: bool) -> Searched:
    """Ends the session: a connection is not held while an encoder is loaded, or runs.

    Args:
        encodes: whether the encoder is needed.

    Raises: Problem 409 when that encoder is gone; UserError.
    """
    row, collection = open_collection(context, session, name)
    if not encodes:
        session.close()
        return Searched(row.id, row.path, collection, None)
    encoder = _encoder_of(session, row)
    directory, imported = context.supply.folder(session, encoder.path), is_imported(encoder)
    session.close()
    return Searched(row.id, row.path, collection, context.inference().encoder(directory, imported))


def _encoder_of(session: Session, collection: Row) -> Encoder:
    row = store.encoder_with(session, collection.encoder_hash)
    if row is None:
        message = (
            f"the encoder of collection {collection.name!r} is gone; import it again, search by vector, or index anew"
        )
        raise Problem(409, "encoder_gone", message)
    return row
