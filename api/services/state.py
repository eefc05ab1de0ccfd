"""Application state: settings, database, broker, limits, thread pools; torch is imported by the first inference."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from anyio import CapacityLimiter
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.core.auth import Authenticator, RateLimiter, ensure_configured_key
from api.core.errors import Problem
from api.core.metrics import ServiceMetrics
from api.core.settings import ApiSettings
from api.services.inference_device import InferenceDevice, resolve_device
from lcl_core.db import artifacts, datasets, seed
from lcl_core.db.runs import unfinished_runs_by_owner
from lcl_core.db.session import Database
from lcl_core.db.wakeup import WakeupProducer

if TYPE_CHECKING:
    from api.routes.health import CheckView
    from api.services.inference_backend import InferenceBackend

# Threads by kind of request, so that slow ones do not use up the framework's 40.
MAX_SLOW = 16  # read corpora, encoders and lines of metrics, export, and wait for slow disks
MAX_INFERRING = 8  # decode the images of a request; models run, and are loaded, in threads of their own
MAX_OPENING = 64  # nearly all wait for an encoder or a text's vector, and texts that wait share a batch
MAX_WRITERS = 16  # those that wait for another transaction each keep a thread


class AppState:
    """One an application. The constructor opens nothing.

    Raises: UserError ``bad_setting`` for an inference device that is not there.
    """

    def __init__(self, settings: ApiSettings) -> None:
        self.settings = settings
        self.database = Database(settings.resolved_database_url)
        self.wakeup_producer = WakeupProducer(settings.resolved_broker_url)
        self._wakeups = ThreadPoolExecutor(1, "wakeups")
        self.artifacts = artifacts.Artifacts(settings)
        self.metrics = ServiceMetrics(self.database, settings.home, self.encoder_bytes)
        self.authenticator = Authenticator(self.database)
        self.rate_limiter = RateLimiter(settings.requests_per_minute, settings.broker_url)
        self.slow, self.inferring = CapacityLimiter(MAX_SLOW), CapacityLimiter(MAX_INFERRING)
        self.opening, self.writers = CapacityLimiter(MAX_OPENING), CapacityLimiter(MAX_WRITERS)
        self.comparing = CapacityLimiter(1)  # near-duplicates and maps, which take memory and seconds
        self.checks: dict[str, CheckView] = {}  # of readiness, at ``checked_at`` of the monotonic clock
        self.checked_at = float("-inf")
        self.checking = threading.Lock()
        self.inference_device = InferenceDevice(self.database, resolve_device(settings.inference_device))
        self._inference: InferenceBackend | None = None
        self._inference_lock = threading.Lock()
        self._prepared = False

    def prepare(self) -> None:
        """Migrate the database, ensure the admin key and the bundled data. Further calls do nothing.

        Raises: UserError ``bad_setting``, ``database_newer``; SQLAlchemyError when the database cannot be used.
        """
        if self._prepared:
            return
        self.settings.check_secrets()
        self.database.migrate()
        ensure_configured_key(self.settings, self.database)
        with self.database.session() as session:
            datasets.register_sample(session)
            if self.settings.welcome:
                seed.seed_database(session)
        self.inference_device.start()
        self._prepared = True

    async def wake(self, run_ids: Iterable[str]) -> None:
        """Announce runs whose rows are committed, in a thread: a broker that is slow or away delays no request."""
        for run_id in run_ids:
            self._wakeups.submit(self.wakeup_producer.wake, run_id)

    @contextmanager
    def admit_runs(self, session: Session, owner: str) -> Iterator[None]:
        """Around code that makes runs of ``owner``, or queues finished ones again, in the transaction that writes.

        Raises: Problem 403 ``forbidden`` for too many unfinished ones; the transaction must be rolled back then.
        """
        most = self.settings.queued_runs_per_owner
        if most and session.get_bind().dialect.name == "postgresql":  # SQLite's write transactions are serial anyway
            digest = hashlib.sha256(f"lcl quota {owner}".encode()).digest()
            session.execute(select(func.pg_advisory_xact_lock(int.from_bytes(digest[:8], signed=True))))
        yield
        if most and (count := unfinished_runs_by_owner(session, owner).get(owner, 0)) > most:
            message = (
                f"{owner} would have {count:,} unfinished runs, of {most:,} that an owner may have "
                "(LCL_QUEUED_RUNS_PER_OWNER); wait until some are finished, or cancel some"
            )
            raise Problem(403, "forbidden", message)

    def evaluation_records(self, run_id: str) -> Path:
        """Folder of an evaluation's predictions. Raises: UserError of the artifact store."""
        with self.database.reading() as session:
            return self.artifacts.folder(session, f"runs/{run_id}", "artifacts/records")

    def inference(self) -> InferenceBackend:
        """Loaded encoders and open collections. Blocks: the first call imports torch."""
        with self._inference_lock:
            if self._inference is None:
                from api.services.inference_backend import InferenceBackend  # torch

                self._inference = InferenceBackend(self.settings, self.metrics.observe_batch, self.inference_device)
            return self._inference

    def loading_encoders(self) -> int:
        """Encoders that are being loaded; at least 1 while torch is imported."""
        return self._inference.loading if self._inference else int(self._inference_lock.locked())

    def encoder_bytes(self) -> int:
        """Memory of loaded encoders. Imports nothing."""
        return self._inference.encoder_bytes if self._inference else 0

    def unload_encoder(self, directory: Path) -> None:
        """Free the memory of a deleted encoder."""
        if self._inference is not None:
            self._inference.unload(directory)

    def close(self) -> None:
        if self._inference is not None:
            self._inference.close()
        self.inference_device.close()
        self._wakeups.shutdown(wait=False, cancel_futures=True)  # workers find those runs when they poll
        self.wakeup_producer.close()
        self.database.dispose()
