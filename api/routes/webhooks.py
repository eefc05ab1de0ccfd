"""Webhooks: URLs to which the ends of runs are sent, for admins."""

from __future__ import annotations

from typing import Annotated, Any, get_args

import structlog
from fastapi import APIRouter, Path, Response
from pydantic import ConfigDict, Field, StringConstraints
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.core.errors import ERROR_RESPONSES, Problem
from api.deps import Admin, ReadSessionDep, StateDep, WriteSessionDep
from api.schemas.base import RequestModel, RowView, list_of, request_example, row_view
from lcl_core.db.models import Webhook, WebhookDelivery, new_id
from lcl_core.db.session import now
from lcl_core.db.webhooks import RunEvent, check_url, list_deliveries, master_secret, webhook_secret

log = structlog.get_logger(__name__)
WebhookId = Annotated[str, Path(description="id of the webhook")]
WebhookUrl = Annotated[str, StringConstraints(min_length=8, max_length=2000, pattern=r"^[\x21-\x7e]+$")]
router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], responses=ERROR_RESPONSES)
COLUMNS = "id url events owner created_at"


class WebhookRequest(RequestModel):
    model_config = ConfigDict(
        json_schema_extra=request_example(url="https://hooks.example.org/lcl", events=["run.failed"])
    )

    url: WebhookUrl = Field(description="http(s), on a host that LCL_WEBHOOK_HOSTS allows")
    events: list[RunEvent] = Field(
        list(get_args(RunEvent)), min_length=1, max_length=20, description="events that are sent"
    )


class NewWebhookView(RowView):
    secret: str = Field(description="shown this once; messages are signed with it")


WebhookView = row_view(Webhook, COLUMNS)
# ``next_at``: when it is tried again, unless it is done; ``done_at``: delivered, or given up
DeliveryView = row_view(WebhookDelivery, "id event payload attempts next_at done_at error created_at")


@router.post("", summary="Create webhook", status_code=201, response_model=row_view(Webhook, COLUMNS, NewWebhookView))
def create(
    body: WebhookRequest, principal: Admin, state: StateDep, session: WriteSessionDep, response: Response
) -> Any:
    """The response has the signing secret, which is shown nowhere else."""
    settings = state.settings
    check_url(body.url, settings.webhook_hosts, https_only=settings.team)
    events = sorted(set(body.events))
    row = Webhook(id=new_id("hook"), url=body.url, events=events, owner=principal.owner, created_at=now(session))
    session.add(row)
    session.flush()
    response.headers["location"] = f"/v1/webhooks/{row.id}"
    log.info("webhook_created", webhook=row.id, owner=principal.owner)
    secret = webhook_secret(master_secret(settings.webhook_secret.get_secret_value(), settings.home), row.id)
    return {"secret": secret, **WebhookView.model_validate(row).model_dump()}


@router.get("", summary="List webhooks", response_model=list_of(WebhookView))
def page(_: Admin, session: ReadSessionDep) -> Any:
    return {"items": session.scalars(select(Webhook).order_by(Webhook.id.desc())).all()}


@router.get("/{webhook_id}/deliveries", summary="List deliveries of webhook", response_model=list_of(DeliveryView))
def deliveries(webhook_id: WebhookId, _: Admin, session: ReadSessionDep) -> Any:
    """The last fifty messages, newest first, with the errors of those that were not delivered."""
    _get_webhook(session, webhook_id)
    return {"items": list_deliveries(session, webhook_id)}


@router.delete("/{webhook_id}", summary="Delete webhook", status_code=204)
def remove(webhook_id: WebhookId, principal: Admin, session: WriteSessionDep) -> None:
    """Nothing more is sent, pending messages included."""
    session.delete(_get_webhook(session, webhook_id))
    log.info("webhook_removed", webhook=webhook_id, owner=principal.owner)


def _get_webhook(session: Session, webhook_id: str) -> Webhook:
    row = session.get(Webhook, webhook_id)
    if row is None:
        raise Problem(404, "not_found", f"there is no webhook {webhook_id!r}")
    return row
