"""What the service does by itself: encoders of the collections in memory before the first search asks for them, and
uploads and garbage of its own home, which need not have a worker."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import structlog

from api.core.settings import ApiSettings
from api.services.search import open_for_search
from lcl_core.db import garbage, registry
from lcl_core.db.artifacts import Artifacts, upload_next
from lcl_core.db.session import Database
from lcl_core.db.workers import PeriodicTask

if TYPE_CHECKING:
    from api.services.state import AppState

log = structlog.get_logger(__name__)
POLL_SECONDS = 5.0  # between two queries for new collections
MAX_COLLECTIONS = 16  # the newest; with older ones the first search loads the encoder
_JOIN_SECONDS = 5.0
_TEXT = "an image"


class EncoderWarmup:
    """A thread that loads the encoder of each collection from ``start`` to ``stop``, newest collection first.

    As a search would: torch is imported, imported files are examined, and one text is embedded by an encoder that reads
    texts. Nothing leaves the memory for it, so that it never takes the place of an encoder in use.
    """

    def __init__(self, state: AppState, poll_seconds: float = POLL_SECONDS) -> None:
        self._state = state
        self._poll_seconds = poll_seconds
        self._known: set[str] = set()  # ids of encoders
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lcl-warmup", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End after the encoder that is being loaded."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                for collection in self._new_collections():
                    self._load_encoder(collection)
            except Exception as error:  # the thread's boundary: the next round tries again
                log.warning("warm_up_failed", error=str(error))
            self._stopped.wait(self._poll_seconds)

    def _new_collections(self) -> list[str]:
        """Ids of the newest collection of each encoder that no earlier round has tried, the newest first."""
        with self._state.database.reading() as session:
            rows = registry.list_collections(session)[:MAX_COLLECTIONS]
        newest = {row.encoder_id or row.id: row.id for row in reversed(rows)}
        new = {encoder: collection for encoder, collection in newest.items() if encoder not in self._known}
        self._known.update(new)
        return [row.id for row in rows if row.id in new.values()]

    def _load_encoder(self, collection: str) -> None:
        if self._stopped.is_set():
            return
        started = time.perf_counter()
        try:
            with self._state.database.reading() as session:
                opened = open_for_search(self._state, session, collection, ["images"], evict=False)
            assert opened.encoder is not None
            if opened.collection.has_text_vectors:
                opened.encoder.embed_texts([_TEXT])
        except Exception as error:  # a search reports it to its user
            log.info("encoder_not_warmed", collection=collection, reason=str(error))
            return
        log.info("encoder_warmed", collection=collection, seconds=round(time.perf_counter() - started, 2))


UPLOAD_SECONDS = 2.0  # between two queries for uploads that are due


def home_tasks(database: Database, settings: ApiSettings, artifacts: Artifacts) -> list[PeriodicTask]:
    """Uploads of this home, and its garbage, for the caller to start and stop; none without an artifact store.

    Several processes may have one home: each upload is claimed in the database.
    """
    if artifacts.holder is None:
        return []
    send = partial(upload_next, database, artifacts)
    collect = partial(garbage.collect_garbage, database, settings, artifacts)
    return [
        PeriodicTask("lcl-uploads", send, UPLOAD_SECONDS, join_seconds=_JOIN_SECONDS),
        PeriodicTask("lcl-garbage", collect, garbage.ROUND_SECONDS, delayed=True, join_seconds=0.0),
    ]
