"""Workers."""

from __future__ import annotations

from fastapi import APIRouter

from api.core.errors import ERROR_RESPONSES
from api.core.session import single_thread_endpoint
from api.deps import ReadSessionDep, Viewer
from api.schemas.admin import WorkerView
from api.schemas.base import ListOf
from api.services.workers import worker_views

router = APIRouter(prefix="/v1/workers", tags=["workers"], responses=ERROR_RESPONSES)


@router.get("")
@single_thread_endpoint
def page(_: Viewer, session: ReadSessionDep) -> ListOf[WorkerView]:
    """Workers seen lately, with their devices and current run."""
    return ListOf[WorkerView](items=worker_views(session))
