"""The vector that a search compares with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.context import Context
from api.errors import Problem
from api.vectors import embed_query
from lcl_core.runs.tables import Collection, Encoder


def query_vector(
    context: Context,
    session: Session,
    collection: Collection,
    text: str | None,
    image: str | None,
    vector: Sequence[float] | None,
) -> tuple[Any, str | None]:
    """The given vector as it is, or the text or picture embedded by the collection's own encoder, and its hash.

    Raises: Problem 409 when that encoder is gone; 422 for a bad query.
    """
    if vector is not None:
        return vector, None
    directory = context.supply.folder(session, _encoder_of(session, collection).path)
    session.close()  # a connection is not held while the model runs
    encoder = context.inference().encoder(directory)
    return embed_query(encoder, text, image, context.settings), encoder.hash


def _encoder_of(session: Session, collection: Collection) -> Encoder:
    query = select(Encoder).where(Encoder.hash == collection.encoder_hash).order_by(Encoder.id.desc()).limit(1)
    row = session.scalars(query).one_or_none()
    if row is None:
        message = f"the encoder of collection {collection.name!r} is gone; search by vector, or index again"
        raise Problem(409, "encoder_gone", message)
    return row
