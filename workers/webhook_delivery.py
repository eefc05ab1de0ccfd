"""Webhook delivery: hosts in parallel, the messages of one host in order. Every worker runs it.

A message is claimed in the database, so that all workers may act at once. A slow receiver delays its own messages only.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import defaultdict
from functools import partial
from urllib.parse import urlsplit

import httpx
import structlog

from lcl_core.common.errors import UserError
from lcl_core.common.webhook_signing import check_url, master_secret, signature, webhook_secret
from lcl_core.db.outbox import PendingDelivery, claim_deliveries, record_delivery, webhooks_with_due_deliveries
from lcl_core.db.session import UNREACHABLE, Database
from workers.logs import log_database_error
from workers.settings import WorkerSettings

MESSAGE_SECONDS = 8.0  # for one message: from the look-up of the host's name to the status of its answer
_MAX_RESPONSE_BYTES = 1024  # of an answer's body; nothing in it is of interest
_MAX_HOSTS = 8  # that messages are sent to at one time
log = structlog.get_logger(__name__)


class WebhookSender:
    """Looks every ``reap_seconds``, in a thread of its own with an event loop.

    Hosts are sent to at the same time, the messages of one host one after another: a receiver that is slow holds up its
    own messages alone.
    """

    def __init__(self, database: Database, settings: WorkerSettings) -> None:
        self._database = database
        self._settings = settings
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="courier", daemon=True)
        self._busy: dict[str, asyncio.Task[int]] = {}  # by host

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it, until the messages that are on their way have arrived or failed."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def round(self) -> int:
        """Send what is due to each host, a few messages each; returns how many were tried. Raises: UNREACHABLE."""
        return asyncio.run(self._round())

    async def _round(self) -> int:
        async with self._client() as http:
            await self._begin(http)
            return sum(await asyncio.gather(*self._busy.values()))

    async def _serve(self) -> None:
        async with self._client() as http:
            while not self._stopping.is_set():
                try:
                    await self._begin(http)
                except UNREACHABLE as error:
                    log_database_error(error)
                await self._pause()
            await asyncio.gather(*self._busy.values(), return_exceptions=True)

    def _client(self) -> httpx.AsyncClient:
        """No redirects, no proxy of the environment: a message goes where the list allows, or nowhere."""
        limits = httpx.Limits(max_connections=_MAX_HOSTS, max_keepalive_connections=_MAX_HOSTS, keepalive_expiry=5)
        return httpx.AsyncClient(timeout=MESSAGE_SECONDS, limits=limits, follow_redirects=False, trust_env=False)

    async def _begin(self, http: httpx.AsyncClient) -> None:
        """Start a task for each host that messages are due for and that has none. Raises: UNREACHABLE."""
        webhooks: dict[str, list[str]] = defaultdict(list)
        for webhook_id, url in await asyncio.to_thread(self._due):
            webhooks[urlsplit(url).netloc.lower()].append(webhook_id)
        for host in [host for host in webhooks if host not in self._busy][: _MAX_HOSTS - len(self._busy)]:
            task = asyncio.create_task(self._send_to_host(http, webhooks[host]))
            self._busy[host] = task
            task.add_done_callback(partial(self._ended, host))

    def _ended(self, host: str, task: asyncio.Task[int]) -> None:
        del self._busy[host]
        error = task.exception()
        if isinstance(error, UNREACHABLE):
            log_database_error(error)
        elif error is not None:  # one message that cannot be sent must not keep the others
            log.error("courier_round_failed", exc_info=error)

    async def _pause(self) -> None:
        """Until a host is done with, or the next look is due."""
        if self._busy:
            await asyncio.wait(self._busy.values(), timeout=self._settings.reap_seconds, return_when="FIRST_COMPLETED")
        else:
            await asyncio.to_thread(self._stopping.wait, self._settings.reap_seconds)

    async def _send_to_host(self, http: httpx.AsyncClient, webhooks: list[str]) -> int:
        """A few messages, one after another; returns how many. Others of that host have to wait for the next turn."""
        parcels = await asyncio.to_thread(self._take, webhooks)
        for parcel in parcels:
            if self._stopping.is_set():
                break  # its time comes again within a minute, by then with another worker
            error = await self._send(http, parcel)
            if error is not None:
                log.warning(
                    "webhook_failed", delivery=parcel.id, attempt=parcel.attempt, error=error, **_log_context(parcel)
                )
            await asyncio.to_thread(self._note, parcel, error)
        return len(parcels)

    async def _send(self, http: httpx.AsyncClient, parcel: PendingDelivery) -> str | None:
        """What went wrong, or None."""
        timestamp = int(time.time())
        body = json.dumps(parcel.payload, ensure_ascii=False, separators=(",", ":")).encode()
        status: int | None = None
        try:
            # the list may have become shorter
            check_url(parcel.url, self._settings.webhook_hosts, https_only=self._settings.team)
            headers = self._headers(parcel, timestamp, body)
            async with (
                asyncio.timeout(MESSAGE_SECONDS),
                http.stream("POST", parcel.url, content=body, headers=headers) as answer,
            ):
                status = answer.status_code
                await _drain_response(answer)
        except TimeoutError:
            if status is None:
                return f"no answer within {MESSAGE_SECONDS:g} s"
        except (UserError, OSError, httpx.HTTPError, httpx.InvalidURL) as error:
            if status is None:
                return str(error) or type(error).__name__
        return None if status is not None and 200 <= status < 300 else f"the receiver answered {status}"

    def _headers(self, parcel: PendingDelivery, timestamp: int, body: bytes) -> dict[str, str]:
        master = master_secret(self._settings.webhook_secret.get_secret_value(), self._settings.home)
        return {
            "content-type": "application/json",
            "user-agent": "lcl-webhook",
            "x-lcl-event": parcel.event,
            "x-lcl-delivery": parcel.id,
            "x-lcl-timestamp": str(timestamp),
            "x-lcl-signature": signature(webhook_secret(master, parcel.webhook_id), timestamp, body),
        }

    def _due(self) -> list[tuple[str, str]]:
        with self._database.reading() as session:
            return webhooks_with_due_deliveries(session)

    def _take(self, webhooks: list[str]) -> list[PendingDelivery]:
        with self._database.session() as session:
            return claim_deliveries(session, webhooks=webhooks)

    def _note(self, parcel: PendingDelivery, error: str | None) -> None:
        with self._database.session() as session:
            record_delivery(session, parcel, error)


async def _drain_response(answer: httpx.Response) -> None:
    """Read a short body, so that the connection can be used again; of a long one no more than its beginning."""
    read = 0
    async for chunk in answer.aiter_raw():
        read += len(chunk)
        if read > _MAX_RESPONSE_BYTES:
            return


def _log_context(parcel: PendingDelivery) -> dict[str, str]:
    return {"run": parcel.payload["run"]["id"], "webhook": parcel.webhook_id}
