"""A port that is reserved for rank 0: nobody else gets it, and rank 0 listens on it."""

from __future__ import annotations

import socket

import pytest

from lcl_core.common.rendezvous import NodeInfo, listen_on_reserved, reserve_port


def test_nobody_else_gets_a_reserved_port() -> None:
    with reserve_port("127.0.0.1") as reserved:
        port = reserved.getsockname()[1]
        for host in ("", "127.0.0.1"):
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind((host, port))
        with socket.socket() as early, pytest.raises(ConnectionRefusedError):
            early.connect(("127.0.0.1", port))


@pytest.mark.parametrize("host", ["", "127.0.0.1"])
def test_rank_0_listens_on_it(host: str) -> None:
    with reserve_port(host) as reserved:
        port = reserved.getsockname()[1]
        with listen_on_reserved(port, host), socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            assert client.getpeername()[1] == port


def test_what_a_node_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert NodeInfo.from_env() is None
    for host in ("10.0.0.1", "2001:db8::7", "node7"):
        node = NodeInfo(2, 4, host, 4711, 60.0)
        for name, value in node.to_env().items():
            monkeypatch.setenv(name, value)
        assert NodeInfo.from_env() == node
    env = node.rank_env(local_rank=1, processes=8)
    assert (env["RANK"], env["WORLD_SIZE"], env["MASTER_ADDR"], env["MASTER_PORT"]) == ("17", "32", "node7", "4711")
