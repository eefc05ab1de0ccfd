"""Keys, audit, quotas, garbage, webhooks, workers and readiness."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, StringConstraints

from api.schemas.base import RequestModel, Role, RowView, Timestamp
from lcl_core.specs.base import Name

RunEvent = Literal["run.succeeded", "run.failed", "run.cancelled", "run.paused"]


WebhookUrl = Annotated[str, StringConstraints(min_length=8, max_length=2000, pattern=r"^[\x21-\x7e]+$")]


class KeyRequest(RequestModel):
    owner: Name
    role: Role
    expires: Timestamp | None = None


class KeyRotationRequest(RequestModel):
    grace_seconds: int = Field(86_400, ge=0, le=30 * 86_400, description="for which the old secret stays valid")


class KeyView(RowView):
    prefix: str
    owner: str
    role: str
    created_at: datetime
    last_used: datetime | None
    expires: datetime | None
    rotated_at: datetime | None
    previous_until: datetime | None = Field(description="until then the secret before the last rotation opens, too")


class NewKeyView(KeyView):
    key: str = Field(description="shown this once")


class AuditView(RowView):
    id: int
    at: datetime
    owner: str = Field(description="of the key that was used")
    prefix: str = Field(description="of that key")
    action: str
    object: str = Field(description="id or name of what was changed")
    request_id: str = Field(description="by which the service's log finds the request")


class QuotaView(BaseModel):
    owner: str
    runs: int = Field(description="that are not finished")
    runs_limit: int | None = Field(description="null: any number")
    bytes: int = Field(description="kept: runs, and what they made, imported or added")
    bytes_limit: int | None = Field(description="null: any number")


class GarbageView(RowView):
    path: str = Field(description="relative to the service's home; with store/ before it, to the store of artifacts")
    bytes: int
    seen_at: datetime | None = Field(description="since when it is known; none: not noted yet")
    due: bool = Field(description="its grace is over")


class GarbageList(BaseModel):
    items: list[GarbageView]
    bytes: int


class WebhookRequest(RequestModel):
    url: WebhookUrl = Field(description="http(s), on a host that LCL_WEBHOOK_HOSTS allows")
    events: list[RunEvent] = Field(
        list(get_args(RunEvent)), min_length=1, max_length=20, description="events that are sent"
    )


class WebhookView(RowView):
    id: str
    url: str
    events: list[str]
    owner: str
    created_at: datetime


class NewWebhookView(WebhookView):
    secret: str = Field(description="shown this once; messages are signed with it")


class DeliveryView(RowView):
    id: str
    event: str
    payload: dict[str, Any]
    attempts: int
    next_at: datetime = Field(description="when it is tried again, unless it is done")
    done_at: datetime | None = Field(description="delivered, or given up")
    error: str | None = Field(description="of the last attempt; none: it was delivered, or has not been tried")
    created_at: datetime


class GpuUsageView(BaseModel):
    id: str = Field("", description="GPU-… or, of a MIG instance, MIG-…")
    name: str = ""
    utilization: float | None = Field(None, description="share of the time in which it computed, 0 to 1")
    memory_used: float | None = Field(None, description="bytes")
    memory_total: float | None = Field(None, description="bytes")
    run: str | None = Field(None, description="run that has it, or for which it is kept")
    use: Literal["free", "run", "reserved", "inference"] = Field(
        "free", description="reserved: kept for a queued run that needs several; inference: the service uses it"
    )


class WorkerView(RowView):
    id: str
    host: str
    pid: int
    slots: int
    devices: list[Any]
    offers: list[str] = Field(description="what runs may ask of it: cpu, gpu")
    gpus: list[GpuUsageView] = Field(description="each device: its use now, and its figures when last seen")
    started_at: datetime
    seen_at: datetime
    consumed_at: datetime | None
    current_run: str | None


class CheckView(BaseModel):
    ok: bool
    detail: str


class ReadinessView(BaseModel):
    ready: bool
    checks: dict[str, CheckView]
    loading: int = Field(0, description="calls that wait for an encoder to be loaded; does not count for ready")
