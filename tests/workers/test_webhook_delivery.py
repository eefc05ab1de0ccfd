"""The sender against a real receiver: signed, repeated until it is heard, and never elsewhere."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from lcl_core.db import runs
from lcl_core.db.models import Webhook, WebhookDelivery
from lcl_core.db.session import now
from lcl_core.db.webhooks import list_deliveries, master_secret, signature, webhook_secret
from workers import webhook_delivery
from workers.webhook_delivery import WebhookSender

HOOK = "hook_1"


class Receiver:
    """Answers with the scripted statuses, the last one again and again; keeps what it was sent."""

    def __init__(self, *statuses):
        self.statuses = list(statuses)
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.host = ""


@contextmanager
def receiving(*statuses):
    receiver = Receiver(*statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            status = receiver.statuses.pop(0) if len(receiver.statuses) > 1 else receiver.statuses[0]
            self.send_response(status)
            if status == 302:
                self.send_header("location", f"http://{receiver.host}/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        receiver.host = f"127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield receiver
        listening.shutdown()
        thread.join()


@pytest.fixture
def tell(database, queue):
    """Register a webhook at a host and cancel a run, whose id it returns."""

    def cancel(host):
        run_id = queue(name="ü")
        with database.session() as session:
            facts = {"events": ["run.cancelled"], "owner": "o", "created_at": now(session)}
            session.merge(Webhook(id=HOOK, url=f"http://{host}/lcl", **facts))
        with database.session() as session:
            runs.cancel_run(session, run_id)
        return run_id

    return cancel


@pytest.fixture
def sender(database, settings):
    master_secret("", settings.home)  # the api has made it
    sender = WebhookSender(database, settings)
    yield sender
    sender.stop()


def make_due(database):
    with database.session() as session:
        for row in session.query(WebhookDelivery).filter(WebhookDelivery.done_at.is_(None)):
            row.next_at = now(session) - timedelta(seconds=1)


def delivery(database):
    with database.reading() as session:
        return list_deliveries(session, HOOK)[0]


def test_a_receiver_that_fails_first_gets_the_same_message_again(sender, database, settings, tell):
    with receiving(500, 302, 204) as receiver:
        settings.webhook_hosts = [receiver.host]
        run_id = tell(receiver.host)
        assert sender.round() == 1
        assert sender.round() == 0, "its next time has not come"
        assert "500" in str(delivery(database).error)
        make_due(database)
        sender.round()
        assert "302" in str(delivery(database).error), "redirects are not followed"
        make_due(database)
        sender.round()
        assert sender.round() == 0
    row = delivery(database)
    assert (row.attempts, row.error, row.done_at is not None) == (3, None, True)
    assert len({body for _, body in receiver.got}) == 1
    assert {headers["x-lcl-delivery"] for headers, _ in receiver.got} == {row.id}
    secret = webhook_secret(master_secret("", settings.home), HOOK)
    for headers, body in receiver.got:
        assert headers["x-lcl-signature"] == signature(secret, int(headers["x-lcl-timestamp"]), body)
    told = json.loads(receiver.got[0][1])
    assert (told["event"], told["run"]["id"], told["run"]["name"], told["run"]["state"]) == (
        "run.cancelled",
        run_id,
        "ü",
        "cancelled",
    )


def test_a_host_that_the_list_no_longer_has_gets_nothing(sender, database, tell):
    with receiving(204) as receiver:
        tell(receiver.host)
        sender.round()
        assert receiver.got == []
    assert "LCL_WEBHOOK_HOSTS" in str(delivery(database).error)


def test_a_worker_without_the_key_of_the_api_sends_nothing(sender, database, settings, tell):
    """Receivers would reject what it signs with a key of its own."""
    (settings.home / "webhook.key").unlink()
    with receiving(204) as receiver:
        settings.webhook_hosts = [receiver.host]
        tell(receiver.host)
        sender.round()
        assert receiver.got == []
    assert "set the same LCL_WEBHOOK_SECRET" in str(delivery(database).error)
    assert not (settings.home / "webhook.key").exists()


def test_nobody_there_is_an_error_like_another(sender, database, settings, tell):
    with receiving(204) as receiver:
        host = receiver.host
    settings.webhook_hosts = [host]
    tell(host)
    assert sender.round() == 1
    assert delivery(database).error
    assert delivery(database).done_at is None


def test_it_sends_by_itself_and_leaves_when_told(sender, database, settings, tell, eventually):
    with receiving(204) as receiver:
        settings.webhook_hosts = [receiver.host]
        sender.start()
        run_id = tell(receiver.host)
        eventually(lambda: len(receiver.got) == 1, "the message")
    assert json.loads(receiver.got[0][1])["run"]["id"] == run_id


def test_a_receiver_that_does_not_answer_holds_up_no_other_host(sender, database, settings, queue, tell, monkeypatch):
    monkeypatch.setattr(webhook_delivery, "MESSAGE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent, receiving(204) as well:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        settings.webhook_hosts = [host, well.host]
        with database.session() as session:
            facts = {"events": ["run.cancelled"], "owner": "o", "created_at": now(session)}
            session.add(Webhook(id="hook_silent", url=f"http://{host}/lcl", **facts))
        tell(well.host)
        assert sender.round() == 2
    assert len(well.got) == 1
    with database.reading() as session:
        [row] = list_deliveries(session, "hook_silent")
    assert (row.error, row.done_at) == ("no answer within 0.5 s", None)
