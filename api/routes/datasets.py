"""Datasets: register, validate, count, leaf through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, BackgroundTasks, Query, Response
from sqlalchemy.orm import Session

from api.core.auth import Principal, check_owner
from api.core.errors import ERROR_RESPONSES
from api.core.responses import IMAGE_MEDIA_TYPES, documented_responses, json_response
from api.core.session import in_thread_pool, single_thread_endpoint
from api.core.state import AppState
from api.deps import ReadSessionDep, StateDep, Submitter, Viewer, WriteSessionDep, WriteTransactionDep
from api.schemas.base import (
    DatasetList,
    DatasetRequest,
    DatasetVersionList,
    DatasetVersionView,
    DatasetView,
    DocumentPage,
    PathValidationRequest,
    RunView,
    ValidationRequest,
)
from api.services import datasets
from api.services.runs import run_view, validate_submission
from lcl_core.common.errors import UserError
from lcl_core.common.files import remove_tree
from lcl_core.common.paths import Root, resolve_allowed
from lcl_core.db import datasets as db_datasets
from lcl_core.db import deletion, registry, submit
from lcl_core.db.models import Dataset

if TYPE_CHECKING:
    from lcl_core.data.corpus.base import Corpus

router = APIRouter(prefix="/v1/datasets", tags=["datasets"], responses=ERROR_RESPONSES)
Filter = Annotated[str | None, Query(max_length=200)]


@router.get("")
@single_thread_endpoint
def page(_: Viewer, session: ReadSessionDep) -> DatasetList:
    return DatasetList(items=[DatasetView.model_validate(row) for row in db_datasets.list_datasets(session)])


@router.post("/validate", status_code=202)
def validate_path(
    body: PathValidationRequest,
    caller: Submitter,
    context: StateDep,
    session: WriteSessionDep,
    after: BackgroundTasks,
    response: Response,
) -> RunView:
    """Queue a run that examines what lies at a path, in whatever format; nothing is registered."""
    return _submit_validation(body.model_dump(), caller, context, session, after, response)


@router.post("/{name}/validate", status_code=202)
def validate(
    name: str,
    caller: Submitter,
    context: StateDep,
    session: WriteSessionDep,
    after: BackgroundTasks,
    response: Response,
    body: ValidationRequest | None = None,
) -> RunView:
    """Queue a run that examines a dataset; its report, pictures and quarantine list are the run's artifacts."""
    db_datasets.get_dataset(session, name)
    spec = {"dataset": name, **(body or ValidationRequest()).model_dump()}
    return _submit_validation(spec, caller, context, session, after, response)


@router.post("", status_code=201)
async def register(
    body: DatasetRequest, caller: Submitter, context: StateDep, writing: WriteTransactionDep, response: Response
) -> DatasetView:
    """Read a corpus and give it a name, or make it the new version of one of the caller's own."""
    place, statistics, digest = await context.long_reads.run(caller.owner, _read_corpus, context, body.path)

    def keep(session: Session) -> DatasetView:
        registry.check_name(session, "dataset", body.name, caller.owner, admin=caller.visible_owner is None)
        context.quotas.check_bytes(session, caller.owner)
        row = db_datasets.register_dataset(
            session, body.name, place, context.settings.roots, caller.owner, new_version=body.new_version
        )
        db_datasets.record_version(session, row, digest, statistics, owner=caller.owner)
        response.headers["location"] = f"/v1/datasets/{row.name}"
        return DatasetView.model_validate(row)

    async with writing() as session:  # not before: its turn is everybody's
        return await to_thread.run_sync(keep, session)


@router.get("/{name}")
@single_thread_endpoint
def one(name: str, _: Viewer, session: ReadSessionDep) -> DatasetView:
    return DatasetView.model_validate(db_datasets.get_dataset(session, name))


@router.delete("/{name}", status_code=204)
def delete(name: str, caller: Submitter, context: StateDep, session: WriteSessionDep, after: BackgroundTasks) -> None:
    """Remove a dataset with its versions; for its owner and admins. A corpus in the data roots stays where it lies.

    What needs it is named in the refusal (409): runs and studies that have not ended.
    """
    row, home = db_datasets.get_dataset(session, name), context.settings.home
    check_owner(caller, "dataset", row.name, row.owner)
    for path in deletion.delete_dataset(session, row, home, caller.visible_owner):
        after.add_task(remove_tree, registry.absolute_path(home, path))


@router.get("/{name}/versions")
@single_thread_endpoint
def versions(name: str, _: Viewer, session: ReadSessionDep) -> DatasetVersionList:
    """What the name stood for, newest first; contents are known by their hash."""
    rows = db_datasets.list_versions(session, name)
    return DatasetVersionList(items=[DatasetVersionView.model_validate(row) for row in rows])


@router.get("/{name}/statistics")
@in_thread_pool("reading_corpora")
def statistics(name: str, _: Viewer, context: StateDep, session: ReadSessionDep) -> dict[str, Any]:
    """Counts of documents, pictures, captions, splits and labels; made at the first call where they are missing."""
    dataset = db_datasets.get_dataset(session, name)
    session.close()  # its connection is not held while files are read
    return dataset.statistics or _store_statistics(context, dataset)


@router.get("/{name}/documents", response_model=DocumentPage)
@in_thread_pool("reading_corpora")
def documents(
    name: str,
    _: Viewer,
    context: StateDep,
    session: ReadSessionDep,
    view: datasets.CorpusView = "interleaved",
    offset: Annotated[int, Query(ge=0, lt=2**53)] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    split: Filter = None,
    source: Filter = None,
    tokens: bool = False,
) -> Response:
    """Documents with their pictures in place, or captioned images (of a split and a source).

    ``tokens``: with each segment's length in CLIP tokens, 49 of them and two marks for a picture.
    """
    dataset = db_datasets.get_dataset(session, name)
    session.close()
    wanted = datasets.DocumentQuery(view, offset, limit, split, source, tokens)
    return json_response(
        DocumentPage(**datasets.document_page(_open_corpus(context, dataset), name, wanted, dataset.statistics or {}))
    )


@router.get("/{name}/images/{image:path}", response_class=Response, responses=documented_responses(*IMAGE_MEDIA_TYPES))
@in_thread_pool("reading_corpora")
def image(name: str, image: str, _: Viewer, context: StateDep, session: ReadSessionDep) -> Response:
    """A picture as the corpus holds it."""
    dataset = db_datasets.get_dataset(session, name)
    session.close()
    data, media_type = datasets.get_image(_open_corpus(context, dataset), image)
    return Response(data, media_type=media_type, headers={"cache-control": "private, max-age=3600"})


def _read_corpus(context: AppState, path: str) -> tuple[Root, dict[str, Any], str]:
    """Where the corpus lies, its counts and the hash of its contents. Raises: UserError."""
    place = resolve_allowed(path, context.settings.roots)
    try:
        corpus = context.corpus_cache.get(place)
    except UserError as error:
        error.field = "path"
        raise
    return place, datasets.compute_statistics(corpus), corpus.content_hash()


def _submit_validation(
    spec: dict[str, Any],
    caller: Principal,
    context: AppState,
    session: Session,
    after: BackgroundTasks,
    response: Response,
) -> RunView:
    admitted = validate_submission(session, "validate", spec, context.settings.roots)
    with context.quotas.admit_runs(session, caller.owner, 1):
        run = submit.submit(session, "validate", admitted, owner=caller.owner)
    response.headers["location"] = f"/v1/runs/{run.id}"
    after.add_task(context.wakeups.wake, [run.id])
    return run_view(session, run)


def _open_corpus(context: AppState, dataset: Dataset) -> Corpus:
    settings = context.settings
    with context.database.reading() as session:
        fetched = {dataset.path: context.artifacts.folder(session, dataset.path)}
    return context.corpus_cache.get(registry.dataset_location(settings.home, dataset, settings.roots, fetched))


def _store_statistics(context: AppState, dataset: Dataset) -> dict[str, Any]:
    corpus = _open_corpus(context, dataset)
    figures, digest = datasets.compute_statistics(corpus), corpus.content_hash()
    with context.database.session() as session:
        db_datasets.record_version(session, db_datasets.get_dataset(session, dataset.name), digest, figures)
    return figures
