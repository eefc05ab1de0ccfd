"""Webhook delivery: hosts in parallel, the messages of one host in order. One worker at a time runs it.

A message is claimed in the database, so that two workers may act at once. A slow receiver delays its own messages only.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import structlog

from lcl_core.common.errors import UserError
from lcl_core.common.logging import log_database_error
from lcl_core.db.session import UNREACHABLE, Database
from lcl_core.db.webhooks import (
    PendingDelivery,
    check_url,
    claim_deliveries,
    existing_master_secret,
    record_delivery,
    signature,
    webhook_secret,
    webhooks_with_due_deliveries,
)
from lcl_core.db.workers import PeriodicTask
from workers.settings import WorkerSettings

ANSWER_SECONDS = 8.0  # for a connection, and for the response status
_MAX_HOSTS = 8  # that messages are sent to at one time
log = structlog.get_logger(__name__)


class WebhookSender:
    """Claims due messages every ``reap_seconds``, and sends those of each host in a thread.

    Args:
        is_due: whether this worker is to look for messages now.
    """

    def __init__(self, database: Database, settings: WorkerSettings, is_due: Callable[[], bool] = lambda: True) -> None:
        self._database, self._settings, self._is_due = database, settings, is_due
        self._task = PeriodicTask("webhooks", self.round, settings.reap_seconds)
        self._pool = ThreadPoolExecutor(_MAX_HOSTS, thread_name_prefix="webhooks")
        self._lock = threading.Lock()
        self._busy: set[str] = set()  # hosts
        # no redirects and no proxy of the environment: a message goes only to hosts of the allow-list
        self._http = httpx.Client(timeout=ANSWER_SECONDS, follow_redirects=False, trust_env=False)

    def start(self) -> None:
        self._task.start()

    def stop(self) -> None:
        """Wait for the messages that are on their way."""
        self._task.stop()
        self._pool.shutdown()
        self._http.close()

    def round(self) -> None:
        """Begin with each host that has due messages and is not being sent to. Raises: UNREACHABLE."""
        if not self._is_due():
            return
        with self._database.reading() as session:
            due = webhooks_with_due_deliveries(session)
        webhooks: dict[str, list[str]] = defaultdict(list)
        for webhook_id, url in due:
            webhooks[urlsplit(url).netloc.lower()].append(webhook_id)
        with self._lock:
            for host in webhooks.keys() - self._busy:
                self._busy.add(host)
                self._pool.submit(self._send_to_host, host, webhooks[host])

    def _send_to_host(self, host: str, webhooks: Sequence[str]) -> None:
        """A few messages; the host's others wait for a later round."""
        try:
            with self._database.session() as session:
                deliveries = claim_deliveries(session, webhooks)
            for delivery in deliveries:
                if self._task.stopping.is_set():
                    return  # due again within a minute, for another worker
                error = self._send(delivery)
                if error:
                    log.warning("webhook_failed", delivery=delivery.id, webhook=delivery.webhook_id, error=error)
                with self._database.session() as session:
                    record_delivery(session, delivery, error)
        except UNREACHABLE as error:
            log_database_error(error)
        except Exception:  # one message that cannot be sent must not keep the others
            log.exception("webhook_round_failed")
        finally:
            with self._lock:
                self._busy.discard(host)

    def _send(self, delivery: PendingDelivery) -> str | None:
        """Send one message. Returns: the error, None after a 2xx status."""
        timestamp, settings = int(time.time()), self._settings
        body = json.dumps(delivery.payload, ensure_ascii=False, separators=(",", ":")).encode()
        try:
            # the allow-list may have changed since the submission
            check_url(delivery.url, settings.webhook_hosts, https_only=settings.team)
            master = existing_master_secret(settings.webhook_secret.get_secret_value(), settings.home)
            headers = {
                "content-type": "application/json",
                "user-agent": "lcl-webhook",
                "x-lcl-event": delivery.event,
                "x-lcl-delivery": delivery.id,
                "x-lcl-timestamp": str(timestamp),
                "x-lcl-signature": signature(webhook_secret(master, delivery.webhook_id), timestamp, body),
            }
            with self._http.stream("POST", delivery.url, content=body, headers=headers) as response:
                status = response.status_code  # the body is not read
        except httpx.TimeoutException:
            return f"no answer within {ANSWER_SECONDS:g} s"
        except (UserError, OSError, httpx.HTTPError, httpx.InvalidURL) as error:
            return str(error) or type(error).__name__
        return None if 200 <= status < 300 else f"the receiver answered {status}"
