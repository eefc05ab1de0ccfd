"""The pictures of a site: found, measured once each, and left out when they are icons."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import partial

from PIL import Image

from lcl_core.data.images import FORMATS, MAX_IMAGE_BYTES
from lcl_core.data.readers.images import ImageFinder
from lcl_core.data.readers.loading import held
from lcl_core.data.readers.pages.references import Embedded, LocalFile, Refused, Remote, Target, resolve
from lcl_core.data.readers.values import well_formed
from lcl_core.data.record import Picture
from lcl_core.data.store import Store
from lcl_core.errors import UserError

_DRAWINGS = ("svg", "svgz", "pdf", "eps", "ps", "wmf", "emf")
_REASONS = {"bad_path": "image outside the folder", "file_too_large": "image too large"}


@dataclass(frozen=True, slots=True)
class Found:
    """A picture that is there.

    Attributes:
        key: the same for the same picture, on whichever page.
        picture: to be loaded.
    """

    key: str
    picture: Picture


class Pictures:
    """Finds what pages refer to, and remembers a verdict on each distinct picture.

    Args:
        store: the site.
        finder: images by URL, for those that lie elsewhere; None: there are none.
        min_side: shorter sides are icons, px.
        max_aspect: longer ones are rules and banners, long side over short side.
    """

    def __init__(self, store: Store, finder: ImageFinder | None, min_side: int, max_aspect: float) -> None:
        self._store = store
        self._finder = finder
        self._min_side = min_side
        self._max_aspect = max_aspect
        self._verdicts: dict[str, Refused | None] = {}

    def find(self, sources: tuple[str, ...], page: str, base: str = "") -> Found | Refused:
        """The first of several references that leads to a file; else what is wrong with the first."""
        if not sources:
            return Refused("bad image reference", "the image has no source, or one beyond bounds")
        problems = []
        for source in sources:
            found = self._at(resolve(source, page, base), source)
            if isinstance(found, Found):
                return found
            problems.append(found)
        return problems[0]

    def judge(self, found: Found) -> Refused | None:
        """Why a picture is left out, or None. Only its header is decoded."""
        if found.key not in self._verdicts:
            self._verdicts[found.key] = self._measure(found)
        return self._verdicts[found.key]

    def _at(self, target: Target, source: str) -> Found | Refused:
        if isinstance(target, LocalFile):
            name = next((name for name in target.names if self._has(name)), None)
            if name is None:
                return Refused("missing image", f"{source[:200]}: there is no {well_formed(target.names[0][:200])}")
            shown = well_formed(name)
            return Found(shown, Picture(shown, partial(_read, self._store, name)))
        if isinstance(target, Embedded):
            return Found(target.name, Picture(target.name, partial(held, target.data, target.name)))
        if isinstance(target, Remote):
            if self._finder is None:
                return Refused("remote image", target.url[:200])
            return Found(target.url, self._finder.find_url(target.url, target.url))
        return target

    def _has(self, name: str) -> bool:
        try:
            return self._store.has(name)
        except (UserError, OSError, RuntimeError, ValueError):  # a name that no file can have, a loop of links
            return False

    def _measure(self, found: Found) -> Refused | None:
        name = found.picture.name
        try:
            data = found.picture.load()
        except UserError as error:
            missing = "remote image" if "://" in found.key else "missing image"
            reason = missing if error.code == "file_missing" else _REASONS.get(error.code, "unreadable image")
            return Refused(reason, f"{name[:200]}: {error.message}")
        size = _size_of(data)
        if size is None:
            if name.lower().endswith(_DRAWINGS) or data[:1000].lstrip(b"\xef\xbb\xbf \r\n\t").startswith((b"<", b"%")):
                return Refused("unsupported image", f"{name[:200]}: a drawing, not a raster image")
            return Refused("unreadable image", f"{name[:200]}: {'no' if data else 'empty, no'} image that is known")
        short, long = sorted(size)
        if short < self._min_side:
            return Refused("small picture", f"{name[:200]}: {size[0]} x {size[1]} px")
        if long > self._max_aspect * short:
            return Refused("long picture", f"{name[:200]}: {size[0]} x {size[1]} px")
        return None


def _size_of(data: bytes) -> tuple[int, int] | None:
    """Width and height in px, or None where the bytes are no image of a known format."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.size
    except Exception:  # decoders meet malformed bytes with any exception type
        return None


def _read(store: Store, name: str) -> bytes:
    try:
        return store.read(name, MAX_IMAGE_BYTES)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError("the file cannot be read", code="file_unreadable", file=well_formed(name)) from error


