"""Audit log, quotas and workers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.core.errors import ERROR_RESPONSES
from api.core.session import single_thread_endpoint
from api.deps import Admin, PageLimit, ReadSessionDep, StateDep, Viewer
from api.schemas.admin import AuditView, QuotaView, WorkerView
from api.schemas.base import Line, ListOf, PageOf
from api.services.workers import worker_views
from lcl_core.db import audit
from lcl_core.db.runs import unfinished_runs_by_owner

audit_router = APIRouter(prefix="/v1/audit", tags=["keys"], responses=ERROR_RESPONSES)


@audit_router.get("", summary="List audit entries")
def list_audit(
    _: Admin,
    session: ReadSessionDep,
    owner: Annotated[Line | None, Query(description="only actions with keys of this owner")] = None,
    action: Annotated[Line | None, Query(description="only this action, such as runs.cancel")] = None,
    object_: Annotated[Line | None, Query(alias="object", description="only about this id or name")] = None,
    limit: PageLimit = 50,
    cursor: Annotated[str | None, Query(max_length=18, description="next_cursor of the page before")] = None,
) -> PageOf[AuditView]:
    """Committed changes, newest first; ``next_cursor`` is the cursor of the next page."""
    found = audit.list_audit(session, owner=owner, action=action, object_id=object_, limit=limit, cursor=cursor)
    items = [AuditView.model_validate(entry) for entry in found.items]
    return PageOf[AuditView](items=items, next_cursor=found.next_cursor)


quotas_router = APIRouter(prefix="/v1/quotas", tags=["quotas"], responses=ERROR_RESPONSES)


@quotas_router.get("", summary="List quotas")
@single_thread_endpoint
def list_quotas(principal: Viewer, state: StateDep, session: ReadSessionDep) -> ListOf[QuotaView]:
    """Unfinished runs and their limit: the caller's own, for an admin all owners'."""
    counts = unfinished_runs_by_owner(session, principal.visible_owner)
    limit = state.settings.queued_runs_per_owner or None
    items = [QuotaView(owner=owner, runs=runs, runs_limit=limit) for owner, runs in counts.items()]
    return ListOf[QuotaView](items=items)


workers_router = APIRouter(prefix="/v1/workers", tags=["workers"], responses=ERROR_RESPONSES)


@workers_router.get("", summary="List workers")
@single_thread_endpoint
def list_workers(_: Viewer, session: ReadSessionDep) -> ListOf[WorkerView]:
    """Workers seen lately, with their devices and current run."""
    return ListOf[WorkerView](items=worker_views(session))
