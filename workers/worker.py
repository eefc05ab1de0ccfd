"""A worker process: the doorbell's listener, the slots, and the reaper, from start to orderly end."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

import structlog
from celery import signals

from lcl_core.runs.database import UNREACHABLE, Database
from lcl_core.runs.doorbell import Doorbell
from lcl_core.runs.roster import Identity, leave
from lcl_core.runs.store import Claim, SeatClaim, ensure_sample
from workers.app import consumer_app
from workers.carrier import Carrier
from workers.collector import Collector
from workers.courier import Courier
from workers.devices import devices_and_offers
from workers.logs import log_database_error
from workers.member import Member
from workers.reaper import Reaper
from workers.settings import WorkerSettings
from workers.slots import Slots
from workers.supervisor import MODULES, Supervisor
from workers.tasks import register_tasks

_RETRY_SECONDS = 1.0
log = structlog.get_logger(__name__)


class WorkerProcess:
    """Runs in the main thread until SIGTERM, SIGINT or SIGQUIT.

    Args:
        modules: the module that runs each kind of spec.
    """

    def __init__(self, settings: WorkerSettings, modules: Mapping[str, str] = MODULES) -> None:
        self._settings = settings
        self._database = Database(settings.resolved_database_url)
        self._doorbell = Doorbell(settings.resolved_broker_url)
        self._identity = _identity(settings)
        self._supervisor = Supervisor(self._database, settings, modules)
        self._member = Member(self._database, settings, modules)
        self._slots = Slots(self._identity, self._database, settings.lease_seconds, self._work)
        self._courier = Courier(self._database, settings)
        self._carrier = Carrier(self._database, settings)
        self._collector = Collector(self._database, settings)
        self._reaper = Reaper(self._database, self._doorbell, self._slots, self._identity, settings)

    def run(self) -> int:
        """Serve; returns the exit status. On the way out runs are handed back, for another worker to resume."""
        self._settings.home.mkdir(parents=True, exist_ok=True)
        self._await_database()
        self._reaper.start()
        self._courier.start()
        self._carrier.start()
        self._collector.start()
        signals.worker_shutting_down.connect(self._on_shutdown)
        log.info("worker_ready", worker=self._identity.id, devices=self._identity.devices, offers=self._identity.offers)
        try:
            return self._consume()
        finally:
            self._close()

    def _work(self, claim: Claim | SeatClaim, stopping: threading.Event) -> str | None:
        if isinstance(claim, SeatClaim):
            return self._member.run(claim, stopping)
        self._supervisor.run(claim, stopping)
        return None

    def _await_database(self) -> None:
        """Bring the schema up to date as soon as the database answers."""
        while True:
            try:
                self._database.migrate()
                with self._database.session() as session:
                    ensure_sample(session)
                return
            except UNREACHABLE as error:
                log_database_error(error)
                time.sleep(_RETRY_SECONDS)

    def _consume(self) -> int:
        app = consumer_app(self._settings.resolved_broker_url, self._settings.worker_slots)
        register_tasks(app, self._slots, self._database, self._identity.id)
        worker = app.Worker(
            hostname=f"lcl@{self._identity.id}",
            loglevel="WARNING",
            without_mingle=True,
            without_gossip=True,
            without_heartbeat=True,
            quiet=True,
        )
        worker.start()
        return int(worker.exitcode or 0)

    def _on_shutdown(self, **_: Any) -> None:
        """Called by Celery's signal handler, before it waits for anything."""
        self._slots.stop()

    def _close(self) -> None:
        self._slots.stop()
        self._slots.join()
        self._reaper.stop()
        self._courier.stop()
        self._carrier.stop()
        self._collector.stop()
        try:
            self._reaper.round()  # ring for what was just handed back
            with self._database.session() as session:
                leave(session, self._identity.id)
        except UNREACHABLE as error:
            log_database_error(error)
        self._doorbell.close()
        self._database.dispose()
        log.info("worker_ended", worker=self._identity.id)


def _identity(settings: WorkerSettings) -> Identity:
    host, pid = socket.gethostname(), os.getpid()
    devices, offers = devices_and_offers()
    offers = tuple(settings.worker_offers) or offers
    return Identity(f"{host}-{pid}-{secrets.token_hex(3)}", host, pid, settings.worker_slots, devices, offers)
