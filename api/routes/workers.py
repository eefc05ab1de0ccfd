"""Who is at work."""

from __future__ import annotations

from fastapi import APIRouter

from api.deps import ReaderDep, Viewer
from api.errors import REFUSALS
from api.models import WorkerList, WorkerView
from api.transactions import brief
from lcl_core.runs import store

router = APIRouter(prefix="/v1/workers", tags=["workers"], responses=REFUSALS)


@router.get("")
@brief
def page(_: Viewer, session: ReaderDep) -> WorkerList:
    """Workers that are or lately were alive, with their devices and current run."""
    return WorkerList(items=[WorkerView.model_validate(row) for row in store.list_workers(session)])
