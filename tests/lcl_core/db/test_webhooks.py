"""Webhook messages: enqueued with the event, claimed by one process at a time, retried until delivered or given up."""

from datetime import timedelta

import pytest

from lcl_core.common.errors import UserError
from lcl_core.db import leases, runs
from lcl_core.db.models import Webhook, WebhookDelivery
from lcl_core.db.session import now
from lcl_core.db.webhooks import (
    DELIVERY_ATTEMPTS,
    check_url,
    claim_deliveries,
    existing_master_secret,
    list_deliveries,
    master_secret,
    pending_deliveries,
    record_delivery,
    webhook_secret,
)


def hook(database, *events, name="hook_1"):
    with database.session() as session:
        facts = {"url": "https://hooks.example.org/", "owner": "someone", "created_at": now(session)}
        session.add(Webhook(id=name, events=list(events), **facts))
    return name


def due(database):
    with database.session() as session:
        return claim_deliveries(session, ["hook_1", "hook_2"])


def record(database, delivery, error=None):
    with database.session() as session:
        record_delivery(session, delivery, error)


def make_due(database):
    with database.session() as session:
        for row in session.query(WebhookDelivery).filter(WebhookDelivery.done_at.is_(None)):
            row.next_at = now(session) - timedelta(seconds=1)


def test_each_is_told_what_it_asked_for(database, queue, claim):
    hook(database, "run.failed", "run.paused")
    hook(database, "run.cancelled", name="hook_2")
    run_id = queue(name="mine", tags=["t"], max_attempts=1)
    with database.session() as session:
        runs.pause_run(session, run_id)
        runs.unpause_run(session, run_id)
    claim(lease_seconds=-1.0)
    with database.session() as session:
        leases.expire_leases(session)
    other = queue()
    with database.session() as session:
        runs.cancel_run(session, other)
    found = due(database)
    assert [(each.webhook_id, each.event, each.attempt) for each in found] == [
        ("hook_1", "run.paused", 1),
        ("hook_1", "run.failed", 1),
        ("hook_2", "run.cancelled", 1),
    ]
    failed = found[1].payload
    assert (failed["id"], failed["event"]) == (found[1].id, "run.failed")
    assert (failed["run"]["id"], failed["run"]["name"], failed["run"]["tags"]) == (run_id, "mine", ["t"])
    assert failed["run"]["reason"]["code"] == "worker_lost"


@pytest.fixture
def webhook_id(database, queue):
    """A webhook with one message to it."""
    name = hook(database, "run.cancelled")
    run_id = queue()
    with database.session() as session:
        runs.cancel_run(session, run_id)
    return name


def test_a_message_is_one_takers_at_a_time_and_anothers_when_that_is_gone(database, webhook_id):
    (first,) = due(database)
    assert due(database) == []
    make_due(database)  # a minute later, and nothing was heard of the first taker
    (second,) = due(database)
    assert (second.id, second.attempt) == (first.id, 2)
    record(database, first, "too late")  # it comes back after all: the message is not its any more
    record(database, second)
    with database.reading() as session:
        (row,) = list_deliveries(session, webhook_id)
        assert (row.error, row.done_at is not None) == (None, True)


def test_what_fails_is_tried_after_ever_longer_waits_and_then_given_up(database, webhook_id):
    waits = []
    for attempt in range(1, DELIVERY_ATTEMPTS + 1):
        (delivery,) = due(database)
        assert delivery.attempt == attempt
        record(database, delivery, "x" * 900)
        with database.reading() as session:
            (row,) = list_deliveries(session, webhook_id)
            assert row.error == "x" * 500
            waits.append(round((row.next_at - now(session)).total_seconds()))
        make_due(database)
    assert (waits[:4], waits[-1]) == ([5, 10, 20, 40], 3600)
    assert due(database) == []
    with database.reading() as session:
        assert pending_deliveries(session) == (0, 0.0)


HOSTS = ["hooks.example.org", "chat.internal:8443", "127.0.0.1:9000", "https://tls.example.org"]


@pytest.mark.parametrize(
    "url",
    [
        *("https://hooks.example.org/lcl?team=1", "http://hooks.example.org", "https://HOOKS.example.org/x"),
        *("https://chat.internal:8443/a", "http://127.0.0.1:9000/", "https://tls.example.org/a"),
    ],
)
def test_a_host_of_the_list_gets_messages(url):
    check_url(url, HOSTS)


@pytest.mark.parametrize(
    "url",
    [
        *("https://evil.example/hooks.example.org", "https://hooks.example.org:8443/", "http://tls.example.org/"),
        *("https://hooks.example.org.evil.example/", "https://hooks.example.org@evil.example/", "https://"),
        *("https://user:word@hooks.example.org/", "https://evil.example\\@hooks.example.org/", "hooks.example.org"),
        *("http://127.0.0.1:9001/", "http://2130706433:9000/", "file:///etc/passwd", "https://[hooks.example.org/"),
    ],
)
def test_no_other_address_gets_messages(url):
    with pytest.raises(UserError) as caught:
        check_url(url, HOSTS)
    assert (caught.value.code, caught.value.field) == ("invalid_value", "url")


@pytest.mark.parametrize("url", ["http://hooks.example.org/", "http://127.0.0.1:9000/", "http://chat.internal:8443/"])
def test_a_team_sends_over_https_unless_the_list_says_http(url):
    with pytest.raises(UserError, match="unencrypted"):
        check_url(url, HOSTS, https_only=True)
    check_url(url, [*HOSTS, url], https_only=True)
    check_url(url.replace("http:", "https:"), HOSTS, https_only=True)


def test_each_webhook_has_a_secret_of_its_own_from_the_key_of_the_api(tmp_path):
    with pytest.raises(UserError, match="LCL_WEBHOOK_SECRET") as caught:
        existing_master_secret("", tmp_path)
    assert caught.value.code == "invalid_value"
    master = master_secret("", tmp_path)
    assert (tmp_path / "webhook.key").stat().st_mode & 0o077 == 0
    assert master == existing_master_secret("", tmp_path) != master_secret("configured", tmp_path)
    assert webhook_secret(master, "hook_1") == webhook_secret(master, "hook_1") != webhook_secret(master, "hook_2")
    (tmp_path / "webhook.key").write_text("\n")
    with pytest.raises(UserError, match=r"webhook\.key is damaged; remove it"):
        master_secret("", tmp_path)
