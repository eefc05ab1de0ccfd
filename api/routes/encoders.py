"""Encoders: list, look, compare, import, export."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

from anyio import CancelScope, to_thread
from fastapi import APIRouter, BackgroundTasks, Query, Response
from sqlalchemy.orm import Session

from api.answers import sends
from api.callers import Caller, check_owner
from api.comparison import compared, tested
from api.context import Context
from api.deps import ContextDep, ReaderDep, SessionDep, Submitter, Viewer, WritingDep
from api.encoder_exports import AS_IT_IS, CARRIED, ExportFormat
from api.encoder_files import Prepared, discard, files_of, prepare, tar_of, tar_size
from api.encoders import telling_damage
from api.errors import REFUSALS
from api.held import HeldResponse
from api.models import Comparison, EncoderImport, EncoderList, EncoderView, Items, Reference
from api.transactions import brief
from api.views import figures
from lcl_core.interop.identity import check_unchanged, hashes_of
from lcl_core.roots import confined
from lcl_core.runs import store
from lcl_core.runs.artifacts import remove_tree

router = APIRouter(prefix="/v1/encoders", tags=["encoders"], responses=REFUSALS)


@router.get("")
@brief
def page(_: Viewer, session: ReaderDep) -> EncoderList:
    """Newest first."""
    return EncoderList(items=[EncoderView.model_validate(row) for row in store.list_encoders(session)])


@router.post("", status_code=201)
async def import_(
    body: EncoderImport,
    caller: Submitter,
    context: ContextDep,
    writing: WritingDep,
    after: BackgroundTasks,
    response: Response,
) -> EncoderView:
    """Copy an encoder's directory on the server into the service: with its row, or not at all.

    The weights of an encoder that is known come with the very files that are registered of it. Who owns that encoder,
    and an admin, may import them with others by ``allow_twin``.
    """
    prepared = await to_thread.run_sync(_prepare, body, context)  # no turn to write is held meanwhile
    try:
        async with writing() as session:
            view = await to_thread.run_sync(_register, prepared, session, body, caller, context)
            response.headers["location"] = f"/v1/encoders/{view.id}"
    except BaseException:
        with CancelScope(shield=True):  # the caller may have hung up
            await to_thread.run_sync(discard, prepared, context.database)
        raise
    if context.supply.holder is not None:
        after.add_task(store.carry_all, context.database, context.supply)  # there may be no worker on this home
    return view


def _prepare(body: EncoderImport, context: Context) -> Prepared:
    source = Path(confined(body.path, context.settings.folders))
    return prepare(source, context.settings.encoders_dir)


def _register(
    prepared: Prepared, session: Session, body: EncoderImport, caller: Caller, context: Context
) -> EncoderView:
    row = prepared.register(session, body.name, caller, allow_twin=body.allow_twin)
    if context.supply.holder is not None:
        store.expect(session, row.path, 1, context.supply.holder)
    view = EncoderView.model_validate(row)
    prepared.publish()
    return view


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


@router.delete("/{encoder}", status_code=204)
def delete(encoder: str, caller: Submitter, context: ContextDep, session: SessionDep, after: BackgroundTasks) -> None:
    """Remove an encoder, by id or the newest of a name, with its folder; for its owner and admins.

    What needs it is named in the refusal (409): runs and studies that have not ended, collections made with it.
    """
    row = store.get_encoder(session, encoder)
    check_owner(caller, "encoder", row.name, row.owner)
    for path in store.delete_encoder(session, row, caller.sees, welcome=context.settings.welcome):
        folder = store.located(context.settings.home, path)
        after.add_task(remove_tree, folder)
        after.add_task(context.drop_encoder, folder)


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
    Files that changed since they were registered do not leave (409 ``encoder_changed``).
    """
    row = store.get_encoder(session, encoder)
    name = row.id if format == AS_IT_IS else f"{row.id}-{format}"
    with ExitStack() as stack:
        directory = stack.enter_context(context.supply.holding(session, row.path))
        with telling_damage(row, directory):
            files_of(directory)
            check_unchanged(store.registered_files(row), hashes_of(directory))
            files = stack.enter_context(context.exporter.files(directory, format))
        headers = {
            "content-disposition": f'attachment; filename="{name}.tar"',
            "content-length": str(tar_size(files)),
        }
        # what was fetched from the store, or made, stays on the disk until then
        return HeldResponse(tar_of(files, name), stack.pop_all(), media_type="application/x-tar", headers=headers)
