"""What a search reads, and the vector that it compares with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.context import Context
from api.errors import Problem
from lcl_core.runs import store
from lcl_core.runs.tables import Collection as Row
from lcl_core.runs.tables import Encoder

if TYPE_CHECKING:
    from lcl_core.serving.batching_session import BatchingSession
    from lcl_core.serving.collection import Collection


@dataclass(frozen=True)
class Searched:
    """A collection and, for queries that are no vectors yet, the encoder that made its own."""

    id: str
    collection: Collection
    encoder: BatchingSession | None


def open_collection(context: Context, session: Session, name: str) -> tuple[Row, Collection]:
    """The row, and what it stands for, opened. Raises: UserError."""
    row = store.get_collection(session, name)
    return row, context.inference().collection(context.supply.folder(session, row.path))


def open_for_search(context: Context, session: Session, name: str, encodes: bool) -> Searched:
    """Ends the session: a connection is not held while an encoder is loaded, or runs.

    Args:
        encodes: whether the encoder is needed.

    Raises: Problem 409 when that encoder is gone; UserError.
    """
    row, collection = open_collection(context, session, name)
    if not encodes:
        session.close()
        return Searched(row.id, collection, None)
    directory = context.supply.folder(session, _encoder_of(session, row).path)
    session.close()
    return Searched(row.id, collection, context.inference().encoder(directory))


def _encoder_of(session: Session, collection: Row) -> Encoder:
    query = select(Encoder).where(Encoder.hash == collection.encoder_hash).order_by(Encoder.id.desc()).limit(1)
    row = session.scalars(query).one_or_none()
    if row is None:
        message = f"the encoder of collection {collection.name!r} is gone; search by vector, or index again"
        raise Problem(409, "encoder_gone", message)
    return row
