"""Rate limits that several processes of the service share through Redis.

Every second each process writes what its keys use, and reads what the others have written; its limiter counts both. A
request waits for no answer of Redis, so the limits are exact to what happens in a second. A report expires with its
process. While Redis does not answer, each process counts for itself.
"""

from __future__ import annotations

import json
import secrets
import threading
from typing import TYPE_CHECKING

import structlog

from api.core.limits import RateLimiter, Usage, UsageReport

if TYPE_CHECKING:
    from redis import Redis

EXCHANGE_SECONDS = 1.0
REPORT_SECONDS = 5  # for which a report counts: a process that was killed keeps no slots for longer
ANSWER_SECONDS = 2.0
_PROCESSES = "lcl:limits:processes"
_REPORT = "lcl:limits:process:"

log = structlog.get_logger(__name__)


class SharedLimits:
    """Exchanges the usage of one limiter with other processes, in a thread.

    Args:
        url: of Redis, as Celery writes it.
        seconds: between two exchanges.
    """

    def __init__(self, url: str, limiter: RateLimiter, seconds: float = EXCHANGE_SECONDS) -> None:
        import redis  # here: a service without a broker saves the tenth of a second that loading it takes

        self._redis = redis
        self._url, self._limiter, self._seconds = url, limiter, seconds
        self._id = secrets.token_hex(8)
        self._client: Redis | None = None
        self._reachable = True
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="lcl-limits", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop, and withdraw the report of this process."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._client is not None:
            try:
                self._client.delete(_REPORT + self._id)
                self._client.srem(_PROCESSES, self._id)
            except self._redis.RedisError:
                pass  # it expires
            self._client.close()

    def exchange(self) -> bool:
        """Write this process's report and count those of the others. False: Redis did not answer."""
        try:
            reports = self._exchange()
        except (self._redis.RedisError, ValueError, OSError) as error:
            if self._reachable:
                log.warning("limits_not_shared", error=str(error))
            self._reachable = False
            self._limiter.include({})
            return False
        self._reachable = True
        self._limiter.include(reports)
        return True

    def _exchange(self) -> dict[str, UsageReport]:
        client = self._client = self._client or self._connect()
        with client.pipeline(transaction=False) as pipeline:
            pipeline.set(_REPORT + self._id, _encode(self._limiter.report()), ex=REPORT_SECONDS)
            pipeline.sadd(_PROCESSES, self._id)
            pipeline.smembers(_PROCESSES)
            *_, members = pipeline.execute()
        others = sorted(member for member in members if member != self._id)
        if not others:
            return {}
        texts = client.mget([_REPORT + other for other in others])
        reports = {other: text for other, text in zip(others, texts, strict=True) if text is not None}
        if ended := [other for other in others if other not in reports]:
            client.srem(_PROCESSES, *ended)  # one that lives adds itself again
        return {other: _decode(text) for other, text in reports.items()}

    def _connect(self) -> Redis:
        """Raises: ValueError for an address that is not one of Redis."""
        address = self._url.replace("redis+socket://", "unix://", 1)
        client: Redis = self._redis.Redis.from_url(
            address, decode_responses=True, socket_timeout=ANSWER_SECONDS, socket_connect_timeout=ANSWER_SECONDS
        )
        return client

    def _serve(self) -> None:
        while not self._stopping.is_set():
            self.exchange()
            self._stopping.wait(self._seconds)


def _encode(report: UsageReport) -> str:
    return json.dumps({key: list(usage) for key, usage in report.items()})


def _decode(text: bytes | str) -> UsageReport:
    return {key: Usage(*usage) for key, usage in json.loads(text).items()}
