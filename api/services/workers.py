"""Workers as responses, each device with the run that has it."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from api.schemas.admin import GpuUsageView, WorkerView
from lcl_core.db.models import Worker
from lcl_core.db.runs import list_workers
from lcl_core.db.workers import DeviceUse, device_uses, serving_devices


def worker_views(session: Session) -> list[WorkerView]:
    """Workers seen lately. Workers that share a device all show the run that has it."""
    workers = list_workers(session)
    uses = {use.device: use for use in device_uses(session)} if any(worker.gpu_ids for worker in workers) else {}
    serving = serving_devices(session) if uses or any(worker.gpu_ids for worker in workers) else set()
    return [_worker_view(worker, uses, serving) for worker in workers]


def _worker_view(worker: Worker, uses: dict[str, DeviceUse], serving: set[str]) -> WorkerView:
    columns = {name: getattr(worker, name) for name in WorkerView.model_fields.keys() - {"gpus"}}
    measured = {row.get("id", ""): row for row in worker.gpus}
    gpus = [_gpu_view({"id": each, **measured.get(each, {})}, uses.get(each), serving) for each in worker.gpu_ids]
    return WorkerView(**columns, gpus=gpus)


def _gpu_view(row: dict[str, Any], use: DeviceUse | None, serving: set[str]) -> GpuUsageView:
    if use is not None:
        return GpuUsageView(**row, run=use.run_id, use="reserved" if use.reserved else "run")
    return GpuUsageView(**row, use="inference" if row["id"] in serving else "free")
