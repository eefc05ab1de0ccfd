"""A worker process: the doorbell's listener, the slots, and the reaper, from start to orderly end."""

from __future__ import annotations

import os
import secrets
import socket
from typing import Any

import structlog
from celery import signals

from lcl_core.runs.database import UNREACHABLE, Database
from lcl_core.runs.doorbell import Doorbell
from lcl_core.runs.roster import Identity, leave
from lcl_core.runs.store import ensure_sample
from workers.app import consumer_app
from workers.devices import device_names
from workers.reaper import Reaper
from workers.settings import WorkerSettings
from workers.slots import Slots
from workers.supervisor import MODULES, Supervisor
from workers.tasks import register_tasks

log = structlog.get_logger(__name__)


class WorkerProcess:
    """Runs in the main thread until SIGTERM, SIGINT or SIGQUIT.

    Args:
        modules: the module that runs each kind of spec.
    """

    def __init__(self, settings: WorkerSettings, modules: dict[str, str] = MODULES) -> None:
        self._settings = settings
        self._database = Database(settings.resolved_database_url)
        self._doorbell = Doorbell(settings.resolved_broker_url)
        self._identity = _identity(settings.worker_slots)
        supervisor = Supervisor(self._database, settings, modules)
        self._slots = Slots(
            settings.worker_slots, self._database, self._identity.id, settings.lease_seconds, supervisor.run
        )
        self._reaper = Reaper(self._database, self._doorbell, self._slots, self._identity, settings)

    def run(self) -> None:
        """Serve. On the way out the supervised runs are handed back, for another worker to resume."""
        self._settings.home.mkdir(parents=True, exist_ok=True)
        self._database.migrate()
        with self._database.session() as session:
            ensure_sample(session)
        self._reaper.start()
        signals.worker_shutting_down.connect(self._on_shutdown)
        log.info("worker_ready", worker=self._identity.id, devices=self._identity.devices)
        try:
            self._consume()
        finally:
            self._close()

    def _consume(self) -> None:
        app = consumer_app(self._settings.resolved_broker_url, self._settings.worker_slots)
        register_tasks(app, self._slots, self._database, self._identity.id)
        app.Worker(
            hostname=f"lcl@{self._identity.id}",
            loglevel="WARNING",
            without_mingle=True,
            without_gossip=True,
            without_heartbeat=True,
            quiet=True,
        ).start()

    def _on_shutdown(self, **_: Any) -> None:
        """Called by Celery's signal handler, before it waits for anything."""
        self._slots.stop()

    def _close(self) -> None:
        self._slots.stop()
        self._slots.join()
        self._reaper.stop()
        try:
            self._reaper.round()  # ring for what was just handed back
            with self._database.session() as session:
                leave(session, self._identity.id)
        except UNREACHABLE as error:
            log.warning("database_unreachable", error=str(error))
        self._doorbell.close()
        self._database.dispose()
        log.info("worker_ended", worker=self._identity.id)


def _identity(slots: int) -> Identity:
    host = socket.gethostname()
    return Identity(f"{host}-{os.getpid()}-{secrets.token_hex(3)}", host, os.getpid(), slots, device_names())
