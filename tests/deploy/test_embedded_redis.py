"""The embedded broker: private, in memory alone, and gone with its parent."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import redis

from deploy.embedded_redis import EmbeddedBroker
from deploy.process import ChildDied
from lcl_core.common.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def home():
    with tempfile.TemporaryDirectory(prefix="lcl-") as folder:
        yield Path(folder)


def client(broker):
    return redis.Redis(unix_socket_path=str(broker.socket), decode_responses=True)


def test_it_listens_on_a_private_socket_alone(home):
    with EmbeddedBroker(home) as broker:
        assert broker.url == f"redis+socket://{home.resolve()}/broker.sock"
        assert stat.S_IMODE(broker.socket.stat().st_mode) == 0o700
        assert stat.S_IMODE((home / "broker").stat().st_mode) == 0o700
        with client(broker) as server:
            assert server.config_get("port") == {"port": "0"}
            assert (server.config_get("appendonly"), server.config_get("save")) == ({"appendonly": "no"}, {"save": ""})
    assert not broker.socket.exists()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_after_its_death_it_starts_again_on_the_same_socket(home, how, eventually):
    deep = home / ("a" * 60) / ("b" * 60)  # such that the socket lies elsewhere
    for place in (home, deep):
        broker = EmbeddedBroker(place)
        broker.start()
        address = broker.url
        assert broker.pid is not None
        os.kill(broker.pid, how)
        eventually(lambda broker=broker: is_dead(broker))
        broker.start()
        with client(broker) as server:
            assert server.ping()
        assert broker.url == address
        broker.stop()


def is_dead(broker):
    try:
        broker.check()
    except ChildDied:
        return True
    return False


def test_it_writes_no_messages_to_the_disk(home):
    old = home / "broker" / "appendonlydir"
    old.mkdir(parents=True)
    (old / "appendonly.aof.1.incr.aof").write_bytes(b"torn by a full disk")
    with EmbeddedBroker(home) as broker, client(broker) as server:
        server.rpush("queue", *range(1000))
    assert [path.name for path in (home / "broker").iterdir()] == ["broker.log"], "that of earlier versions went too"


def test_a_full_disk_does_not_end_it(small_disk):
    with EmbeddedBroker(small_disk.path) as broker, client(broker) as server:
        small_disk.fill()
        for number in range(2000):
            server.rpush("queue", f"{number:01000}")
        broker.check()
        assert server.llen("queue") == 2000
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGKILL)
        os.waitid(os.P_PID, broker.pid, os.WEXITED | os.WNOWAIT)
        broker.start()
        assert server.ping(), "it starts on a full disk, too"
        small_disk.make_room()


def test_a_second_broker_in_the_same_home_is_refused(home):
    with EmbeddedBroker(home) as broker, client(broker) as server:
        second = EmbeddedBroker(home)
        with pytest.raises(UserError, match="another broker"):
            second.start()
        second.stop()
        assert server.ping()


def test_its_death_is_noticed_with_its_last_words(home, eventually):
    with EmbeddedBroker(home) as broker:
        broker.check()
        with client(broker) as server:
            server.shutdown(nosave=True)
        assert broker.pid is not None
        with pytest.raises(UserError, match="ready to exit"):
            eventually(lambda: broker.check() is not None)


def test_a_home_with_a_long_path_works_too(home):
    deep = home / ("a" * 60) / ("b" * 60)
    with EmbeddedBroker(deep) as broker:
        with client(broker) as server:
            assert server.ping()
        private = broker.socket.parent
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert not private.exists()
    assert (deep / "broker" / "broker.log").is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_it_dies_with_its_parent(home, eventually):
    code = (
        "import sys, time; from pathlib import Path; from deploy.embedded_redis import EmbeddedBroker\n"
        "broker = EmbeddedBroker(Path(sys.argv[1])); broker.start(); print(broker.pid, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(home)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    eventually(lambda: not _alive(pid), "the broker's end")


def _alive(pid):
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
