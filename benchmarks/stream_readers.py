"""Readers of event streams for ``benchmarks.streams``: one process, one connection a stream.

Reads a plan from the first line of standard input, prints READY when every stream has had its first event, and the
arrivals when standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice
from urllib.parse import urlsplit

READY = "ready"
STEP = re.compile(rb'"step":(\d+)')
END_OF_EVENT = b"\r\n\r\n"
AT_ONCE = 32  # streams that are being opened


@dataclass(frozen=True)
class ReaderPlan:
    """Streams to open: ``streams``, on the runs in turn."""

    url: str
    key: str
    runs: list[str]
    streams: int


@dataclass
class Arrivals:
    """Arrivals of events at their readers.

    Attributes:
        moments: {run: [[step, monotonic seconds] …]}, all streams of a run together; one clock for all processes.
        ended: number of streams that the service ended, by what was last read.
    """

    moments: dict[str, list[list[float]]] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)


class _Stream(asyncio.Protocol):
    """One response. A client library would need more processor time than the service."""

    def __init__(self, request: bytes, moments: list[list[float]], ended: Counter[str]) -> None:
        self._request, self._moments, self._ended = request, moments, ended
        self._unread = b""
        self.began: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        moment = time.monotonic()
        whole, separator, rest = (self._unread + data).rpartition(END_OF_EVENT)
        self._unread = rest if separator else self._unread + data
        self._moments += [[int(step), moment] for step in STEP.findall(whole)]
        if not self.began.done() and b"event: state" in whole:
            self.began.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        last = self._unread[-200:].decode(errors="replace") or str(exc or "end")
        self._ended[last] += 1
        if not self.began.done():
            self.began.set_exception(ConnectionError(f"a stream ended before its first event: {last}"))


async def read_streams(plan: ReaderPlan) -> Arrivals:
    """Open the streams, then wait for the end of standard input."""
    address, loop = urlsplit(plan.url), asyncio.get_running_loop()
    assert address.hostname is not None
    host, port = address.hostname, address.port or 80
    arrivals, ended, opening = Arrivals(), Counter[str](), asyncio.Semaphore(AT_ONCE)

    async def open_stream(run_id: str) -> None:
        head = f"GET /v1/runs/{run_id}/events HTTP/1.1\r\nhost: {address.netloc}\r\nauthorization: Bearer {plan.key}"
        moments = arrivals.moments.setdefault(run_id, [])
        async with opening:
            _, stream = await loop.create_connection(
                lambda: _Stream(f"{head}\r\n\r\n".encode("ascii"), moments, ended), host, port
            )
            await stream.began

    await asyncio.gather(*map(open_stream, islice(cycle(plan.runs), plan.streams)))
    print(READY, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    return Arrivals(arrivals.moments, dict(ended))


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(read_streams(ReaderPlan(**json.loads(sys.stdin.readline())))))))
