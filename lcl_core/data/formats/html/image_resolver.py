"""Image references of pages: resolved to a file of the site, bytes in the page or a URL, measured, icons rejected."""

from __future__ import annotations

import base64
import binascii
import hashlib
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from urllib.parse import unquote, unquote_to_bytes, urljoin, urlsplit

from lcl_core.common.errors import UserError
from lcl_core.common.paths import replace_surrogates
from lcl_core.data.corpus.file_store import FileStore, has_file
from lcl_core.data.formats.image_lookup import ImageFinder, inline_image
from lcl_core.data.image_decoding import MAX_IMAGE_BYTES, read_image_size
from lcl_core.data.records import RecordImage

_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:")
_MAX_SHOWN = 200
_MAX_REFERENCE = 8192


@dataclass(frozen=True, slots=True)
class ImageTarget:
    """What a reference leads to: one of ``names`` below the root, a ``url`` that is never fetched, or ``data``.

    Attributes:
        names: relative to the root, the likelier first; of embedded data one that is made from its content.
    """

    names: tuple[str, ...] = ()
    url: str = ""
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class RejectedImage:
    """A reference that leads nowhere, and why."""

    reason: str
    detail: str


def resolve_reference(reference: str, page: str, base: str = "") -> ImageTarget | RejectedImage:
    """Follow a reference as a browser would that has the root folder as its site.

    Args:
        reference: as written in the page.
        page: name of the page, relative to the root.
        base: the page's ``<base href>``; one on another site is passed over, since its files lie here.
    """
    shown = reference[:_MAX_SHOWN]
    if reference[:5].lower() == "data:":
        return _decode_data_url(reference)
    if len(reference) > _MAX_REFERENCE:
        return RejectedImage("bad image reference", f"{shown}… is longer than {_MAX_REFERENCE:,} characters")
    folder = posixpath.dirname(page)
    if base and not _is_remote(base) and not _SCHEME.match(base):
        folder = posixpath.join(folder, posixpath.dirname(unquote(base)))
    try:
        parts = urlsplit(reference)
        if _is_remote(reference):
            return ImageTarget(url=urljoin("https://", reference)[:4096])
    except ValueError as error:
        return RejectedImage("bad image reference", f"{shown}: {error}")
    if _SCHEME.match(reference) and not re.match(r"[a-zA-Z]:[\\/]", reference):
        if parts.scheme == "file":
            return RejectedImage("image outside the folder", shown)
        return RejectedImage("bad image reference", f"{shown}: {parts.scheme} is not followed")
    if "\0" in unquote(reference):
        return RejectedImage("bad image reference", f"{shown}: it holds a NUL")
    names = tuple(dict.fromkeys(_normalize_path(folder, path) for path in _path_variants(reference)))
    if not names[0]:  # as a browser reads it
        return RejectedImage("image outside the folder", shown)
    return ImageTarget(tuple(name for name in names if name))


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


def _decode_data_url(reference: str) -> ImageTarget | RejectedImage:
    header, comma, payload = reference.partition(",")
    kind = header[5:].split(";")[0].strip().lower()
    shown = header[:_MAX_SHOWN]
    if not comma or len(header) > _MAX_SHOWN:
        return RejectedImage("bad data URL", f"{shown}: it has no header and comma")
    if len(payload) > 3 * MAX_IMAGE_BYTES:
        return RejectedImage("bad data URL", f"{shown}: larger than {MAX_IMAGE_BYTES:,} bytes")
    try:
        data = unquote_to_bytes(payload)
        if re.search(r";\s*base64\s*$", header, re.I):
            data = base64.b64decode(b"".join(data.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        return RejectedImage("bad data URL", f"{shown}: {error}")
    if len(data) > MAX_IMAGE_BYTES:
        return RejectedImage("bad data URL", f"{shown}: larger than {MAX_IMAGE_BYTES:,} bytes")
    ending = re.fullmatch(r"image/([a-z0-9]{1,8})(?:\+xml)?", kind)
    name = f"data-{hashlib.sha256(data).hexdigest()[:20]}.{ending[1] if ending else 'bin'}"
    return ImageTarget((name,), data=data)


_VECTOR_SUFFIXES = ("svg", "svgz", "pdf", "eps", "ps", "wmf", "emf")
_REASONS = {
    "bad_path": "image outside the folder",
    "too_large": "image too large",
}


@dataclass(frozen=True, slots=True)
class ResolvedImage:
    """An existing image; ``key`` is the same for the same image on any page."""

    key: str
    image: RecordImage


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
        self._verdicts: dict[str, RejectedImage | None] = {}

    def find(self, sources: tuple[str, ...], page: str, base: str = "") -> ResolvedImage | RejectedImage:
        """The first of several references that leads to a file; else the problem of the first."""
        if not sources:
            return RejectedImage("bad image reference", "the image has no source, or one beyond bounds")
        problems = []
        for source in sources:
            result = self._locate(resolve_reference(source, page, base), source)
            if isinstance(result, ResolvedImage):
                return result
            problems.append(result)
        return problems[0]

    def judge(self, found: ResolvedImage) -> RejectedImage | None:
        """Why an image is left out, or None. Only its header is decoded."""
        if found.key not in self._verdicts:
            self._verdicts[found.key] = self._measure(found)
        return self._verdicts[found.key]

    def _locate(self, target: ImageTarget | RejectedImage, source: str) -> ResolvedImage | RejectedImage:
        if isinstance(target, RejectedImage):
            return target
        if target.data is not None:
            name = target.names[0]
            return ResolvedImage(name, RecordImage(name, partial(inline_image, target.data, name)))
        if target.url:
            if self._finder is None:
                return RejectedImage("remote image", target.url[:200])
            return ResolvedImage(target.url, self._finder.find_url(target.url, target.url))
        for name in target.names:
            if has_file(self._store, name):
                shown = replace_surrogates(name)
                return ResolvedImage(shown, RecordImage(shown, partial(_read_stored, self._store, name)))
        detail = f"{source[:200]}: there is no {replace_surrogates(target.names[0][:200])}"
        return RejectedImage("missing image", detail)

    def _measure(self, found: ResolvedImage) -> RejectedImage | None:
        name = found.image.name
        try:
            data = found.image.load()
        except UserError as error:
            missing = "remote image" if "://" in found.key else "missing image"
            reason = missing if error.code == "file_missing" else _REASONS.get(error.code, "unreadable image")
            return RejectedImage(reason, f"{name[:200]}: {error.message}")
        size = _read_size(data, name)
        if isinstance(size, RejectedImage):
            return size
        width, height = size
        if min(width, height) < self._min_side:
            return RejectedImage("small image", f"{name[:200]}: {width} x {height} px")
        if max(width, height) > self._max_aspect * min(width, height):
            return RejectedImage("long image", f"{name[:200]}: {width} x {height} px")
        return None


def _read_size(data: bytes, name: str) -> tuple[int, int] | RejectedImage:
    """The size, or why the file cannot be decoded as an image."""
    try:
        size = read_image_size(data, name)
        if 0 not in size:
            return size
    except UserError as error:
        if error.code in _REASONS:
            return RejectedImage(_REASONS[error.code], f"{name[:200]}: {error.message}")
    start = data[:1000].lstrip(b"\xef\xbb\xbf \r\n\t")
    if name.lower().endswith(_VECTOR_SUFFIXES) or start.startswith((b"<", b"%")):
        return RejectedImage("unsupported image", f"{name[:200]}: a drawing, not a raster image")
    problem = "no image that is known" if data else "empty, no image that is known"
    return RejectedImage("unreadable image", f"{name[:200]}: {problem}")


def _read_stored(store: FileStore, name: str) -> bytes:
    try:
        return store.read(name, MAX_IMAGE_BYTES)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError("the file cannot be read", code="file_unreadable", file=replace_surrogates(name)) from error
