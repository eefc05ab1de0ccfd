"""Workers as responses, each device with the run that has it."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from api.schemas.admin import GpuUsageView, WorkerView
from lcl_core.db.models import Worker
from lcl_core.db.runs import list_workers
from lcl_core.db.workers import leased_devices, serving_devices


def worker_views(session: Session) -> list[WorkerView]:
    """Workers seen lately. Workers that share a device all show the run that has it."""
    workers = list_workers(session)
    leased, serving = leased_devices(session), serving_devices(session)
    return [_worker_view(worker, leased, serving) for worker in workers]


def _worker_view(worker: Worker, leased: dict[str, str], serving: set[str]) -> WorkerView:
    columns = {name: getattr(worker, name) for name in WorkerView.model_fields.keys() - {"gpus"}}
    measured = {row.get("id", ""): row for row in worker.gpus}
    gpus = [_gpu_view({"id": each, **measured.get(each, {})}, leased.get(each), serving) for each in worker.gpu_ids]
    return WorkerView(**columns, gpus=gpus)


def _gpu_view(row: dict[str, Any], run_id: str | None, serving: set[str]) -> GpuUsageView:
    if run_id is not None:
        return GpuUsageView(**row, run=run_id, use="run")
    return GpuUsageView(**row, use="inference" if row["id"] in serving else "free")
