"""Audit log, quotas, workers, orphaned folders and homes with pending uploads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Path, Query

from api.core.errors import ERROR_RESPONSES
from api.core.session import single_thread_endpoint
from api.deps import Admin, PageLimit, ReadSessionDep, StateDep, Viewer, WriteSessionDep
from api.schemas.admin import AuditView, GarbageList, GarbageView, HomeUploadsView, QuotaView, WorkerView
from api.schemas.base import Line, ListOf, PageOf
from api.services.state import AppState
from api.services.workers import worker_views
from lcl_core.db import audit, garbage, quotas
from lcl_core.db.outbox import abandon_uploads, pending_uploads

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
    """Unfinished runs and stored bytes, and their limits: the caller's own, for an admin all owners'."""
    settings = state.settings
    limits = {"runs_limit": settings.queued_runs_per_owner or None, "bytes_limit": settings.bytes_per_owner or None}
    if principal.visible_owner is None:
        used = quotas.usage_by_owner(session)
    else:
        used = {
            principal.owner: (
                quotas.count_unfinished_runs(session, principal.owner),
                quotas.owner_bytes(session, principal.owner),
            )
        }
    items = [QuotaView(owner=owner, runs=runs, bytes=size, **limits) for owner, (runs, size) in used.items()]
    return ListOf[QuotaView](items=items)


workers_router = APIRouter(prefix="/v1/workers", tags=["workers"], responses=ERROR_RESPONSES)


@workers_router.get("", summary="List workers")
@single_thread_endpoint
def list_workers(_: Viewer, session: ReadSessionDep) -> ListOf[WorkerView]:
    """Workers seen lately, with their devices and current run."""
    return ListOf[WorkerView](items=worker_views(session))


garbage_router = APIRouter(prefix="/v1/garbage", tags=["garbage"], responses=ERROR_RESPONSES)


@garbage_router.get("", summary="List garbage")
def list_garbage(_: Admin, state: StateDep) -> GarbageList:
    """Folders that no row names, their bytes, and whether their grace period is over."""
    settings, stored = state.settings, _stored(state)
    return _garbage_list(garbage.list_garbage(state.database, settings.home, settings.gc_grace_seconds, stored))


@garbage_router.post("/collect", summary="Delete garbage", status_code=202)
def collect(_: Admin, state: StateDep, _audited: WriteSessionDep, after: BackgroundTasks) -> GarbageList:
    """Remove folders whose grace period is over, as workers do once an hour. Returns those folders."""
    # the audit entry is written in the transaction of ``_audited``, which is not open while folders are listed
    settings, stored = state.settings, _stored(state)
    orphans = garbage.record_garbage(state.database, settings.home, settings.gc_grace_seconds, stored)
    store = None if stored is None else state.artifacts.store
    due = [orphan for orphan in orphans if orphan.due]
    paths = [orphan.path for orphan in due]
    after.add_task(garbage.remove_garbage, state.database, settings.home, paths, store, settings)
    return _garbage_list(due)


homes_router = APIRouter(prefix="/v1/homes", tags=["homes"], responses=ERROR_RESPONSES)
HomeId = Annotated[str, Path(description="id of the home folder")]


@homes_router.get("", summary="List homes with pending uploads")
@single_thread_endpoint
def list_homes(_: Admin, session: ReadSessionDep) -> ListOf[HomeUploadsView]:
    """Home folders of workers with files that are not in the store of artifacts yet."""
    return ListOf[HomeUploadsView](items=[HomeUploadsView.model_validate(each) for each in pending_uploads(session)])


@homes_router.post("/{home}/lost", summary="Declare home lost")
def declare_lost(home: HomeId, _: Admin, session: WriteSessionDep) -> HomeUploadsView:
    """Give up the pending uploads of a home whose machine is gone: runs that need the files fail at once."""
    return HomeUploadsView.model_validate(abandon_uploads(session, home))


def _stored(state: AppState) -> Iterator[tuple[str, int]] | None:
    """Keys and bytes in the artifact store, if there is one. Raises: UserError ``store_unreachable``."""
    return state.artifacts.store.iter_keys() if state.settings.artifacts else None


def _garbage_list(orphans: list[garbage.Orphan]) -> GarbageList:
    items = [GarbageView.model_validate(orphan) for orphan in orphans]
    return GarbageList(items=items, bytes=sum(orphan.bytes for orphan in orphans))
