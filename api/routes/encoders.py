"""Encoders: list, look, compare, import, export."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

from anyio import CancelScope, to_thread
from fastapi import APIRouter, BackgroundTasks, Query, Response
from sqlalchemy.orm import Session

from api.core.auth import Principal, check_owner
from api.core.errors import ERROR_RESPONSES
from api.core.quotas import import_bytes
from api.core.responses import CleanupResponse, documented_responses, stream_in_threads
from api.core.session import in_thread_pool, single_thread_endpoint
from api.core.state import AppState
from api.deps import ReadSessionDep, StateDep, Submitter, Viewer, WriteSessionDep, WriteTransactionDep
from api.schemas.base import EncoderComparisonView, EncoderImportRequest, EncoderList, EncoderView, ItemList, Reference
from api.services.encoder_archive import (
    AS_STORED,
    FORMAT_DESCRIPTION,
    ExportFormat,
    StagedEncoder,
    discard_staged,
    encoder_files,
    stage_import,
    stream_tar,
    tar_size,
)
from api.services.encoders import compare_encoders, damage_as_problem, with_significance
from api.services.runs import evaluation_figures
from lcl_core.common.files import remove_tree
from lcl_core.common.paths import resolve_allowed
from lcl_core.db import artifacts, deletion, outbox, registry
from lcl_core.encoders.file_hashes import check_unchanged, hash_files

router = APIRouter(prefix="/v1/encoders", tags=["encoders"], responses=ERROR_RESPONSES)


@router.get("")
@single_thread_endpoint
def page(_: Viewer, session: ReadSessionDep) -> EncoderList:
    """Newest first."""
    return EncoderList(items=[EncoderView.model_validate(row) for row in registry.list_encoders(session)])


@router.post("", status_code=201)
async def import_(
    body: EncoderImportRequest,
    caller: Submitter,
    context: StateDep,
    writing: WriteTransactionDep,
    after: BackgroundTasks,
    response: Response,
) -> EncoderView:
    """Copy an encoder's directory on the server into the service: with its row, or not at all.

    The weights of an encoder that is known come with the very files that are registered of it. Who owns that encoder,
    and an admin, may import them with others by ``allow_twin``.
    """
    prepared = await context.long_reads.run(caller.owner, _stage, context, body.path, caller.owner)
    try:
        async with writing() as session:  # not before: its turn is everybody's
            view = await to_thread.run_sync(_register, prepared, session, body, caller, context)
            response.headers["location"] = f"/v1/encoders/{view.id}"
    except BaseException:
        with CancelScope(shield=True):  # the caller may have hung up
            await to_thread.run_sync(discard_staged, prepared, context.database)
        raise
    if context.artifacts.holder is not None:
        after.add_task(
            artifacts.upload_pending, context.database, context.artifacts
        )  # there may be no worker on this home
    return view


def _stage(context: AppState, path: str, owner: str) -> StagedEncoder:
    source = Path(resolve_allowed(path, context.settings.folders))
    with context.database.reading() as session:
        context.quotas.check_bytes(session, owner, import_bytes(source))  # before anything is copied
    return stage_import(source, context.settings.encoders_dir)


def _register(
    prepared: StagedEncoder, session: Session, body: EncoderImportRequest, caller: Principal, context: AppState
) -> EncoderView:
    row = prepared.register(session, body.name, caller, allow_twin=body.allow_twin)
    context.quotas.charge_folder(session, caller.owner, row.path, prepared.size)
    if context.artifacts.holder is not None:
        outbox.enqueue_upload(session, row.path, 1, context.artifacts.holder)
    view = EncoderView.model_validate(row)
    prepared.publish()
    return view


@router.get("/compare")
@in_thread_pool("exporting")
def compare(
    _: Viewer,
    context: StateDep,
    session: ReadSessionDep,
    left: Annotated[Reference, Query()],
    right: Annotated[Reference, Query()],
    paired: Annotated[bool, Query(description="test the differences, unit by unit")] = True,
) -> EncoderComparisonView:
    """Two encoders' figures on the same task, split and dataset, side by side.

    Where both evaluations' answers are still there, each row has an ``interval`` of the difference (95 %, paired
    bootstrap), ``p`` (sign-flip permutation, two-sided, of this row alone) and the ``units`` that both were asked.
    """
    first, second = registry.get_encoder(session, left), registry.get_encoder(session, right)
    rows = compare_encoders(evaluation_figures(session, first.id), evaluation_figures(session, second.id))
    if paired:
        rows = with_significance(rows, context.evaluation_records)
    views: list[Any] = [EncoderView.model_validate(row) for row in (first, second)]
    return EncoderComparisonView(left=views[0], right=views[1], rows=rows)


@router.get("/{encoder}")
@single_thread_endpoint
def one(encoder: str, _: Viewer, session: ReadSessionDep) -> EncoderView:
    """By id, or the newest of a name."""
    return EncoderView.model_validate(registry.get_encoder(session, encoder))


@router.delete("/{encoder}", status_code=204)
def delete(
    encoder: str, caller: Submitter, context: StateDep, session: WriteSessionDep, after: BackgroundTasks
) -> None:
    """Remove an encoder, by id or the newest of a name, with its folder; for its owner and admins.

    What needs it is named in the refusal (409): runs and studies that have not ended, collections made with it.
    """
    row = registry.get_encoder(session, encoder)
    check_owner(caller, "encoder", row.name, row.owner)
    for path in deletion.delete_encoder(session, row, caller.visible_owner, welcome=context.settings.welcome):
        folder = registry.absolute_path(context.settings.home, path)
        after.add_task(remove_tree, folder)
        after.add_task(context.unload_encoder, folder)


@router.get("/{encoder}/figures")
def figures_(encoder: str, _: Viewer, session: ReadSessionDep) -> ItemList:
    """Every row of its evaluations, newest evaluation first."""
    return ItemList(items=evaluation_figures(session, registry.get_encoder(session, encoder).id))


@router.get("/{encoder}/export", response_class=Response, responses=documented_responses("application/x-tar"))
@in_thread_pool("exporting")
def export(
    encoder: str,
    _: Viewer,
    context: StateDep,
    session: ReadSessionDep,
    format: Annotated[ExportFormat, Query(description=FORMAT_DESCRIPTION)] = AS_STORED,
) -> CleanupResponse:
    """Its directory as a tar: as it is, ready for ``from_pretrained``, or rewritten in a format of others.

    What a format cannot hold is refused with the reason (422 ``not_expressible``). Others' encoders leave as they are.
    Files that changed since they were registered do not leave (409 ``encoder_changed``).
    """
    row = registry.get_encoder(session, encoder)
    name = row.id if format == AS_STORED else f"{row.id}-{format}"
    with ExitStack() as stack:
        directory = stack.enter_context(context.artifacts.open_folder(session, row.path))
        with damage_as_problem(row, directory):
            encoder_files(directory)
            check_unchanged(registry.registered_files(row), hash_files(directory))
            files = stack.enter_context(context.exporter.files(directory, format))
        headers = {
            "content-disposition": f'attachment; filename="{name}.tar"',
            "content-length": str(tar_size(files)),
        }
        # what was fetched from the store, or made, stays on the disk until then
        chunks = stream_in_threads(context.exporting, stream_tar(files, name))
        return CleanupResponse(chunks, stack.pop_all(), media_type="application/x-tar", headers=headers)
