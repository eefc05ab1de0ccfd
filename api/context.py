"""What lives as long as the application: settings, database, doorbell, and the encoders once somebody asks for one."""

from __future__ import annotations

import threading
from functools import cached_property
from typing import TYPE_CHECKING

from api import keys
from api.corpora import Corpora
from api.settings import ApiSettings
from api.telemetry import Telemetry
from lcl_core.runs import store
from lcl_core.runs.database import Database
from lcl_core.runs.doorbell import Doorbell

if TYPE_CHECKING:
    from api.inference import Inference


class Context:
    """One an application. Making it opens nothing."""

    def __init__(self, settings: ApiSettings) -> None:
        self.settings = settings
        self.database = Database(settings.resolved_database_url)
        self.doorbell = Doorbell(settings.resolved_broker_url)
        self.telemetry = Telemetry()
        self.corpora = Corpora()
        self._lock = threading.Lock()
        self._prepared = False

    def prepare(self) -> None:
        """Bring the database up to date, make sure of a first key and of the sample corpus. Done once.

        Raises: UserError ``insecure_secret``; SQLAlchemyError when the database cannot be used.
        """
        if self._prepared:
            return
        self.settings.check_secrets()
        self.database.migrate()
        keys.ensure_first_key(self.settings, self.database)
        with self.database.session() as session:
            store.ensure_sample(session)
        self._prepared = True

    def inference(self) -> Inference:
        """The loaded encoders and open collections. The first call imports torch; everything before does without."""
        with self._lock:
            return self._inference

    @cached_property
    def _inference(self) -> Inference:
        from api.inference import Inference

        return Inference(self.settings)

    def close(self) -> None:
        if "_inference" in self.__dict__:
            self._inference.close()
        self.doorbell.close()
        self.database.dispose()
