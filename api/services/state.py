"""Application state: settings, database, broker, limits, thread pools; torch is imported by the first inference."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from anyio import CapacityLimiter

from api.core.auth import Authenticator, ensure_configured_key
from api.core.limits import RateLimiter, RunQuota
from api.core.metrics import ProcessMetrics
from api.core.settings import ApiSettings
from api.services.inference_device import InferenceDevice, resolve_device
from api.services.runs import WakeupSender
from lcl_core.db import artifacts, datasets, seed
from lcl_core.db.session import Database
from lcl_core.db.wakeup import WakeupProducer

if TYPE_CHECKING:
    from api.routes.health import CheckView
    from api.services.corpora import CorpusBrowser
    from api.services.inference_backend import InferenceBackend

# Threads by kind of request, so that slow ones do not use up the framework's 40.
MAX_SLOW = 16  # read corpora, encoders and lines of metrics, export, and wait for slow disks
MAX_INFERRING = 8  # decode the images of a request; models run, and are loaded, in threads of their own
MAX_OPENING = 64  # nearly all wait for an encoder or a text's vector, and texts that wait share a batch
MAX_WRITERS = 16  # those that wait for another transaction each keep a thread
MAX_FOLLOWING = 4  # query the database for streams of events


class AppState:
    """One an application. The constructor opens nothing.

    Raises: UserError ``bad_setting`` for an inference device that is not there.
    """

    def __init__(self, settings: ApiSettings) -> None:
        self.settings = settings
        self.database = Database(settings.resolved_database_url)
        self.wakeup_producer = WakeupProducer(settings.resolved_broker_url)
        self.wakeups = WakeupSender(self.wakeup_producer)
        self.artifacts = artifacts.Artifacts(settings)
        self.metrics = ProcessMetrics()
        self.authenticator = Authenticator(self.database)
        self.rate_limiter = RateLimiter(settings.requests_per_minute, settings.broker_url)
        self.run_quota = RunQuota(settings.queued_runs_per_owner)
        self.slow, self.inferring = CapacityLimiter(MAX_SLOW), CapacityLimiter(MAX_INFERRING)
        self.opening, self.following = CapacityLimiter(MAX_OPENING), CapacityLimiter(MAX_FOLLOWING)
        self.writers = CapacityLimiter(MAX_WRITERS)
        self.comparing = CapacityLimiter(1)  # near-duplicates and maps, which take memory and all cores
        self.checks: dict[str, CheckView] = {}  # of readiness, at ``checked_at`` of the monotonic clock
        self.checked_at = float("-inf")
        self.checking = threading.Lock()
        self.inference_device = InferenceDevice(self.database, resolve_device(settings.inference_device))
        self._inference: InferenceBackend | None = None
        self._corpora: CorpusBrowser | None = None
        self._inference_lock, self._corpora_lock = threading.Lock(), threading.Lock()
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

    def corpora(self) -> CorpusBrowser:
        """Open corpora. Blocks: the first call imports numpy, Pillow and tokenizers."""
        with self._corpora_lock:
            if self._corpora is None:
                from api.services.corpora import CorpusBrowser  # numpy, Pillow, tokenizers

                self._corpora = CorpusBrowser()
            return self._corpora

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
        self.wakeups.close()
        self.wakeup_producer.close()
        self.database.dispose()
