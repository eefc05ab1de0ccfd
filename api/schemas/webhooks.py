"""What goes over the wire about webhooks."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, StringConstraints

from api.schemas.base import RequestModel, RowView

RunEvent = Literal["run.succeeded", "run.failed", "run.cancelled", "run.paused"]
WebhookUrl = Annotated[str, StringConstraints(min_length=8, max_length=2000, pattern=r"^[\x21-\x7e]+$")]


class WebhookRequest(RequestModel):
    url: WebhookUrl = Field(description="http(s), on a host that LCL_WEBHOOK_HOSTS allows")
    events: list[RunEvent] = Field(
        list(get_args(RunEvent)), min_length=1, max_length=20, description="what it is told of"
    )


class WebhookView(RowView):
    id: str
    url: str
    events: list[str]
    owner: str
    created_at: datetime


class NewWebhookView(WebhookView):
    secret: str = Field(description="shown this once; messages are signed with it")


class WebhookList(BaseModel):
    items: list[WebhookView]


class DeliveryView(RowView):
    id: str
    event: str
    payload: dict[str, Any]
    attempts: int
    next_at: datetime = Field(description="when it is tried again, unless it is done")
    done_at: datetime | None = Field(description="delivered, or given up")
    error: str | None = Field(description="of the last attempt; none: it was delivered, or has not been tried")
    created_at: datetime


class DeliveryList(BaseModel):
    items: list[DeliveryView]
