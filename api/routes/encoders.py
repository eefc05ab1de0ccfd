"""Encoders: list, comparison, import and export."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

from anyio import CancelScope, to_thread
from fastapi import APIRouter, BackgroundTasks, Query, Response
from sqlalchemy.orm import Session

from api.core.auth import Principal, check_owner
from api.core.errors import ERROR_RESPONSES, Problem
from api.core.session import (
    CleanupResponse,
    documented_responses,
    in_thread_pool,
    single_thread_endpoint,
    stream_in_threads,
)
from api.deps import EncoderReference, ReadSessionDep, StateDep, Submitter, Viewer, WriteSessionDep, WriteTransactionDep
from api.schemas.base import ItemList, ListOf, Reference
from api.schemas.data import EncoderChange, EncoderComparisonView, EncoderImportRequest, EncoderView
from api.services.encoder_archive import (
    AS_STORED,
    FORMAT_DESCRIPTION,
    ExportFormat,
    StagedEncoder,
    discard_staged,
    encoder_files,
    exported_files,
    sending_seconds,
    stage_import,
    stream_tar,
    tar_size,
)
from api.services.encoder_comparisons import compare_figures, evaluated_figures, with_significance
from api.services.encoders import damage_as_problem
from api.services.runs import card_figures, evaluation_figures
from api.services.state import AppState
from lcl_core.common.files import remove_tree
from lcl_core.common.paths import resolve_allowed
from lcl_core.db import deletion, registry, uploads
from lcl_core.encoders.files import check_unchanged, hash_files

router = APIRouter(prefix="/v1/encoders", tags=["encoders"], responses=ERROR_RESPONSES)


@router.get("", summary="List encoders")
@single_thread_endpoint
def page(_: Viewer, session: ReadSessionDep) -> ListOf[EncoderView]:
    """Newest first."""
    return ListOf[EncoderView](items=[EncoderView.model_validate(row) for row in registry.list_encoders(session)])


@router.post("", summary="Import encoder", status_code=201)
async def import_(
    body: EncoderImportRequest,
    principal: Submitter,
    state: StateDep,
    transaction: WriteTransactionDep,
    response: Response,
) -> EncoderView:
    """Copy an encoder's directory on the server into the service: files and row, or neither."""
    if state.settings.import_ == "admin" and principal.role != "admin":
        message = "admins import encoders here; ask one to import it, or to set LCL_IMPORT=submitter"
        raise Problem(403, "forbidden", message)
    staged = await to_thread.run_sync(_stage, state, body.path, limiter=state.long_reads)
    try:
        async with transaction() as session:  # only now: write transactions exclude each other
            view = await to_thread.run_sync(_register, staged, session, body, principal, state)
            response.headers["location"] = f"/v1/encoders/{view.id}"
    except BaseException:
        with CancelScope(shield=True):  # the client may have disconnected
            await to_thread.run_sync(discard_staged, staged, state.database)
        raise
    return view


def _stage(state: AppState, path: str) -> StagedEncoder:
    source = Path(resolve_allowed(path, state.settings.folders))
    return stage_import(source, state.settings.encoders_dir)


def _register(
    staged: StagedEncoder, session: Session, body: EncoderImportRequest, principal: Principal, state: AppState
) -> EncoderView:
    row = staged.register(session, body.name, principal)
    if state.artifacts.holder is not None:
        uploads.enqueue_upload(session, row.path, 1, state.artifacts.holder)
    view = EncoderView.model_validate(row)
    staged.publish()
    return view


@router.get("/compare", summary="Compare encoders")
@in_thread_pool("exporting")
def compare(
    _: Viewer,
    state: StateDep,
    session: ReadSessionDep,
    left: Annotated[Reference, Query(description="id or name of an encoder")],
    right: Annotated[Reference, Query(description="id or name of an encoder")],
    paired: Annotated[bool, Query(description="test the differences, unit by unit")] = True,
) -> EncoderComparisonView:
    """Metrics of two encoders on the same task, split and dataset, side by side.

    Each row is of the newest two evaluations with equal settings. Where there are none, it has no ``difference`` but a
    ``reason``, which names the settings that differ. Where the predictions of both evaluations are still stored, a row
    with a difference has its ``interval`` (95 %, paired bootstrap), ``p`` (sign-flip permutation, two-sided, of this
    row alone) and the number of common ``units``.
    """
    first, second = registry.get_encoder(session, left), registry.get_encoder(session, right)
    views: list[Any] = [EncoderView.model_validate(row) for row in (first, second)]
    rows = compare_figures(evaluated_figures(session, first.id), evaluated_figures(session, second.id))
    session.close()  # no connection is held while predictions are read
    if paired:
        rows = with_significance(rows, state.evaluation_records)
    return EncoderComparisonView(left=views[0], right=views[1], rows=rows)


@router.get("/{encoder}", summary="Get encoder")
@single_thread_endpoint
def one(encoder: EncoderReference, _: Viewer, session: ReadSessionDep) -> EncoderView:
    """By id, or the newest of a name."""
    return EncoderView.model_validate(registry.get_encoder(session, encoder))


@router.patch("/{encoder}", summary="Change encoder")
@single_thread_endpoint
def change(
    encoder: EncoderReference, body: EncoderChange, principal: Submitter, session: WriteSessionDep
) -> EncoderView:
    """Rename or pin an encoder, by id or the newest of a name; for its owner and admins.

    A name that unfinished runs or studies refer to stays (409 ``conflict``).
    """
    row = registry.get_encoder(session, encoder)
    check_owner(principal, "encoder", row.name, row.owner, verb="change")
    if body.name is not None and body.name != row.name:
        deletion.check_encoder_name_unused(session, row, principal.visible_owner)
        admin = principal.visible_owner is None
        registry.rename_encoder(session, row, body.name, principal.owner, admin=admin)
    if body.pinned is not None:
        row.pinned = body.pinned
    session.flush()
    return EncoderView.model_validate(row)


@router.delete("/{encoder}", summary="Delete encoder", status_code=204)
def delete(
    encoder: EncoderReference, principal: Submitter, state: StateDep, session: WriteSessionDep, after: BackgroundTasks
) -> None:
    """Remove an encoder, by id or the newest of a name, with its folder; for its owner and admins.

    The error (409) names what needs it: unfinished runs and studies, and its collections.
    """
    row = registry.get_encoder(session, encoder)
    check_owner(principal, "encoder", row.name, row.owner)
    for path in deletion.delete_encoder(session, row, principal.visible_owner, welcome=state.settings.welcome):
        folder = registry.absolute_path(state.settings.home, path)
        after.add_task(remove_tree, folder)
        after.add_task(state.unload_encoder, folder)


@router.get("/{encoder}/figures", summary="List metrics of encoder")
def figures_(encoder: EncoderReference, _: Viewer, session: ReadSessionDep) -> ItemList:
    """All metrics of its evaluations, newest evaluation first; then, with their ``source``, those of its model card."""
    row = registry.get_encoder(session, encoder)
    return ItemList(items=evaluation_figures(session, row.id) + card_figures(row))


@router.get(
    "/{encoder}/export",
    summary="Export encoder",
    response_class=Response,
    responses=documented_responses("application/x-tar"),
)
@in_thread_pool("exporting")
def export(
    encoder: EncoderReference,
    _: Viewer,
    state: StateDep,
    session: ReadSessionDep,
    format: Annotated[ExportFormat, Query(description=FORMAT_DESCRIPTION)] = AS_STORED,
) -> CleanupResponse:
    """The directory as a tar: as stored, ready for ``from_pretrained``, or converted to another library's format.

    What a format cannot express is refused with the reason (422 ``not_expressible``). Encoders of other libraries are
    exported as stored. Files that changed since their registration are refused (409 ``encoder_changed``).
    """
    row = registry.get_encoder(session, encoder)
    name = row.id if format == AS_STORED else f"{row.id}-{format}"
    with ExitStack() as stack:
        directory = stack.enter_context(state.artifacts.open_folder(session, row.path))
        with damage_as_problem(row, directory):
            encoder_files(directory)
            check_unchanged(registry.registered_files(row), hash_files(directory))
            files = stack.enter_context(exported_files(directory, format, state.settings.encoders_dir))
        size = tar_size(files, name)
        headers = {
            "content-disposition": f'attachment; filename="{name}.tar"',
            "content-length": str(size),
        }
        chunks = stream_in_threads(state.exporting, stream_tar(files, name))
        return CleanupResponse(
            chunks, stack.pop_all(), sending_seconds(size), media_type="application/x-tar", headers=headers
        )
