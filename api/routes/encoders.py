"""Encoders: list, comparison, import and export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import APIRouter, BackgroundTasks, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import ConfigDict, Field, create_model
from sqlalchemy import event

from api.core.auth import check_owner
from api.core.errors import ERROR_RESPONSES, Problem, documented_responses
from api.core.models import ItemList, PathText, Reference, RequestModel, RowView, list_of, request_example, row_view
from api.deps import (
    EncoderReference,
    ReadSessionDep,
    StateDep,
    Submitter,
    Viewer,
    WriteSessionDep,
    WriteTransactionDep,
    in_thread_pool,
)
from api.services import comparisons, encoder_figures
from api.services.encoder_archive import (
    AS_STORED,
    FORMAT_DESCRIPTION,
    ExportFormat,
    encoder_files,
    exported_files,
    read_card,
    stage_import,
    stream_tar,
    tar_size,
)
from api.services.encoders import damage_as_problem
from lcl_core.common.files import remove_tree
from lcl_core.common.paths import resolve_allowed
from lcl_core.db import artifacts, garbage, registry
from lcl_core.db.models import EncoderRow, new_id
from lcl_core.encoders.export.files import CARD, card_body, card_licence
from lcl_core.encoders.files import check_unchanged, hash_files
from lcl_core.specs.base import Name

router = APIRouter(prefix="/v1/encoders", tags=["encoders"], responses=ERROR_RESPONSES)
# ``identity``: sha256 over all files; ``hash``: of the weights alone
COLUMNS = "id name hash identity owner run_id info pinned created_at"
EncoderView = row_view(EncoderRow, COLUMNS)


class ListedEncoderView(RowView):
    figures: list[dict[str, Any]] = Field(
        [],
        description="only with order=quality: up to three, with the title text → image, image → text, zero-shot or "
        "probe; of the newest evaluation, else with a source, of the model card",
    )
    badge: str = Field("", description="only with order=quality: worse than untrained, hardly trained, or empty")


ListedEncoder = row_view(EncoderRow, COLUMNS, ListedEncoderView)


EncoderCardView = create_model(
    "EncoderCardView",
    encoder=(EncoderView, ...),
    readme=(str, Field(description="Markdown with a header in YAML, as hubs read it")),
    about=(str, Field(description="the part of it about the encoder: words, data, method")),
    licence=(str | None, Field(description="license of that header; null: none given")),
    main=(list[dict[str, Any]], Field(description="figures as in the list of encoders")),
    badge=(str, Field(description="as in the list of encoders")),
    figures=(list[dict[str, Any]], Field(description="all of them")),
    spec=(dict[str, Any], Field(description="of the training that made it; empty for an encoder of others")),
    collections=(list[dict[str, Any]], Field(description="made with it: id, name, images")),
)


class EncoderImportRequest(RequestModel):
    model_config = ConfigDict(json_schema_extra=request_example(name="clip-b32", path="/srv/encoders/clip-b32"))

    name: Name = Field(description="name of the encoder")
    path: PathText = Field(
        description="directory on the server, inside its data roots: of lcl, OpenCLIP, timm or Hugging Face"
    )


class EncoderChange(RequestModel):
    model_config = ConfigDict(json_schema_extra=request_example(name="drawings-best", pinned=True))

    name: Name | None = Field(None, description="new name, which no other encoder has; left out: it stays")
    pinned: bool | None = Field(None, description="whether forms and menus offer it first; left out: as before")


EncoderComparisonView = create_model(
    "EncoderComparisonView",
    left=(EncoderView, ...),
    right=(EncoderView, ...),
    # one per metric of both: task, split, metric, left, right, difference or the reason for none
    rows=(list[dict[str, Any]], ...),
)


@router.get("", summary="List encoders", response_model=list_of(ListedEncoder), response_model_exclude_unset=True)
def page(
    _: Viewer,
    session: ReadSessionDep,
    order: Annotated[Literal["newest", "quality"], Query(description="quality: as menus offer them")] = "newest",
) -> Any:
    """Newest first, or the best first: pinned, shipped until evaluated, by the first figure; with a badge last."""
    if order == "newest":
        return {"items": registry.list_encoders(session)}
    ranked = encoder_figures.encoders_by_quality(session)
    views = [EncoderView.model_validate(row).model_dump() for row, _, _ in ranked]
    return {"items": [{**view, "figures": each[1], "badge": each[2]} for view, each in zip(views, ranked, strict=True)]}


@router.post("", summary="Import encoder", status_code=201, response_model=EncoderView)
@in_thread_pool("slow")
def import_(
    body: EncoderImportRequest,
    principal: Submitter,
    state: StateDep,
    transaction: WriteTransactionDep,
    response: Response,
) -> Any:
    """Copy an encoder's directory on the server into the service: files and row, or neither."""
    if state.settings.import_ == "admin" and principal.role != "admin":
        message = "admins import encoders here; ask one to import it, or to set LCL_IMPORT=submitter"
        raise Problem(403, "forbidden", message)
    source = Path(resolve_allowed(body.path, state.settings.folders))
    staged, row = stage_import(source, state.settings.encoders_dir)
    try:
        with transaction() as session:  # only now: write transactions exclude each other
            registry.check_name(session, "encoder", body.name, principal.owner, admin=principal.visible_owner is None)
            row.name, row.owner = body.name, principal.owner
            session.add(row)
            if state.artifacts.holder is not None:
                artifacts.enqueue_upload(session, row.path, 1, state.artifacts.holder)
            session.flush()
            response.headers["location"] = f"/v1/encoders/{row.id}"
            event.listen(session, "before_commit", lambda _: staged.publish())  # when nothing else can fail
    except BaseException:
        staged.discard()
        raise
    return row


@router.get("/compare", summary="Compare encoders", response_model=EncoderComparisonView)
@in_thread_pool("slow")
def compare(
    _: Viewer,
    state: StateDep,
    session: ReadSessionDep,
    left: Annotated[Reference, Query(description="id or name of an encoder")],
    right: Annotated[Reference, Query(description="id or name of an encoder")],
    paired: Annotated[bool, Query(description="test the differences, unit by unit")] = True,
) -> Any:
    """Metrics of two encoders on the same task, split and dataset, side by side.

    Each row is of the newest two evaluations with equal settings. Where there are none, it has no ``difference`` but a
    ``reason``, which names the settings that differ. Where the predictions of both evaluations are still stored, a row
    with a difference has its ``interval`` (95 %, paired bootstrap), ``p`` (sign-flip permutation, two-sided, of this
    row alone) and the number of common ``units``.
    """
    first, second = registry.get_encoder(session, left), registry.get_encoder(session, right)
    figures = [comparisons.evaluated_figures(session, encoder.id) for encoder in (first, second)]
    rows = comparisons.compare_figures(*figures)
    session.close()  # no connection is held while predictions are read
    if paired:
        rows = comparisons.with_significance(rows, state.evaluation_records)
    return {"left": first, "right": second, "rows": rows}


@router.get("/{encoder}", summary="Get encoder", response_model=EncoderView)
def one(encoder: EncoderReference, _: Viewer, session: ReadSessionDep) -> Any:
    """By id, or the newest of a name."""
    return registry.get_encoder(session, encoder)


@router.patch("/{encoder}", summary="Change encoder", response_model=EncoderView)
def change(encoder: EncoderReference, body: EncoderChange, principal: Submitter, session: WriteSessionDep) -> Any:
    """Rename or pin an encoder, by id or the newest of a name; for its owner and admins.

    A name that unfinished runs or studies refer to stays (409 ``conflict``).
    """
    row = registry.get_encoder(session, encoder)
    check_owner(principal, "encoder", row.name, row.owner, verb="change")
    if body.name is not None and body.name != row.name:
        garbage.check_encoder_name_unused(session, row, principal.visible_owner)
        admin = principal.visible_owner is None
        registry.rename_encoder(session, row, body.name, principal.owner, admin=admin)
    if body.pinned is not None:
        row.pinned = body.pinned
    session.flush()
    return row


@router.delete("/{encoder}", summary="Delete encoder", status_code=204)
def delete(
    encoder: EncoderReference, principal: Submitter, state: StateDep, session: WriteSessionDep, after: BackgroundTasks
) -> None:
    """Remove an encoder, by id or the newest of a name, with its folder; for its owner and admins.

    The error (409) names what needs it: unfinished runs and studies, and its collections.
    """
    row = registry.get_encoder(session, encoder)
    check_owner(principal, "encoder", row.name, row.owner)
    for path in garbage.delete_encoder(session, row, principal.visible_owner, welcome=state.settings.welcome):
        folder = artifacts.absolute_path(state.settings.home, path)
        after.add_task(remove_tree, folder)
        after.add_task(state.unload_encoder, folder)


@router.get("/{encoder}/figures", summary="List metrics of encoder")
def figures_(encoder: EncoderReference, _: Viewer, session: ReadSessionDep) -> ItemList:
    """All metrics of its evaluations, newest evaluation first; then, with their ``source``, those of its model card."""
    return ItemList(items=encoder_figures.encoder_figures(session, registry.get_encoder(session, encoder)))


@router.get("/{encoder}/card", summary="Get model card", response_model=EncoderCardView)
@in_thread_pool("slow")
def card(encoder: EncoderReference, _: Viewer, state: StateDep, session: ReadSessionDep) -> Any:
    """What is known of an encoder: its README as in every export, figures, spec of its training, and collections."""
    row = registry.get_encoder(session, encoder)
    quality = {each.id: (main, badge) for each, main, badge in encoder_figures.encoders_by_quality(session)}
    collections = [each for each in registry.list_collections(session) if each.encoder_id == row.id]
    with state.artifacts.open_folder(session, row.path) as directory, damage_as_problem(row, directory):
        readme, spec = read_card(session, row, directory)
    main, badge = quality[row.id]
    return {
        "encoder": row,
        "readme": readme,
        "about": card_body(readme),
        "licence": card_licence(readme),
        "main": main,
        "badge": badge,
        "figures": encoder_figures.encoder_figures(session, row),
        "spec": spec,
        "collections": [{"id": each.id, "name": each.name, "images": each.images} for each in collections],
    }


@router.get(
    "/{encoder}/export",
    summary="Export encoder",
    response_class=Response,
    responses=documented_responses("application/x-tar"),
)
@in_thread_pool("slow")
def export(
    encoder: EncoderReference,
    _: Viewer,
    state: StateDep,
    session: ReadSessionDep,
    format: Annotated[ExportFormat, Query(description=FORMAT_DESCRIPTION)] = AS_STORED,
) -> StreamingResponse:
    """The directory as a tar: as stored, ready for ``from_pretrained``, or converted to another library's format.

    Its ``README.md`` is the model card.

    What a format cannot express is refused with the reason (422 ``unsupported``). Encoders of other libraries are
    exported as stored. Files that changed since their registration are refused (409 ``encoder_changed``).
    """
    row = registry.get_encoder(session, encoder)
    name = row.id if format == AS_STORED else f"{row.id}-{format}"
    folder = state.settings.encoders_dir / f".{new_id('enc')}"  # removed by the garbage collector after a crash
    try:
        with state.artifacts.open_folder(session, row.path) as directory, damage_as_problem(row, directory):
            session.close()  # no connection is held while files are read
            encoder_files(directory)
            check_unchanged(registry.registered_files(row), hash_files(directory))
            paths, readme = exported_files(directory, format, folder), folder / CARD
            folder.mkdir(parents=True, exist_ok=True)
            use = readme.read_text("utf-8") if readme.is_file() else ""
            readme.write_text(read_card(session, row, directory, use)[0], encoding="utf-8")
            session.close()
            files: list[BinaryIO] = [path.open("rb") for path in (*paths, readme)]
    finally:
        remove_tree(folder)  # open files stay readable
    disposition = f'attachment; filename="{name}.tar"'
    headers = {"content-disposition": disposition, "content-length": str(tar_size(files, name))}
    return StreamingResponse(stream_tar(files, name), media_type="application/x-tar", headers=headers)
