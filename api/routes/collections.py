"""Vector collections: look, search, pictures, vectors."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote

from anyio import to_thread
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from api.core.errors import ERROR_RESPONSES
from api.core.responses import documented_responses, json_response
from api.core.session import in_thread_pool, single_thread_endpoint
from api.core.state import AppState
from api.deps import ReadSessionDep, StateDep, Viewer
from api.schemas.base import (
    CollectionDetail,
    CollectionList,
    CollectionMap,
    CollectionView,
    DuplicateGroupView,
    DuplicatePage,
    ItemList,
    Line,
    VectorPage,
)
from api.services.media import RequestImages, read_images
from api.services.search import (
    OpenedCollection,
    SearchQuery,
    check_weights,
    embed_query_text,
    open_collection,
    open_for_search,
    query_vector,
    read_item_image,
)
from lcl_core.db import registry

if TYPE_CHECKING:
    from lcl_core.serving.batched_engine import BatchedEngine

router = APIRouter(prefix="/v1/collections", tags=["collections"], responses=ERROR_RESPONSES)
Target = Literal["images", "texts"]
Offset = Annotated[int, Query(ge=0, lt=2**53)]


class SearchRequest(SearchQuery):
    """At least one of text, image, vector and item; of several the weighted sum of their directions."""

    target: Target = "images"
    k: int = Field(20, ge=1, le=1000)
    offset: int = Field(0, ge=0, le=9000, description="hits to leave out: those of the pages before")
    where: dict[Line, Line | list[Line]] = Field({}, max_length=32, description="{label: value or values}")


class SearchResponse(BaseModel):
    hits: list[dict[str, Any]] = Field(description="best first: id, score (cosine), and the item or text")
    took_ms: float


@router.get("")
@single_thread_endpoint
def page(_: Viewer, session: ReadSessionDep) -> CollectionList:
    """Newest first."""
    return CollectionList(items=[CollectionView.model_validate(row) for row in registry.list_collections(session)])


@router.get("/{name}")
def one(name: str, _: Viewer, context: StateDep, session: ReadSessionDep) -> CollectionDetail:
    """By id or name, with the labels that a filter can ask for."""
    row, collection = open_collection(context, session, name)
    facts = CollectionView.model_validate(row).model_dump()
    counts = {"images": collection.count("images"), "texts": collection.count("texts")}
    return CollectionDetail(**{**facts, **counts}, labels=collection.label_values())


@router.post("/{name}/search")
async def search(name: str, body: SearchRequest, caller: Viewer, context: StateDep) -> SearchResponse:
    """The nearest items by cosine among those that ``where`` allows."""
    # all of it in one thread, since each way to a thread and back costs the event loop more than what it does there
    if body.image is None:
        return await to_thread.run_sync(_search, name, body, context, limiter=context.searching)
    return await _search_by_image(name, body, body.image, caller.owner, context)


def _search(name: str, body: SearchRequest, context: AppState) -> SearchResponse:
    started = time.perf_counter()
    searched = _open(name, body, context)
    return _search_response(
        body, context, searched, embed_query_text(body, searched.encoder, context.settings), started
    )


async def _search_by_image(name: str, body: SearchRequest, url: str, owner: str, context: AppState) -> SearchResponse:
    from lcl_core.serving.dynamic_batcher import gather_results  # numpy: only when an encoder is asked

    started = time.perf_counter()

    def begin() -> tuple[BatchedEngine, OpenedCollection]:
        searched = _open(name, body, context)
        assert searched.encoder is not None, "it was asked for"
        return searched.encoder, searched

    def read(
        encoder: BatchedEngine, searched: OpenedCollection, images: RequestImages
    ) -> tuple[OpenedCollection, list[Future[Any]]]:
        return searched, encoder.submit_images([encoder.prepare(images.read("image"))])

    searched, submitted = await read_images(context, owner, {"image": url}, begin, read)
    (vector,) = await gather_results(submitted)

    def rest() -> SearchResponse:
        embedded = embed_query_text(body, searched.encoder, context.settings)
        return _search_response(body, context, searched, {**embedded, "image": vector}, started)

    return await to_thread.run_sync(rest, limiter=context.searching)


def _open(name: str, body: SearchRequest, context: AppState) -> OpenedCollection:
    with context.database.reading() as session:
        searched = open_for_search(context, session, name, body.needs_encoder)
    check_weights(body)
    return searched


def _search_response(
    body: SearchRequest, context: AppState, searched: OpenedCollection, embedded: dict[str, Any], started: float
) -> SearchResponse:
    encoder, collection = searched.encoder, searched.collection
    vector = query_vector(body, embedded, collection)
    made_by = None if encoder is None else encoder.hash
    count = body.offset + body.k
    hits = collection.search(vector, count, body.target, body.where or None, encoder_hash=made_by)[body.offset :]
    shown = [{"id": hit.id, "score": hit.score, **_item_view(searched.id, hit.metadata)} for hit in hits]
    return SearchResponse(hits=shown, took_ms=round((time.perf_counter() - started) * 1000, 2))


@router.get("/{name}/duplicates")
async def duplicates(
    name: str,
    _: Viewer,
    context: StateDep,
    session: ReadSessionDep,
    threshold: Annotated[float, Query(ge=0, le=1, description="the cosine from which on two are linked")] = 0.95,
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> DuplicatePage:
    """Groups of pictures that are linked, directly or through others; the largest first.

    Every pair is compared; in a collection with a graph each picture with its 32 nearest, so that a link may be missed.
    """
    started = time.perf_counter()
    lane = context.drawing
    searched = await to_thread.run_sync(open_for_search, context, session, name, False, limiter=lane)
    seconds, places = context.settings.duplicates_seconds, slice(offset, offset + limit)
    found, total = await to_thread.run_sync(
        context.duplicates.page, searched.collection, threshold, seconds, places, limiter=context.duplicates.limiter
    )
    groups = [
        DuplicateGroupView(
            size=size, items=[{"score": hit.score, **_item_view(searched.id, hit.metadata)} for hit in hits]
        )
        for size, hits in found
    ]
    took_ms = round((time.perf_counter() - started) * 1000, 2)
    return DuplicatePage(groups=groups, total=total, offset=offset, threshold=threshold, took_ms=took_ms)


@router.get("/{name}/items")
def items(
    name: str,
    _: Viewer,
    context: StateDep,
    session: ReadSessionDep,
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> ItemList:
    row, collection = open_collection(context, session, name)
    return ItemList(items=[_item_view(row.id, record) for record in collection.items(offset, limit)])


@router.get("/{name}/items/{item}")
def item(name: str, item: str, _: Viewer, context: StateDep, session: ReadSessionDep) -> dict[str, Any]:
    """A picture's record: captions, labels, split, source, and where the picture itself is."""
    row, collection = open_collection(context, session, name)
    return _item_view(row.id, collection.item(item))


@router.get("/{name}/items/{item}/image", response_class=Response, responses=documented_responses("image/*"))
def image(name: str, item: str, _: Viewer, context: StateDep, session: ReadSessionDep) -> Response:
    """The picture as kept. Under the same id another one may follow, so a browser asks again after some minutes."""
    data, media_type = read_item_image(context, session, name, item)
    return Response(data, media_type=media_type, headers={"cache-control": "private, max-age=300"})


@router.get("/{name}/vectors", response_model=VectorPage)
@in_thread_pool("exporting")
def vectors(
    name: str,
    _: Viewer,
    context: StateDep,
    session: ReadSessionDep,
    target: Target = "images",
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> Response:
    """Ids and their vectors, row-aligned, page by page."""
    _row, collection = open_collection(context, session, name)
    session.close()
    total = collection.count(target)
    ids, rows = collection.at(target, range(total)[offset : offset + limit])
    return json_response(VectorPage(ids=ids, vectors=rows.tolist(), total=total, offset=offset))


@router.get("/{name}/map", response_model=CollectionMap)
@in_thread_pool("drawing")
def map_(
    name: str,
    _: Viewer,
    context: StateDep,
    session: ReadSessionDep,
    limit: Annotated[int, Query(ge=1, le=5000)] = 2000,
) -> Response:
    """The pictures on a plane (principal components); of many, ``limit`` spread evenly."""
    _row, collection = open_collection(context, session, name)
    session.close()  # its connection is not held while the map is drawn
    return Response(context.maps.get_json(collection, limit), media_type="application/json")


def _item_view(collection_id: str, record: dict[str, Any]) -> dict[str, Any]:
    """An item with its picture's address and first caption; a text with its pictures' addresses."""
    if "text" in record:
        return {**record, "image_urls": [_image_url(collection_id, item) for item in record.get("items", [])]}
    caption = next(iter(record.get("captions", [])), "")
    return {**record, "caption": caption, "image_url": _image_url(collection_id, record["id"])}


def _image_url(collection_id: str, item: str) -> str:
    return f"/v1/collections/{collection_id}/items/{quote(item, safe='')}/image"
