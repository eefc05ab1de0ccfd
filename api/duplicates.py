"""Groups of near-duplicates of collections, kept while one turns their pages."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from anyio import CapacityLimiter

if TYPE_CHECKING:
    from lcl_core.serving.collection import Collection, Hit

SHOWN = 100  # pictures of one group


class Duplicates:
    """Finds in one thread at a time: it keeps a processor busy, and a page that waited has what was found for another.

    Of each open collection the groups of the threshold that was asked for last are kept.
    """

    def __init__(self) -> None:
        self.lane = CapacityLimiter(1)
        self._found: WeakKeyDictionary[Collection, tuple[float, list[list[str]]]] = WeakKeyDictionary()

    def page(
        self, collection: Collection, threshold: float, seconds: float, places: slice
    ) -> tuple[list[tuple[int, list[Hit]]], int]:
        """(pictures, the first of them) of each group of a page, and how many groups there are. Blocks.

        Raises: UserError ``too_large``.
        """
        asked, groups = self._found.get(collection, (-1.0, []))
        if asked != threshold:
            groups = collection.duplicates(threshold, seconds)
            self._found[collection] = threshold, groups
        return [(len(ids), collection.group(ids[:SHOWN])) for ids in groups[places]], len(groups)
