"""Datasets: registration, validation, versions, statistics, documents and images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, BackgroundTasks, Path, Query, Response
from sqlalchemy.orm import Session

from api.core.auth import Principal, check_owner
from api.core.errors import ERROR_RESPONSES
from api.core.session import documented_responses, in_thread_pool, json_response, single_thread_endpoint
from api.deps import (
    DatasetName,
    Offset,
    ReadSessionDep,
    StateDep,
    Submitter,
    Viewer,
    WriteSessionDep,
    WriteTransactionDep,
)
from api.schemas.base import ListOf
from api.schemas.data import (
    ChangedItemsView,
    DatasetDetail,
    DatasetRequest,
    DatasetVersionView,
    DatasetView,
    DocumentPage,
    ItemTagsRequest,
)
from api.services.state import AppState
from lcl_core.common.errors import UserError
from lcl_core.common.files import remove_tree
from lcl_core.common.paths import Root, resolve_allowed
from lcl_core.db import datasets, deletion, registry
from lcl_core.db.models import Dataset
from lcl_core.specs.base import Tag

if TYPE_CHECKING:
    from lcl_core.data.corpus.base import Corpus

router = APIRouter(prefix="/v1/datasets", tags=["datasets"], responses=ERROR_RESPONSES)
IMAGES = documented_responses("image/png", "image/jpeg", "image/gif", "image/webp")
Split = Annotated[str | None, Query(max_length=200, description="only captioned images of this split")]
Source = Annotated[str | None, Query(max_length=200, description="only captioned images of this source")]


@router.get("", summary="List datasets")
@single_thread_endpoint
def page(_: Viewer, session: ReadSessionDep) -> ListOf[DatasetView]:
    return ListOf[DatasetView](items=[DatasetView.model_validate(row) for row in datasets.list_datasets(session)])


@router.post("", summary="Register dataset", status_code=201)
async def register(
    body: DatasetRequest, principal: Submitter, state: StateDep, transaction: WriteTransactionDep, response: Response
) -> DatasetView:
    """Read and register a corpus, as a new dataset or as a new version of one of the caller's own."""
    root, statistics, digest = await to_thread.run_sync(_read_corpus, state, body.path, limiter=state.long_reads)

    def write(session: Session) -> DatasetView:
        registry.check_name(session, "dataset", body.name, principal.owner, admin=principal.visible_owner is None)
        row = datasets.register_dataset(
            session, body.name, root, state.settings.roots, principal.owner, new_version=body.new_version
        )
        datasets.record_version(session, row, digest, statistics, owner=principal.owner)
        response.headers["location"] = f"/v1/datasets/{row.name}"
        return DatasetView.model_validate(row)

    async with transaction() as session:  # only now: write transactions exclude each other
        return await to_thread.run_sync(write, session)


@router.get("/{name}", summary="Get dataset")
@single_thread_endpoint
def one(name: DatasetName, _: Viewer, session: ReadSessionDep) -> DatasetDetail:
    """With its versions, the newest first, and the tags of its documents and captioned images."""
    row = datasets.get_dataset(session, name)
    return DatasetDetail(
        **DatasetView.model_validate(row).model_dump(),
        versions=[DatasetVersionView.model_validate(each) for each in datasets.list_versions(session, name)],
        tags=datasets.count_tags(session, row),
    )


@router.delete("/{name}", summary="Delete dataset", status_code=204)
def delete(
    name: DatasetName, principal: Submitter, state: StateDep, session: WriteSessionDep, after: BackgroundTasks
) -> None:
    """Remove a dataset with its versions; for its owner and admins. A corpus in the data roots is not deleted.

    The error (409) names the unfinished runs and studies that need it.
    """
    row, home = datasets.get_dataset(session, name), state.settings.home
    check_owner(principal, "dataset", row.name, row.owner)
    for path in deletion.delete_dataset(session, row, principal.visible_owner):
        after.add_task(remove_tree, registry.absolute_path(home, path))


@router.get("/{name}/statistics", summary="Get statistics of dataset")
@in_thread_pool("reading_corpora")
def statistics(name: DatasetName, _: Viewer, state: StateDep, session: ReadSessionDep) -> dict[str, Any]:
    """Counts of documents, images, captions, splits and labels; computed by the first call where they are missing."""
    dataset = datasets.get_dataset(session, name)
    session.close()  # no connection is held while files are read
    return dataset.statistics or _store_statistics(state, dataset)


@router.get("/{name}/documents", summary="List documents of dataset", response_model=DocumentPage)
@in_thread_pool("reading_corpora")
def documents(
    name: DatasetName,
    _: Viewer,
    state: StateDep,
    session: ReadSessionDep,
    view: Annotated[
        Literal["interleaved", "pairs"], Query(description="whole documents, or captioned images")
    ] = "interleaved",
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=100, description="greatest number of items")] = 20,
    split: Split = None,
    source: Source = None,
    q: Annotated[str, Query(max_length=200, description="only items with all of these words, from offset on")] = "",
    tag: Annotated[Tag | None, Query(description="only items with this tag, from offset on")] = None,
) -> Response:
    """Documents with their images in place, or captioned images (of a split and a source).

    ``q``: a search ends after two seconds, also with fewer items; ``next`` is the offset to go on with.
    """
    dataset = datasets.get_dataset(session, name)
    among = None if tag is None else datasets.tagged_items(session, dataset, [tag])
    session.close()
    corpus, browser = _open_corpus(state, dataset), state.corpora()
    page = browser.page(
        corpus,
        name,
        dataset.statistics or {},
        view=view,
        offset=offset,
        limit=limit,
        split=split,
        source=source,
        words=q,
        among=among,
    )
    with state.database.reading() as session:
        tags = datasets.item_tags(session, dataset, [item["item"] for item in page["items"]])
    for item in page["items"]:
        item["tags"] = tags[item["item"]]
    return json_response(DocumentPage(**page))


@router.patch("/{name}/tags", summary="Change tags of documents")
async def change_tags(
    name: DatasetName, body: ItemTagsRequest, principal: Submitter, state: StateDep, transaction: WriteTransactionDep
) -> ChangedItemsView:
    """Add and remove tags of documents and captioned images; for the dataset's owner and admins.

    A conversion keeps or leaves out what has a tag (``only_tags``, ``without_tags``). Tags belong to the contents of
    the dataset: a new version begins without tags. The same call again changes nothing.
    """
    items = await to_thread.run_sync(_tagged_items, state, principal, name, body.items, limiter=state.reading_corpora)

    def write(session: Session) -> ChangedItemsView:
        dataset = datasets.get_dataset(session, name)
        return ChangedItemsView(changed=datasets.change_tags(session, dataset, items, body.add, body.remove))

    async with transaction() as session:
        return await to_thread.run_sync(write, session)


@router.get(
    "/{name}/images/{image:path}", summary="Download image of dataset", response_class=Response, responses=IMAGES
)
@in_thread_pool("reading_corpora")
def image(
    name: DatasetName,
    image: Annotated[str, Path(description="path of the image in the corpus")],
    _: Viewer,
    state: StateDep,
    session: ReadSessionDep,
) -> Response:
    """An image file of the corpus."""
    dataset = datasets.get_dataset(session, name)
    session.close()
    data, media_type = state.corpora().image(_open_corpus(state, dataset), image)
    return Response(data, media_type=media_type, headers={"cache-control": "private, max-age=3600"})


def _read_corpus(state: AppState, path: str) -> tuple[Root, dict[str, Any], str]:
    """Location, statistics and content hash of a corpus. Raises: UserError."""
    root, browser = resolve_allowed(path, state.settings.roots), state.corpora()
    try:
        corpus = browser.open(root)
    except UserError as error:
        error.field = "path"
        raise
    return root, browser.statistics(corpus), corpus.content_hash()


def _tagged_items(state: AppState, principal: Principal, name: str, items: Sequence[str]) -> list[str]:
    """Locations of the items, which are the principal's to tag; contents that have no hash yet get one.

    Raises: Problem 403, 422 ``bad_request``; UserError.
    """
    with state.database.reading() as session:
        dataset = datasets.get_dataset(session, name)
    check_owner(principal, "dataset", dataset.name, dataset.owner, verb="tag documents of")
    locations = state.corpora().locations(_open_corpus(state, dataset), items)
    if dataset.content_hash is None:
        _store_statistics(state, dataset)
    return locations


def _open_corpus(state: AppState, dataset: Dataset) -> Corpus:
    settings = state.settings
    with state.database.reading() as session:
        fetched = {dataset.path: state.artifacts.folder(session, dataset.path)}
    return state.corpora().open(registry.dataset_location(settings.home, dataset, settings.roots, fetched))


def _store_statistics(state: AppState, dataset: Dataset) -> dict[str, Any]:
    corpus = _open_corpus(state, dataset)
    statistics, digest = state.corpora().statistics(corpus), corpus.content_hash()
    with state.database.session() as session:
        datasets.record_version(session, datasets.get_dataset(session, dataset.name), digest, statistics)
    return statistics
