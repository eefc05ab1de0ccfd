"""Datasets: registration, validation, versions, statistics, documents and images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from fastapi import APIRouter, BackgroundTasks, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from api.core.auth import check_owner
from api.core.errors import ERROR_RESPONSES, documented_responses
from api.core.models import PathText, RequestModel, RowView, list_of, request_example, row_view
from api.deps import (
    DatasetName,
    Offset,
    ReadSessionDep,
    StateDep,
    Submitter,
    Viewer,
    WriteSessionDep,
    WriteTransactionDep,
    in_thread_pool,
)
from api.services.state import AppState
from lcl_core.common.errors import UserError
from lcl_core.common.files import remove_tree
from lcl_core.common.paths import resolve_allowed
from lcl_core.db import artifacts, datasets, garbage, registry
from lcl_core.db.models import Dataset, DatasetVersion
from lcl_core.specs.base import Name, Tag

if TYPE_CHECKING:
    from lcl_core.data.corpus.base import Corpus

router = APIRouter(prefix="/v1/datasets", tags=["datasets"], responses=ERROR_RESPONSES)
IMAGES = documented_responses("image/png", "image/jpeg", "image/gif", "image/webp")
Split = Annotated[str | None, Query(max_length=200, description="only captioned images of this split")]
Source = Annotated[str | None, Query(max_length=200, description="only captioned images of this source")]
COLUMNS = "name path owner content_hash statistics created_at"
DatasetView = row_view(Dataset, COLUMNS)
VersionView = row_view(DatasetVersion, "version path content_hash statistics owner run_id created_at")


class DatasetDetail(RowView):
    versions: list[Any] = Field(description="all of them, the newest first")
    tags: dict[str, int] = Field(description="number of documents and captioned images with each tag")


class DatasetRequest(RequestModel):
    model_config = ConfigDict(json_schema_extra=request_example(name="manuals", path="/srv/corpora/manuals"))

    name: Name = Field(description="name of the dataset")
    path: PathText = Field(description="folder or zip on the server, or a URL of shards, inside its data roots")
    new_version: bool = Field(False, description="a name that exists stands for this corpus from now on")


class DocumentPage(BaseModel):
    items: list[dict[str, Any]] = Field(
        description="documents with their segments: texts, and images with their URL; item names each for its tags"
    )
    rows: list[int] = Field([], description="number of each item, as offset counts")
    next: int | None = Field(None, description="offset to go on with; null: there is nothing more")
    total: int = Field(description="documents in all")
    offset: int = Field(description="that was asked for")
    splits: list[str] = Field([], description="that a filter can ask for")
    sources: list[str] = Field([], description="the same")


class ItemTagsRequest(RequestModel):
    """Tags that documents and captioned images of a dataset gain and lose."""

    model_config = ConfigDict(json_schema_extra=request_example(items=["interleaved.jsonl:12"], add=["blurred"]))

    items: list[Annotated[str, StringConstraints(min_length=1, max_length=300)]] = Field(
        min_length=1, max_length=256, description="item of each, as lists of documents have it; all change, or none"
    )
    add: list[Tag] = Field([], max_length=32, description="tags that they gain")
    remove: list[Tag] = Field([], max_length=32, description="tags that they lose")

    @model_validator(mode="after")
    def _some_change(self) -> Self:
        if not (self.add or self.remove):
            raise ValueError("give at least one of add and remove")
        if both := sorted(set(self.add) & set(self.remove)):
            raise ValueError(f"{both[0]} is to be added and removed; choose one")
        return self


class ChangedItemsView(BaseModel):
    changed: int = Field(description="items whose tags are others now")


@router.get("", summary="List datasets", response_model=list_of(DatasetView))
def page(_: Viewer, session: ReadSessionDep) -> Any:
    return {"items": datasets.list_datasets(session)}


@router.post("", summary="Register dataset", status_code=201, response_model=DatasetView)
@in_thread_pool("slow")
def register(
    body: DatasetRequest, principal: Submitter, state: StateDep, transaction: WriteTransactionDep, response: Response
) -> Any:
    """Read and register a corpus, as a new dataset or as a new version of one of the caller's own."""
    root = resolve_allowed(body.path, state.settings.roots)
    try:
        corpus = _corpora().open_corpus(root)
    except UserError as error:
        error.field = "path"
        raise
    figures, digest = _corpora().compute_statistics(corpus), corpus.content_hash()
    with transaction() as session:  # only now: write transactions exclude each other
        registry.check_name(session, "dataset", body.name, principal.owner, admin=principal.visible_owner is None)
        row = datasets.register_dataset(
            session, body.name, root, state.settings.roots, principal.owner, new_version=body.new_version
        )
        datasets.record_version(session, row, digest, figures, owner=principal.owner)
        response.headers["location"] = f"/v1/datasets/{row.name}"
    return row


@router.get("/{name}", summary="Get dataset", response_model=row_view(Dataset, COLUMNS, DatasetDetail))
def one(name: DatasetName, _: Viewer, session: ReadSessionDep) -> Any:
    """With its versions, the newest first, and the tags of its documents and captioned images."""
    row = datasets.get_dataset(session, name)
    return {
        **DatasetView.model_validate(row).model_dump(),
        "versions": [VersionView.model_validate(each) for each in datasets.list_versions(session, name)],
        "tags": datasets.count_tags(session, row),
    }


@router.delete("/{name}", summary="Delete dataset", status_code=204)
def delete(
    name: DatasetName, principal: Submitter, state: StateDep, session: WriteSessionDep, after: BackgroundTasks
) -> None:
    """Remove a dataset with its versions; for its owner and admins. A corpus in the data roots is not deleted.

    The error (409) names the unfinished runs and studies that need it.
    """
    row, home = datasets.get_dataset(session, name), state.settings.home
    check_owner(principal, "dataset", row.name, row.owner)
    for path in garbage.delete_dataset(session, row, principal.visible_owner):
        after.add_task(remove_tree, artifacts.absolute_path(home, path))


@router.get("/{name}/statistics", summary="Get statistics of dataset")
@in_thread_pool("slow")
def statistics(name: DatasetName, _: Viewer, state: StateDep, session: ReadSessionDep) -> dict[str, Any]:
    """Counts of documents, images, captions, splits and labels; computed by the first call where they are missing."""
    dataset = datasets.get_dataset(session, name)
    session.close()  # no connection is held while files are read
    return dataset.statistics or _store_statistics(state, dataset)


@router.get("/{name}/documents", summary="List documents of dataset", response_model=DocumentPage)
@in_thread_pool("slow")
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
    page = _corpora().document_page(
        _open_corpus(state, dataset),
        name,
        view=view,
        offset=offset,
        limit=limit,
        split=split,
        source=source,
        words=q,
        among=among,
    )
    for filters in ("splits", "sources"):
        page[filters] = sorted((dataset.statistics or {}).get(filters, {}))
    with state.database.reading() as session:
        tags = datasets.item_tags(session, dataset, [item["item"] for item in page["items"]])
    for item in page["items"]:
        item["tags"] = tags[item["item"]]
    return Response(DocumentPage(**page).model_dump_json(), media_type="application/json")


@router.patch("/{name}/tags", summary="Change tags of documents")
@in_thread_pool("slow")
def change_tags(
    name: DatasetName, body: ItemTagsRequest, principal: Submitter, state: StateDep, transaction: WriteTransactionDep
) -> ChangedItemsView:
    """Add and remove tags of documents and captioned images; for the dataset's owner and admins.

    A conversion keeps or leaves out what has a tag (``only_tags``, ``without_tags``). Tags belong to the contents of
    the dataset: a new version begins without tags. The same call again changes nothing.
    """
    with state.database.reading() as session:
        dataset = datasets.get_dataset(session, name)
    check_owner(principal, "dataset", dataset.name, dataset.owner, verb="tag documents of")
    items = _corpora().item_locations(_open_corpus(state, dataset), body.items)
    if dataset.content_hash is None:
        _store_statistics(state, dataset)
    with transaction() as session:
        dataset = datasets.get_dataset(session, name)
        return ChangedItemsView(changed=datasets.change_tags(session, dataset, items, body.add, body.remove))


@router.get(
    "/{name}/images/{image:path}", summary="Download image of dataset", response_class=Response, responses=IMAGES
)
@in_thread_pool("slow")
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
    data, media_type = _corpora().image_file(_open_corpus(state, dataset), image)
    return Response(data, media_type=media_type, headers={"cache-control": "private, max-age=3600"})


def _corpora() -> Any:
    from api.services import corpora  # numpy, Pillow and tokenizers

    return corpora


def _open_corpus(state: AppState, dataset: Dataset) -> Corpus:
    settings = state.settings
    with state.database.reading() as session:
        fetched = {dataset.path: state.artifacts.folder(session, dataset.path)}
    return _corpora().open_corpus(registry.dataset_location(settings.home, dataset, settings.roots, fetched))


def _store_statistics(state: AppState, dataset: Dataset) -> dict[str, Any]:
    corpus = _open_corpus(state, dataset)
    statistics, digest = _corpora().compute_statistics(corpus), corpus.content_hash()
    with state.database.session() as session:
        datasets.record_version(session, datasets.get_dataset(session, dataset.name), digest, statistics)
    return statistics
