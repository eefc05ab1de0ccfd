"""Images that annotations name, in the folders where datasets and their users keep them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lcl_core.data.readers.images import ImageFinder
from lcl_core.data.record import BadItem, Picture
from lcl_core.data.store import FolderStore
from lcl_core.errors import UserError


class NamedImages:
    """Looks a name up in several folders.

    Args:
        place: a folder or tar, see :class:`ImageFinder`.

    Attributes:
        problems: what could not be indexed, for the reader to pass on.
    """

    def __init__(self, place: Path) -> None:
        self._finder = ImageFinder(place)
        self._store = FolderStore(place) if place.is_dir() else None
        self.problems: list[BadItem] = self._finder.problems

    def find(self, names: Iterable[str], called: str, url: str | None = None) -> Picture:
        """The first of ``names`` that is there; else whatever the first one or ``url`` leads to when loaded."""
        candidates = list(dict.fromkeys(names))
        there = next((name for name in candidates if self.has(name)), candidates[0])
        return self._finder.find(there, url, called)

    def find_url(self, url: str, called: str) -> Picture:
        return self._finder.find_url(url, called)

    def has(self, name: str) -> bool:
        """Is there such a file in the folder?"""
        try:
            return self._store is not None and self._store.has(name)
        except (UserError, OSError, RuntimeError, ValueError):  # a name that no file can have, a loop of links
            return False
