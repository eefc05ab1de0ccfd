"""Which service a client without an address calls, and whether it gets the key of the home."""

import fcntl

import pytest

from api.client import Client
from api.client.local_service import API_FILE, DEFAULT_URL, LOCK_FILE, LocalService, local_service
from tests.api.scripted_server import FINE, scripted_server


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home with a key, which no launcher has used."""
    for name in ("LCL_API_URL", "LCL_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LCL_HOME", str(tmp_path))
    (tmp_path / "key").write_text("from-file\n")
    return tmp_path


@pytest.fixture
def launcher(home):
    """The lock of a running launcher."""
    with (home / LOCK_FILE).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def server():
    with scripted_server(FINE) as found:
        yield found


def sent_key(server, url=None):
    """The key that the server gets of a client."""
    with Client(url, attempts=1) as client:
        assert client.base_url == server.url
        client.datasets()
    return server.requests[-1][2].get("authorization")


def test_a_home_that_no_launcher_has_used_is_served_at_the_usual_port(home):
    assert local_service() == LocalService(DEFAULT_URL, gets_key=True)


@pytest.mark.usefixtures("launcher")
def test_the_address_of_the_running_launcher_is_called_with_the_key_of_the_home(home, server):
    (home / API_FILE).write_text(f"{server.url}\n")
    assert sent_key(server) == "Bearer from-file"


@pytest.mark.usefixtures("launcher")
def test_an_address_that_is_named_counts_before_the_launchers(home, server, monkeypatch):
    (home / API_FILE).write_text("http://127.0.0.1:1\n")
    assert sent_key(server, server.url) == "Bearer from-file", "it is this machine"
    monkeypatch.setenv("LCL_API_URL", server.url)
    assert sent_key(server) == "Bearer from-file"


def test_what_a_crashed_launcher_left_is_not_called_and_no_other_service_gets_the_key(home, server, monkeypatch):
    (home / LOCK_FILE).touch()
    (home / API_FILE).write_text("http://127.0.0.1:1\n")
    monkeypatch.setattr("api.client.local_service.DEFAULT_URL", server.url)
    assert sent_key(server) is None
    (home / LOCK_FILE).unlink()
    assert sent_key(server) is None


@pytest.mark.usefixtures("launcher")
def test_a_launcher_that_starts_has_no_address_yet(home):
    (home / API_FILE).write_text("\n")
    assert not local_service().gets_key


@pytest.mark.usefixtures("launcher")
def test_the_key_is_not_sent_to_a_launcher_that_listens_on_another_address(home):
    (home / API_FILE).write_text("http://192.0.2.1:8765\n")
    with Client() as client:
        assert client.base_url == "http://192.0.2.1:8765"
        assert not client._has_key
