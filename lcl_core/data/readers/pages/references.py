"""Where a page's reference to an image leads: a file of the site, bytes in the page itself, or out of bounds."""

from __future__ import annotations

import base64
import binascii
import hashlib
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote, unquote_to_bytes, urljoin, urlsplit

from lcl_core.data.images import MAX_IMAGE_BYTES

_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:")
_SHOWN = 200
_LONGEST = 8192


@dataclass(frozen=True, slots=True)
class LocalFile:
    """Names relative to the root, the likelier first."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Remote:
    """An address that is never fetched."""

    url: str


@dataclass(frozen=True, slots=True)
class Embedded:
    """A picture inside the page; the name is made from its content."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """A reference that leads nowhere, and why."""

    reason: str
    detail: str


Target = LocalFile | Remote | Embedded | Refused


def resolve(reference: str, page: str, base: str = "") -> Target:
    """Follow a reference as a browser would that has the root folder as its site.

    Args:
        reference: as it stands in the page.
        page: name of the page, relative to the root.
        base: the page's ``<base href>``; one on another site is passed over, since its files lie here.
    """
    shown = reference[:_SHOWN]
    if reference[:5].lower() == "data:":
        return _embedded(reference)
    if len(reference) > _LONGEST:
        return Refused("bad image reference", f"{shown}… is longer than {_LONGEST:,} characters")
    folder = posixpath.dirname(page)
    if base and not _is_remote(base) and not _SCHEME.match(base):
        folder = posixpath.join(folder, posixpath.dirname(unquote(base)))
    try:
        parts = urlsplit(reference)
        if _is_remote(reference):
            return Remote(urljoin("https://", reference)[:4096])
    except ValueError as error:
        return Refused("bad image reference", f"{shown}: {error}")
    if _SCHEME.match(reference) and not re.match(r"[a-zA-Z]:[\\/]", reference):
        if parts.scheme == "file":
            return Refused("image outside the folder", shown)
        return Refused("bad image reference", f"{shown}: {parts.scheme} is not followed")
    if "\0" in unquote(reference):
        return Refused("bad image reference", f"{shown}: it holds a NUL")
    names = tuple(dict.fromkeys(_inside(folder, path) for path in _spellings(reference)))
    if not names[0]:  # as a browser reads it
        return Refused("image outside the folder", shown)
    return LocalFile(tuple(name for name in names if name))


def _is_remote(reference: str) -> bool:
    return bool(re.match(r"https?:|ftps?:|[\\/]{2}", reference, re.I))


def _spellings(reference: str) -> Iterator[str]:
    """Decoded without its query; and, as programs that save sites name files, undecoded and with it."""
    path, _, query = reference.partition("#")[0].partition("?")
    yield unquote(path)
    yield path
    if query:
        yield f"{path}?{query}"
    if "#" in reference:
        yield unquote(reference)


def _inside(folder: str, path: str) -> str:
    """The normal form of ``path`` below the root, or nothing when it leads out of it or names no file."""
    path = path.replace("\\", "/")
    joined = path.lstrip("/") if path.startswith("/") else posixpath.join(folder, path)
    name = posixpath.normpath(joined)
    if name in (".", "..") or name.startswith(("../", "/")) or ":" in name.split("/")[0]:
        return ""
    return name


def _embedded(reference: str) -> Target:
    header, comma, payload = reference.partition(",")
    kind = header[5:].split(";")[0].strip().lower()
    shown = header[:_SHOWN]
    if not comma or len(header) > _SHOWN:
        return Refused("bad data URL", f"{shown}: it has no header and comma")
    if len(payload) > 3 * MAX_IMAGE_BYTES:
        return Refused("bad data URL", f"{shown}: larger than {MAX_IMAGE_BYTES:,} bytes")
    try:
        data = unquote_to_bytes(payload)
        if re.search(r";\s*base64\s*$", header, re.I):
            data = base64.b64decode(b"".join(data.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        return Refused("bad data URL", f"{shown}: {error}")
    if len(data) > MAX_IMAGE_BYTES:
        return Refused("bad data URL", f"{shown}: larger than {MAX_IMAGE_BYTES:,} bytes")
    ending = re.fullmatch(r"image/([a-z0-9]{1,8})(?:\+xml)?", kind)
    name = f"data-{hashlib.sha256(data).hexdigest()[:20]}.{ending[1] if ending else 'bin'}"
    return Embedded(name, data)
