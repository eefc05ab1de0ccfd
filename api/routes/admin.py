"""For admins: API keys, webhooks and the audit log. For all: the caller's own key, and the workers."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

import structlog
from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import event, func, select
from sqlalchemy.orm import Session

from api.core import auth
from api.core.errors import ERROR_RESPONSES, Problem
from api.core.models import (
    Line,
    RequestModel,
    Role,
    RowView,
    Timestamp,
    list_of,
    page_of,
    request_example,
    row_view,
)
from api.deps import Admin, PageLimit, ReadSessionDep, StateDep, Viewer, WriteSessionDep
from lcl_core.db import audit, runs, webhooks, workers
from lcl_core.db.models import ApiKey, AuditEntry, Webhook, WebhookDelivery, Worker, new_id
from lcl_core.db.session import now
from lcl_core.specs.base import Name

log = structlog.get_logger(__name__)
keys_router = APIRouter(prefix="/v1/keys", tags=["keys"], responses=ERROR_RESPONSES)
webhooks_router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], responses=ERROR_RESPONSES)
audit_router = APIRouter(prefix="/v1/audit", tags=["keys"], responses=ERROR_RESPONSES)
workers_router = APIRouter(prefix="/v1/workers", tags=["workers"], responses=ERROR_RESPONSES)

KeyPrefix = Annotated[str, Path(description="the part of the key before the dot")]
KEY_COLUMNS = "prefix owner role created_at last_used expires"
KeyView = row_view(ApiKey, KEY_COLUMNS)


class KeyRequest(RequestModel):
    model_config = ConfigDict(json_schema_extra=request_example(owner="ada", role="submitter"))

    owner: Name = Field(description="whose runs it submits and sees")
    role: Role = Field(description="viewer reads and infers, submitter also submits, admin does everything")
    expires: Timestamp | None = Field(None, description="when it becomes invalid; null: never")


class OwnKeyView(RowView):
    may_import: bool = Field(description="whether it may import encoders: LCL_IMPORT is its role, or a lesser one")


class NewKeyView(RowView):
    key: str = Field(description="shown this once")


@keys_router.post(
    "", summary="Create key", status_code=201, response_model=row_view(ApiKey, KEY_COLUMNS, NewKeyView), name="create"
)
def create_key(body: KeyRequest, _: Admin, session: WriteSessionDep, response: Response) -> Any:
    """The key itself is in this response and nowhere else."""
    if body.expires is not None and body.expires.tzinfo is None:
        raise Problem(422, "invalid_value", "expires needs a time zone, such as 2030-01-01T00:00:00Z", field="expires")
    alike = select(ApiKey.owner).where(func.lower(ApiKey.owner) == body.owner.lower(), ApiKey.owner != body.owner)
    if (other := session.scalars(alike.limit(1)).first()) is not None:
        raise Problem(409, "conflict", f"owner differs from {other!r} in case alone; use that one", field="owner")
    key, row = auth.new_key(body.owner, body.role, body.expires)
    session.add(row)
    session.flush()
    response.headers["location"] = f"/v1/keys/{row.prefix}"
    return {"key": key, **KeyView.model_validate(row).model_dump()}


@keys_router.get("", summary="List keys", response_model=list_of(KeyView))
def list_keys(_: Admin, session: ReadSessionDep) -> Any:
    return {"items": session.scalars(select(ApiKey).order_by(ApiKey.created_at.desc(), ApiKey.prefix)).all()}


@keys_router.get("/mine", summary="Get own key", response_model=row_view(ApiKey, KEY_COLUMNS, OwnKeyView))
def own_key(principal: Viewer, state: StateDep, session: ReadSessionDep) -> Any:
    """The caller's own key: its owner and role."""
    row = KeyView.model_validate(_get_row(session, ApiKey, principal.prefix, "key"))
    may_import = principal.role in ("admin", state.settings.import_)
    return {**row.model_dump(), "may_import": may_import}


@keys_router.delete("/{prefix}", summary="Revoke key", status_code=204, name="revoke")
def revoke_key(prefix: KeyPrefix, principal: Admin, state: StateDep, session: WriteSessionDep) -> None:
    if prefix == principal.prefix:
        raise Problem(409, "conflict", "a key cannot revoke itself; use another admin key")
    session.delete(_get_row(session, ApiKey, prefix, "key"))
    event.listen(session, "after_commit", lambda _: state.authenticator.forget_keys())


WebhookId = Annotated[str, Path(description="id of the webhook")]
WebhookUrl = Annotated[str, StringConstraints(min_length=8, max_length=2000, pattern=r"^[\x21-\x7e]+$")]
WEBHOOK_COLUMNS = "id url events owner created_at"
WebhookView = row_view(Webhook, WEBHOOK_COLUMNS)
# ``next_at``: when it is tried again, unless it is done; ``done_at``: delivered, or given up
DeliveryView = row_view(WebhookDelivery, "id event payload attempts next_at done_at error created_at")


class WebhookRequest(RequestModel):
    model_config = ConfigDict(
        json_schema_extra=request_example(url="https://hooks.example.org/lcl", events=["run.failed"])
    )

    url: WebhookUrl = Field(description="http(s), on a host that LCL_WEBHOOK_HOSTS allows")
    events: list[webhooks.RunEvent] = Field(
        list(get_args(webhooks.RunEvent)), min_length=1, max_length=20, description="events that are sent"
    )


class NewWebhookView(RowView):
    secret: str = Field(description="shown this once; messages are signed with it")


@webhooks_router.post(
    "",
    summary="Create webhook",
    status_code=201,
    response_model=row_view(Webhook, WEBHOOK_COLUMNS, NewWebhookView),
    name="create",
)
def create_webhook(
    body: WebhookRequest, principal: Admin, state: StateDep, session: WriteSessionDep, response: Response
) -> Any:
    """The response has the signing secret, which is shown nowhere else."""
    settings = state.settings
    webhooks.check_url(body.url, settings.webhook_hosts, https_only=settings.team)
    events = sorted(set(body.events))
    row = Webhook(id=new_id("hook"), url=body.url, events=events, owner=principal.owner, created_at=now(session))
    session.add(row)
    session.flush()
    response.headers["location"] = f"/v1/webhooks/{row.id}"
    log.info("webhook_created", webhook=row.id, owner=principal.owner)
    master = webhooks.master_secret(settings.webhook_secret.get_secret_value(), settings.home)
    return {"secret": webhooks.webhook_secret(master, row.id), **WebhookView.model_validate(row).model_dump()}


@webhooks_router.get("", summary="List webhooks", response_model=list_of(WebhookView))
def list_webhooks(_: Admin, session: ReadSessionDep) -> Any:
    return {"items": session.scalars(select(Webhook).order_by(Webhook.id.desc())).all()}


@webhooks_router.get(
    "/{webhook_id}/deliveries", summary="List deliveries of webhook", response_model=list_of(DeliveryView)
)
def deliveries(webhook_id: WebhookId, _: Admin, session: ReadSessionDep) -> Any:
    """The last fifty messages, newest first, with the errors of those that were not delivered."""
    _get_row(session, Webhook, webhook_id, "webhook")
    return {"items": webhooks.list_deliveries(session, webhook_id)}


@webhooks_router.delete("/{webhook_id}", summary="Delete webhook", status_code=204, name="remove")
def remove_webhook(webhook_id: WebhookId, principal: Admin, session: WriteSessionDep) -> None:
    """Nothing more is sent, pending messages included."""
    session.delete(_get_row(session, Webhook, webhook_id, "webhook"))
    log.info("webhook_removed", webhook=webhook_id, owner=principal.owner)


def _get_row(session: Session, table: type[Any], key: str, noun: str) -> Any:
    row = session.get(table, key)
    if row is None:
        raise Problem(404, "not_found", f"there is no {noun} {key!r}")
    return row


AuditView = row_view(AuditEntry, "id at owner prefix action object request_id")


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


WORKER_COLUMNS = "id host pid slots devices offers started_at seen_at current_run"


@workers_router.get("", summary="List workers", response_model=list_of(row_view(Worker, WORKER_COLUMNS, WorkerView)))
def list_workers(_: Viewer, session: ReadSessionDep) -> Any:
    """Workers seen lately, with their devices and current run. Workers that share a device all show its run."""
    leased, serving = workers.leased_devices(session), workers.serving_devices(session)
    items = []
    for worker in runs.list_workers(session):
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
        items.append({name: getattr(worker, name) for name in WORKER_COLUMNS.split()} | {"gpus": gpus})
    return {"items": items}
