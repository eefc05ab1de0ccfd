"""Several children, started, watched and ended as one."""

import http.server
import socket
import threading
from collections.abc import Callable

import pytest

from deploy.process import LOOPBACK, ChildDied, ProcessStack, Service, free_port, responds
from lcl_core.common.errors import UserError

Until = Callable[[Callable[[], object], str], None]
LAST_WILL = """
import signal, sys, time
def leave(*_):
    with open(sys.argv[2], "a") as file:
        file.write(sys.argv[1] + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
print("ready", flush=True)
signal.pause()
"""


@pytest.fixture
def stack(tmp_path):
    made = ProcessStack(tmp_path / "logs", hurry=lambda: False)
    yield made
    made.stop()


def test_the_last_started_ends_first(stack, tmp_path, until):
    order = tmp_path / "order"
    for name in ("api", "worker", "ui"):
        child = stack.start(Service(name, ("python", "-c", LAST_WILL, name, str(order))))
        until(child.log_tail, f"{name} to be ready")
    stack.check()
    stack.stop()
    assert order.read_text(encoding="utf-8").split() == ["ui", "worker", "api"]
    assert not stack.children


def test_waiting_ends_with_a_dead_child(stack):
    stack.start(Service("api", ("python", "-c", "raise SystemExit('no database')")))
    with pytest.raises(ChildDied, match=r"api ended with status 1(.|\n)*no database"):
        stack.wait_until(lambda: False, "the api", seconds=60)


def test_waiting_ends_with_the_time(stack):
    with pytest.raises(UserError, match="the api did not come up within 0 s") as caught:
        stack.wait_until(lambda: False, "the api", seconds=0)
    assert caught.value.code == "not_ready"


def test_an_answer_is_a_200():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/good" else 503)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer((LOOPBACK, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://{LOOPBACK}:{server.server_port}"
        assert responds(f"{base}/good")
        assert not responds(f"{base}/bad")
        server.shutdown()
    assert not responds(f"{base}/good")


def test_a_taken_port_is_replaced():
    with socket.socket() as holder:
        holder.bind((LOOPBACK, 0))
        holder.listen()
        taken = holder.getsockname()[1]
        other = free_port(taken)
        assert other != taken
    assert free_port(taken) == taken
