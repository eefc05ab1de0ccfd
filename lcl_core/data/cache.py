"""Decoded pictures kept in memory, since a small corpus is read again every epoch."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

DEFAULT_CACHE_BYTES = 512 << 20
_BYTES_PER_PIXEL = 4  # Pillow pads RGB to four


class ImageCache:
    """Keeps what comes first, up to a bound, and drops nothing.

    Every epoch reads every image once, so replacing old by new would gain nothing over keeping a fixed part; and
    without replacement there is nothing to lock, in threads or after a fork.
    """

    def __init__(self, max_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._images: dict[tuple[str, str], Image.Image] = {}

    def __len__(self) -> int:
        return len(self._images)

    def get(self, dataset: str, name: str, read: Callable[[str], Image.Image]) -> Image.Image:
        """The RGB picture; ``read(name)`` is called, and its errors pass, when it is not kept."""
        found = self._images.get((dataset, name))
        if found is not None:
            return found
        image = read(name)
        size = image.width * image.height * _BYTES_PER_PIXEL
        if self.bytes + size <= self.max_bytes:
            self.bytes += size
            self._images[dataset, name] = image
        return image
