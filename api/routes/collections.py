"""Vector collections: look, search, pictures, vectors."""

from __future__ import annotations

import time
from functools import partial
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

from anyio import to_thread
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.answers import sends
from api.deps import ContextDep, ReaderDep, Viewer
from api.media import Content
from api.models import CollectionDetail, CollectionList, CollectionMap, CollectionView, Items, Line, VectorPage
from api.search import open_collection, open_for_search, picture_of
from api.transactions import brief
from api.vectors import embed_query
from lcl_core.runs import store

router = APIRouter(prefix="/v1/collections", tags=["collections"])
Target = Literal["images", "texts"]
Offset = Annotated[int, Query(ge=0, lt=2**53)]


class SearchRequest(BaseModel):
    """Exactly one of text, image and vector."""

    model_config = ConfigDict(extra="forbid")

    text: Content | None = None
    image: Content | None = Field(None, description="a picture as a data URL")
    vector: list[float] | None = Field(None, max_length=16_384)
    target: Target = "images"
    k: int = Field(20, ge=1, le=1000)
    offset: int = Field(0, ge=0, le=9000, description="hits to leave out: those of the pages before")
    where: dict[Line, Line | list[Line]] = Field({}, max_length=32, description="{label: value or values}")

    @model_validator(mode="after")
    def _one_query(self) -> Self:
        given = [name for name in ("text", "image", "vector") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of text, image and vector (got {', '.join(given) or 'none'})")
        return self


class SearchResponse(BaseModel):
    hits: list[dict[str, Any]] = Field(description="best first: id, score (cosine), and the item or text")
    took_ms: float


@router.get("")
@brief
def page(_: Viewer, session: ReaderDep) -> CollectionList:
    """Newest first."""
    return CollectionList(items=[CollectionView.model_validate(row) for row in store.list_collections(session)])


@router.get("/{name}")
def one(name: str, _: Viewer, context: ContextDep, session: ReaderDep) -> CollectionDetail:
    """By id or name, with the labels that a filter can ask for."""
    row, collection = open_collection(context, session, name)
    facts = CollectionView.model_validate(row).model_dump()
    counts = {"images": collection.count("images"), "texts": collection.count("texts")}
    return CollectionDetail(**{**facts, **counts}, labels=collection.label_values())


@router.post("/{name}/search")
async def search(name: str, body: SearchRequest, _: Viewer, context: ContextDep, session: ReaderDep) -> SearchResponse:
    """The nearest items by cosine among those that ``where`` allows."""
    started = time.perf_counter()
    lane, encodes = context.inferring, body.vector is None
    searched = await to_thread.run_sync(open_for_search, context, session, name, encodes, limiter=lane)
    vector: Any = body.vector
    encoder = searched.encoder
    if encoder is not None:
        vector = await embed_query(encoder, body.text, body.image, context.settings, lane)
    look = partial(
        searched.collection.search,
        vector,
        body.offset + body.k,
        body.target,
        body.where or None,
        encoder_hash=None if encoder is None else encoder.hash,
    )
    hits = [
        {"id": hit.id, "score": hit.score, **_shown(searched.id, hit.metadata)}
        for hit in (await to_thread.run_sync(look, limiter=lane))[body.offset :]
    ]
    return SearchResponse(hits=hits, took_ms=round((time.perf_counter() - started) * 1000, 2))


@router.get("/{name}/items")
def items(
    name: str,
    _: Viewer,
    context: ContextDep,
    session: ReaderDep,
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Items:
    row, collection = open_collection(context, session, name)
    return Items(items=[_shown(row.id, record) for record in collection.items(offset, limit)])


@router.get("/{name}/items/{item}/image", response_class=Response, responses=sends("image/*"))
def image(name: str, item: str, _: Viewer, context: ContextDep, session: ReaderDep) -> Response:
    """The picture as kept. Under the same id another one may follow, so a browser asks again after some minutes."""
    data, media_type = picture_of(context, session, name, item)
    return Response(data, media_type=media_type, headers={"cache-control": "private, max-age=300"})


@router.get("/{name}/vectors")
def vectors(
    name: str,
    _: Viewer,
    context: ContextDep,
    session: ReaderDep,
    target: Target = "images",
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> VectorPage:
    """Ids and their vectors, row-aligned, page by page."""
    _row, collection = open_collection(context, session, name)
    total = collection.count(target)
    ids, rows = collection.at(target, range(total)[offset : offset + limit])
    return VectorPage(ids=ids, vectors=rows.tolist(), total=total, offset=offset)


@router.get("/{name}/map")
def map_(
    name: str,
    _: Viewer,
    context: ContextDep,
    session: ReaderDep,
    limit: Annotated[int, Query(ge=1, le=5000)] = 2000,
) -> CollectionMap:
    """The pictures on a plane (principal components); of many, ``limit`` spread evenly."""
    from api.maps import map_points  # numpy: only when a map is drawn

    _row, collection = open_collection(context, session, name)
    return CollectionMap(points=map_points(collection, limit), total=len(collection))


def _shown(collection_id: str, record: dict[str, Any]) -> dict[str, Any]:
    """An item with its picture's address and first caption; a text with its pictures' addresses."""
    if "text" in record:
        return {**record, "image_urls": [_image_url(collection_id, item) for item in record.get("items", [])]}
    caption = next(iter(record.get("captions", [])), "")
    return {**record, "caption": caption, "image_url": _image_url(collection_id, record["id"])}


def _image_url(collection_id: str, item: str) -> str:
    return f"/v1/collections/{collection_id}/items/{quote(item, safe='')}/image"
