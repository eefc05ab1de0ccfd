"""Search in collections: requests, the opened collection, its encoder, and the query's vector."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar
from urllib.parse import quote

import structlog
from anyio import to_thread
from pydantic import BaseModel, ConfigDict, Field, Strict, StringConstraints, model_validator
from sqlalchemy.orm import Session

from api.core.errors import Problem
from api.core.models import Content, Line, Reference, request_example
from api.services.encoders import check_text, load_encoder, read_images
from api.services.state import AppState
from lcl_core.common.errors import UserError
from lcl_core.db import collections, registry
from lcl_core.db.models import CollectionRow
from lcl_core.serving.dynamic_batcher import gather_results
from lcl_core.vector_indexes import IndexLocation, open_index

if TYPE_CHECKING:
    from lcl_core.collections.collection import Collection
    from lcl_core.collections.full_text import FoldedQuery
    from lcl_core.serving.batched_engine import BatchedEngine

log = structlog.get_logger(__name__)
MAX_ATTEMPTS = 5  # a collection's directory may be replaced while it is being opened
LONG_TEXT = 24  # characters; shorter texts are read whole and need not be counted
MAX_WARM_COLLECTIONS = 16  # the newest; with older ones the first search loads the encoder
ROWS_PER_CHUNK = 128
QUERY_PARTS = ("text", "image", "vector", "item")
DAMAGE = ("collection_changed", "collection_unreadable")
Target = Literal["images", "texts"]
Result = TypeVar("Result")
Weight = Annotated[float, Field(ge=-100, le=100)]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
# of images of a corpus, whose labels may be longer than those that are given here
LabelText = Annotated[str, StringConstraints(max_length=10_000, pattern=r"^[^\x00]*$")]
LabelTexts = Annotated[list[LabelText], Field(max_length=1000, fail_fast=True)]


class QueryWeights(BaseModel):
    """How much each part counts; 1 where it is left out. Less than 0: away from it."""

    model_config = ConfigDict(extra="forbid")

    text: Weight | None = Field(None, description="of the text")
    image: Weight | None = Field(None, description="of the image")
    vector: Weight | None = Field(None, description="of the vector")
    item: Weight | None = Field(None, description="of the item")

    def as_dict(self) -> dict[str, float]:
        return self.model_dump(exclude_none=True)


class SearchQuery(BaseModel):
    """At least one of text, image, vector and item; of several the weighted sum of their directions."""

    model_config = ConfigDict(extra="forbid")

    text: Content | None = Field(None, description="a text to search by")
    image: Content | None = Field(None, description="an image as a data URL")
    vector: Annotated[list[float], Field(max_length=16_384, fail_fast=True)] | None = Field(
        None, description="a vector of the collection's encoder to search by"
    )
    item: Reference | None = Field(None, description="id of an image or text of the collection")
    weights: QueryWeights = QueryWeights()

    @model_validator(mode="after")
    def _some_part(self) -> Self:
        if all(getattr(self, name) is None for name in QUERY_PARTS):
            raise ValueError("give at least one of text, image, vector and item")
        return self

    @property
    def embedded(self) -> list[Target]:
        """Kinds of inputs that an encoder has to embed."""
        kinds: list[tuple[Target, str | None]] = [("images", self.image), ("texts", self.text)]
        return [kind for kind, value in kinds if value is not None]


class LabelCondition(BaseModel):
    """A range of a number or a date, members of a set, values to leave out; everything that is given applies."""

    model_config = ConfigDict(extra="forbid")

    gte: Number | Line | None = Field(None, description="at least; a date without a time is the whole day")
    gt: Number | Line | None = Field(None, description="more than, or later")
    lte: Number | Line | None = Field(None, description="at most")
    lt: Number | Line | None = Field(None, description="less than, or earlier")
    any: LabelTexts | None = Field(None, description="of a set: it has one of these")
    all: LabelTexts | None = Field(None, description="of a set: it has every one of these")
    none: LabelTexts | None = Field(None, description="it has none of these values, or the image lacks the label")


class SearchRequest(SearchQuery):
    """At least one of text, image, vector and item; of several the weighted sum of their directions."""

    model_config = ConfigDict(json_schema_extra=request_example(text="a red bird", k=5))

    target: Target = Field("images", description="what to search: images, or texts (captions)")
    k: int = Field(20, ge=1, le=1000, description="number of hits")
    offset: int = Field(0, ge=0, le=9000, description="hits to leave out: those of the pages before")
    match: Literal["both", "looks", "captions"] = Field(
        "both",
        description="what a text is compared with: how images look (cosine), the words of their captions (BM25), or "
        "both, whose ranks are fused. With captions offset + k is at most 1000. Looks alone count for texts as target "
        "and for a text that is missing or of a weight of 0 or less",
    )
    where: dict[LabelText, LabelText | LabelTexts | Number | LabelCondition] = Field(
        {},
        max_length=32,
        description="{label: filter}, all of which apply: a value or values as they are written; a number; {gte, gt, "
        "lte, lt} of a label that is a number or a date; {any, all} of one that is a set; {none} of every label",
    )

    @property
    def uses_captions(self) -> bool:
        """Whether the words of the text are looked for in captions."""
        counts = self.text is not None and (self.weights.text is None or self.weights.text > 0)
        return counts and self.match != "looks" and self.target == "images"

    def filters(self) -> dict[str, Any]:
        """``where`` without models."""
        return {
            label: each.model_dump(exclude_none=True) if isinstance(each, LabelCondition) else each
            for label, each in self.where.items()
        }


class SearchResponse(BaseModel):
    hits: list[dict[str, Any]] = Field(
        description="best first: id, score (cosine), ranks by looks and by captions (null: not among the best), the "
        "words that its best caption has (found), and the item or text; a text with the number of its images "
        "(item_count) and the ids and addresses of 100 at most (items, image_urls)"
    )
    collection: str = Field(description="its name")
    total: int = Field(description="images, or texts, of the collection, whether or not ``where`` allows them")
    read_as: str | None = Field(None, description="the text without requests and articles")
    not_understood: list[str] = Field([], description="words as “without”, for which nothing is left out: use where")
    took_ms: float = Field(description="milliseconds in the service")
    text_limit: int | None = Field(
        None, description="tokens that the encoder reads of a text, where this one fills them: the rest is not read"
    )


@dataclass(frozen=True)
class OpenedCollection:
    """A collection and, where a query needs it, its encoder."""

    id: str
    collection: Collection
    encoder: BatchedEngine | None


def with_collection(
    state: AppState,
    name: str,
    use: Callable[[Session, CollectionRow, Collection], Result],
    writer: Session | None = None,
) -> Result:
    """What ``use`` returns for the collection with all its changes, and a session that reads.

    It is called again where an index run has replaced the open directory meanwhile; ``writer`` is rolled back before.

    Raises: UserError; Problem 503, 409 ``collection_changed`` or ``collection_unreadable`` for damage on the server.
    """
    for _ in range(MAX_ATTEMPTS):
        try:
            with state.database.reading() as session:
                row = registry.get_collection(session, name)
                return use(session, row, _open(state, session, row))
        except collections.CollectionReplaced:
            if writer is not None:
                writer.rollback()
    message = f"collection {name!r} is being made anew at this moment; try again"
    raise Problem(503, "busy", message, headers={"retry-after": "1"})


def open_collection(state: AppState, name: str) -> tuple[CollectionRow, Collection]:
    """The row, and the collection with all its changes. Raises: as ``with_collection``."""
    return with_collection(state, name, lambda _, row, collection: (row, collection))


def _open(state: AppState, session: Session, row: CollectionRow) -> Collection:
    """Raises: as ``with_collection``; CollectionReplaced."""
    load = partial(collections.changes_since, session, row.id, row.path)
    try:
        directory = state.artifacts.folder(session, row.path)
        index = open_index(row.vectors, IndexLocation(row.vectors or "", row.dim, state.settings))
        return state.inference().collection(directory, row.changes, load, index)
    except UserError as error:
        if error.code not in DAMAGE:
            raise
        session.close()
        if registry.get_collection(session, row.id).path != row.path:
            raise collections.CollectionReplaced from error
        log.error("collection_damaged", collection=row.id, error=str(error))
        message = f"collection {row.name!r} cannot be used: {error.message}, or have an admin restore its folder"
        raise Problem(409, error.code, f"{message} from a backup") from error


def open_for_search(
    state: AppState, name: str, embeds: Sequence[Target] = (), *, evict: bool = True
) -> OpenedCollection:
    """The collection, with its encoder if needed. No connection is held while encoders load or run.

    Args:
        embeds: kinds of inputs that are to be embedded; for texts an encoder of images alone is not loaded.
        evict: other encoders may leave the memory for it.

    Raises: Problem 409 when the encoder is gone, damaged or changed; UserError.
    """

    def use(session: Session, row: CollectionRow, collection: Collection) -> OpenedCollection:
        needed = any(kind in collection.vector_targets for kind in embeds)
        encoder = _collection_encoder(state, session, row, evict) if needed else None
        return OpenedCollection(row.id, collection, encoder)

    return with_collection(state, name, use)


def _collection_encoder(state: AppState, session: Session, collection: CollectionRow, evict: bool) -> BatchedEngine:
    """The collection's own encoder or, where that cannot be used, one with identical files. Closes the session."""
    message = f"the encoder of collection {collection.name!r} is gone; import it again, search by vector, or index anew"
    problem: UserError = Problem(409, "conflict", message)
    own = registry.collection_encoder(session, collection)
    if own is not None:
        try:
            return load_encoder(state, session, own, evict=evict)
        except Problem as error:  # its files are damaged
            problem = error
    for encoder in registry.identical_encoders(session, collection):
        with suppress(Problem):
            return load_encoder(state, session, encoder, evict=evict)
    raise problem


def warm_next_encoder(state: AppState, known: set[str]) -> bool:
    """Load the encoder of the newest collection whose encoder is not ``known`` yet, as a search would.

    Torch is imported, imported files are examined, and an encoder that reads texts embeds one. Nothing leaves the
    memory for it. Returns: whether there was such a collection.
    """
    with state.database.reading() as session:
        rows = registry.list_collections(session)[:MAX_WARM_COLLECTIONS]
    row = next((row for row in rows if (row.encoder_id or row.id) not in known), None)
    if row is None:
        return False
    known.add(row.encoder_id or row.id)
    started = time.perf_counter()
    try:
        opened = open_for_search(state, row.id, ["images"], evict=False)
        if opened.encoder is not None and opened.collection.has_text_vectors:
            opened.encoder.embed_texts(["an image"])
        log.info("encoder_warmed", collection=row.id, seconds=round(time.perf_counter() - started, 2))
    except Exception as error:  # a search reports it to its user
        log.info("encoder_not_warmed", collection=row.id, reason=str(error))
    return True


async def search(state: AppState, name: str, body: SearchRequest) -> SearchResponse:
    """The nearest items by cosine among those that ``where`` allows."""
    started = time.perf_counter()
    if body.image is None:
        return await to_thread.run_sync(
            lambda: _find(body, _open_for_query(state, name, body), {}, started), limiter=state.opening
        )
    opened = await to_thread.run_sync(_open_for_query, state, name, body, limiter=state.opening)
    encoder = opened.encoder
    assert encoder is not None, "an image needs it"
    images = await read_images(state, {"image": body.image}, lambda _, image: encoder.prepare(image))
    (vector,) = await gather_results(encoder.submit_images([images["image"]]))
    return await to_thread.run_sync(_find, body, opened, {"image": vector}, started, limiter=state.opening)


def _open_for_query(state: AppState, name: str, body: SearchRequest) -> OpenedCollection:
    """Raises: as ``open_for_search``; Problem 422 ``invalid_value``."""
    opened = open_for_search(state, name, body.embedded)
    opened.collection.check_vectors(body.target)
    if body.match == "captions" and not body.uses_captions:
        message = "match: give a text with a weight above 0, and images as target; captions are compared with its words"
        raise Problem(422, "invalid_value", message, field="match")
    for part in body.weights.as_dict():
        if getattr(body, part) is None:
            message = f"weights.{part}: there is no {part} in the query that it could weigh"
            raise Problem(422, "invalid_value", message, field=f"weights.{part}")
    return opened


def _find(body: SearchRequest, opened: OpenedCollection, embedded: dict[str, Any], started: float) -> SearchResponse:
    from api.services.collection_views import query_vector  # numpy, which the open collection has imported
    from lcl_core.collections.full_text import fold

    text_limit, folded = None, None
    if body.text is not None:
        folded = fold(check_text(body.text, "text"))
        embedded |= _text_vector(folded, body, opened)
        if opened.encoder is not None and len(folded.text) >= LONG_TEXT:
            text_limit = opened.encoder.filled_context(folded.text)
    vector = query_vector(body, embedded, opened.collection)
    hits = opened.collection.search(
        vector,
        body.offset + body.k,
        body.target,
        body.filters() or None,
        encoder_hash=None if opened.encoder is None else opened.encoder.hash,
        words=folded.words if folded is not None and body.uses_captions else "",
        looks=body.match != "captions",
    )
    views = [
        {
            "id": hit.id,
            "score": hit.score,
            "rank_looks": hit.rank_looks,
            "rank_captions": hit.rank_captions,
            "found": hit.found,
            **item_view(opened.id, hit.metadata),
        }
        for hit in hits[body.offset :]
    ]
    return SearchResponse(
        hits=views,
        collection=opened.collection.name,
        total=opened.collection.count(body.target),
        read_as=None if folded is None else folded.text,
        not_understood=[] if folded is None else folded.exclusions,
        took_ms=round((time.perf_counter() - started) * 1000, 2),
        text_limit=text_limit,
    )


def _text_vector(folded: FoldedQuery, body: SearchRequest, opened: OpenedCollection) -> dict[str, Any]:
    """{"text": f32 [E]}; of an encoder of images alone, as ``Collection.mean_of_matching_images``: {} if it has none.

    Raises: Problem 422 ``no_text_encoder`` for such an encoder, unless captions count or the text has weight 0.
    """
    if opened.collection.has_text_vectors:
        assert opened.encoder is not None, "a text needs it"
        return {"text": opened.encoder.embed_texts([folded.text])[0]}
    if body.weights.text == 0:
        return {}
    if not body.uses_captions:
        message = (
            f"text: collection {opened.collection.name!r} was made with an encoder of images alone; search the words "
            "of captions (match), or send an image"
        )
        raise Problem(422, "no_text_encoder", message, field="text")
    vector = opened.collection.mean_of_matching_images(folded.words)
    return {} if vector is None else {"text": vector}


def read_item_image(state: AppState, name: str, item: str) -> tuple[bytes, str]:
    """Bytes and media type of an item's image. Raises: UserError; as ``with_collection``."""

    def read(session: Session, row: CollectionRow, collection: Collection) -> tuple[bytes, str]:
        media_type = collection.item(item)["media_type"]
        if collection.has_image_bytes(item):
            return collection.image_bytes(item), media_type
        data = collections.item_image(session, row.id, item)
        if data is None:
            raise collections.CollectionReplaced  # removed or compacted meanwhile
        return data, media_type

    return with_collection(state, name, read)


def item_view(collection_id: str, record: dict[str, Any]) -> dict[str, Any]:
    """An image's record with its URL and first caption; a text's record with the URLs of its images."""
    if "text" in record:
        return {**record, "image_urls": [_image_url(collection_id, item) for item in record.get("items", [])]}
    caption = next(iter(record.get("captions", [])), "")
    return {**record, "caption": caption, "image_url": _image_url(collection_id, record["id"])}


def _image_url(collection_id: str, item: str) -> str:
    return f"/v1/collections/{collection_id}/items/{quote(item, safe='')}/image"


def stream_vectors(collection: Collection, target: Target) -> Iterator[bytes]:
    """JSON lines: each row's record with ``encoder_hash``, and its ``vector`` with all bits of f32.

    JSON lines, not Parquet: rows are made and read in constant memory, and a download that breaks off is good up to its
    last whole line. Each line is complete in itself, so that files may be split and joined.
    """
    count = collection.count(target)
    numbers = ", ".join(["%.9g"] * collection.dim)
    for start in range(0, count, ROWS_PER_CHUNK):
        rows = range(start, min(start + ROWS_PER_CHUNK, count))
        _, vectors = collection.at(target, rows)
        lines = []
        for row, vector in zip(rows, vectors.astype("<f4"), strict=True):
            record = {**collection.record(target, row), "encoder_hash": collection.encoder_hash}
            head = json.dumps(record, ensure_ascii=False)[:-1]
            lines.append(f'{head}, "vector": [{numbers % tuple(vector.tolist())}]}}\n')
        yield "".join(lines).encode("utf-8", "replace")
