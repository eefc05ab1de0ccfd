"""Worker process: Celery consumer, claim loop and maintenance threads, from start to orderly shutdown.

The Celery application takes JSON only, acknowledges early, keeps no results and has no remote control. Its one task
takes milliseconds: runs do not depend on messages, so none is lost with one.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import structlog
from celery import Celery, signals
from celery.platforms import SecurityWarning
from kombu import Queue

from lcl_core.common.gpus import Gpu, visible_gpus
from lcl_core.common.logging import configure_logging as configure_shared_logging
from lcl_core.common.logging import log_database_error
from lcl_core.common.processes import usable_cores
from lcl_core.db.artifacts import Artifacts, upload_next
from lcl_core.db.datasets import register_sample
from lcl_core.db.garbage import ROUND_SECONDS, collect_garbage
from lcl_core.db.session import UNREACHABLE, Database
from lcl_core.db.wakeup import QUEUE, WAKE, producer_app
from lcl_core.db.workers import PeriodicTask, WorkerIdentity, deregister, engine_device
from lcl_core.jobs import JOB_MODULES
from workers.claim_loop import ClaimLoop
from workers.executors.base import Executor, create_executor
from workers.maintenance import QueueMaintenance, end_unwanted_jobs
from workers.settings import WorkerSettings
from workers.supervisor import Supervisor
from workers.webhook_delivery import WebhookSender


def configure_logging(log_format: str) -> None:
    """``lcl_core.common.logging.configure_logging``, and Celery's own loggers quieter."""
    configure_shared_logging(log_format)
    for noisy in ("celery.app.trace", "celery.worker.strategy"):  # a line or two for each message
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # it is about pickled messages, and ours are JSON only
    warnings.filterwarnings("ignore", category=SecurityWarning)
    signals.setup_logging.connect(_skip_celery_setup)


def _skip_celery_setup(**_: Any) -> None:
    """Celery configures logging itself unless this signal has a listener."""


def consumer_app(broker_url: str, slots: int) -> Celery:
    """Celery application of a worker; one thread more than slots, for the short task."""
    app = producer_app(broker_url)
    app.conf.update(
        task_queues=[Queue(QUEUE)],
        task_acks_late=False,
        worker_pool="threads",
        worker_concurrency=slots + 1,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # forever
        broker_channel_error_retry=True,  # a broker that accepts no writes for a while, as one that is full
    )
    return app


log = structlog.get_logger(__name__)
_RETRY_SECONDS = 1.0


class WorkerProcess:
    """Runs in the main thread until SIGTERM, SIGINT or SIGQUIT.

    Args:
        modules: that run each job kind.
    """

    def __init__(self, settings: WorkerSettings, modules: Mapping[str, str] = JOB_MODULES) -> None:
        self._settings = settings
        self._modules = modules
        self._database = Database(settings.resolved_database_url)
        self._executor = create_executor(settings)
        gpus = [] if self._executor.places_nodes else _gpus(settings)
        self._identity = _identity(settings, gpus, self._executor)
        self._supervisor = Supervisor(self._database, settings, modules, self._executor)
        self._claim_loop = ClaimLoop(
            self._identity, self._database, settings.lease_seconds, self._supervisor.run, self._executor
        )
        queue = QueueMaintenance(self._database, self._claim_loop, self._identity, settings, gpus)
        seconds, grace = settings.reap_seconds, settings.cancel_grace_seconds
        artifacts = Artifacts(settings)
        self._tasks: list[PeriodicTask | WebhookSender] = [
            PeriodicTask("queue", queue.round, settings.reap_seconds),
            WebhookSender(self._database, settings, lambda: queue.is_maintainer),
            # a round that is interrupted continues in a later one
            PeriodicTask(
                "garbage",
                lambda: collect_garbage(self._database, settings, artifacts),
                ROUND_SECONDS,
                delayed=True,
                join_seconds=0.0,
            ),
        ]
        if self._executor.places_nodes:
            unwanted = partial(end_unwanted_jobs, self._database, settings, self._executor, self._identity.id)
            self._tasks.append(PeriodicTask("unwanted jobs", unwanted, seconds, join_seconds=grace))
        if artifacts.holder is not None:
            uploads = partial(upload_next, self._database, artifacts)
            self._tasks.append(PeriodicTask("uploads", uploads, seconds, join_seconds=grace))

    def run(self) -> int:
        """Serve. Returns: the exit status. At shutdown its runs are requeued, for another worker to resume."""
        self._settings.home.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                self._database.migrate()
                with self._database.session() as session:
                    register_sample(session)
                break
            except UNREACHABLE as error:
                log_database_error(error)
                time.sleep(_RETRY_SECONDS)
        with self._executor.serving(self._modules.values()):
            for task in self._tasks:
                task.start()
            signals.worker_shutting_down.connect(self._on_shutdown)
            identity = self._identity
            log.info("worker_ready", worker=identity.id, devices=identity.devices, offers=identity.offers)
            try:
                # Celery ends its consumer with an error when the broker dies between the delivery of a message and its
                # acknowledgement. Runs do not depend on messages: the worker keeps them and continues with a new one.
                while status := self._consume_once():
                    log.warning("consumer_lost", effect="another follows; runs go on", seconds=_RETRY_SECONDS)
                    if self._claim_loop.stopping.wait(_RETRY_SECONDS):
                        return status
                return 0
            finally:
                self._close()

    def _consume_once(self) -> int:
        """Returns: the exit status of Celery's worker, not 0 after an error."""
        app = consumer_app(self._settings.resolved_broker_url, self._settings.worker_slots)

        @app.task(name=WAKE)
        def wake(run_id: str | None) -> None:
            """Something is queued. Which run is next is decided in the database."""
            log.debug("woken", run=run_id)
            self._claim_loop.notify()

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
        """Celery calls it in its signal handler, before it waits for anything."""
        self._claim_loop.stop()

    def _close(self) -> None:
        self._claim_loop.stop()
        self._claim_loop.join()
        for task in self._tasks:
            task.stop()
        try:
            with self._database.session() as session:
                deregister(session, self._identity.id)
        except UNREACHABLE as error:
            log_database_error(error)
        self._database.dispose()
        log.info("worker_ended", worker=self._identity.id)


def _identity(settings: WorkerSettings, gpus: Sequence[Gpu], executor: Executor) -> WorkerIdentity:
    """Without ``gpu`` among its offers a worker leases no device to its runs: they use the CPU."""
    host, pid = socket.gethostname(), os.getpid()
    offers = tuple(settings.worker_offers) or (("cpu", "gpu") if gpus or executor.places_nodes else ("cpu",))
    devices = (
        (engine_device(settings.executor),)
        if executor.places_nodes
        else tuple(gpu.name for gpu in gpus) or (f"cpu ({usable_cores()} cores)",)
    )
    ids = tuple(gpu.id for gpu in gpus) if "gpu" in offers else ()
    name = f"{host}-{pid}-{secrets.token_hex(3)}"
    return WorkerIdentity(name, host, pid, settings.worker_slots, devices, offers, ids)


def _gpus(settings: WorkerSettings) -> list[Gpu]:
    """Devices that this worker leases to its runs."""
    gpus = visible_gpus()
    if "gpu" in settings.worker_offers and not gpus:
        log.warning("no_gpu_to_offer", setting="LCL_WORKER_OFFERS", effect="runs that need a GPU are left to others")
    return [] if settings.worker_offers and "gpu" not in settings.worker_offers else gpus
