"""Orphaned folders of the home and the artifact store, for admins."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter, BackgroundTasks

from api.core.errors import ERROR_RESPONSES
from api.deps import Admin, StateDep, WriteSessionDep
from api.schemas.admin import GarbageList, GarbageView
from api.services.state import AppState
from lcl_core.db import garbage

router = APIRouter(prefix="/v1/garbage", tags=["garbage"], responses=ERROR_RESPONSES)


@router.get("")
def page(_: Admin, state: StateDep) -> GarbageList:
    """Folders that no row names, their bytes, and whether their grace period is over."""
    settings, stored = state.settings, _stored(state)
    return _garbage_list(garbage.list_garbage(state.database, settings.home, settings.gc_grace_seconds, stored))


@router.post("/collect", status_code=202)
def collect(_: Admin, state: StateDep, _audited: WriteSessionDep, after: BackgroundTasks) -> GarbageList:
    """Remove folders whose grace period is over, as workers do once an hour. Returns those folders."""
    # the audit entry is written in the transaction of ``_audited``, which is not open while folders are listed
    settings, stored = state.settings, _stored(state)
    orphans = garbage.record_garbage(state.database, settings.home, settings.gc_grace_seconds, stored)
    store = None if stored is None else state.artifacts.store
    due = [orphan for orphan in orphans if orphan.due]
    after.add_task(garbage.remove_garbage, state.database, settings.home, [orphan.path for orphan in due], store)
    return _garbage_list(due)


def _stored(state: AppState) -> Iterator[tuple[str, int]] | None:
    """Keys and bytes in the artifact store, if there is one. Raises: UserError ``store_unreachable``."""
    return state.artifacts.store.iter_keys() if state.settings.artifacts else None


def _garbage_list(orphans: list[garbage.Orphan]) -> GarbageList:
    items = [GarbageView.model_validate(orphan) for orphan in orphans]
    return GarbageList(items=items, bytes=sum(orphan.bytes for orphan in orphans))
