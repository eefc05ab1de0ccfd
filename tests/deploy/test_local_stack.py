"""The launcher and the page: it is waited for, and the printed address opens it. The other parts are stand-ins."""

import re
import stat
from contextlib import contextmanager

import httpx
import pytest

from api.client import Client, transport
from api.core.settings import ApiSettings
from deploy import local_stack as module
from deploy.local_stack import LocalStack, ui_token
from deploy.process import Service, listening_socket
from lcl_core.common import gpus
from lcl_core.common.errors import UserError
from ui.settings import TOKEN_FILE

STAND_IN = """
import http.server, os, pathlib, signal, socket
class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if "authorization" in self.headers:
            pathlib.Path(os.environ["LCL_HOME"], "authorization").write_text(self.headers["authorization"])
        self.send_response(200)
        self.end_headers()
server = http.server.HTTPServer(("127.0.0.1", 0), Answers, bind_and_activate=False)
if "LCL_API_SOCKET" in os.environ:
    server.socket = socket.socket(fileno=int(os.environ["LCL_API_SOCKET"]))
    server.serve_forever()
signal.pause()
"""


@contextmanager
def launched(home, monkeypatch, ports=(0, 0)):
    """The real page, before an api and a worker that merely answer. The api keeps the last key in ``authorization``."""

    def service(name, command, *rest, **more):
        return Service(name, command if name == "ui" else ("python", "-c", STAND_IN), *rest, **more)

    monkeypatch.setattr(module, "Service", service)
    monkeypatch.setenv("LCL_BROKER_URL", "redis://127.0.0.1:9/0")
    with LocalStack(home, log=print, ports=ports) as stack:
        yield stack


def test_the_printed_address_opens_the_page_of_one_machine(tmp_path, monkeypatch):
    monkeypatch.delenv("LCL_TEAM", raising=False)
    monkeypatch.delenv("LCL_UI_TOKEN", raising=False)
    monkeypatch.setenv("LCL_API_KEY", "lcl_of.another-service")
    home = tmp_path / "home"
    with launched(home, monkeypatch) as stack, httpx.Client(trust_env=False, follow_redirects=True) as browser:
        token = (home / TOKEN_FILE).read_text(encoding="ascii").strip()
        assert stat.S_IMODE((home / TOKEN_FILE).stat().st_mode) == 0o600
        assert stack.page_address == f"{stack.page_url}/?token={token}"
        assert "lcl-login" in browser.get(stack.page_url).text
        assert browser.get(f"{stack.page_url}/config").status_code == 401
        assert browser.get(stack.page_address).status_code == 200
        assert browser.get(f"{stack.page_url}/config").status_code == 200
        assert browser.get(f"{stack.page_url}/loading").status_code == 200
        assert (home / "authorization").read_text() == f"Bearer {(home / 'key').read_text().strip()}"
        assert stack.key_source == str(home / "key")
        evil = {"host": f"evil.example:{stack.page_url.rpartition(':')[2]}"}
        assert browser.get(stack.page_address, headers=evil).status_code == 403
        logs = "".join(file.read_text() for file in (home / "logs").iterdir())
        assert token not in logs


@pytest.mark.extended
def test_the_parts_do_what_the_settings_say(tmp_path, monkeypatch):
    monkeypatch.delenv("LCL_TEAM", raising=False)
    with listening_socket(0) as one, listening_socket(0, "127.0.0.2") as other:
        port, api_port = (probe.getsockname()[1] for probe in (one, other))
    settings = {"UI_HOST": "0.0.0.0", "UI_PORT": port, "UI_HOSTS": "127.0.0.3"}
    settings |= {"API_HOST": "127.0.0.2", "API_PORT": api_port, "CANCEL_GRACE_SECONDS": 120}
    for name, value in settings.items():
        monkeypatch.setenv(f"LCL_{name}", str(value))
    with launched(tmp_path / "home", monkeypatch, ports=None) as stack:
        assert (stack.api_url, stack.page_url) == (f"http://127.0.0.2:{api_port}", f"http://127.0.0.1:{port}")
        (worker,) = [child.service for child in stack.stack.children if child.name == "worker"]
        assert worker.grace >= 1.5 * 120, "a job's grace, and half of it for the copy of its checkpoint"
        elsewhere = stack.page_address.replace("127.0.0.1", "127.0.0.3")
        assert httpx.get(elsewhere, trust_env=False, follow_redirects=True).status_code == 200


@pytest.mark.parametrize(
    ("torch", "stated", "offers"),
    [
        ("2.13.0+cpu", None, "cpu"),
        ("2.13.0+cpu", "cpu,gpu", None),
        ("2.13.0", None, None),
        ("2.13.0+cu130", None, None),
    ],
)
def test_a_torch_for_the_cpu_gets_no_gpu(tmp_path, monkeypatch, torch, stated, offers):
    monkeypatch.setattr(gpus, "version", {"torch": torch}.__getitem__)
    monkeypatch.delenv("LCL_WORKER_OFFERS", raising=False)
    if stated is not None:
        monkeypatch.setenv("LCL_WORKER_OFFERS", stated)
    found = LocalStack(tmp_path / "home", log=print)._offers()
    assert found.get("LCL_WORKER_OFFERS") == offers


@pytest.mark.extended
def test_clients_of_a_home_find_its_service_where_another_users_has_the_port(tmp_path, monkeypatch):
    """The key of the home goes to the service of the home alone, and to none while that is stopped."""
    monkeypatch.delenv("LCL_TEAM", raising=False)
    for name in ("LCL_API_URL", "LCL_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    monkeypatch.setenv("LCL_HOME", str(home))
    with listening_socket(0) as taken:
        usual = taken.getsockname()[1]
        monkeypatch.setattr(transport, "DEFAULT_URL", f"http://127.0.0.1:{usual}")
        key = ApiSettings(home=home).read_admin_key()
        with launched(home, monkeypatch, ports=(usual, 0)) as stack:
            assert stack.api_url != f"http://127.0.0.1:{usual}"
            with Client() as client:
                assert client.base_url == stack.api_url
                client.send("GET", "/healthz")
            assert (home / "authorization").read_text() == f"Bearer {key}"
            assert stat.S_IMODE((home / "api-address").stat().st_mode) == 0o600
        assert not Client().has_key, "its port may be another user's by now"


@pytest.mark.parametrize("host", ["192.0.2.1", "10..0.5"])
@pytest.mark.parametrize("setting", ["LCL_API_HOST", "LCL_UI_HOST"])
def test_an_address_that_is_not_of_this_machine_is_refused_with_its_setting(tmp_path, monkeypatch, setting, host):
    monkeypatch.delenv("LCL_TEAM", raising=False)
    monkeypatch.setenv(setting, host)
    refused = pytest.raises(UserError, match=f"^{setting}: this machine cannot listen on '{re.escape(host)}'; name")
    with refused, LocalStack(tmp_path / "home", log=print, ports=(0, 0)):
        pytest.fail("it was started")


@pytest.mark.parametrize(
    ("variables", "token"),
    [
        ({"LCL_TEAM": "1"}, ""),
        ({"LCL_TEAM": "1", "LCL_UI_TOKEN": "a-token-of-my-own"}, ""),
        ({"LCL_TEAM": "0", "LCL_UI_TOKEN": "a-token-of-my-own"}, "a-token-of-my-own"),
        ({"LCL_UI_TOKEN": ""}, ""),
    ],
)
def test_whose_token_opens_the_page(tmp_path, monkeypatch, variables, token):
    monkeypatch.delenv("LCL_TEAM", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert ui_token(tmp_path) == token
    assert list(tmp_path.iterdir()) == []
