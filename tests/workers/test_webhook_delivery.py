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


@pytest.fixture
def send(sender, eventually):
    """One round, to the end of its messages."""

    def round_():
        sender.round()
        eventually(lambda: not sender._busy, "the end of the round")

    return round_


def make_due(database):
    with database.session() as session:
        for row in session.query(WebhookDelivery).filter(WebhookDelivery.done_at.is_(None)):
            row.next_at = now(session) - timedelta(seconds=1)


def delivery(database):
    with database.reading() as session:
        return list_deliveries(session, HOOK)[0]


def test_a_receiver_that_fails_first_gets_the_same_message_again(send, database, settings, tell):
    with receiving(500, 302, 204) as receiver:
        settings.webhook_hosts = [receiver.host]
        run_id = tell(receiver.host)
        for _ in range(2):
            send()
            assert len(receiver.got) == 1, "the next time of the message has not come"
        assert "500" in str(delivery(database).error)
        make_due(database)
        send()
        assert "302" in str(delivery(database).error), "redirects are not followed"
        make_due(database)
        for _ in range(2):
            send()
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


@pytest.mark.parametrize(
    ("fault", "words"), [("host", "LCL_WEBHOOK_HOSTS"), ("key", "set the same LCL_WEBHOOK_SECRET"), ("nobody", "")]
)
def test_what_cannot_be_sent_is_tried_again(send, database, settings, tell, fault, words):
    """A host that the list no longer has, a worker without the key of the api, and a receiver that is away."""
    with receiving(204) as receiver:
        if fault != "host":
            settings.webhook_hosts = [receiver.host]
        if fault == "key":
            (settings.home / "webhook.key").unlink()
        if fault != "nobody":
            tell(receiver.host)
            send()
    if fault == "nobody":
        tell(receiver.host)
        send()
    assert receiver.got == []
    assert words in delivery(database).error
    assert delivery(database).done_at is None


def test_a_receiver_that_does_not_answer_holds_up_no_other_host(database, settings, tell, monkeypatch, eventually):
    monkeypatch.setattr(webhook_delivery, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent, receiving(204) as well:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        settings.webhook_hosts = [host, well.host]
        with database.session() as session:
            facts = {"events": ["run.cancelled"], "owner": "o", "created_at": now(session)}
            session.add(Webhook(id="hook_silent", url=f"http://{host}/lcl", **facts))
        master_secret("", settings.home)
        tell(well.host)
        sender = WebhookSender(database, settings)
        sender.round()
        eventually(lambda: well.got, "the message to the other host")
        sender.stop()
    with database.reading() as session:
        [row] = list_deliveries(session, "hook_silent")
    assert (row.error, row.done_at) == ("no answer within 0.5 s", None)
