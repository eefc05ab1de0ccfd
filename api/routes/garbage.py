"""What lies in the home, or in the store of artifacts, and no row names, for admins."""

from __future__ import annotations

from fastapi import APIRouter, BackgroundTasks

from api.core.errors import ERROR_RESPONSES
from api.core.state import AppState
from api.deps import Admin, ReadSessionDep, StateDep, WriteSessionDep
from api.schemas.base import GarbageList, GarbageView
from lcl_core.db import garbage

router = APIRouter(prefix="/v1/garbage", tags=["garbage"], responses=ERROR_RESPONSES)


@router.get("")
def page(_: Admin, context: StateDep, session: ReadSessionDep) -> GarbageList:
    """Folders that nothing names, their bytes, and whether their grace is over."""
    settings, stored = context.settings, _stored(context)
    return _garbage_list(garbage.list_garbage(session, settings.home, settings.gc_grace_seconds, stored))


@router.post("/collect", status_code=202)
def collect(_: Admin, context: StateDep, session: WriteSessionDep, after: BackgroundTasks) -> GarbageList:
    """Remove those whose grace is over, as workers do once an hour. Answers with what is removed."""
    settings, stored = context.settings, _stored(context)
    noted = garbage.record_garbage(session, settings.home, settings.gc_grace_seconds, stored)
    depot = None if stored is None else context.artifacts.store
    due = [leftover for leftover in noted if leftover.due]
    paths = [leftover.path for leftover in due]
    after.add_task(garbage.remove_garbage, context.database, settings.home, paths, depot)
    return _garbage_list(due)


def _stored(context: AppState) -> dict[str, int] | None:
    """What is in the store of artifacts, if there is one. Raises: UserError ``store_unreachable``."""
    return context.artifacts.store.list_keys() if context.settings.artifacts else None


def _garbage_list(found: list[garbage.Orphan]) -> GarbageList:
    items = [GarbageView.model_validate(leftover) for leftover in found]
    return GarbageList(items=items, bytes=sum(leftover.bytes for leftover in found))
