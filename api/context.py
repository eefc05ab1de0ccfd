"""What lives as long as the application: settings, database, doorbell, and the encoders once somebody asks for one."""

from __future__ import annotations

import threading
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from anyio import CapacityLimiter

from api.body_budget import BodyBudget
from api.callers import Callers
from api.configured_key import ConfiguredKey, ensure_first_key
from api.corpora import Corpora
from api.duplicates import Duplicates
from api.encoder_exports import Exporter
from api.long_reads import LongReads
from api.maps import Maps
from api.pixel_budget import PixelBudget
from api.quotas import Quotas
from api.ringer import Ringer
from api.run_feeds import RunFeeds
from api.settings import ApiSettings
from api.telemetry import Telemetry
from api.throttle import Throttle
from api.transactions import LANES
from lcl_core.runs import store
from lcl_core.runs.database import Database
from lcl_core.runs.doorbell import Doorbell

if TYPE_CHECKING:
    from api.inference import Inference

# Requests that write at one time. Each takes a thread while it waits for another's transaction, and the other one needs
# a thread to get to its end: were all forty of the framework's taken, nobody would get on.
WRITERS = 16
# Threads that read what encoders are asked. The models run in threads of their own.
INFERRING = 8
# Threads that decode large images, for which they have been lent memory.
DECODING = 8
# Threads that look keys up which were not seen within the last second: strangers' made-up ones among them.
AUTHENTICATING = 4
# Threads that check large bodies before they are parsed.
CHECKING = 2
# Threads that work on what takes long, of each kind: none of them takes those that all other requests share.
DRAWING, EXPORTING, READING_CORPORA, FOLLOWING, PROBING = 2, 8, 8, 4, 2
# Threads that search: nearly all wait for the text's vector, and as many texts as wait share one batch.
SEARCHING = 64


class Context:
    """One an application. Making it opens nothing."""

    def __init__(self, settings: ApiSettings) -> None:
        self.settings = settings
        self.database = Database(settings.resolved_database_url)
        self.doorbell = Doorbell(settings.resolved_broker_url)
        self.ringer = Ringer(self.doorbell)
        self.telemetry = Telemetry()
        self.throttle = Throttle(
            settings.requests_per_minute, settings.requests_at_once, settings.streams_at_once
        )
        self.quotas = Quotas(settings.queued_runs_per_owner, settings.bytes_per_owner)
        self.bodies = BodyBudget(settings.body_bytes_at_once)
        self.corpora = Corpora()
        self.callers = Callers()
        self.configured_key: ConfiguredKey | None = None  # known once it is prepared
        self.exporter = Exporter(settings)
        self.writers = CapacityLimiter(WRITERS)
        self.writing, self.reading = CapacityLimiter(LANES), CapacityLimiter(LANES)  # of brief requests
        self.inferring, self.searching = CapacityLimiter(INFERRING), CapacityLimiter(SEARCHING)
        self.pixel_budget = PixelBudget(settings.image_memory_bytes, settings.image_wait_seconds)
        self.decoding = CapacityLimiter(DECODING)
        self.authenticating, self.checking = CapacityLimiter(AUTHENTICATING), CapacityLimiter(CHECKING)
        self.drawing, self.exporting = CapacityLimiter(DRAWING), CapacityLimiter(EXPORTING)
        self.reading_corpora = CapacityLimiter(READING_CORPORA)
        self.following, self.probing = CapacityLimiter(FOLLOWING), CapacityLimiter(PROBING)
        self.long_reads = LongReads()
        self.feeds = RunFeeds(self.database, settings.event_poll_seconds, self.following)
        self.duplicates = Duplicates()
        self.maps = Maps()
        self.supply = store.Supply(settings)
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
        self.configured_key = ensure_first_key(self.settings, self.database)
        with self.database.session() as session:
            store.ensure_sample(session)
            if self.settings.welcome:
                store.welcome(session)
        if store.lack_identities(self.database):
            fill = partial(store.complete_identities, self.database, self.settings.home)
            threading.Thread(target=fill, name="lcl-identities", daemon=True).start()  # to hash much takes long
        self._prepared = True

    def records_of(self, run_id: str) -> Path:
        """Where the answers of an evaluation are, if they are anywhere. Raises: UserError of the store."""
        with self.database.reading() as session:
            return self.supply.folder(session, f"runs/{run_id}", "artifacts/records")

    def inference(self) -> Inference:
        """The loaded encoders and open collections. The first call imports torch; everything before does without."""
        with self._lock:
            return self._inference

    def encoder_bytes(self) -> int:
        """Memory that encoders take. Imports nothing: before the first of them there is none."""
        loaded: Inference | None = self.__dict__.get("_inference")
        return loaded.encoder_bytes if loaded else 0

    def drop_encoder(self, directory: Path) -> None:
        """Give the memory of a deleted encoder back."""
        loaded: Inference | None = self.__dict__.get("_inference")
        if loaded is not None:
            loaded.drop(directory)

    @cached_property
    def _inference(self) -> Inference:
        from api.inference import Inference

        return Inference(self.settings, self.telemetry.observe_batch)

    def close(self) -> None:
        if "_inference" in self.__dict__:
            self._inference.close()
        self.ringer.close()
        self.doorbell.close()
        self.database.dispose()
