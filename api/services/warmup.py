"""Encoders of the collections in memory, and their captions indexed, before the first search asks for them.

A thread of the service, started once it accepts requests, loads the encoder of each collection, newest collection
first, as a search would: torch is imported, imported files are examined in the sandbox, and one text is embedded by an
encoder that reads texts. Those of later index runs follow, with the captions of each new directory. Nothing leaves the
memory for them, so that they never take the place of one in use.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import structlog

from api.services.search import OpenedCollection, open_for_search
from lcl_core.db import registry

if TYPE_CHECKING:
    from api.services.state import AppState

log = structlog.get_logger(__name__)
POLL_SECONDS = 5.0  # between two queries for new collections
MAX_COLLECTIONS = 16  # the newest; with older ones the first search loads the encoder
_JOIN_SECONDS = 5.0
_TEXT = "an image"


class EncoderWarmup:
    """Loads encoders in a thread from ``start`` to ``stop``."""

    def __init__(self, state: AppState, poll_seconds: float = POLL_SECONDS) -> None:
        self._state = state
        self._poll_seconds = poll_seconds
        self._known: set[str] = set()  # directories
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
                opened = [self._load_encoder(collection) for collection in self._new_collections()]
                for each in filter(None, opened):
                    self._index_captions(each)
            except Exception as error:  # the thread's boundary: the next round tries again
                log.warning("warm_up_failed", error=str(error))
            self._stopped.wait(self._poll_seconds)

    def _new_collections(self) -> list[str]:
        """Ids of collections with directories that no earlier round has tried, at first of one for each encoder."""
        with self._state.database.reading() as session:
            rows = registry.list_collections(session)[:MAX_COLLECTIONS]
            new = {row.path: (row.encoder_id or row.id, row.id) for row in rows if row.path not in self._known}
        found = [collection for _, collection in new.values()]
        if not self._known:
            newest = dict(reversed(new.values()))
            found = [collection for collection in found if collection in newest.values()]
        self._known.update(new)
        return found

    def _load_encoder(self, collection: str) -> OpenedCollection | None:
        """The collection with its encoder; None: not warmed."""
        if self._stopped.is_set():
            return None
        started = time.perf_counter()
        try:
            with self._state.database.reading() as session:
                opened = open_for_search(self._state, session, collection, ["images"], evict=False, wait=True)
            assert opened.encoder is not None
            if opened.collection.has_text_vectors:
                opened.encoder.embed_texts([_TEXT])
        except Exception as error:  # a search reports it to its user
            log.info("encoder_not_warmed", collection=collection, reason=str(error))
            return None
        log.info("encoder_warmed", collection=collection, seconds=round(time.perf_counter() - started, 2))
        return opened

    def _index_captions(self, opened: OpenedCollection) -> None:
        """After the encoders: a million captions take seconds."""
        if self._stopped.is_set():
            return
        started = time.perf_counter()
        try:
            opened.collection.index_captions()
        except Exception as error:
            log.info("captions_not_indexed", collection=opened.id, reason=str(error))
            return
        log.info("captions_indexed", collection=opened.id, seconds=round(time.perf_counter() - started, 2))
