"""Audit log, for admins."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.core.errors import ERROR_RESPONSES
from api.deps import Admin, ReadSessionDep
from api.schemas.admin import AuditView
from api.schemas.base import Line, PageOf
from lcl_core.db import audit

router = APIRouter(prefix="/v1/audit", tags=["keys"], responses=ERROR_RESPONSES)


@router.get("")
def page(
    _: Admin,
    session: ReadSessionDep,
    owner: Line | None = None,
    action: Line | None = None,
    object_: Annotated[Line | None, Query(alias="object")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=18)] = None,
) -> PageOf[AuditView]:
    """Committed changes, newest first; ``next_cursor`` is the cursor of the next page."""
    found = audit.list_audit(session, owner=owner, action=action, object_id=object_, limit=limit, cursor=cursor)
    items = [AuditView.model_validate(entry) for entry in found.items]
    return PageOf[AuditView](items=items, next_cursor=found.next_cursor)
