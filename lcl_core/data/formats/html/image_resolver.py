"""Image references of pages: resolved to a file of the site, bytes in the page or a URL, measured, icons rejected."""

from __future__ import annotations

import base64
import hashlib
import posixpath
import re
from collections.abc import Iterator
from functools import partial
from urllib.parse import unquote, unquote_to_bytes, urljoin

from lcl_core.common.errors import UserError
from lcl_core.common.paths import replace_surrogates
from lcl_core.data.corpus.file_store import FileStore, has_file
from lcl_core.data.formats.image_lookup import ImageFinder, inline_image, read_stored_image
from lcl_core.data.image_decoding import read_image_size
from lcl_core.data.records import RecordImage

_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:")
_MAX_SHOWN = 200


class RejectedItem(Exception):
    """A reference leads nowhere, or to an image that is left out, and why."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def resolve_path(reference: str, page: str, base: str = "") -> list[str]:
    """The files that a reference may mean, the likelier first, as a browser finds them that has the root as its site.

    Args:
        reference: as written in the page.
        page: name of the page, relative to the root.
        base: the page's ``<base href>``; one on another site is passed over, since its files lie here.

    Raises: RejectedItem.
    """
    shown = reference[:_MAX_SHOWN]
    scheme = _SCHEME.match(reference)
    if scheme and not re.match(r"[a-zA-Z]:[\\/]", reference):
        if scheme[0].lower() == "file:":
            raise RejectedItem("image outside the folder", shown)
        raise RejectedItem("bad image reference", f"{shown}: {scheme[0]} is not followed")
    folder = posixpath.dirname(page)
    if base and not _is_remote(base) and not _SCHEME.match(base):
        folder = posixpath.join(folder, posixpath.dirname(unquote(base)))
    names = [_normalize_path(folder, path) for path in _path_variants(reference)]
    if not names[0]:  # as a browser reads it
        raise RejectedItem("image outside the folder", shown)
    return [name for name in names if name]


def _is_remote(reference: str) -> bool:
    return bool(re.match(r"https?:|ftps?:|[\\/]{2}", reference, re.I))


def _path_variants(reference: str) -> Iterator[str]:
    """Decoded without its query; and, as programs that save sites name files, undecoded and with it."""
    path, _, query = reference.partition("#")[0].partition("?")
    yield unquote(path)
    yield path
    if query:
        yield f"{path}?{query}"
    if "#" in reference:
        yield unquote(reference)


def _normalize_path(folder: str, path: str) -> str:
    """The normal form of ``path`` below the root, or nothing when it leads out of it or names no file."""
    path = path.replace("\\", "/")
    joined = path.lstrip("/") if path.startswith("/") else posixpath.join(folder, path)
    name = posixpath.normpath(joined)
    if name in (".", "..") or name.startswith(("../", "/")) or ":" in name.split("/")[0]:
        return ""
    return name


def _decode_data_url(reference: str) -> tuple[str, bytes]:
    """Content of an image in the page, and a name made from it. Raises: RejectedItem."""
    header, comma, payload = reference.partition(",")
    shown = header[:_MAX_SHOWN]
    if not comma or len(header) > _MAX_SHOWN:
        raise RejectedItem("bad data URL", f"{shown}: it has no header and comma")
    try:
        data = unquote_to_bytes(payload)
        if re.search(r";\s*base64\s*$", header, re.I):
            data = base64.b64decode(b"".join(data.split()), validate=True)
    except ValueError as error:
        raise RejectedItem("bad data URL", f"{shown}: {error}") from error
    ending = re.match(r"data:image/([a-z0-9]{1,8})\b", header, re.I)
    return f"data-{hashlib.sha256(data).hexdigest()[:20]}.{ending[1].lower() if ending else 'bin'}", data


_VECTOR_SUFFIXES = ("svg", "svgz", "pdf", "eps", "ps", "wmf", "emf")
_BLANKS = b"\xef\xbb\xbf \r\n\t"
_REASONS = {"bad_path": "image outside the folder", "too_large": "image too large"}


class SiteImages:
    """Resolves the image references of pages, and caches the verdict on each distinct image.

    Args:
        store: the site.
        finder: images of other sites by URL; None: there are none.
        min_side: images with a shorter side are icons, px.
        max_aspect: images with a larger ratio of long to short side are rules and banners.
    """

    def __init__(self, store: FileStore, finder: ImageFinder | None, min_side: int, max_aspect: float) -> None:
        self._store, self._finder = store, finder
        self._min_side, self._max_aspect = min_side, max_aspect
        self._verdicts: dict[str, tuple[str, str] | None] = {}

    def find(self, sources: tuple[str, ...], page: str, base: str = "") -> RecordImage:
        """The first of several references that leads to a file; an image has one name on all pages.

        Raises: RejectedItem: the problem of the first.
        """
        problem = None
        for source in sources:
            try:
                return self._find(source, page, base)
            except RejectedItem as error:
                problem = problem or error
        raise problem or RejectedItem("bad image reference", "the image has no source")

    def check(self, image: RecordImage) -> None:
        """Measure an image, once; only its header is decoded. Raises: RejectedItem for what is left out."""
        if image.name not in self._verdicts:
            self._verdicts[image.name] = None
            try:
                self._measure(image)
            except RejectedItem as error:
                self._verdicts[image.name] = (error.reason, error.detail)
        if (verdict := self._verdicts[image.name]) is not None:
            raise RejectedItem(*verdict)

    def _find(self, source: str, page: str, base: str) -> RecordImage:
        if source[:5].lower() == "data:":
            name, data = _decode_data_url(source)
            return RecordImage(name, partial(inline_image, data, name))
        if _is_remote(source):
            try:
                url = urljoin("https://", source)[:4096]
            except ValueError as error:
                raise RejectedItem("bad image reference", f"{source[:_MAX_SHOWN]}: {error}") from error
            if self._finder is None:
                raise RejectedItem("remote image", url[:_MAX_SHOWN])
            return self._finder.find_url(url, url)
        names = resolve_path(source, page, base)
        for name in names:
            if has_file(self._store, name):
                shown = replace_surrogates(name)
                return RecordImage(shown, partial(read_stored_image, self._store, name))
        detail = f"{source[:_MAX_SHOWN]}: there is no {replace_surrogates(names[0][:_MAX_SHOWN])}"
        raise RejectedItem("missing image", detail)

    def _measure(self, image: RecordImage) -> None:
        name = image.name
        shown = name[:_MAX_SHOWN]
        data = b""
        try:
            data = image.load()
            width, height = read_image_size(data, name)
        except UserError as error:
            if error.code == "file_missing":
                reason = "remote image" if "://" in image.name else "missing image"
            elif error.code in _REASONS:
                reason = _REASONS[error.code]
            elif name.lower().endswith(_VECTOR_SUFFIXES) or data.lstrip(_BLANKS).startswith((b"<", b"%")):
                raise RejectedItem("unsupported image", f"{shown}: a drawing, not a raster image") from error
            else:
                reason = "unreadable image"
            raise RejectedItem(reason, f"{shown}: {error.message}") from error
        if not width or not height:
            raise RejectedItem("unreadable image", f"{shown}: it has no pixels")
        if min(width, height) < self._min_side:
            raise RejectedItem("small image", f"{shown}: {width} x {height} px")
        if max(width, height) > self._max_aspect * min(width, height):
            raise RejectedItem("long image", f"{shown}: {width} x {height} px")
