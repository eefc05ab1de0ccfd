"""Receivers of webhooks that answer slowly, without end or not at all hold up nobody else's messages."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack, contextmanager, suppress

import pytest

from lcl_core.db import runs
from lcl_core.db.models import Webhook
from lcl_core.db.session import now
from lcl_core.db.webhooks import list_deliveries, master_secret
from workers import webhook_delivery as module
from workers.webhook_delivery import WebhookSender

pytestmark = pytest.mark.extended

GENEROUS = 60.0  # seconds; a message that is held up takes far longer


def says(*parts, every=0.0, again=b""):
    """An answer in parts, with pauses; then ``again`` without end."""

    def answer(connection, over):
        for part in parts:
            connection.sendall(part)
            over.wait(every)
        while again and not over.wait(every):
            connection.sendall(again)
        if not again:
            over.wait()

    return answer


OK = says(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
SILENT = says()
DRIPPING_HEADERS = says(b"HTTP/1.1 200 OK\r\n", every=0.05, again=b"x: y\r\n")
DRIPPING_BODY = says(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n", every=0.05, again=b".")
ENDLESS_BODY = says(b"HTTP/1.1 200 OK\r\n\r\n", again=b"." * 65536)


class Receiver:
    def __init__(self, host):
        self.host = host
        self.sent = 0  # bytes of answers that were taken
        self.connections = 0


@contextmanager
def receiving(answer):
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        receiver = Receiver(f"127.0.0.1:{listener.getsockname()[1]}")

        class Counting(socket.socket):
            def sendall(self, data, *_):  # type: ignore[override]
                super().sendall(data)
                receiver.sent += len(data)

        def serve():
            while not over.is_set():
                with suppress(OSError):
                    accepted, _ = listener.accept()
                    receiver.connections += 1
                    threading.Thread(target=talk, args=(Counting(fileno=accepted.detach()),), daemon=True).start()

        def talk(connection):
            with connection, suppress(OSError):
                connection.recv(65536)
                answer(connection, over)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield receiver
        over.set()
        with suppress(OSError), socket.create_connection(listener.getsockname()):
            pass
        thread.join()


@pytest.fixture
def sender(database, settings):
    master_secret("", settings.home)  # the api has made it
    sender = WebhookSender(database, settings)
    yield sender
    sender.stop()


@pytest.fixture
def tell(database, queue, settings):
    """Put messages down for a host."""

    def put(host, count=1):
        settings.webhook_hosts.append(host)
        with database.session() as session:
            row = Webhook(id=f"hook_{host}", url=f"http://{host}/lcl", events=["run.cancelled"], owner="o")
            row.created_at = now(session)
            session.add(row)
        for _ in range(count):
            run_id = queue()
            with database.session() as session:
                runs.cancel_run(session, run_id)

    return put


def delivery(database, host):
    with database.reading() as session:
        return list_deliveries(session, f"hook_{host}")[0]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (SILENT, "no answer within 0.5 s"),
        (DRIPPING_HEADERS, "no answer within 0.5 s"),
        (DRIPPING_BODY, None),
        (ENDLESS_BODY, None),
    ],
    ids=["silent", "dripping headers", "dripping body", "endless body"],
)
def test_a_message_has_one_deadline_however_the_answer_comes(answer, error, sender, database, tell, monkeypatch):
    monkeypatch.setattr(module, "MESSAGE_SECONDS", 0.5)
    with receiving(answer) as receiver:
        tell(receiver.host)
        sending = threading.Thread(target=sender.round, daemon=True)  # else a failure would last for ever
        sending.start()
        sending.join(GENEROUS)
        assert not sending.is_alive(), "it is still reading"
        row = delivery(database, receiver.host)
        assert (row.attempts, row.error, row.done_at is not None) == (1, error, error is None)
        assert receiver.sent < 16 << 20, "the body was not read"


def test_one_that_does_not_answer_holds_up_no_other_host(sender, database, tell, monkeypatch, eventually):
    monkeypatch.setattr(module, "MESSAGE_SECONDS", GENEROUS)
    with ExitStack() as stack:
        silent, well = (stack.enter_context(receiving(answer)) for answer in (SILENT, OK))
        tell(silent.host, 12)
        tell(well.host)
        sender.start()
        eventually(lambda: delivery(database, well.host).done_at is not None, "the message", seconds=GENEROUS / 2)
        assert silent.connections == 1, "one message of a host at a time"
