"""Sends what the outbox holds. Every worker has one; all may act at once, and each message is one's at a time."""

from __future__ import annotations

import json
import threading
import time

import httpx
import structlog

from lcl_core.errors import UserError
from lcl_core.runs.database import UNREACHABLE, Database
from lcl_core.runs.outbox import Parcel, any_to_send, note_sent, take
from lcl_core.webhooks import check_url, master_secret, secret_of, signature
from workers.settings import WorkerSettings

_SECONDS = 8.0  # for one message
log = structlog.get_logger(__name__)


class Courier:
    """Looks every ``reap_seconds``, in a thread of its own: a receiver that is slow must not delay the reaper."""

    def __init__(self, database: Database, settings: WorkerSettings) -> None:
        self._database = database
        self._settings = settings
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="courier", daemon=True)
        # no redirects, no proxy of the environment: a message goes where the list allows, or nowhere
        self._http = httpx.Client(timeout=_SECONDS, follow_redirects=False, trust_env=False)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it; what it has not sent others will."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._http.close()

    def round(self) -> int:
        """Send what is due; returns how many messages were tried. Raises: UNREACHABLE."""
        with self._database.reading() as session:
            if not any_to_send(session):
                return 0
        with self._database.session() as session:
            parcels = take(session)
        for parcel in parcels:
            error = self._send(parcel)
            if error is not None:
                log.warning("webhook_failed", delivery=parcel.id, attempt=parcel.attempt, error=error, **_about(parcel))
            with self._database.session() as session:
                note_sent(session, parcel, error)
        return len(parcels)

    def _send(self, parcel: Parcel) -> str | None:
        """What went wrong, or None."""
        timestamp = int(time.time())
        body = json.dumps(parcel.payload, ensure_ascii=False, separators=(",", ":")).encode()
        try:
            check_url(parcel.url, self._settings.webhook_hosts)  # the list may have become shorter
            answer = self._http.post(parcel.url, content=body, headers=self._headers(parcel, timestamp, body))
        except (UserError, OSError, httpx.HTTPError, httpx.InvalidURL) as error:
            return str(error) or type(error).__name__
        return None if answer.is_success else f"the receiver answered {answer.status_code}"

    def _headers(self, parcel: Parcel, timestamp: int, body: bytes) -> dict[str, str]:
        master = master_secret(self._settings.webhook_secret.get_secret_value(), self._settings.home)
        return {
            "content-type": "application/json",
            "user-agent": "lcl-webhook",
            "x-lcl-event": parcel.event,
            "x-lcl-delivery": parcel.id,
            "x-lcl-timestamp": str(timestamp),
            "x-lcl-signature": signature(secret_of(master, parcel.webhook_id), timestamp, body),
        }

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                if self.round():
                    continue  # perhaps there is more
            except UNREACHABLE as error:
                log.warning("database_unreachable", error=str(error))
            except Exception:  # one message that cannot be sent must not keep the others
                log.exception("courier_round_failed")
            self._stopping.wait(self._settings.reap_seconds)


def _about(parcel: Parcel) -> dict[str, str]:
    return {"run": parcel.payload["run"]["id"], "webhook": parcel.webhook_id}
