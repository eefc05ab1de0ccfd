"""Rendezvous of the processes of one training: a TCP port that is reserved before they start, and its announcement.

The process that starts the ranks keeps the port bound without listening on it; rank 0 binds it a second time
(``SO_REUSEPORT``, which the system grants to processes of one user only) and listens. Nothing else can get the port in
between, and a connection that comes too early is refused and tried again.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Self

DEFAULT_SECONDS = 300.0
ADDRESS_VARIABLE, SECONDS_VARIABLE, COUNT_VARIABLE, NUMBER_VARIABLE = (
    "LCL_MEETING",
    "LCL_MEETING_SECONDS",
    "LCL_NODES",
    "LCL_NODE",
)


def reserve_port(host: str = "") -> socket.socket:
    """A socket that reserves a free TCP port of ``host`` (empty: all addresses) until it is closed. Raises: OSError."""
    return _bind(host, 0)


def listen_on_reserved(port: int, host: str = "") -> socket.socket:
    """A socket that listens on a port that a process of the same user has reserved. Raises: OSError."""
    listener = _bind(host, port)
    listener.listen(1024)
    return listener


def _bind(host: str, port: int) -> socket.socket:
    dual = not host and socket.has_dualstack_ipv6()
    bound = socket.socket(socket.AF_INET6 if dual else socket.AF_INET)
    try:
        if dual:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


@dataclass(frozen=True)
class NodeInfo:
    """This machine's number among those of the run, and the rendezvous address of their ranks.

    Attributes:
        seconds: in which all ranks must have connected to it.
    """

    number: int
    count: int
    host: str
    port: int
    seconds: float = DEFAULT_SECONDS

    @classmethod
    def at(cls, address: str, number: int, count: int, seconds: float) -> Self:
        """``address``: HOST:PORT, an IPv6 host in brackets."""
        host, _, port = address.rpartition(":")
        return cls(number, count, host.strip("[]"), int(port), seconds)

    @property
    def address(self) -> str:
        """HOST:PORT, an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def to_env(self) -> dict[str, str]:
        """Environment variables for the job process of this node."""
        values = {
            COUNT_VARIABLE: self.count,
            NUMBER_VARIABLE: self.number,
            ADDRESS_VARIABLE: self.address,
            SECONDS_VARIABLE: self.seconds,
        }
        return {name: str(value) for name, value in values.items()}


def meeting_seconds() -> float | None:
    """Seconds in which the ranks must have met at the reserved port; None: torchrun started them."""
    value = os.environ.get(SECONDS_VARIABLE)
    return None if value is None else float(value)
