"""Addresses that are told how runs end, for admins."""

from __future__ import annotations

import structlog
from fastapi import APIRouter, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.core.errors import ERROR_RESPONSES, Problem
from api.core.state import AppState
from api.deps import Admin, ReadSessionDep, StateDep, WriteSessionDep
from api.schemas.webhooks import DeliveryList, DeliveryView, NewWebhookView, WebhookList, WebhookRequest, WebhookView
from lcl_core.common.webhook_signing import check_url, master_secret, webhook_secret
from lcl_core.db.models import Webhook, new_id
from lcl_core.db.outbox import list_deliveries
from lcl_core.db.session import now

log = structlog.get_logger(__name__)
router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], responses=ERROR_RESPONSES)


@router.post("", status_code=201)
def create(
    body: WebhookRequest, caller: Admin, context: StateDep, session: WriteSessionDep, response: Response
) -> NewWebhookView:
    """The secret by which its messages are signed is in this answer and nowhere else."""
    check_url(body.url, context.settings.webhook_hosts, https_only=context.settings.team)
    events = sorted(set(body.events))
    row = Webhook(id=new_id("hook"), url=body.url, events=events, owner=caller.owner, created_at=now(session))
    session.add(row)
    session.flush()
    response.headers["location"] = f"/v1/webhooks/{row.id}"
    log.info("webhook_created", webhook=row.id, owner=caller.owner)
    return NewWebhookView(secret=_secret(context, row.id), **WebhookView.model_validate(row).model_dump())


@router.get("")
def page(_: Admin, session: ReadSessionDep) -> WebhookList:
    rows = session.scalars(select(Webhook).order_by(Webhook.id.desc()))
    return WebhookList(items=[WebhookView.model_validate(row) for row in rows])


@router.get("/{webhook_id}/deliveries")
def deliveries(webhook_id: str, _: Admin, session: ReadSessionDep) -> DeliveryList:
    """The last fifty messages, newest first: which were delivered, and why the others were not."""
    _get_webhook(session, webhook_id)
    rows = list_deliveries(session, webhook_id)
    return DeliveryList(items=[DeliveryView.model_validate(row) for row in rows])


@router.delete("/{webhook_id}", status_code=204)
def remove(webhook_id: str, caller: Admin, session: WriteSessionDep) -> None:
    """Nothing more is sent there, not even what waits."""
    session.delete(_get_webhook(session, webhook_id))
    log.info("webhook_removed", webhook=webhook_id, owner=caller.owner)


def _get_webhook(session: Session, webhook_id: str) -> Webhook:
    row = session.get(Webhook, webhook_id)
    if row is None:
        raise Problem(404, "unknown_webhook", f"there is no webhook {webhook_id!r}")
    return row


def _secret(context: AppState, webhook_id: str) -> str:
    settings = context.settings
    return webhook_secret(master_secret(settings.webhook_secret.get_secret_value(), settings.home), webhook_id)
