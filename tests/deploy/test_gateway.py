"""What the gateway lets an anonymous user take: tried with a real nginx on the deployment's own configuration.

Skipped where nginx is not installed (Debian: apt install nginx-light). What the file says is also read in
``test_compose.py``.
"""

import asyncio
import http.client
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from deploy.process import LOOPBACK, free_port

CONFIGURATION = Path(__file__).resolve().parents[2] / "deploy" / "gateway" / "nginx.conf"
AT_ONCE = 256  # requests of one address
MIB = 1 << 20

pytestmark = [pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed"), pytest.mark.extended]


class Backend:
    """Stands for api and page: answers 200 with the length of the body; below /held it waits until it may."""

    def __init__(self):
        self.port = free_port(0)
        self.requested: list[str] = []
        self.let_go = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()

    async def _run(self):
        async with await asyncio.start_server(self._serve, LOOPBACK, self.port):
            while not self._over.is_set():
                await asyncio.sleep(0.02)

    async def _serve(self, reader, writer):
        with closing(writer):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split()[1]
            length = int((re.search(r"content-length: (\d+)", head.lower()) or [0, "0"])[1])
            self.requested.append(path)
            await reader.readexactly(length)
            while "/held" in path and not self.let_go.is_set():
                await asyncio.sleep(0.02)
            text = str(length)
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n{text}".encode())
            await writer.drain()

    def close(self):
        self.let_go.set()
        self._over.set()
        self._thread.join(timeout=60)


@pytest.fixture
def backend():
    made = Backend()
    yield made
    made.close()


@pytest.fixture
def gateway(tmp_path, backend, until):
    """The port of a real nginx; only its addresses and its folder are other than in the deployment."""
    port = free_port(0)
    text = CONFIGURATION.read_text(encoding="utf-8")
    text = text.replace("listen 8080", f"listen {LOOPBACK}:{port}").replace(" /tmp/", f" {tmp_path}/")
    text = re.sub(r"set \$(api|ui) [\w:]+;", rf"set $\1 {LOOPBACK}:{backend.port};", text)
    file = tmp_path / "nginx.conf"
    file.write_text(text.replace("/dev/stdout", str(tmp_path / "access")), encoding="utf-8")
    log = (tmp_path / "log").open("wb")
    command = ["nginx", "-c", str(file), "-e", str(tmp_path / "log"), "-g", "daemon off; user root;"]
    process = subprocess.Popen(command, stdout=log, stderr=log)

    def answers():
        assert process.poll() is None, (tmp_path / "log").read_text(encoding="utf-8")
        with closing(http.client.HTTPConnection(LOOPBACK, port, timeout=5)) as connection:
            try:
                connection.request("GET", "/gateway-health")
                return connection.getresponse().status == 200
            except OSError:
                return False

    until(answers, "the gateway answers")
    yield port
    process.terminate()
    process.wait(timeout=60)
    log.close()


def ask(port, method, path, size=0, address="192.0.2.1"):
    """Status and body of the answer to somebody at ``address``, as the TLS proxy in front would pass it on."""
    with closing(http.client.HTTPConnection(LOOPBACK, port, timeout=30)) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):  # refused while it was still sent: the answer is there
            connection.request(method, path, bytes(size), {"X-Forwarded-For": address})
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.mark.parametrize(
    ("path", "largest"),
    [("/", MIB), ("/gradio_api/queue/join", MIB), ("/gradio_api/run/predict", 4 * MIB),
     ("/gradio_api/upload", 32 * MIB), ("/v1/runs", 2 * MIB),
     ("/v1/embeddings", 64 * MIB), ("/readyz", 1 << 10)],
)  # fmt: skip
def test_a_body_is_bounded_by_what_its_path_is_for(gateway, backend, path, largest):
    assert ask(gateway, "POST", path, largest) == (200, str(largest).encode())
    backend.requested.clear()
    status, answer = ask(gateway, "POST", path, largest + 1)
    assert status == 413
    assert json.loads(answer)["error"].items() >= {"code": "too_large", "type": "invalid_request_error"}.items()
    assert backend.requested == [], "it was passed on"


@pytest.mark.parametrize("path", ["/", "/v1/runs"])
def test_a_service_that_is_away_is_reported_in_the_form_of_errors(gateway, backend, path):
    backend.close()
    status, answer = ask(gateway, "GET", path)
    assert status == 502
    assert json.loads(answer)["error"].items() >= {"code": "no_answer", "type": "server_error", "param": None}.items()


def held_open(port, path, address):
    """A connection with a request that the backend will not answer yet."""
    connection = socket.create_connection((LOOPBACK, port), timeout=30)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {address}\r\n\r\n".encode())
    return connection


def test_one_address_cannot_take_every_place(gateway, backend, until):
    with ExitStack() as stack:
        for _ in range(AT_ONCE):
            stack.enter_context(held_open(gateway, "/held", "192.0.2.1"))
        until(lambda: len(backend.requested) == AT_ONCE, "all of them are under way")
        status, answer = ask(gateway, "GET", "/v1/runs")
        assert status == 429
        assert json.loads(answer)["error"].items() >= {"code": "too_many_requests", "type": "rate_limit_error"}.items()
        assert ask(gateway, "GET", "/v1/runs", address="192.0.2.2")[0] == 200, "others are served"
        assert ask(gateway, "GET", "/gateway-health")[0] == 200
    backend.let_go.set()
    deadline = time.monotonic() + 60
    while ask(gateway, "GET", "/v1/runs")[0] != 200:
        assert time.monotonic() < deadline, "places are given back"
        time.sleep(0.05)
