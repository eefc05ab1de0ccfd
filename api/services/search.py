"""Search in collections: the opened collection, its encoder, and the query's vector."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import structlog
from anyio import to_thread
from sqlalchemy.orm import Session

from api.core.errors import Problem
from api.schemas.collections import SearchRequest, SearchResponse, Target
from api.services.encoders import CHANGED, DAMAGED, load_encoder
from api.services.media import Submitted, check_text, read_images
from api.services.state import AppState
from lcl_core.common.errors import UserError
from lcl_core.db import collections, registry
from lcl_core.db.models import CollectionRow
from lcl_core.serving.dynamic_batcher import gather_results
from lcl_core.vector_indexes import IndexLocation, open_index

if TYPE_CHECKING:
    from api.services.request_images import RequestImages
    from lcl_core.collections.collection import Collection
    from lcl_core.serving.batched_engine import BatchedEngine

log = structlog.get_logger(__name__)
MAX_ATTEMPTS = 5  # a collection's directory may be replaced while it is being opened
ROWS_PER_CHUNK = 128
LONG_TEXT = 24  # characters; shorter texts are read whole and need not be counted
_DAMAGE = ("collection_changed", "collection_unreadable")


@dataclass(frozen=True)
class OpenedCollection:
    """A collection and, where a query needs it, its encoder. ``path``: as in the collection's row."""

    id: str
    path: str
    collection: Collection
    encoder: BatchedEngine | None


def open_collection(state: AppState, session: Session, name: str) -> tuple[CollectionRow, Collection]:
    """The row, and the collection with all its changes. ``session`` only reads.

    An unchanged open collection costs one query.

    Raises: UserError; Problem 409 ``collection_changed`` or ``collection_unreadable`` for damage on the server.
    """
    for _ in range(MAX_ATTEMPTS):
        row = registry.get_collection(session, name)
        load = partial(collections.changes_since, session, row.id, row.path)
        try:
            directory = state.artifacts.folder(session, row.path)
            location = IndexLocation(row.vectors or "", row.dim, directory, state.settings)
            index = open_index(row.vectors, location)
            return row, state.inference().collection(directory, row.changes, load, index)
        except collections.CollectionReplaced:
            session.close()
        except UserError as error:
            session.close()
            if error.code not in _DAMAGE:
                raise
            replaced = registry.get_collection(session, name).path != row.path
            session.close()
            if not replaced:
                raise _damage_problem(row, error) from error
    raise collection_busy(name)


def open_for_search(
    state: AppState,
    session: Session,
    name: str,
    embeds: Sequence[Target] = (),
    *,
    evict: bool = True,
) -> OpenedCollection:
    """The collection, with its encoder if needed. Closes the session: no connection is held while encoders load or run.

    Args:
        embeds: kinds of inputs that are to be embedded; for texts an encoder of images alone is not loaded.
        evict: other encoders may leave the memory for it.

    Raises: Problem 409 when the encoder is gone, damaged or changed; UserError.
    """
    row, collection = open_collection(state, session, name)
    needed = any(kind in collection.vector_targets for kind in embeds)
    encoder = _collection_encoder(state, session, row, evict) if needed else None
    session.close()
    return OpenedCollection(row.id, row.path, collection, encoder)


def read_item_image(state: AppState, session: Session, name: str, item: str) -> tuple[bytes, str]:
    """Bytes and media type of an item's image. ``session`` only reads. Raises: UserError."""
    for _ in range(MAX_ATTEMPTS):
        row, collection = open_collection(state, session, name)
        media_type = collection.item(item)["media_type"]
        if collection.has_image_bytes(item):
            return collection.image_bytes(item), media_type
        data = collections.item_image(session, row.id, item)
        if data is not None:
            return data, media_type
        session.close()  # removed or compacted meanwhile: open again
    raise collection_busy(name)


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


async def search(state: AppState, name: str, body: SearchRequest) -> SearchResponse:
    """The nearest items by cosine among those that ``where`` allows."""
    started = time.perf_counter()
    if body.image is None:  # one call in one thread: each further hop costs the event loop more than its own work
        return await to_thread.run_sync(_search_by_text, state, name, body, started, limiter=state.opening)

    def begin() -> tuple[BatchedEngine, OpenedCollection]:
        opened = _open(state, name, body)
        assert opened.encoder is not None, "an image needs it"
        return opened.encoder, opened

    def read(encoder: BatchedEngine, opened: OpenedCollection, images: RequestImages) -> Submitted[OpenedCollection]:
        return encoder.submit_images([encoder.prepare(images.read("image"))]), opened

    submitted, opened = await read_images(state, {"image": body.image}, begin, read)
    (vector,) = await gather_results(submitted)
    embedded = {"image": vector}
    return await to_thread.run_sync(_find, state, body, opened, embedded, started, limiter=state.opening)


def _search_by_text(state: AppState, name: str, body: SearchRequest, started: float) -> SearchResponse:
    return _find(state, body, _open(state, name, body), {}, started)


def _open(state: AppState, name: str, body: SearchRequest) -> OpenedCollection:
    """Raises: as ``open_for_search``; Problem 422 ``bad_request``."""
    with state.database.reading() as session:
        opened = open_for_search(state, session, name, body.embedded)
    opened.collection.check_vectors(body.target)
    if body.hybrid and (body.text is None or body.weights.as_dict().get("text", 1) <= 0):
        message = "hybrid: give a text, with a weight above 0, whose words the captions may have"
        raise Problem(422, "bad_request", message, field="hybrid")
    for part in body.weights.as_dict():
        if getattr(body, part) is None:
            message = f"weights.{part}: there is no {part} in the query that it could weigh"
            raise Problem(422, "bad_request", message, field=f"weights.{part}")
    if body.hybrid and body.target == "images":
        opened.collection.start_indexing_captions().result()
    return opened


def _find(
    state: AppState, body: SearchRequest, opened: OpenedCollection, embedded: dict[str, Any], started: float
) -> SearchResponse:
    from api.services.collection_views import query_vector  # numpy, which the open collection has imported

    text_limit = None
    if body.text is not None:
        text = check_text(body.text, "text")
        embedded |= _text_vector(text, body, opened)
        if opened.encoder is not None and len(text) >= LONG_TEXT:
            text_limit = opened.encoder.filled_context(text)
    vector = query_vector(body, embedded, opened.collection)
    encoder_hash = None if opened.encoder is None else opened.encoder.hash
    count = body.offset + body.k
    words = body.text if body.hybrid and body.text else ""
    where = body.filters() or None
    hits = opened.collection.search(vector, count, body.target, where, encoder_hash=encoder_hash, words=words)
    views = [{"id": hit.id, "score": hit.score, **item_view(opened.id, hit.metadata)} for hit in hits[body.offset :]]
    took_ms = round((time.perf_counter() - started) * 1000, 2)
    return SearchResponse(hits=views, took_ms=took_ms, text_limit=text_limit)


def _text_vector(text: str, body: SearchRequest, opened: OpenedCollection) -> dict[str, Any]:
    """{"text": f32 [E]}; of an encoder of images alone, as ``Collection.mean_of_matching_images``: {} if it has none.

    Raises: Problem 422 ``no_text_encoder`` for such an encoder, unless the search is hybrid or the text has weight 0.
    """
    if opened.collection.has_text_vectors:
        assert opened.encoder is not None, "a text needs it"
        return {"text": opened.encoder.embed_texts([text])[0]}
    if body.weights.text == 0:
        return {}
    if not body.hybrid:
        message = (
            f"text: collection {opened.collection.name!r} was made with an encoder of images alone; search the words "
            "of captions (hybrid), or send an image"
        )
        raise Problem(422, "no_text_encoder", message, field="text")
    vector = opened.collection.mean_of_matching_images(text)
    return {} if vector is None else {"text": vector}


def _collection_encoder(state: AppState, session: Session, collection: CollectionRow, evict: bool) -> BatchedEngine:
    """The collection's own encoder or, where that cannot be used, one with identical files."""
    own = registry.collection_encoder(session, collection)
    problem = None
    if own is not None:
        try:
            return load_encoder(state, session, own, evict=evict)
        except Problem as error:
            if error.code not in (CHANGED, DAMAGED):
                raise
            problem = error
    for other in registry.identical_encoders(session, collection):
        try:
            return load_encoder(state, session, other, evict=evict)
        except UserError:
            log.warning("encoder_cannot_stand_in", encoder=other.id, collection=collection.id)
    session.close()
    message = f"the encoder of collection {collection.name!r} is gone; import it again, search by vector, or index anew"
    raise problem or Problem(409, "encoder_gone", message)


def _damage_problem(row: CollectionRow, error: UserError) -> Problem:
    """The response names the collection, the log the path."""
    log.error("collection_damaged", collection=row.id, error=str(error))
    message = f"collection {row.name!r} cannot be used: {error.message}"
    return Problem(409, error.code, f"{message}, or have an admin restore its folder from a backup")


def collection_busy(name: str) -> Problem:
    message = f"collection {name!r} is being made anew at this moment; try again"
    return Problem(503, "busy", message, headers={"retry-after": "1"})
