"""Encoders: list, look, compare, import, export."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse

from api.comparison import compared
from api.corpora import confined
from api.deps import ContextDep, ReaderDep, SessionDep, Submitter, Viewer
from api.encoder_files import files_of, import_encoder, tar_of, tar_size
from api.models import Comparison, EncoderImport, EncoderList, EncoderView, Items, Reference
from api.views import figures
from lcl_core.runs import store

router = APIRouter(prefix="/v1/encoders", tags=["encoders"])


@router.get("")
def page(_: Viewer, session: ReaderDep) -> EncoderList:
    """Newest first."""
    return EncoderList(items=[EncoderView.model_validate(row) for row in store.list_encoders(session)])


@router.post("", status_code=201)
def import_(
    body: EncoderImport, caller: Submitter, context: ContextDep, session: SessionDep, response: Response
) -> EncoderView:
    """Copy an encoder's directory on the server into the service."""
    settings = context.settings
    source = confined(body.path, [settings.home, *settings.data_roots])
    row = import_encoder(source, settings.encoders_dir, body.name, caller.owner)
    session.add(row)
    session.flush()
    response.headers["location"] = f"/v1/encoders/{row.id}"
    return EncoderView.model_validate(row)


@router.get("/compare")
def compare(
    _: Viewer, session: ReaderDep, left: Annotated[Reference, Query()], right: Annotated[Reference, Query()]
) -> Comparison:
    """Two encoders' figures on the same task, split and dataset, side by side."""
    first, second = store.get_encoder(session, left), store.get_encoder(session, right)
    rows = compared(figures(session, first.id), figures(session, second.id))
    views: list[Any] = [EncoderView.model_validate(row) for row in (first, second)]
    return Comparison(left=views[0], right=views[1], rows=rows)


@router.get("/{encoder}")
def one(encoder: str, _: Viewer, session: ReaderDep) -> EncoderView:
    """By id, or the newest of a name."""
    return EncoderView.model_validate(store.get_encoder(session, encoder))


@router.get("/{encoder}/figures")
def figures_(encoder: str, _: Viewer, session: ReaderDep) -> Items:
    """Every row of its evaluations, newest evaluation first."""
    return Items(items=figures(session, store.get_encoder(session, encoder).id))


@router.get("/{encoder}/export", response_class=Response)
def export(encoder: str, _: Viewer, context: ContextDep, session: ReaderDep) -> StreamingResponse:
    """Its directory (safetensors and JSON) as a tar, ready for ``from_pretrained``."""
    row = store.get_encoder(session, encoder)
    files = files_of(store.located(context.settings.home, row.path))
    headers = {
        "content-disposition": f'attachment; filename="{row.id}.tar"',
        "content-length": str(tar_size(files)),
    }
    return StreamingResponse(tar_of(files, row.id), media_type="application/x-tar", headers=headers)
