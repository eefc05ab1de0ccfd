"""The embedded broker: private, in memory alone, and started again on the same socket."""

import os
import signal
import stat
import tempfile
from pathlib import Path

import pytest
import redis

from deploy.embedded_redis import EmbeddedBroker


@pytest.fixture
def home():
    with tempfile.TemporaryDirectory(prefix="lcl-") as folder:
        yield Path(folder)


def client(broker):
    return redis.Redis(unix_socket_path=str(broker.socket), decode_responses=True)


def test_it_listens_on_a_private_socket_alone_and_keeps_nothing(home):
    with EmbeddedBroker(home) as broker:
        assert broker.url == f"redis+socket://{home.resolve()}/broker.sock"
        assert stat.S_IMODE(broker.socket.stat().st_mode) == 0o700
        with client(broker) as server:
            server.rpush("queue", *range(1000))
            assert server.config_get("port") == {"port": "0"}
            assert (server.config_get("appendonly"), server.config_get("save")) == ({"appendonly": "no"}, {"save": ""})
        assert {path.name for path in home.iterdir()} == {"broker.sock", "logs"}
    assert not broker.socket.exists()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_after_its_death_it_starts_again_on_the_same_socket(home, how, eventually):
    for place in (home, home / ("a" * 60) / ("b" * 60)):  # in the latter the socket lies elsewhere
        with EmbeddedBroker(place) as broker:
            address = broker.url
            assert stat.S_IMODE(broker.socket.parent.stat().st_mode) == 0o700
            os.kill(broker.process.pid, how)
            eventually(lambda broker=broker: broker.process.poll() is not None)
            broker.start()
            with client(broker) as server:
                assert server.ping()
            assert broker.url == address
        assert not broker.socket.exists()
