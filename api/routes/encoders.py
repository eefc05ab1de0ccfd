"""Encoders: list, look, compare, import, export."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Query, Response

from api.answers import sends
from api.comparison import compared, tested
from api.deps import ContextDep, ReaderDep, SessionDep, Submitter, Viewer
from api.encoder_exports import AS_IT_IS, CARRIED, ExportFormat
from api.encoder_files import import_encoder, tar_of, tar_size
from api.errors import REFUSALS
from api.held import HeldResponse
from api.models import Comparison, EncoderImport, EncoderList, EncoderView, Items, Reference
from api.quotas import encoder_bytes
from api.transactions import brief
from api.views import figures
from lcl_core.roots import confined
from lcl_core.runs import store

router = APIRouter(prefix="/v1/encoders", tags=["encoders"], responses=REFUSALS)


@router.get("")
@brief
def page(_: Viewer, session: ReaderDep) -> EncoderList:
    """Newest first."""
    return EncoderList(items=[EncoderView.model_validate(row) for row in store.list_encoders(session)])


@router.post("", status_code=201)
def import_(
    body: EncoderImport,
    caller: Submitter,
    context: ContextDep,
    session: SessionDep,
    after: BackgroundTasks,
    response: Response,
) -> EncoderView:
    """Copy an encoder's directory on the server into the service."""
    settings = context.settings
    source = Path(confined(body.path, settings.folders))
    size = encoder_bytes(source)
    context.quotas.check_bytes(session, caller.owner, size)  # before it is copied
    row = import_encoder(source, settings.encoders_dir, body.name, caller.owner)
    session.add(row)
    context.quotas.keep(session, caller.owner, row.path, size)
    if context.supply.holder is not None:
        store.expect(session, row.path, 1, context.supply.holder)
        after.add_task(store.carry_all, context.database, context.supply)  # there may be no worker on this home
    session.flush()
    response.headers["location"] = f"/v1/encoders/{row.id}"
    return EncoderView.model_validate(row)


@router.get("/compare")
def compare(
    _: Viewer,
    context: ContextDep,
    session: ReaderDep,
    left: Annotated[Reference, Query()],
    right: Annotated[Reference, Query()],
    paired: Annotated[bool, Query(description="test the differences, unit by unit")] = True,
) -> Comparison:
    """Two encoders' figures on the same task, split and dataset, side by side.

    Where both evaluations' answers are still there, each row has an ``interval`` of the difference (95 %, paired
    bootstrap), ``p`` (sign-flip permutation, two-sided, of this row alone) and the ``units`` that both were asked.
    """
    first, second = store.get_encoder(session, left), store.get_encoder(session, right)
    rows = compared(figures(session, first.id), figures(session, second.id))
    if paired:
        rows = tested(rows, context.records_of)
    views: list[Any] = [EncoderView.model_validate(row) for row in (first, second)]
    return Comparison(left=views[0], right=views[1], rows=rows)


@router.get("/{encoder}")
@brief
def one(encoder: str, _: Viewer, session: ReaderDep) -> EncoderView:
    """By id, or the newest of a name."""
    return EncoderView.model_validate(store.get_encoder(session, encoder))


@router.get("/{encoder}/figures")
def figures_(encoder: str, _: Viewer, session: ReaderDep) -> Items:
    """Every row of its evaluations, newest evaluation first."""
    return Items(items=figures(session, store.get_encoder(session, encoder).id))


@router.get("/{encoder}/export", response_class=Response, responses=sends("application/x-tar"))
def export(
    encoder: str,
    _: Viewer,
    context: ContextDep,
    session: ReaderDep,
    format: Annotated[ExportFormat, Query(description=CARRIED)] = AS_IT_IS,
) -> HeldResponse:
    """Its directory as a tar: as it is, ready for ``from_pretrained``, or rewritten in a format of others.

    What a format cannot hold is refused with the reason (422 ``not_expressible``). Others' encoders leave as they are.
    """
    row = store.get_encoder(session, encoder)
    name = row.id if format == AS_IT_IS else f"{row.id}-{format}"
    with ExitStack() as stack:
        directory = stack.enter_context(context.supply.holding(session, row.path))
        files = stack.enter_context(context.exporter.files(directory, format))
        headers = {
            "content-disposition": f'attachment; filename="{name}.tar"',
            "content-length": str(tar_size(files)),
        }
        # what was fetched from the store, or made, stays on the disk until then
        return HeldResponse(tar_of(files, name), stack.pop_all(), media_type="application/x-tar", headers=headers)
