"""API keys, for admins."""

from __future__ import annotations

from fastapi import APIRouter
from sqlalchemy import select

from api import keys
from api.deps import Admin, ReaderDep, SessionDep
from api.errors import Problem
from api.models import KeyList, KeyRequest, KeyView, NewKey
from lcl_core.runs.tables import ApiKey

router = APIRouter(prefix="/v1/keys", tags=["keys"])


@router.post("", status_code=201)
def create(body: KeyRequest, _: Admin, session: SessionDep) -> NewKey:
    """The key itself is in this answer and nowhere else."""
    if body.expires is not None and body.expires.tzinfo is None:
        raise Problem(422, "bad_request", "expires needs a time zone, such as 2030-01-01T00:00:00Z", field="expires")
    key, row = keys.new_key(body.owner, body.role, body.expires)
    session.add(row)
    session.flush()
    return NewKey(key=key, **KeyView.model_validate(row).model_dump())


@router.get("")
def page(_: Admin, session: ReaderDep) -> KeyList:
    rows = session.scalars(select(ApiKey).order_by(ApiKey.created_at.desc(), ApiKey.prefix))
    return KeyList(items=[KeyView.model_validate(row) for row in rows])


@router.delete("/{prefix}", status_code=204)
def revoke(prefix: str, caller: Admin, session: SessionDep) -> None:
    if prefix == caller.prefix:
        raise Problem(409, "own_key", "a key cannot revoke itself; use another admin key")
    row = session.get(ApiKey, prefix)
    if row is None:
        raise Problem(404, "unknown_key", f"there is no key {prefix!r}")
    session.delete(row)
