"""Application state: settings, database, broker, limits, thread pools, and the inference backend on first use."""

from __future__ import annotations

import threading
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from anyio import CapacityLimiter

from api.core.auth import ConfiguredKey, PrincipalCache, ensure_configured_key
from api.core.limits import BodyBudget, LongReadQueue, PixelBudget
from api.core.metrics import ProcessMetrics
from api.core.quotas import Quotas
from api.core.rate_limit import RateLimiter
from api.core.session import MAX_SHORT_REQUESTS
from api.core.settings import ApiSettings
from api.services.collections import DuplicateCache, MapCache
from api.services.datasets import CorpusCache
from api.services.encoder_archive import EncoderExporter
from api.services.run_events import RunFeeds
from api.services.runs import WakeupSender
from lcl_core.db import artifacts, datasets, registry, seed
from lcl_core.db.session import Database
from lcl_core.db.wakeup import WakeupProducer

if TYPE_CHECKING:
    from api.services.inference_backend import InferenceBackend

# Requests that write at one time. Each takes a thread while it waits for another's transaction, and the other one needs
# a thread to get to its end: were all forty of the framework's taken, nobody would get on.
MAX_WRITERS = 16
# Threads that read what encoders are asked. The models run in threads of their own.
MAX_INFERRING = 8
# Threads that decode large images, for which they have been lent memory.
MAX_DECODING = 8
# Threads that look keys up which were not seen within the last second: strangers' made-up ones among them.
MAX_AUTHENTICATING = 4
# Threads that check large bodies before they are parsed.
MAX_CHECKING = 2
# Threads that work on what takes long, of each kind: none of them takes those that all other requests share.
MAX_DRAWING, MAX_EXPORTING, MAX_READING_CORPORA, MAX_FOLLOWING, MAX_PROBING = 2, 8, 8, 4, 2
# Threads that search: nearly all wait for the text's vector, and as many texts as wait share one batch.
MAX_SEARCHING = 64


class AppState:
    """One an application. Making it opens nothing."""

    def __init__(self, settings: ApiSettings) -> None:
        self.settings = settings
        self.database = Database(settings.resolved_database_url)
        self.doorbell = WakeupProducer(settings.resolved_broker_url)
        self.wakeups = WakeupSender(self.doorbell)
        self.metrics = ProcessMetrics()
        self.rate_limiter = RateLimiter(
            settings.requests_per_minute, settings.requests_at_once, settings.streams_at_once
        )
        self.quotas = Quotas(settings.queued_runs_per_owner, settings.bytes_per_owner)
        self.bodies = BodyBudget(settings.body_bytes_at_once)
        self.corpus_cache = CorpusCache()
        self.principals = PrincipalCache()
        self.configured_key: ConfiguredKey | None = None  # known once it is prepared
        self.exporter = EncoderExporter(settings)
        self.writers = CapacityLimiter(MAX_WRITERS)
        self.writing, self.reading = (
            CapacityLimiter(MAX_SHORT_REQUESTS),
            CapacityLimiter(MAX_SHORT_REQUESTS),
        )  # of brief requests
        self.inferring, self.searching = CapacityLimiter(MAX_INFERRING), CapacityLimiter(MAX_SEARCHING)
        self.pixel_budget = PixelBudget(settings.image_memory_bytes, settings.image_wait_seconds)
        self.decoding = CapacityLimiter(MAX_DECODING)
        self.authenticating, self.checking = CapacityLimiter(MAX_AUTHENTICATING), CapacityLimiter(MAX_CHECKING)
        self.drawing, self.exporting = CapacityLimiter(MAX_DRAWING), CapacityLimiter(MAX_EXPORTING)
        self.reading_corpora = CapacityLimiter(MAX_READING_CORPORA)
        self.following, self.probing = CapacityLimiter(MAX_FOLLOWING), CapacityLimiter(MAX_PROBING)
        self.long_reads = LongReadQueue()
        self.feeds = RunFeeds(self.database, settings.event_poll_seconds, self.following)
        self.duplicates = DuplicateCache()
        self.maps = MapCache()
        self.artifacts = artifacts.Artifacts(settings)
        self._lock = threading.Lock()
        self._prepared = False

    def prepare(self) -> None:
        """Bring the database up to date, make sure of a first key and of what comes with the product. Done once.

        Raises: UserError ``insecure_secret``; SQLAlchemyError when the database cannot be used.
        """
        if self._prepared:
            return
        self.settings.check_secrets()
        self.database.migrate()
        self.configured_key = ensure_configured_key(self.settings, self.database)
        with self.database.session() as session:
            datasets.register_sample(session)
            if self.settings.welcome:
                seed.seed_database(session)
        if registry.has_missing_identities(self.database):
            fill = partial(registry.fill_missing_identities, self.database, self.settings.home)
            threading.Thread(target=fill, name="lcl-identities", daemon=True).start()  # to hash much takes long
        self._prepared = True

    def evaluation_records(self, run_id: str) -> Path:
        """Where the answers of an evaluation are, if they are anywhere. Raises: UserError of the store."""
        with self.database.reading() as session:
            return self.artifacts.folder(session, f"runs/{run_id}", "artifacts/records")

    def inference(self) -> InferenceBackend:
        """The loaded encoders and open collections. The first call imports torch; everything before does without."""
        with self._lock:
            return self._inference

    def encoder_bytes(self) -> int:
        """Memory that encoders take. Imports nothing: before the first of them there is none."""
        loaded: InferenceBackend | None = self.__dict__.get("_inference")
        return loaded.encoder_bytes if loaded else 0

    def unload_encoder(self, directory: Path) -> None:
        """Give the memory of a deleted encoder back."""
        loaded: InferenceBackend | None = self.__dict__.get("_inference")
        if loaded is not None:
            loaded.drop(directory)

    @cached_property
    def _inference(self) -> InferenceBackend:
        from api.services.inference_backend import InferenceBackend

        return InferenceBackend(self.settings, self.metrics.observe_batch)

    def close(self) -> None:
        if "_inference" in self.__dict__:
            self._inference.close()
        self.wakeups.close()
        self.doorbell.close()
        self.database.dispose()
