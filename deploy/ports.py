"""Local TCP ports."""

from __future__ import annotations

import socket

LOOPBACK = "127.0.0.1"
BACKLOG = 1024  # connections that wait while the process behind the socket is started


def listening_socket(preferred: int) -> socket.socket:
    """A socket that listens on ``preferred``, or on a port that the system chooses when that one is in use or 0.

    Nobody else can take the port afterwards: the socket is passed to the process that serves on it, and to its
    successor when it dies. Binding alone would not do, since Linux lets two sockets with SO_REUSEADDR bind one port
    as long as neither listens.

    Raises: OSError when no port can be had.
    """
    for port in dict.fromkeys((preferred, 0)):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            if port == 0:
                raise
            continue
        return listener
    raise AssertionError("unreachable: port 0 returns or raises")


def free_port(preferred: int) -> int:
    """``preferred`` if nobody listens there, otherwise one that the system calls free. It may be taken any moment."""
    with listening_socket(preferred) as probe:
        return int(probe.getsockname()[1])
