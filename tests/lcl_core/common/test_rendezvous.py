"""A port that is reserved for rank 0: nobody else gets it, and rank 0 listens on it."""

import socket

import pytest

from lcl_core.common.processes import listen_on_reserved, reserve_port


def test_nobody_else_gets_a_reserved_port():
    with reserve_port("127.0.0.1") as reserved:
        port = reserved.getsockname()[1]
        for host in ("", "127.0.0.1"):
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind((host, port))
        with socket.socket() as early, pytest.raises(ConnectionRefusedError):
            early.connect(("127.0.0.1", port))


@pytest.mark.parametrize("host", ["", "127.0.0.1"])
def test_rank_0_listens_on_it(host):
    with reserve_port(host) as reserved:
        port = reserved.getsockname()[1]
        with listen_on_reserved(port, host), socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            assert client.getpeername()[1] == port
