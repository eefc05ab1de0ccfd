"""Wake-up messages over the broker. A message has the id of a run and no state: the database is authoritative.

Each message reaches one worker, which suffices for a run that any worker can claim. All workers query the queue every
few seconds besides.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from celery import Celery

QUEUE = "lcl"
WAKE = "lcl.wake"
_CONNECT_SECONDS = 2.0
# one immediate retry: a pooled connection may be older than a restart of the broker
_RETRY: dict[str, Any] = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}

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

    @cached_property
    def _app(self) -> Celery:
        return producer_app(self.broker_url)

    def wake(self, run_id: str | None) -> bool:
        """Announce a queued run to a worker; None: some may be queued. False: the broker cannot be reached."""
        from kombu.exceptions import OperationalError

        try:
            self._app.send_task(WAKE, [run_id], expires=3600 if run_id else 60, retry=True, retry_policy=_RETRY)
        except (OperationalError, OSError) as error:
            log.warning("broker_unreachable", run=run_id, error=str(error))
            return False
        return True

    def close(self) -> None:
        """Close the pooled connections."""
        if "_app" in self.__dict__:
            self._app.close()
