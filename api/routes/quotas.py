"""What an owner has of what is bounded per owner."""

from __future__ import annotations

from fastapi import APIRouter

from api.deps import ContextDep, ReaderDep, Viewer
from api.errors import REFUSALS
from api.models import QuotaList, QuotaView
from api.transactions import brief
from lcl_core.runs import store

router = APIRouter(prefix="/v1/quotas", tags=["quotas"], responses=REFUSALS)


@router.get("")
@brief
def page(caller: Viewer, context: ContextDep, session: ReaderDep) -> QuotaList:
    """Unfinished runs and stored bytes, and their limits: the caller's own, for an admin everybody's."""
    settings = context.settings
    limits = {"runs_limit": settings.queued_runs_per_owner or None, "bytes_limit": settings.bytes_per_owner or None}
    if caller.sees is None:
        used = store.usage_by_owner(session)
    else:
        used = {caller.owner: (store.unfinished_runs_of(session, caller.owner), store.bytes_of(session, caller.owner))}
    items = [QuotaView(owner=owner, runs=runs, bytes=size, **limits) for owner, (runs, size) in used.items()]
    return QuotaList(items=items)
