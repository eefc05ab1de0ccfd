"""Datasets: validate, register, count, leaf through."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from api import corpora
from api.context import Context
from api.deps import ContextDep, ReaderDep, SessionDep, Submitter, Viewer
from api.models import CorpusPath, DatasetList, DatasetView, DocumentPage, Registration
from lcl_core.runs import store
from lcl_core.runs.tables import Dataset

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])


def _roots(context: Context) -> list[Path]:
    return [context.settings.home, *context.settings.data_roots]


def _place(context: Context, dataset: Dataset) -> Path:
    return store.located(context.settings.home, dataset.path)


@router.get("")
def page(_: Viewer, session: ReaderDep) -> DatasetList:
    return DatasetList(items=[DatasetView.model_validate(row) for row in store.list_datasets(session)])


@router.post("/validate")
def validate(body: CorpusPath, _: Submitter, context: ContextDep) -> dict[str, Any]:
    """Read every line of a corpus and try some of its pictures; nothing is registered."""
    return corpora.examine(context.corpora.get(corpora.confined(body.path, _roots(context))))


@router.post("", status_code=201)
def register(
    body: Registration, caller: Submitter, context: ContextDep, session: SessionDep, response: Response
) -> DatasetView:
    """Validate a corpus and give it a name."""
    path = corpora.confined(body.path, _roots(context))
    corpus = context.corpora.get(path)
    statistics, digest = corpora.examine(corpus), corpus.content_hash()  # before the transaction: it may take long
    row = store.register_dataset(session, body.name, path, _roots(context), caller.owner)
    row.statistics, row.content_hash = statistics, digest
    response.headers["location"] = f"/v1/datasets/{row.name}"
    return DatasetView.model_validate(row)


@router.get("/{name}")
def one(name: str, _: Viewer, session: ReaderDep) -> DatasetView:
    return DatasetView.model_validate(store.get_dataset(session, name))


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
) -> DocumentPage:
    """Documents with their pictures in place, or captioned images."""
    corpus = context.corpora.get(_place(context, store.get_dataset(session, name)))
    return DocumentPage(**corpora.page(corpus, name, view, offset, limit))


@router.get("/{name}/images/{image:path}", response_class=Response)
def image(name: str, image: str, _: Viewer, context: ContextDep, session: ReaderDep) -> Response:
    """A picture as the corpus holds it."""
    corpus = context.corpora.get(_place(context, store.get_dataset(session, name)))
    data, media_type = corpora.picture(corpus, image)
    return Response(data, media_type=media_type, headers={"cache-control": "private, max-age=3600"})


def _count(context: Context, dataset: Dataset) -> dict[str, Any]:
    corpus = context.corpora.get(_place(context, dataset))
    figures, digest = corpora.examine(corpus), corpus.content_hash()
    with context.database.session() as session:
        row = store.get_dataset(session, dataset.name)
        row.statistics, row.content_hash = figures, digest
    return figures
