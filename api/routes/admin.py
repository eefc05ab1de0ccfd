"""Audit log and workers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel

from api.core.errors import ERROR_RESPONSES
from api.deps import Admin, PageLimit, ReadSessionDep, Viewer
from api.schemas.base import Line, RowView, list_of, page_of, row_view
from lcl_core.db import audit
from lcl_core.db.models import AuditEntry, Worker
from lcl_core.db.runs import list_workers as read_workers
from lcl_core.db.workers import leased_devices, serving_devices


class GpuUsageView(BaseModel):
    """A device that a worker has, as last seen: bytes of memory, ``utilization`` 0 to 1, and the run that has it."""

    id: str = ""
    name: str = ""
    utilization: float | None = None
    memory_used: float | None = None
    memory_total: float | None = None
    run: str | None = None
    use: Literal["free", "run", "inference"] = "free"


class WorkerView(RowView):
    gpus: list[GpuUsageView]


AuditView = row_view(AuditEntry, "id at owner prefix action object request_id")
WORKER_COLUMNS = "id host pid slots devices offers started_at seen_at consumed_at current_run"
audit_router = APIRouter(prefix="/v1/audit", tags=["keys"], responses=ERROR_RESPONSES)
workers_router = APIRouter(prefix="/v1/workers", tags=["workers"], responses=ERROR_RESPONSES)


@audit_router.get("", summary="List audit entries", response_model=page_of(AuditView))
def list_audit(
    _: Admin,
    session: ReadSessionDep,
    owner: Annotated[Line | None, Query(description="only actions with keys of this owner")] = None,
    action: Annotated[Line | None, Query(description="only this action, such as runs.cancel")] = None,
    object_: Annotated[Line | None, Query(alias="object", description="only about this id or name")] = None,
    limit: PageLimit = 50,
    cursor: Annotated[str | None, Query(max_length=18, description="next_cursor of the page before")] = None,
) -> Any:
    """Committed changes, newest first; ``next_cursor`` is the cursor of the next page."""
    return audit.list_audit(session, owner=owner, action=action, object_id=object_, limit=limit, cursor=cursor)


@workers_router.get("", summary="List workers", response_model=list_of(row_view(Worker, WORKER_COLUMNS, WorkerView)))
def list_workers(_: Viewer, session: ReadSessionDep) -> Any:
    """Workers seen lately, with their devices and current run. Workers that share a device all show its run."""
    workers, leased, serving = read_workers(session), leased_devices(session), serving_devices(session)
    return {"items": [_worker_fields(worker, leased, serving) for worker in workers]}


def _worker_fields(worker: Worker, leased: dict[str, str], serving: set[str]) -> dict[str, Any]:
    measured = {row.get("id", ""): row for row in worker.gpus}
    gpus = [
        {
            "id": device,
            **measured.get(device, {}),
            "run": leased.get(device),
            "use": "run" if device in leased else "inference" if device in serving else "free",
        }
        for device in worker.gpu_ids
    ]
    return {name: getattr(worker, name) for name in WORKER_COLUMNS.split()} | {"gpus": gpus}
