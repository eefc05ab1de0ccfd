"""Addresses that are told how runs end, for admins."""

from __future__ import annotations

import structlog
from fastapi import APIRouter, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.context import Context
from api.deps import Admin, ContextDep, ReaderDep, SessionDep
from api.errors import REFUSALS, Problem
from api.webhook_models import DeliveryList, DeliveryView, NewWebhook, WebhookList, WebhookRequest, WebhookView
from lcl_core.runs.database import now
from lcl_core.runs.ids import new_id
from lcl_core.runs.outbox import last_deliveries
from lcl_core.runs.tables import Webhook
from lcl_core.webhooks import check_url, master_secret, secret_of

log = structlog.get_logger(__name__)
router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], responses=REFUSALS)


@router.post("", status_code=201)
def create(
    body: WebhookRequest, caller: Admin, context: ContextDep, session: SessionDep, response: Response
) -> NewWebhook:
    """The secret by which its messages are signed is in this answer and nowhere else."""
    check_url(body.url, context.settings.webhook_hosts, https_only=context.settings.team)
    events = sorted(set(body.events))
    row = Webhook(id=new_id("hook"), url=body.url, events=events, owner=caller.owner, created_at=now(session))
    session.add(row)
    session.flush()
    response.headers["location"] = f"/v1/webhooks/{row.id}"
    log.info("webhook_created", webhook=row.id, owner=caller.owner)
    return NewWebhook(secret=_secret(context, row.id), **WebhookView.model_validate(row).model_dump())


@router.get("")
def page(_: Admin, session: ReaderDep) -> WebhookList:
    rows = session.scalars(select(Webhook).order_by(Webhook.id.desc()))
    return WebhookList(items=[WebhookView.model_validate(row) for row in rows])


@router.get("/{webhook_id}/deliveries")
def deliveries(webhook_id: str, _: Admin, session: ReaderDep) -> DeliveryList:
    """The last fifty messages, newest first: which were delivered, and why the others were not."""
    _find(session, webhook_id)
    rows = last_deliveries(session, webhook_id)
    return DeliveryList(items=[DeliveryView.model_validate(row) for row in rows])


@router.delete("/{webhook_id}", status_code=204)
def remove(webhook_id: str, caller: Admin, session: SessionDep) -> None:
    """Nothing more is sent there, not even what waits."""
    session.delete(_find(session, webhook_id))
    log.info("webhook_removed", webhook=webhook_id, owner=caller.owner)


def _find(session: Session, webhook_id: str) -> Webhook:
    row = session.get(Webhook, webhook_id)
    if row is None:
        raise Problem(404, "unknown_webhook", f"there is no webhook {webhook_id!r}")
    return row


def _secret(context: Context, webhook_id: str) -> str:
    settings = context.settings
    return secret_of(master_secret(settings.webhook_secret.get_secret_value(), settings.home), webhook_id)
