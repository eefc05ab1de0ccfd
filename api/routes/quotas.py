"""What an owner has of what is bounded per owner."""

from __future__ import annotations

from fastapi import APIRouter

from api.core.errors import ERROR_RESPONSES
from api.core.session import single_thread_endpoint
from api.deps import ReadSessionDep, StateDep, Viewer
from api.schemas.admin import QuotaView
from api.schemas.base import ListOf
from lcl_core.db import quotas

router = APIRouter(prefix="/v1/quotas", tags=["quotas"], responses=ERROR_RESPONSES)


@router.get("")
@single_thread_endpoint
def page(principal: Viewer, state: StateDep, session: ReadSessionDep) -> ListOf[QuotaView]:
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
