"""What lies in the home, or in the store of artifacts, and no row names, for admins."""

from __future__ import annotations

from fastapi import APIRouter, BackgroundTasks

from api.context import Context
from api.deps import Admin, ContextDep, ReaderDep, SessionDep
from api.errors import REFUSALS
from api.models import GarbageList, LeftoverView
from lcl_core.runs import store

router = APIRouter(prefix="/v1/garbage", tags=["garbage"], responses=REFUSALS)


@router.get("")
def page(_: Admin, context: ContextDep, session: ReaderDep) -> GarbageList:
    """Folders that nothing names, their bytes, and whether their grace is over."""
    settings, stored = context.settings, _stored(context)
    return _listed(store.list_garbage(session, settings.home, settings.gc_grace_seconds, stored))


@router.post("/collect", status_code=202)
def collect(_: Admin, context: ContextDep, session: SessionDep, after: BackgroundTasks) -> GarbageList:
    """Remove those whose grace is over, as workers do once an hour. Answers with what is removed."""
    settings, stored = context.settings, _stored(context)
    noted = store.note_garbage(session, settings.home, settings.gc_grace_seconds, stored)
    depot = None if stored is None else context.supply.depot
    due = [leftover for leftover in noted if leftover.due]
    paths = [leftover.path for leftover in due]
    after.add_task(store.remove_garbage, context.database, settings.home, paths, depot)
    return _listed(due)


def _stored(context: Context) -> dict[str, int] | None:
    """What is in the store of artifacts, if there is one. Raises: UserError ``store_unreachable``."""
    return context.supply.depot.places() if context.settings.artifacts else None


def _listed(found: list[store.Leftover]) -> GarbageList:
    items = [LeftoverView.model_validate(leftover) for leftover in found]
    return GarbageList(items=items, bytes=sum(leftover.bytes for leftover in found))
