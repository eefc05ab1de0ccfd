"""``lcl webhooks`` against a real service."""

import json

from sqlalchemy import select

from lcl_core.db.models import WebhookDelivery
from lcl_core.db.webhooks import claim_deliveries, record_delivery

URL = "https://hooks.example.org/lcl"


def test_a_webhooks_life(lcl, live_service):
    assert "no webhooks" in lcl("webhooks", "list")[1]
    status, out, _ = lcl("webhooks", "add", URL, "--event", "run.cancelled", "--event", "run.failed")
    webhook, secret = out.split()
    assert (status, len(secret)) == (0, 64)
    status, out, _ = lcl("webhooks", "list")
    assert (status, webhook in out, URL in out, secret in out) == (0, True, True, False)
    assert "run.cancelled, run.failed" in out
    assert "no messages yet" in lcl("webhooks", "list", webhook)[1]
    run_id = live_service.submit()
    lcl("runs", "cancel", run_id)
    status, out, _ = lcl("webhooks", "list", webhook)
    assert (status, run_id in out, "waits" in out) == (0, True, True)
    assert lcl("webhooks", "delete", webhook, "--yes") == (0, f"{webhook} is deleted\n", "")
    assert json.loads(lcl("--json", "webhooks", "list")[1]) == {"items": []}


def test_why_a_message_was_not_heard(lcl, live_service):
    made = json.loads(lcl("--json", "webhooks", "add", URL)[1])
    assert set(made["events"]) == {"run.succeeded", "run.failed", "run.cancelled", "run.paused"}
    reported = []
    for error in ("the receiver answered 500", None):
        live_service.admin.cancel(live_service.submit())
        with live_service.context.database.session() as session:
            (parcel,) = claim_deliveries(session, [made["id"]])
            record_delivery(session, parcel, error)
        reported.append(parcel.id)
    shown = dict(zip(reported, ("is tried again", "delivered"), strict=True))
    lines = lcl("webhooks", "list", made["id"])[1].splitlines()
    for delivery, words in shown.items():
        (line,) = [line for line in lines if delivery in line]
        assert words in line
    assert "the receiver answered 500" in "".join(lines)
    with live_service.context.database.session() as session:
        row = session.scalars(select(WebhookDelivery).where(WebhookDelivery.id == reported[0])).one()
        row.done_at = row.created_at
    assert "given up" in lcl("webhooks", "list", made["id"])[1]
    lcl("webhooks", "delete", made["id"], "--yes")


def test_refusals_are_words(lcl):
    status, _, err = lcl("webhooks", "add", "https://evil.example/")
    assert (status, "LCL_WEBHOOK_HOSTS" in err) == (1, True)
    status, _, err = lcl("webhooks", "add", URL, "--event", "run.started")
    assert (status, "run.started" in err or "events" in err) == (1, True)
    status, _, err = lcl("webhooks", "delete", "hook_none", "--yes")
    assert (status, "there is no webhook" in err) == (1, True)
