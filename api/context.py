"""What lives as long as the application: settings, database, doorbell, and the encoders once somebody asks for one."""

from __future__ import annotations

import threading
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from anyio import CapacityLimiter

from api import keys
from api.callers import Callers
from api.corpora import Corpora
from api.duplicates import Duplicates
from api.encoder_exports import Exporter
from api.ringer import Ringer
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
        self.throttle = Throttle(settings.requests_per_minute, settings.requests_at_once)
        self.corpora = Corpora()
        self.callers = Callers()
        self.exporter = Exporter(settings)
        self.writers = CapacityLimiter(WRITERS)
        self.writing, self.reading = CapacityLimiter(LANES), CapacityLimiter(LANES)  # of brief requests
        self.inferring, self.searching = CapacityLimiter(INFERRING), CapacityLimiter(SEARCHING)
        self.duplicates = Duplicates()
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
        keys.ensure_first_key(self.settings, self.database)
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
