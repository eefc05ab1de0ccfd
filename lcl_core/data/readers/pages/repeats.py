"""What stands on many pages of a site, and so belongs to none: menus, notices, icons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b

MANY_PAGES = 5  # below that, "most pages" says nothing
SAMPLED_PAGES = 1000


class Repeats:
    """Counts over a first walk. Texts are counted on a sample of evenly spaced pages, pictures on all.

    Memory: about 100 bytes a distinct text of the sample and a distinct picture of the site.

    Args:
        pages: how many the site has.
    """

    def __init__(self, pages: int) -> None:
        self._step = -(-pages // SAMPLED_PAGES) or 1
        self._sampled = 0
        self._texts: Counter[bytes] = Counter()
        self._pictures: Counter[bytes] = Counter()

    def add(self, number: int, texts: Iterable[str], pictures: Iterable[str]) -> None:
        """Count page ``number`` (from 0): each text and picture once."""
        self._pictures.update({_digest(key) for key in pictures})
        if number % self._step == 0:
            self._sampled += 1
            self._texts.update({_digest(text) for text in texts})

    def seal(self) -> None:
        """Forget the texts that are on few pages."""
        self._texts = Counter({key: n for key, n in self._texts.items() if self._is_many(n)})

    def uses(self, picture: str) -> int:
        """On how many pages a picture stands."""
        return self._pictures[_digest(picture)]

    def share(self, text: str) -> str:
        """``"95 of 100 pages"`` when the text is on most of them, else nothing."""
        count = self._texts.get(_digest(text), 0)
        return f"{count} of {self._sampled} pages" if self._is_many(count) else ""

    def _is_many(self, count: int) -> bool:
        return count >= MANY_PAGES and 2 * count > self._sampled


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
