"""Keys, audit, quotas, garbage, webhooks, workers and readiness."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from api.schemas.base import RequestModel, Role, RowView, Timestamp, request_example
from lcl_core.db.webhooks import RunEvent
from lcl_core.specs.base import Name

WebhookUrl = Annotated[str, StringConstraints(min_length=8, max_length=2000, pattern=r"^[\x21-\x7e]+$")]


class KeyRequest(RequestModel):
    model_config = ConfigDict(json_schema_extra=request_example(owner="ada", role="submitter"))

    owner: Name = Field(description="whose runs it submits and sees")
    role: Role = Field(description="viewer reads and infers, submitter also submits, admin does everything")
    expires: Timestamp | None = Field(None, description="when it becomes invalid; null: never")


class KeyRotationRequest(RequestModel):
    model_config = ConfigDict(json_schema_extra=request_example(grace_seconds=3600))

    grace_seconds: int = Field(86_400, ge=0, le=30 * 86_400, description="for which the old secret stays valid")


class KeyView(RowView):
    prefix: str = Field(description="the part of the key before the dot, its id")
    owner: str = Field(description="whose runs it submits and sees")
    role: str = Field(description="viewer, submitter or admin")
    created_at: datetime = Field(description="when it was made")
    last_used: datetime | None = Field(description="when it last authenticated a request")
    expires: datetime | None = Field(description="when it becomes invalid; null: never")
    rotated_at: datetime | None = Field(description="when its secret was last replaced")
    previous_until: datetime | None = Field(description="until then the secret before the last rotation opens, too")


class NewKeyView(KeyView):
    key: str = Field(description="shown this once")


class AuditView(RowView):
    id: int = Field(description="number of the entry")
    at: datetime = Field(description="when it was done")
    owner: str = Field(description="of the key that was used")
    prefix: str = Field(description="of that key")
    action: str = Field(description="such as runs.cancel")
    object: str = Field(description="id or name of what was changed")
    request_id: str = Field(description="by which the service's log finds the request")


class QuotaView(BaseModel):
    owner: str = Field(description="whose it is")
    runs: int = Field(description="that are not finished")
    runs_limit: int | None = Field(description="null: any number")


class WebhookRequest(RequestModel):
    model_config = ConfigDict(
        json_schema_extra=request_example(url="https://hooks.example.org/lcl", events=["run.failed"])
    )

    url: WebhookUrl = Field(description="http(s), on a host that LCL_WEBHOOK_HOSTS allows")
    events: list[RunEvent] = Field(
        list(get_args(RunEvent)), min_length=1, max_length=20, description="events that are sent"
    )


class WebhookView(RowView):
    id: str = Field(description="id of the webhook")
    url: str = Field(description="address that is notified")
    events: list[str] = Field(description="events that are sent")
    owner: str = Field(description="who made it")
    created_at: datetime = Field(description="when it was made")


class NewWebhookView(WebhookView):
    secret: str = Field(description="shown this once; messages are signed with it")


class DeliveryView(RowView):
    id: str = Field(description="id of the message")
    event: str = Field(description="such as run.failed")
    payload: dict[str, Any] = Field(description="what is sent: the event and the run")
    attempts: int = Field(description="times that it was sent")
    next_at: datetime = Field(description="when it is tried again, unless it is done")
    done_at: datetime | None = Field(description="delivered, or given up")
    error: str | None = Field(description="of the last attempt; none: it was delivered, or has not been tried")
    created_at: datetime = Field(description="when the event happened")


class GpuUsageView(BaseModel):
    id: str = Field("", description="GPU-… or, of a MIG instance, MIG-…")
    name: str = Field("", description="model of the GPU")
    utilization: float | None = Field(None, description="share of the time in which it computed, 0 to 1")
    memory_used: float | None = Field(None, description="bytes")
    memory_total: float | None = Field(None, description="bytes")
    run: str | None = Field(None, description="run that has it, or for which it is kept")
    use: Literal["free", "run", "inference"] = Field("free", description="inference: the service uses it")


class WorkerView(RowView):
    id: str = Field(description="id of the worker")
    host: str = Field(description="machine that it runs on")
    pid: int = Field(description="its process")
    slots: int = Field(description="runs that it takes at once")
    devices: list[Any] = Field(description="devices that it has")
    offers: list[str] = Field(description="what runs may ask of it: cpu, gpu")
    gpus: list[GpuUsageView] = Field(description="each device: its use now, and its figures when last seen")
    started_at: datetime = Field(description="when it started")
    seen_at: datetime = Field(description="its last heartbeat")
    consumed_at: datetime | None = Field(description="when it last took a message of the broker")
    current_run: str | None = Field(description="a run that it works on")


class CheckView(BaseModel):
    ok: bool = Field(description="whether the check passed")
    detail: str = Field(description="what was found")


class StatusView(BaseModel):
    ready: bool = Field(description="whether every check passed")
    version: str = Field(description="of the service")
    database: str = Field(description="kind of database: sqlite or postgresql")
    checks: dict[str, CheckView] = Field(description="database, disk, broker and worker")
    workers: int = Field(description="workers seen lately")
    slots: int = Field(description="runs that they take at once")
    runs: dict[str, int] = Field(description="number of the caller's runs in each state, for an admin of all owners'")


class ReadinessView(BaseModel):
    ready: bool = Field(description="whether every check passed")
    checks: dict[str, CheckView] = Field(description="database, disk, broker and worker")
    loading: int = Field(0, description="encoders that are being loaded; does not count for ready")
