"""Wake-up messages over the broker. A message has the id of a run and no state: the database is authoritative.

Each message of the queue reaches one worker, which suffices for a run that any worker can claim. A run that the worker
did not claim, because it has no free slot or does not offer what the run needs, is announced to all workers.

A message expires when it is consumed, not before: the items of a list in Redis have no age. So that the queue of a
service without workers does not fill the broker, nothing is sent to it while ``MOST_WAITING`` messages are in it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

if TYPE_CHECKING:
    from celery import Celery

QUEUE = "lcl"
TO_ALL = "lcl.all"  # fan-out exchange: a message reaches every worker that listens, and is not kept
WAKE = "lcl.wake"
PING = "lcl.ping"
MOST_WAITING = 10_000  # messages of less than 1 KiB
_COUNT_EVERY = 100  # messages of a producer
_CONNECT_SECONDS = 2.0
# one immediate retry: a pooled connection may be older than a restart of the broker
_RETRY: dict[str, Any] = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}

Result = TypeVar("Result")
log = structlog.get_logger(__name__)


def producer_app(broker_url: str) -> Celery:
    """A Celery application that only sends, in JSON."""
    from celery import Celery

    app = Celery("lcl", broker=broker_url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_default_queue=QUEUE,
        broker_connection_timeout=_CONNECT_SECONDS,
        broker_transport_options={"socket_connect_timeout": _CONNECT_SECONDS, "socket_timeout": 5.0},
    )
    return app


class WakeupProducer:
    """Sends messages to workers. A broker that is unreachable or accepts nothing is logged and raises nothing."""

    def __init__(self, broker_url: str) -> None:
        self.broker_url = broker_url
        self._is_long = False
        self._until_count = 0  # messages to the queue until those in it are counted

    @cached_property
    def _app(self) -> Celery:
        return producer_app(self.broker_url)

    def wake(self, run_id: str) -> bool:
        """Announce a queued run to the workers. False: the broker cannot be reached."""
        return self._send_to_queue(WAKE, run_id, expires=3600)

    def wake_all(self, run_id: str | None) -> bool:
        """Announce a queued run, or that some may be queued, to every worker. False: the broker cannot be reached."""
        from kombu import Exchange

        target = {"exchange": TO_ALL, "routing_key": TO_ALL, "declare": [Exchange(TO_ALL, type="fanout")]}
        return self._send(WAKE, run_id, expires=60, **target)

    def ping(self, sender: str) -> bool:
        """Send a message whose receipt proves that workers consume messages."""
        return self._send_to_queue(PING, sender, expires=60)

    def _send_to_queue(self, task: str, argument: str, expires: float) -> bool:
        """Unless the queue is long: workers then have more messages to consume than they need."""
        if self._until_count <= 0:
            waiting = self._try(self._count_waiting, task, argument)
            if waiting is None:
                return False
            was_long, self._is_long = self._is_long, waiting >= MOST_WAITING
            if self._is_long:
                if not was_long:
                    log.warning("queue_long", messages=waiting, effect="no further ones are sent until workers consume")
                return True
            self._until_count = _COUNT_EVERY
        self._until_count -= 1
        return self._send(task, argument, expires)

    def _count_waiting(self) -> int:
        """Number of messages in the queue. Raises: OperationalError of kombu, OSError."""
        with self._app.producer_or_acquire() as producer:

            def count() -> int:
                return int(producer.channel.queue_declare(QUEUE).message_count)

            return int(producer.connection.ensure(producer, count, **_RETRY)())

    def _send(self, task: str, argument: str | None, expires: float, **target: Any) -> bool:
        def send() -> bool:
            self._app.send_task(task, [argument], expires=expires, retry=True, retry_policy=_RETRY, **target)
            return True

        return bool(self._try(send, task, argument))

    def _try(self, work: Callable[[], Result], task: str, argument: str | None) -> Result | None:
        """None: the broker cannot be reached."""
        from kombu.exceptions import OperationalError

        try:
            return work()
        except (OperationalError, OSError) as error:
            details = {"run": argument} if task == WAKE and argument else {}
            log.warning("broker_unreachable", task=task, error=str(error), **details)
            return None

    def close(self) -> None:
        """Close the pooled connections."""
        if "_app" in self.__dict__:
            self._app.close()
