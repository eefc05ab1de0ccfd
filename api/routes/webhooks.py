"""Webhooks: URLs to which the ends of runs are sent, for admins."""

from __future__ import annotations

from typing import Annotated

import structlog
from fastapi import APIRouter, Path, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.core.errors import ERROR_RESPONSES, Problem
from api.deps import Admin, ReadSessionDep, StateDep, WriteSessionDep
from api.schemas.admin import DeliveryView, NewWebhookView, WebhookRequest, WebhookView
from api.schemas.base import ListOf
from api.services.state import AppState
from lcl_core.db.models import Webhook, new_id
from lcl_core.db.session import now
from lcl_core.db.webhooks import check_url, list_deliveries, master_secret, webhook_secret

log = structlog.get_logger(__name__)
WebhookId = Annotated[str, Path(description="id of the webhook")]
router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], responses=ERROR_RESPONSES)


@router.post("", summary="Create webhook", status_code=201)
def create(
    body: WebhookRequest, principal: Admin, state: StateDep, session: WriteSessionDep, response: Response
) -> NewWebhookView:
    """The response has the signing secret, which is shown nowhere else."""
    check_url(body.url, state.settings.webhook_hosts, https_only=state.settings.team)
    events = sorted(set(body.events))
    row = Webhook(id=new_id("hook"), url=body.url, events=events, owner=principal.owner, created_at=now(session))
    session.add(row)
    session.flush()
    response.headers["location"] = f"/v1/webhooks/{row.id}"
    log.info("webhook_created", webhook=row.id, owner=principal.owner)
    return NewWebhookView(secret=_secret(state, row.id), **WebhookView.model_validate(row).model_dump())


@router.get("", summary="List webhooks")
def page(_: Admin, session: ReadSessionDep) -> ListOf[WebhookView]:
    rows = session.scalars(select(Webhook).order_by(Webhook.id.desc()))
    return ListOf[WebhookView](items=[WebhookView.model_validate(row) for row in rows])


@router.get("/{webhook_id}/deliveries", summary="List deliveries of webhook")
def deliveries(webhook_id: WebhookId, _: Admin, session: ReadSessionDep) -> ListOf[DeliveryView]:
    """The last fifty messages, newest first, with the errors of those that were not delivered."""
    _get_webhook(session, webhook_id)
    rows = list_deliveries(session, webhook_id)
    return ListOf[DeliveryView](items=[DeliveryView.model_validate(row) for row in rows])


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


def _secret(state: AppState, webhook_id: str) -> str:
    settings = state.settings
    return webhook_secret(master_secret(settings.webhook_secret.get_secret_value(), settings.home), webhook_id)
