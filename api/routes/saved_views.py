"""Saved views: named addresses of the page, which all who use the service see."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response
from sqlalchemy import func, select

from api.core.auth import check_owner
from api.core.errors import ERROR_RESPONSES, Problem
from api.deps import ReadSessionDep, Submitter, Viewer, WriteSessionDep
from api.schemas.base import ListOf
from api.schemas.saved_views import SavedViewRequest, SavedViewView
from lcl_core.db.models import SavedView, new_id
from lcl_core.db.session import now

MAX_PER_OWNER = 200
ViewId = Annotated[str, Path(description="id of the view")]
router = APIRouter(prefix="/v1/views", tags=["views"], responses=ERROR_RESPONSES)


@router.get("", summary="List saved views")
def page(_: Viewer, session: ReadSessionDep) -> ListOf[SavedViewView]:
    """All of them, in the order of their names."""
    rows = session.scalars(select(SavedView).order_by(func.lower(SavedView.name), SavedView.name))
    return ListOf[SavedViewView](items=[SavedViewView.model_validate(row) for row in rows])


@router.post("", summary="Save view", status_code=201)
def save(body: SavedViewRequest, principal: Submitter, session: WriteSessionDep, response: Response) -> SavedViewView:
    """Name an address of the page. With ``replace`` an existing view of this name gets the address."""
    row = session.scalars(select(SavedView).where(SavedView.name == body.name).with_for_update()).one_or_none()
    if row is None:
        saved = session.scalars(select(func.count()).where(SavedView.owner == principal.owner)).one()
        if saved >= MAX_PER_OWNER:
            message = f"{principal.owner} has saved {saved} views, the most allowed; delete one first"
            raise Problem(409, "too_many_views", message)
        row = SavedView(id=new_id("view"), name=body.name, owner=principal.owner)
        session.add(row)
    elif not body.replace:
        message = f"{row.owner} has saved a view {body.name!r}; choose another name, or set replace"
        raise Problem(409, "view_exists", message, field="name")
    else:
        check_owner(principal, "view", row.name, row.owner, verb="replace")
    row.address, row.created_at = body.address, now(session)
    session.flush()
    response.headers["location"] = f"/v1/views/{row.id}"
    return SavedViewView.model_validate(row)


@router.delete("/{view_id}", summary="Delete saved view", status_code=204)
def delete(view_id: ViewId, principal: Submitter, session: WriteSessionDep) -> None:
    """For its owner and admins."""
    row = session.get(SavedView, view_id)
    if row is None:
        raise Problem(404, "unknown_view", f"there is no saved view {view_id!r}")
    check_owner(principal, "view", row.name, row.owner)
    session.delete(row)
