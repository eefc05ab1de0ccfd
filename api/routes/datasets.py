"""Datasets: register, validate, count, leaf through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Query, Response
from sqlalchemy.orm import Session

from api import corpora
from api.admission import admit
from api.answers import PICTURES, sends
from api.callers import Caller, check_owner
from api.context import Context
from api.deps import ContextDep, ReaderDep, SessionDep, Submitter, Viewer
from api.errors import REFUSALS
from api.models import (
    DatasetList,
    DatasetVersionList,
    DatasetVersionView,
    DatasetView,
    DocumentPage,
    Examination,
    PathExamination,
    Registration,
    RunView,
)
from api.transactions import brief
from api.views import run_view
from lcl_core.errors import UserError
from lcl_core.roots import confined
from lcl_core.runs import store
from lcl_core.runs.artifacts import remove_tree
from lcl_core.runs.tables import Dataset

if TYPE_CHECKING:
    from lcl_core.data.corpus import Corpus

router = APIRouter(prefix="/v1/datasets", tags=["datasets"], responses=REFUSALS)
Word = Annotated[str | None, Query(max_length=200)]


@router.get("")
@brief
def page(_: Viewer, session: ReaderDep) -> DatasetList:
    return DatasetList(items=[DatasetView.model_validate(row) for row in store.list_datasets(session)])


@router.post("/validate", status_code=202)
def validate_path(
    body: PathExamination,
    caller: Submitter,
    context: ContextDep,
    session: SessionDep,
    after: BackgroundTasks,
    response: Response,
) -> RunView:
    """Queue a run that examines what lies at a path, in whatever format; nothing is registered."""
    return _submit(body.model_dump(), caller, context, session, after, response)


@router.post("/{name}/validate", status_code=202)
def validate(
    name: str,
    caller: Submitter,
    context: ContextDep,
    session: SessionDep,
    after: BackgroundTasks,
    response: Response,
    body: Examination | None = None,
) -> RunView:
    """Queue a run that examines a dataset; its report, pictures and quarantine list are the run's artifacts."""
    store.get_dataset(session, name)
    spec = {"dataset": name, **(body or Examination()).model_dump()}
    return _submit(spec, caller, context, session, after, response)


@router.post("", status_code=201)
def register(
    body: Registration, caller: Submitter, context: ContextDep, session: SessionDep, response: Response
) -> DatasetView:
    """Read a corpus and give it a name, or make it the new version of one of the caller's own."""
    place = confined(body.path, context.settings.roots)
    try:
        corpus = context.corpora.get(place)
    except UserError as error:
        error.field = "path"
        raise
    statistics, digest = corpora.examine(corpus), corpus.content_hash()  # before the transaction: it may take long
    store.check_name(session, "dataset", body.name, caller.owner, admin=caller.sees is None)
    row = store.register_dataset(
        session, body.name, place, context.settings.roots, caller.owner, new_version=body.new_version
    )
    store.note_contents(session, row, digest, statistics, owner=caller.owner)
    response.headers["location"] = f"/v1/datasets/{row.name}"
    return DatasetView.model_validate(row)


@router.get("/{name}")
@brief
def one(name: str, _: Viewer, session: ReaderDep) -> DatasetView:
    return DatasetView.model_validate(store.get_dataset(session, name))


@router.delete("/{name}", status_code=204)
def delete(name: str, caller: Submitter, context: ContextDep, session: SessionDep, after: BackgroundTasks) -> None:
    """Remove a dataset with its versions; for its owner and admins. A corpus in the data roots stays where it lies.

    What needs it is named in the refusal (409): runs and studies that have not ended.
    """
    row, home = store.get_dataset(session, name), context.settings.home
    check_owner(caller, "dataset", row.name, row.owner)
    for path in store.delete_dataset(session, row, home, caller.sees):
        after.add_task(remove_tree, store.located(home, path))


@router.get("/{name}/versions")
@brief
def versions(name: str, _: Viewer, session: ReaderDep) -> DatasetVersionList:
    """What the name stood for, newest first; contents are known by their hash."""
    rows = store.list_versions(session, name)
    return DatasetVersionList(items=[DatasetVersionView.model_validate(row) for row in rows])


@router.get("/{name}/statistics")
def statistics(name: str, _: Viewer, context: ContextDep, session: ReaderDep) -> dict[str, Any]:
    """Counts of documents, pictures, captions, splits and labels; made at the first call where they are missing."""
    dataset = store.get_dataset(session, name)
    return dataset.statistics or _count(context, dataset)


@router.get("/{name}/documents")
def documents(
    name: str,
    _: Viewer,
    context: ContextDep,
    session: ReaderDep,
    view: corpora.View = "interleaved",
    offset: Annotated[int, Query(ge=0, lt=2**53)] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    split: Word = None,
    source: Word = None,
    tokens: bool = False,
) -> DocumentPage:
    """Documents with their pictures in place, or captioned images (of a split and a source).

    ``tokens``: with each segment's length in CLIP tokens, 49 of them and two marks for a picture.
    """
    dataset = store.get_dataset(session, name)
    wanted = corpora.Wanted(view, offset, limit, split, source, tokens)
    return DocumentPage(**corpora.page(_open(context, dataset), name, wanted, dataset.statistics or {}))


@router.get("/{name}/images/{image:path}", response_class=Response, responses=sends(*PICTURES))
def image(name: str, image: str, _: Viewer, context: ContextDep, session: ReaderDep) -> Response:
    """A picture as the corpus holds it."""
    data, media_type = corpora.picture(_open(context, store.get_dataset(session, name)), image)
    return Response(data, media_type=media_type, headers={"cache-control": "private, max-age=3600"})


def _submit(
    spec: dict[str, Any],
    caller: Caller,
    context: Context,
    session: Session,
    after: BackgroundTasks,
    response: Response,
) -> RunView:
    admitted = admit(session, "validate", spec, context.settings.roots)
    run = store.submit(session, "validate", admitted, owner=caller.owner)
    response.headers["location"] = f"/v1/runs/{run.id}"
    after.add_task(context.ringer.ring, [run.id])
    return run_view(session, run)


def _open(context: Context, dataset: Dataset) -> Corpus:
    settings = context.settings
    with context.database.reading() as session:
        fetched = {dataset.path: context.supply.folder(session, dataset.path)}
    return context.corpora.get(store.dataset_place(settings.home, dataset, settings.roots, fetched))


def _count(context: Context, dataset: Dataset) -> dict[str, Any]:
    corpus = _open(context, dataset)
    figures, digest = corpora.examine(corpus), corpus.content_hash()
    with context.database.session() as session:
        store.note_contents(session, store.get_dataset(session, dataset.name), digest, figures)
    return figures
