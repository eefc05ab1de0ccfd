"""Collections: pages, search, items, images, vectors, near-duplicates, maps, changes and export."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, BackgroundTasks, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from api.core.auth import check_owner
from api.core.errors import ERROR_RESPONSES, documented_responses
from api.core.models import ItemList, RowView, list_of, row_view
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
    in_thread_pool,
)
from api.services import search as search_service
from api.services.collection_items import AddItemsRequest, ChangeLabelsRequest, add_items, change_labels, remove_item
from api.services.search import (
    SearchRequest,
    SearchResponse,
    Target,
    item_view,
    open_collection,
    read_item_image,
    stream_vectors,
)
from lcl_core.common.files import remove_tree
from lcl_core.db import artifacts, collections, registry
from lcl_core.db.models import CollectionRow
from lcl_core.specs.corpus_jobs import LabelType
from lcl_core.vector_indexes import IndexLocation, drop_index

router = APIRouter(prefix="/v1/collections", tags=["collections"], responses=ERROR_RESPONSES)
MAX_LABEL_VALUES = 1000  # listed of a label: a file name, an address or an id has another value for each image
JSON_LINES, BYTES = "application/x-ndjson", "application/octet-stream"
MapMethod = Literal["pca", "tsne"]
VectorTarget = Annotated[Target, Query(description="vectors of the images, or of the texts (captions)")]
COLLECTION_COLUMNS = "id name encoder_id encoder_hash dataset owner run_id images texts dim changes vectors created_at"
# ``vectors``: its index, null where files are searched; ``texts``: in the list those of the last index run
CollectionView = row_view(CollectionRow, COLLECTION_COLUMNS)


class CollectionDetail(RowView):
    labels: dict[str, list[str]] = Field(description="what a filter can ask for: 1,000 values of each label at most")
    label_images: dict[str, list[int]] = Field(description="number of images of each of these values")
    label_counts: dict[str, int] = Field(description="number of all values of each label, of a set of its members")
    label_types: dict[str, LabelType] = Field(
        description="of each label, which say what forms its filter has: text, number, date or set"
    )
    text_vectors: bool = Field(
        description="whether its captions have vectors; false: its encoder reads images alone, and texts are searched "
        "by the words of captions"
    )


class ChangedLabelsView(BaseModel):
    changed: int = Field(description="images whose labels are others now")


class AddedItemsView(BaseModel):
    ids: list[str] = Field(description="in the order of the items")
    images: int = Field(description="how many images the collection holds then")


class DuplicateGroupView(BaseModel):
    size: int = Field(description="images that it holds")
    items: list[dict[str, Any]] = Field(description="100 at most, the centre first; score: the cosine to it")


class DuplicatePage(BaseModel):
    groups: list[DuplicateGroupView] = Field(description="the largest first")
    total: int = Field(description="groups in all")
    offset: int = Field(description="groups that were skipped")
    threshold: float = Field(description="least cosine to the centre of a group")
    took_ms: float = Field(description="milliseconds in the service")


@router.get("", summary="List collections", response_model=list_of(CollectionView))
def page(_: Viewer, session: ReadSessionDep) -> Any:
    """Newest first."""
    return {"items": registry.list_collections(session)}


@router.get(
    "/{name}", summary="Get collection", response_model=row_view(CollectionRow, COLLECTION_COLUMNS, CollectionDetail)
)
def one(name: CollectionReference, _: Viewer, state: StateDep) -> Any:
    """By id or name, with the labels that a filter can ask for."""
    row, collection = open_collection(state, name)
    labels = {label: list(counts.items()) for label, counts in collection.label_counts.items()}
    return {
        **CollectionView.model_validate(row).model_dump(),
        "images": collection.count("images"),
        "texts": collection.count("texts"),
        "labels": {label: [value for value, _ in found[:MAX_LABEL_VALUES]] for label, found in labels.items()},
        "label_images": {label: [count for _, count in found[:MAX_LABEL_VALUES]] for label, found in labels.items()},
        "label_counts": {label: len(found) for label, found in labels.items()},
        "label_types": collection.label_types(),
        "text_vectors": collection.has_text_vectors,
    }


@router.post("/{name}/search", summary="Search collection")
async def search(name: CollectionReference, body: SearchRequest, _: Viewer, state: StateDep) -> SearchResponse:
    """The nearest items by cosine among those that ``where`` allows."""
    return await search_service.search(state, name, body)


@router.get("/{name}/duplicates", summary="Find near-duplicates")
@in_thread_pool("comparing")
def duplicates(
    name: CollectionReference,
    _: Viewer,
    state: StateDep,
    threshold: Annotated[float, Query(ge=0, le=1, description="the cosine from which on two are linked")] = 0.95,
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=100, description="greatest number of groups")] = 20,
) -> DuplicatePage:
    """Groups of images that are nearly the same as their centre, the image with most of them; the largest first.

    Every pair is compared; in a collection with a graph each image with its 32 nearest, so that a link may be missed.
    """
    started = time.perf_counter()
    row, collection = open_collection(state, name)
    page, total = state.inference().duplicates.page(collection, threshold, slice(offset, offset + limit))
    groups = [
        DuplicateGroupView(size=size, items=[{"score": hit.score, **item_view(row.id, hit.metadata)} for hit in hits])
        for size, hits in page
    ]
    took_ms = round((time.perf_counter() - started) * 1000, 2)
    return DuplicatePage(groups=groups, total=total, offset=offset, threshold=threshold, took_ms=took_ms)


@router.get("/{name}/items", summary="List items")
def items(
    name: CollectionReference,
    _: Viewer,
    state: StateDep,
    offset: Offset = 0,
    limit: PageLimit = 50,
) -> ItemList:
    row, collection = open_collection(state, name)
    return ItemList(items=[item_view(row.id, record) for record in collection.items(offset, limit)])


@router.get("/{name}/items/{item}", summary="Get item")
def item(name: CollectionReference, item: ItemId, _: Viewer, state: StateDep) -> dict[str, Any]:
    """An image's record: captions, labels, split, source, and the URL of the image."""
    row, collection = open_collection(state, name)
    return item_view(row.id, collection.item(item))


@router.get(
    "/{name}/items/{item}/image",
    summary="Download image of item",
    response_class=Response,
    responses=documented_responses("image/*"),
)
def image(name: CollectionReference, item: ItemId, _: Viewer, state: StateDep) -> Response:
    """The stored image. It may be replaced under the same id, so browsers cache it for minutes only."""
    data, media_type = read_item_image(state, name, item)
    return Response(data, media_type=media_type, headers={"cache-control": "private, max-age=300"})


@router.get(
    "/{name}/map.safetensors",
    summary="Download map of collection",
    response_class=Response,
    responses=documented_responses(BYTES),
)
@in_thread_pool("comparing")
def map_file(
    name: CollectionReference,
    _: Viewer,
    state: StateDep,
    limit: Annotated[int, Query(ge=1, le=100_000, description="greatest number of points; by t-SNE 10,000")] = 50_000,
    method: Annotated[MapMethod, Query(description="t-SNE of the index run, or principal components")] = "tsne",
) -> Response:
    """The map of many images: tensors ``points`` f32 [n, 2], ``ids`` u64 [n] and ``label.NAME`` i16 [n].

    Its metadata say how many images of how many it shows, the share of the variance along its axes, and how many of an
    image's nearest neighbours are near to it on the map. By t-SNE neighbours stay together, and distances between
    groups mean nothing; where the index run left none, its ``method`` is ``pca``.
    """
    _row, collection = open_collection(state, name)
    return Response(state.inference().maps.get_file(collection, limit, method), media_type=BYTES)


@router.post("/{name}/items", summary="Add items", status_code=201)
async def add(
    name: CollectionReference,
    body: AddItemsRequest,
    _: Submitter,
    state: StateDep,
    transaction: WriteTransactionDep,
) -> AddedItemsView:
    """Embed images with the collection's own encoder and add them: all of a call, or none.

    The next search of every process finds them. An image that was added alike before stays as it is.
    """
    ids, row = await add_items(state, transaction, name, body)
    return AddedItemsView(ids=ids, images=row.images)


@router.patch("/{name}/items", summary="Change labels of items")
def update_labels(
    name: CollectionReference,
    body: ChangeLabelsRequest,
    _: Submitter,
    state: StateDep,
    session: WriteSessionDep,
) -> ChangedLabelsView:
    """Set and remove labels of images, and add and remove members of labels that are sets: of all of them, or of none.

    The next search of every process filters by them. A changed image counts as a change of the collection, and comes
    last in lists. The same call again changes nothing.
    """
    return ChangedLabelsView(changed=change_labels(state, session, name, body))


@router.delete("/{name}/items/{item}", summary="Delete item", status_code=204)
def remove(
    name: CollectionReference,
    item: ItemId,
    _: Submitter,
    state: StateDep,
    session: WriteSessionDep,
) -> None:
    """Remove an image, and the texts that no other image has."""
    remove_item(state, session, name, item)


@router.delete("/{name}", summary="Delete collection", status_code=204)
def delete(
    name: CollectionReference, principal: Submitter, state: StateDep, session: WriteSessionDep, after: BackgroundTasks
) -> None:
    """Remove a collection and its folder; for its owner and admins."""
    row = registry.get_collection(session, name)
    check_owner(principal, "collection", row.name, row.owner)
    collections.delete_collection(session, row)
    after.add_task(drop_index, row.vectors, IndexLocation(settings=state.settings))
    after.add_task(remove_tree, artifacts.absolute_path(state.settings.home, row.path))


@router.get(
    "/{name}/export", summary="Export collection", response_class=Response, responses=documented_responses(JSON_LINES)
)
def export(name: CollectionReference, _: Viewer, state: StateDep, target: VectorTarget = "images") -> StreamingResponse:
    """All rows with their changes, a JSON object a line: the record, ``encoder_hash`` and ``vector``.

    ``x-total-count`` of the answer is their number. Changes that are made meanwhile are not among them.
    """
    row, collection = open_collection(state, name)
    collection.check_vectors(target)
    headers = {"content-disposition": f'attachment; filename="{row.id}.{target}.jsonl"'}
    headers["x-total-count"] = str(collection.count(target))
    # The collection is in memory or mapped, so that it stays readable although its folder may be removed meanwhile.
    return StreamingResponse(stream_vectors(collection, target), media_type=JSON_LINES, headers=headers)
