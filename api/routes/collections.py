"""Collections: pages, search, items, images, vectors, near-duplicates, maps, changes and export."""

from __future__ import annotations

import time
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, BackgroundTasks, Query, Response
from fastapi.responses import StreamingResponse

from api.core.auth import check_owner
from api.core.errors import ERROR_RESPONSES
from api.core.session import (
    documented_responses,
    in_thread_pool,
    json_response,
    single_thread_endpoint,
    stream_in_threads,
)
from api.deps import (
    CollectionReference,
    ItemId,
    Offset,
    PageLimit,
    ReadSessionDep,
    StateDep,
    Submitter,
    Viewer,
    WriteSessionDep,
    WriteTransactionDep,
)
from api.schemas.base import ItemList, ListOf
from api.schemas.collections import (
    AddedItemsView,
    AddItemsRequest,
    ChangedLabelsView,
    ChangeLabelsRequest,
    CollectionDetail,
    CollectionMap,
    CollectionView,
    DuplicateGroupView,
    DuplicatePage,
    MapMethod,
    SearchRequest,
    SearchResponse,
    Target,
)
from api.services import search as search_service
from api.services.collection_items import add_items, change_labels, remove_item
from api.services.search import item_view, open_collection, open_for_search, read_item_image, stream_vectors
from lcl_core.common.files import remove_tree
from lcl_core.db import collections, registry
from lcl_core.vector_indexes import IndexLocation, drop_index

router = APIRouter(prefix="/v1/collections", tags=["collections"], responses=ERROR_RESPONSES)
MAX_LABEL_VALUES = 1000  # listed of a label: a file name, an address or an id has another value for each image
JSON_LINES, BYTES = "application/x-ndjson", "application/octet-stream"
VectorTarget = Annotated[Target, Query(description="vectors of the images, or of the texts (captions)")]


@router.get("", summary="List collections")
@single_thread_endpoint
def page(_: Viewer, session: ReadSessionDep) -> ListOf[CollectionView]:
    """Newest first."""
    return ListOf[CollectionView](
        items=[CollectionView.model_validate(row) for row in registry.list_collections(session)]
    )


@router.get("/{name}", summary="Get collection", response_model=CollectionDetail)
def one(name: CollectionReference, _: Viewer, state: StateDep, session: ReadSessionDep) -> Response:
    """By id or name, with the labels that a filter can ask for."""
    row, collection = open_collection(state, session, name)
    columns = CollectionView.model_validate(row).model_dump()
    columns |= {"images": collection.count("images"), "texts": collection.count("texts")}
    values = collection.label_values()
    facets = {
        "labels": {label: listed[:MAX_LABEL_VALUES] for label, listed in values.items()},
        "label_counts": {label: len(listed) for label, listed in values.items()},
        "label_types": collection.label_types(),
        "text_vectors": collection.has_text_vectors,
    }
    return json_response(CollectionDetail(**columns, **facets))


@router.post("/{name}/search", summary="Search collection")
async def search(name: CollectionReference, body: SearchRequest, _: Viewer, state: StateDep) -> SearchResponse:
    """The nearest items by cosine among those that ``where`` allows."""
    return await search_service.search(state, name, body)


@router.get("/{name}/duplicates", summary="Find near-duplicates")
async def duplicates(
    name: CollectionReference,
    _: Viewer,
    state: StateDep,
    session: ReadSessionDep,
    threshold: Annotated[float, Query(ge=0, le=1, description="the cosine from which on two are linked")] = 0.95,
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=100, description="greatest number of groups")] = 20,
) -> DuplicatePage:
    """Groups of images that are linked, directly or through others; the largest first.

    Every pair is compared; in a collection with a graph each image with its 32 nearest, so that a link may be missed.
    """
    started = time.perf_counter()
    opened = await to_thread.run_sync(open_for_search, state, session, name, limiter=state.drawing)
    cache = state.inference().duplicates  # imported by now: the collection is open
    part = slice(offset, offset + limit)
    page, total = await to_thread.run_sync(cache.page, opened.collection, threshold, part, limiter=state.comparing)
    groups = [
        DuplicateGroupView(
            size=size, items=[{"score": hit.score, **item_view(opened.id, hit.metadata)} for hit in hits]
        )
        for size, hits in page
    ]
    took_ms = round((time.perf_counter() - started) * 1000, 2)
    return DuplicatePage(groups=groups, total=total, offset=offset, threshold=threshold, took_ms=took_ms)


@router.get("/{name}/items", summary="List items")
def items(
    name: CollectionReference,
    _: Viewer,
    state: StateDep,
    session: ReadSessionDep,
    offset: Offset = 0,
    limit: PageLimit = 50,
) -> ItemList:
    row, collection = open_collection(state, session, name)
    return ItemList(items=[item_view(row.id, record) for record in collection.items(offset, limit)])


@router.get("/{name}/items/{item}", summary="Get item")
def item(
    name: CollectionReference, item: ItemId, _: Viewer, state: StateDep, session: ReadSessionDep
) -> dict[str, Any]:
    """An image's record: captions, labels, split, source, and the URL of the image."""
    row, collection = open_collection(state, session, name)
    return item_view(row.id, collection.item(item))


@router.get(
    "/{name}/items/{item}/image",
    summary="Download image of item",
    response_class=Response,
    responses=documented_responses("image/*"),
)
def image(name: CollectionReference, item: ItemId, _: Viewer, state: StateDep, session: ReadSessionDep) -> Response:
    """The stored image. It may be replaced under the same id, so browsers cache it for minutes only."""
    data, media_type = read_item_image(state, session, name, item)
    return Response(data, media_type=media_type, headers={"cache-control": "private, max-age=300"})


@router.get("/{name}/map", summary="Get map of collection", response_model=CollectionMap)
@in_thread_pool("drawing")
def map_(
    name: CollectionReference,
    _: Viewer,
    state: StateDep,
    session: ReadSessionDep,
    limit: Annotated[int, Query(ge=1, le=5000, description="greatest number of points")] = 2000,
) -> Response:
    """Two principal components of the images' vectors; of many images, ``limit`` spread evenly."""
    _row, collection = open_collection(state, session, name)
    session.close()  # no connection is held while the map is computed
    return Response(state.inference().maps.get_json(collection, limit), media_type="application/json")


@router.get(
    "/{name}/map.safetensors",
    summary="Download map of collection",
    response_class=Response,
    responses=documented_responses(BYTES),
)
async def map_file(
    name: CollectionReference,
    _: Viewer,
    state: StateDep,
    session: ReadSessionDep,
    limit: Annotated[int, Query(ge=1, le=100_000, description="greatest number of points; by t-SNE 10,000")] = 50_000,
    method: Annotated[MapMethod, Query(description="principal components, or t-SNE, which takes seconds")] = "pca",
) -> Response:
    """The map of many images: tensors ``points`` f32 [n, 2], ``ids`` u64 [n] and ``label.NAME`` i16 [n].

    Its metadata say how many images of how many it shows, the share of the variance along its axes, and how many of an
    image's nearest neighbours are near to it on the map. By t-SNE neighbours stay together, and distances between
    groups mean nothing.
    """
    opened = await to_thread.run_sync(open_for_search, state, session, name, limiter=state.drawing)
    maps = state.inference().maps
    file = await to_thread.run_sync(maps.get_file, opened.collection, limit, method, limiter=state.comparing)
    return Response(file, media_type=BYTES)


@router.post("/{name}/items", summary="Add items", status_code=201)
async def add(
    name: CollectionReference,
    body: AddItemsRequest,
    _: Submitter,
    state: StateDep,
    session: ReadSessionDep,
    transaction: WriteTransactionDep,
) -> AddedItemsView:
    """Embed images with the collection's own encoder and add them: all of a call, or none.

    The next search of every process finds them. An image that was added alike before stays as it is.
    """
    ids, row = await add_items(state, session, transaction, name, body)
    return AddedItemsView(ids=ids, images=row.images)


@router.patch("/{name}/items", summary="Change labels of items")
def update_labels(
    name: CollectionReference,
    body: ChangeLabelsRequest,
    principal: Submitter,
    state: StateDep,
    reader: ReadSessionDep,
    session: WriteSessionDep,
) -> ChangedLabelsView:
    """Set and remove labels of images, and add and remove members of labels that are sets: of all of them, or of none.

    The next search of every process filters by them. A changed image counts as a change of the collection, and comes
    last in lists. The same call again changes nothing.
    """
    return ChangedLabelsView(changed=change_labels(state, reader, session, name, body, principal.owner))


@router.delete("/{name}/items/{item}", summary="Delete item", status_code=204)
def remove(
    name: CollectionReference,
    item: ItemId,
    _: Submitter,
    state: StateDep,
    reader: ReadSessionDep,
    session: WriteSessionDep,
) -> None:
    """Remove an image, and the texts that no other image has."""
    remove_item(state, reader, session, name, item)


@router.delete("/{name}", summary="Delete collection", status_code=204)
def delete(
    name: CollectionReference, principal: Submitter, state: StateDep, session: WriteSessionDep, after: BackgroundTasks
) -> None:
    """Remove a collection and its folder; for its owner and admins."""
    row = registry.get_collection(session, name)
    check_owner(principal, "collection", row.name, row.owner)
    collections.delete_collection(session, row)
    after.add_task(drop_index, row.vectors, IndexLocation(settings=state.settings))
    after.add_task(remove_tree, registry.absolute_path(state.settings.home, row.path))


@router.get(
    "/{name}/export", summary="Export collection", response_class=Response, responses=documented_responses(JSON_LINES)
)
@in_thread_pool("exporting")
def export(
    name: CollectionReference, _: Viewer, state: StateDep, session: ReadSessionDep, target: VectorTarget = "images"
) -> StreamingResponse:
    """All rows with their changes, a JSON object a line: the record, ``encoder_hash`` and ``vector``.

    ``x-total-count`` of the answer is their number. Changes that are made meanwhile are not among them.
    """
    row, collection = open_collection(state, session, name)
    collection.check_vectors(target)
    headers = {"content-disposition": f'attachment; filename="{row.id}.{target}.jsonl"'}
    headers["x-total-count"] = str(collection.count(target))
    # The collection is in memory or mapped, so that it stays readable although its folder may be removed meanwhile.
    lines = stream_in_threads(state.exporting, stream_vectors(collection, target))
    return StreamingResponse(lines, media_type=JSON_LINES, headers=headers)
