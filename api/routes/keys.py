"""API keys, for admins; the caller's own key, for all roles."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from pydantic import ConfigDict, Field
from sqlalchemy import event, select
from sqlalchemy.orm import Session

from api.core import auth
from api.core.errors import ERROR_RESPONSES, Problem
from api.deps import Admin, ReadSessionDep, StateDep, Viewer, WriteSessionDep
from api.schemas.base import RequestModel, Role, RowView, Timestamp, list_of, request_example, row_view
from lcl_core.db.models import ApiKey
from lcl_core.specs.base import Name

KeyPrefix = Annotated[str, Path(description="the part of the key before the dot")]
router = APIRouter(prefix="/v1/keys", tags=["keys"], responses=ERROR_RESPONSES)
COLUMNS = "prefix owner role created_at last_used expires"


class KeyRequest(RequestModel):
    model_config = ConfigDict(json_schema_extra=request_example(owner="ada", role="submitter"))

    owner: Name = Field(description="whose runs it submits and sees")
    role: Role = Field(description="viewer reads and infers, submitter also submits, admin does everything")
    expires: Timestamp | None = Field(None, description="when it becomes invalid; null: never")


class NewKeyView(RowView):
    key: str = Field(description="shown this once")


KeyView = row_view(ApiKey, COLUMNS)


@router.post("", summary="Create key", status_code=201, response_model=row_view(ApiKey, COLUMNS, NewKeyView))
def create(body: KeyRequest, _: Admin, session: WriteSessionDep, response: Response) -> Any:
    """The key itself is in this response and nowhere else."""
    if body.expires is not None and body.expires.tzinfo is None:
        raise Problem(422, "bad_request", "expires needs a time zone, such as 2030-01-01T00:00:00Z", field="expires")
    key, row = auth.new_key(body.owner, body.role, body.expires)
    session.add(row)
    session.flush()
    response.headers["location"] = f"/v1/keys/{row.prefix}"
    return {"key": key, **KeyView.model_validate(row).model_dump()}


@router.get("", summary="List keys", response_model=list_of(KeyView))
def page(_: Admin, session: ReadSessionDep) -> Any:
    return {"items": session.scalars(select(ApiKey).order_by(ApiKey.created_at.desc(), ApiKey.prefix)).all()}


@router.get("/mine", summary="Get own key", response_model=KeyView)
def mine(principal: Viewer, session: ReadSessionDep) -> Any:
    """The caller's own key: its owner and role."""
    return _get_key(session, principal.prefix)


@router.delete("/{prefix}", summary="Revoke key", status_code=204)
def revoke(prefix: KeyPrefix, principal: Admin, state: StateDep, session: WriteSessionDep) -> None:
    if prefix == principal.prefix:
        raise Problem(409, "conflict", "a key cannot revoke itself; use another admin key")
    session.delete(_get_key(session, prefix))
    event.listen(session, "after_commit", lambda _: state.authenticator.cache.clear())


def _get_key(session: Session, prefix: str) -> ApiKey:
    row = session.get(ApiKey, prefix)
    if row is None:
        raise Problem(404, "not_found", f"there is no key {prefix!r}")
    return row
