"""API keys, for admins; the caller's own key, for all roles."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Response
from sqlalchemy import event, select
from sqlalchemy.orm import Session

from api.core import auth
from api.core.errors import ERROR_RESPONSES, Problem
from api.core.session import single_thread_endpoint
from api.deps import Admin, ReadSessionDep, StateDep, Viewer, WriteSessionDep
from api.schemas.admin import KeyRequest, KeyRotationRequest, KeyView, NewKeyView
from api.schemas.base import ListOf
from api.services.state import AppState
from lcl_core.db.models import ApiKey

KeyPrefix = Annotated[str, Path(description="the part of the key before the dot")]
router = APIRouter(prefix="/v1/keys", tags=["keys"], responses=ERROR_RESPONSES)


@router.post("", summary="Create key", status_code=201)
def create(body: KeyRequest, _: Admin, session: WriteSessionDep, response: Response) -> NewKeyView:
    """The key itself is in this response and nowhere else."""
    if body.expires is not None and body.expires.tzinfo is None:
        raise Problem(422, "bad_request", "expires needs a time zone, such as 2030-01-01T00:00:00Z", field="expires")
    key, row = auth.new_key(body.owner, body.role, body.expires)
    session.add(row)
    session.flush()
    response.headers["location"] = f"/v1/keys/{row.prefix}"
    return NewKeyView(key=key, **KeyView.model_validate(row).model_dump())


@router.get("", summary="List keys")
def page(_: Admin, session: ReadSessionDep) -> ListOf[KeyView]:
    rows = session.scalars(select(ApiKey).order_by(ApiKey.created_at.desc(), ApiKey.prefix))
    return ListOf[KeyView](items=[KeyView.model_validate(row) for row in rows])


@router.get("/mine", summary="Get own key")
@single_thread_endpoint
def mine(principal: Viewer, session: ReadSessionDep) -> KeyView:
    """The caller's own key: its owner and role."""
    return KeyView.model_validate(_get_key(session, principal.prefix))


@router.post("/{prefix}/rotate", summary="Rotate key")
def rotate(
    prefix: KeyPrefix, _: Admin, state: StateDep, session: WriteSessionDep, body: KeyRotationRequest | None = None
) -> NewKeyView:
    """Replace a key's secret; owner, role and expiry stay. The previous secret is valid for the grace.

    A second rotation within the grace invalidates the first secret at once.
    """
    row = _lock_key(state, session, prefix)
    if row.configured:
        message = "this key comes from LCL_ADMIN_KEY or the file `key`; change it there and start again"
        raise Problem(409, "conflict", message)
    if row.expires is not None and row.expires <= auth.utc_now():
        raise Problem(409, "conflict", "this key has expired; make a new one")
    key = auth.rotate_key(row, timedelta(seconds=(body or KeyRotationRequest()).grace_seconds))
    return NewKeyView(key=key, **KeyView.model_validate(row).model_dump())


@router.delete("/{prefix}", summary="Revoke key", status_code=204)
def revoke(prefix: KeyPrefix, principal: Admin, state: StateDep, session: WriteSessionDep) -> None:
    if prefix == principal.prefix:
        raise Problem(409, "conflict", "a key cannot revoke itself; use another admin key")
    session.delete(_lock_key(state, session, prefix))


def _lock_key(state: AppState, session: Session, prefix: str) -> ApiKey:
    """Lock the key's row; the commit clears the cache of principals."""
    row = _get_key(session, prefix, lock=True)
    event.listen(session, "after_commit", lambda _: state.authenticator.cache.clear())
    return row


def _get_key(session: Session, prefix: str, lock: bool = False) -> ApiKey:
    row = session.get(ApiKey, prefix, with_for_update=lock)
    if row is None:
        raise Problem(404, "not_found", f"there is no key {prefix!r}")
    return row
