"""Webhook delivery: hosts in parallel, the messages of one host in order. One worker at a time runs it.

A message is claimed in the database, so that two workers may act at once. A slow receiver delays its own messages only.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
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

MESSAGE_SECONDS = 8.0  # for one message, from the name lookup to the response status
_MAX_RESPONSE_BYTES = 1024  # read of a response body, so that the connection can be reused
_MAX_HOSTS = 8  # that messages are sent to at one time
log = structlog.get_logger(__name__)


class WebhookSender:
    """Claims due messages every ``reap_seconds``, in a thread with an event loop: one coroutine a host.

    Args:
        is_due: whether this worker is to look for messages now.
    """

    def __init__(self, database: Database, settings: WorkerSettings, is_due: Callable[[], bool] = lambda: True) -> None:
        self._database = database
        self._settings = settings
        self._is_due = is_due
        self._task = PeriodicTask("webhooks", lambda: asyncio.run(self._serve()), settings.reap_seconds)
        self._busy: dict[str, asyncio.Task[int]] = {}  # by host

    def start(self) -> None:
        self._task.start()

    def stop(self) -> None:
        """End the thread after the messages that are on their way have arrived or failed."""
        self._task.stop()

    def round(self) -> int:
        """Send the due messages, a few a host. Returns: the number of attempts. Raises: UNREACHABLE."""
        return asyncio.run(self._round())

    async def _round(self) -> int:
        async with self._client() as http:
            await self._start_due(http)
            return sum(await asyncio.gather(*self._busy.values()))

    async def _serve(self) -> None:
        async with self._client() as http:
            while not self._task.stopping.is_set():
                try:
                    if self._is_due():
                        await self._start_due(http)
                except UNREACHABLE as error:
                    log_database_error(error)
                await self._pause()
            await asyncio.gather(*self._busy.values(), return_exceptions=True)

    def _client(self) -> httpx.AsyncClient:
        """No redirects and no proxy of the environment: a message goes only to hosts of the allow-list."""
        limits = httpx.Limits(max_connections=_MAX_HOSTS, max_keepalive_connections=_MAX_HOSTS, keepalive_expiry=5)
        return httpx.AsyncClient(timeout=MESSAGE_SECONDS, limits=limits, follow_redirects=False, trust_env=False)

    async def _start_due(self, http: httpx.AsyncClient) -> None:
        """Start a coroutine for each host with due messages that has none. Raises: UNREACHABLE."""
        webhooks: dict[str, list[str]] = defaultdict(list)
        for webhook_id, url in await asyncio.to_thread(self._due):
            webhooks[urlsplit(url).netloc.lower()].append(webhook_id)
        for host in [host for host in webhooks if host not in self._busy][: _MAX_HOSTS - len(self._busy)]:
            task = asyncio.create_task(self._send_to_host(http, webhooks[host]))
            self._busy[host] = task
            task.add_done_callback(partial(self._on_done, host))

    def _on_done(self, host: str, task: asyncio.Task[int]) -> None:
        del self._busy[host]
        error = task.exception()
        if isinstance(error, UNREACHABLE):
            log_database_error(error)
        elif error is not None:  # one message that cannot be sent must not keep the others
            log.error("webhook_round_failed", exc_info=error)

    async def _pause(self) -> None:
        """Wait until a host is done, or the next round is due."""
        if self._busy:
            await asyncio.wait(self._busy.values(), timeout=self._settings.reap_seconds, return_when="FIRST_COMPLETED")
        else:
            await asyncio.to_thread(self._task.stopping.wait, self._settings.reap_seconds)

    async def _send_to_host(self, http: httpx.AsyncClient, webhooks: list[str]) -> int:
        """Send a few messages in order; the host's others wait for the next round. Returns: their number."""
        deliveries = await asyncio.to_thread(self._claim, webhooks)
        for delivery in deliveries:
            if self._task.stopping.is_set():
                break  # due again within a minute, for another worker
            error = await self._send(http, delivery)
            if error is not None:
                log.warning(
                    "webhook_failed",
                    delivery=delivery.id,
                    attempt=delivery.attempt,
                    error=error,
                    run=delivery.payload["run"]["id"],
                    webhook=delivery.webhook_id,
                )
            await asyncio.to_thread(self._record, delivery, error)
        return len(deliveries)

    async def _send(self, http: httpx.AsyncClient, delivery: PendingDelivery) -> str | None:
        """Send one message. Returns: the error, None after a 2xx status."""
        timestamp = int(time.time())
        body = json.dumps(delivery.payload, ensure_ascii=False, separators=(",", ":")).encode()
        status: int | None = None
        try:
            # the allow-list may have changed since the submission
            check_url(delivery.url, self._settings.webhook_hosts, https_only=self._settings.team)
            headers = self._headers(delivery, timestamp, body)
            async with (
                asyncio.timeout(MESSAGE_SECONDS),
                http.stream("POST", delivery.url, content=body, headers=headers) as response,
            ):
                status = response.status_code
                await _drain_response(response)
        except TimeoutError:
            if status is None:
                return f"no answer within {MESSAGE_SECONDS:g} s"
        except (UserError, OSError, httpx.HTTPError, httpx.InvalidURL) as error:
            if status is None:
                return str(error) or type(error).__name__
        return None if status is not None and 200 <= status < 300 else f"the receiver answered {status}"

    def _headers(self, delivery: PendingDelivery, timestamp: int, body: bytes) -> dict[str, str]:
        master = existing_master_secret(self._settings.webhook_secret.get_secret_value(), self._settings.home)
        return {
            "content-type": "application/json",
            "user-agent": "lcl-webhook",
            "x-lcl-event": delivery.event,
            "x-lcl-delivery": delivery.id,
            "x-lcl-timestamp": str(timestamp),
            "x-lcl-signature": signature(webhook_secret(master, delivery.webhook_id), timestamp, body),
        }

    def _due(self) -> list[tuple[str, str]]:
        with self._database.reading() as session:
            return webhooks_with_due_deliveries(session)

    def _claim(self, webhooks: list[str]) -> list[PendingDelivery]:
        with self._database.session() as session:
            return claim_deliveries(session, webhooks)

    def _record(self, delivery: PendingDelivery, error: str | None) -> None:
        with self._database.session() as session:
            record_delivery(session, delivery, error)


async def _drain_response(response: httpx.Response) -> None:
    """Read a short body, so that the connection can be used again, or the beginning of a long one."""
    read = 0
    async for chunk in response.aiter_raw():
        read += len(chunk)
        if read > _MAX_RESPONSE_BYTES:
            return
