"""Search in a collection: the query, its vector, the opened collection and its encoder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Self

import structlog
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from sqlalchemy.orm import Session

from api.core.errors import Problem
from api.core.settings import ApiSettings
from api.core.state import AppState
from api.services.encoders import CHANGED, DAMAGED, load_encoder
from api.services.media import Content, check_text
from lcl_core.common.errors import UserError
from lcl_core.db import collections, pgvector, registry
from lcl_core.db.models import CollectionRow as Row
from lcl_core.db.models import EncoderRow

if TYPE_CHECKING:
    from lcl_core.collections.collection import Collection
    from lcl_core.serving.batched_engine import BatchedEngine


QUERY_PARTS = ("text", "image", "vector", "item")
Weight = Annotated[float, Field(ge=-100, le=100)]


class QueryWeights(BaseModel):
    """How much each part counts; 1 where nothing is said. Less than 0: away from it."""

    model_config = ConfigDict(extra="forbid")

    text: Weight | None = None
    image: Weight | None = None
    vector: Weight | None = None
    item: Weight | None = None

    def as_dict(self) -> dict[str, float]:
        return self.model_dump(exclude_none=True)


class SearchQuery(BaseModel):
    """At least one of text, image, vector and item; of several the weighted sum of their directions."""

    model_config = ConfigDict(extra="forbid")

    text: Content | None = None
    image: Content | None = Field(None, description="a picture as a data URL")
    vector: list[float] | None = Field(None, max_length=16_384)
    item: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = Field(
        None, description="id of a picture or text of the collection"
    )
    weights: QueryWeights = QueryWeights()

    @model_validator(mode="after")
    def _some_part(self) -> Self:
        if all(getattr(self, name) is None for name in QUERY_PARTS):
            raise ValueError("give at least one of text, image, vector and item")
        return self

    @property
    def needs_encoder(self) -> bool:
        """Whether an encoder is needed to answer it."""
        return self.text is not None or self.image is not None


def check_weights(question: SearchQuery) -> None:
    """Raises: Problem 422 for a weight of what is not there."""
    for name in question.weights.as_dict():
        if getattr(question, name) is None:
            message = f"weights.{name}: there is no {name} in the query that it could weigh"
            raise Problem(422, "bad_query", message, field=f"weights.{name}")


def embed_query_text(question: SearchQuery, encoder: BatchedEngine | None, settings: ApiSettings) -> dict[str, Any]:
    """f32 [E] of the text, by its name, if there is one. Raises: Problem 422."""
    if question.text is None or encoder is None:
        return {}
    return {"text": encoder.embed_texts([check_text(question.text, settings, "text")])[0]}


def query_vector(question: SearchQuery, embedded: dict[str, Any], collection: Collection) -> Any:
    """f32 [E] of length 1: all parts in one. Raises: UserError naming the part, or ``zero_query``."""
    from lcl_core.collections.query import combine_vectors  # numpy: not at start-up

    parts = dict(embedded)
    if question.vector is not None:
        parts["vector"] = question.vector
    if question.item is not None:
        try:
            parts["item"] = collection.vector(question.item)
        except UserError as error:
            raise UserError(error.message, code=error.code, field="item") from error
    return combine_vectors(parts, question.weights.as_dict(), collection.dim)


log = structlog.get_logger(__name__)
_DAMAGE = ("collection_changed", "collection_unreadable")
_MAX_ATTEMPTS = 5  # directories of a collection that may come and go while it is being opened


@dataclass(frozen=True)
class OpenedCollection:
    """A collection and, for queries that are no vectors yet, the encoder that made its own."""

    id: str
    path: str  # as the row has it
    collection: Collection
    encoder: BatchedEngine | None


def open_collection(context: AppState, session: Session, name: str) -> tuple[Row, Collection]:
    """The row, and what it stands for with all its changes, opened. ``session`` only reads.

    While nothing has changed it costs no more than to read the row.

    Raises: UserError; Problem 409 ``collection_changed`` or ``collection_unreadable`` for damage on the server.
    """
    for _ in range(_MAX_ATTEMPTS):
        row = registry.get_collection(session, name)
        load = partial(collections.changes_since, session, row.id, row.path)
        try:
            directory = context.artifacts.folder(session, row.path)
            ask = pgvector.PgVectorIndex(context.database, row.vectors, row.dim) if row.vectors else None
            return row, context.inference().collection(directory, row.changes, load, ask)
        except collections.CollectionReplaced:
            session.close()
        except UserError as error:
            session.close()
            if error.code not in _DAMAGE:
                raise
            moved = registry.get_collection(session, name).path != row.path
            session.close()
            if not moved:
                raise _damage_problem(row, error) from error
    raise _busy(name)


def read_item_image(context: AppState, session: Session, name: str, item: str) -> tuple[bytes, str]:
    """A picture's bytes and media type, wherever they are. ``session`` only reads. Raises: UserError."""
    for _ in range(_MAX_ATTEMPTS):
        row, collection = open_collection(context, session, name)
        media_type = collection.item(item)["media_type"]
        if not collection.is_added(item):
            return collection.image_bytes(item), media_type
        data = collections.item_image(session, row.id, item)
        if data is not None:
            return data, media_type
        session.close()  # it was removed or folded since: look anew
    raise _busy(name)


def _damage_problem(row: Row, error: UserError) -> Problem:
    """By the collection's name: where it lies on the server is for the log."""
    log.error("collection_damaged", collection=row.id, error=str(error))
    message = f"collection {row.name!r} cannot be used: {error.message}"
    return Problem(409, error.code, f"{message}, or have an admin restore its folder from a backup")


def _busy(name: str) -> Problem:
    message = f"collection {name!r} is being made anew at this moment; try again"
    return Problem(503, "collection_busy", message, headers={"retry-after": "1"})


def open_for_search(context: AppState, session: Session, name: str, encodes: bool) -> OpenedCollection:
    """Ends the session: a connection is not held while an encoder is loaded, or runs.

    Args:
        encodes: whether the encoder is needed.

    Raises: Problem 409 when that encoder is gone, damaged or changed; UserError.
    """
    row, collection = open_collection(context, session, name)
    if not encodes:
        session.close()
        return OpenedCollection(row.id, row.path, collection, None)
    return OpenedCollection(row.id, row.path, collection, _collection_encoder(context, session, row))


def _collection_encoder(context: AppState, session: Session, collection: Row) -> BatchedEngine:
    """The encoder that the collection names or, where that cannot be used, one that is equal to it in all files."""
    own = registry.collection_encoder(session, collection)
    problem = None
    if own is not None:
        try:
            return _load_encoder(context, session, own)
        except Problem as error:
            if error.code not in (CHANGED, DAMAGED):
                raise
            problem = error
    for other in registry.identical_encoders(session, collection):
        try:
            return _load_encoder(context, session, other)
        except UserError:
            log.warning("encoder_cannot_stand_in", encoder=other.id, collection=collection.id)
    session.close()
    message = f"the encoder of collection {collection.name!r} is gone; import it again, search by vector, or index anew"
    raise problem or Problem(409, "encoder_gone", message)


def _load_encoder(context: AppState, session: Session, row: EncoderRow) -> BatchedEngine:
    directory = context.artifacts.folder(session, row.path)
    session.close()
    return load_encoder(context, row, directory)
