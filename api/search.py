"""What a search reads, and the vector that it compares with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.orm import Session

from api.context import Context
from api.encoders import CHANGED, DAMAGED, load_registered
from api.errors import Problem
from lcl_core.errors import UserError
from lcl_core.runs import store
from lcl_core.runs.tables import Collection as Row
from lcl_core.runs.tables import Encoder

if TYPE_CHECKING:
    from lcl_core.serving.batching_session import BatchingSession
    from lcl_core.serving.collection import Collection


log = structlog.get_logger(__name__)
_DAMAGE = ("collection_changed", "collection_unreadable")
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

    While nothing has changed it costs no more than to read the row.

    Raises: UserError; Problem 409 ``collection_changed`` or ``collection_unreadable`` for damage on the server.
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
            if error.code not in _DAMAGE:
                raise
            moved = store.get_collection(session, name).path != row.path
            session.close()
            if not moved:
                raise _damaged(row, error) from error
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


def _damaged(row: Row, error: UserError) -> Problem:
    """By the collection's name: where it lies on the server is for the log."""
    log.error("collection_damaged", collection=row.id, error=str(error))
    message = f"collection {row.name!r} cannot be used: {error.message}"
    return Problem(409, error.code, f"{message}, or have an admin restore its folder from a backup")


def _busy(name: str) -> Problem:
    message = f"collection {name!r} is being made anew at this moment; try again"
    return Problem(503, "collection_busy", message, headers={"retry-after": "1"})


def open_for_search(context: Context, session: Session, name: str, encodes: bool) -> Searched:
    """Ends the session: a connection is not held while an encoder is loaded, or runs.

    Args:
        encodes: whether the encoder is needed.

    Raises: Problem 409 when that encoder is gone, damaged or changed; UserError.
    """
    row, collection = open_collection(context, session, name)
    if not encodes:
        session.close()
        return Searched(row.id, row.path, collection, None)
    return Searched(row.id, row.path, collection, _encoder_of(context, session, row))


def _encoder_of(context: Context, session: Session, collection: Row) -> BatchingSession:
    """The encoder that the collection names or, where that cannot be used, one that is equal to it in all files."""
    own = store.encoder_of(session, collection)
    problem = None
    if own is not None:
        try:
            return _loaded(context, session, own)
        except Problem as error:
            if error.code not in (CHANGED, DAMAGED):
                raise
            problem = error
    for other in store.equal_encoders(session, collection):
        try:
            return _loaded(context, session, other)
        except UserError:
            log.warning("encoder_cannot_stand_in", encoder=other.id, collection=collection.id)
    session.close()
    message = (
        f"the encoder of collection {collection.name!r} is gone; import it again, search by vector, or index anew"
    )
    raise problem or Problem(409, "encoder_gone", message)


def _loaded(context: Context, session: Session, row: Encoder) -> BatchingSession:
    directory = context.supply.folder(session, row.path)
    session.close()
    return load_registered(context, row, directory)
