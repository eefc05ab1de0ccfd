"""Which service a client without an address calls, and whether it gets the key of the home."""

import pytest

from api.client import Client
from api.client.transport import API_FILE, DEFAULT_URL
from tests.api.scripted_server import FINE, scripted_server


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home with a key, which no launcher has used."""
    for name in ("LCL_API_URL", "LCL_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LCL_HOME", str(tmp_path))
    (tmp_path / "key").write_text("from-file\n")
    return tmp_path


@pytest.mark.parametrize(
    ("address", "url", "has_key"),
    [
        (None, DEFAULT_URL, True),  # no launcher has used the home
        ("http://127.0.0.1:1\n", "http://127.0.0.1:1", True),
        ("\n", DEFAULT_URL, False),  # it has ended: another user's service may have its port
        ("http://192.0.2.1:8765\n", "http://192.0.2.1:8765", False),  # not this machine
    ],
)
def test_the_launchers_address_is_called_and_the_key_goes_to_its_service_alone(home, address, url, has_key):
    if address is not None:
        (home / API_FILE).write_text(address)
    with Client() as client:
        assert (client.base_url, client.has_key) == (url, has_key)


def test_an_address_that_is_named_counts_before_the_launchers(home, monkeypatch):
    (home / API_FILE).write_text("http://127.0.0.1:1\n")
    with scripted_server(FINE) as server:
        monkeypatch.setenv("LCL_API_URL", server.url)
        for given, sent in ((None, "from-file"), ("given", "given")):
            with Client(key=given) as client:
                client.datasets()
            assert server.requests[-1][2].get("authorization") == f"Bearer {sent}"
        monkeypatch.setenv("LCL_API_KEY", "from-environment")
        with Client() as client:
            client.datasets()
        assert server.requests[-1][2].get("authorization") == "Bearer from-environment"
