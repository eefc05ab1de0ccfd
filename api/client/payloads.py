"""Values in requests and responses, and numbers with units as text. Performs no request."""

from __future__ import annotations

import base64
import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from lcl_core.common.archive import ARCHIVE_ERRORS as ARCHIVE_ERRORS  # the page reads archives, too
from lcl_core.common.archive import check_directory as check_directory
from lcl_core.common.archive import is_system_file as is_system_file
from lcl_core.common.errors import UserError
from lcl_core.common.files import regular_files

Json = dict[str, Any]
Progress = Callable[[int, int | None], None]  # (done, total or None when unknown)

FINAL_STATES = ("succeeded", "failed", "cancelled")  # of runs and studies
RUN_STATES = ("waiting", "queued", "running", "pausing", "paused", "cancelling", *FINAL_STATES)
ROLES = ("viewer", "submitter", "admin")  # of keys; each may do what those before it may
IMAGE_SIGNATURES = ((b"\xff\xd8\xff", "jpeg"), (b"\x89PNG", "png"), (b"GIF8", "gif"), (b"RIFF", "webp"))
# of what the service decodes: IMAGE_EXTENSIONS of corpora
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif"),
)
PACKED_FOLDER = "corpus"  # above the files of a corpus in a zip: the service removes a single top folder
Where = Mapping[str, Any]  # {label: value, values, or a condition with gte, gt, lte, lt, any, all or none}


def may(role: str, least: str) -> bool:
    """Whether a key of ``role`` may do what needs the role ``least``; an unknown role may do nothing."""
    return role in ROLES and ROLES.index(role) >= ROLES.index(least)


_FILTER = re.compile(r"(.+?)(>=|<=|>|<|\+=|!=|=)(.*)", re.DOTALL)
_LISTS = {"+=": "all", "!=": "none"}
_BOUNDS = {">=": "gte", ">": "gt", "<=": "lte", "<": "lt"}


def parse_where(texts: Sequence[str], values: Iterable[tuple[str, str]] = ()) -> dict[str, Any]:
    """Filters of a search from texts as people write them, with ``values``, pairs of a label and one of its values.

    ``label=value``: repeated, any of the values; ``label+=value``: the set has every such value; ``label!=value``: no
    such value; ``label>=bound`` and the like: a range, of which all bounds apply.
    """
    equal, conditions = dict[str, list[str]](), dict[str, dict[str, Any]]()
    for label, value in values:
        equal.setdefault(label, []).append(value)
    for text in texts:
        parsed = _FILTER.fullmatch(text)
        if parsed is None:
            forms = "label=value, label!=value, label+=value, or label>=bound (> >= < <=)"
            raise UserError(f"{text!r} is no filter; write {forms}", field="where")
        label, sign, value = parsed.groups()
        label = label.strip()
        if sign == "=":
            equal.setdefault(label, []).append(value)
        elif sign in _LISTS:
            conditions.setdefault(label, {}).setdefault(_LISTS[sign], []).append(value)
        elif conditions.setdefault(label, {}).setdefault(_BOUNDS[sign], value.strip()) != value.strip():
            raise UserError(f"{label}{sign} is given twice", field="where")
    for label in equal.keys() & conditions.keys():
        if conditions[label].keys() & set(_BOUNDS.values()):
            raise UserError(f"{label} has both a value and a range; leave one out", field="where")
        conditions[label]["any"] = equal[label]
    return {**equal, **conditions}


def write_condition(label: str, condition: Mapping[str, Any]) -> list[str]:
    """A range of a label, members that a set has all of, or values to leave out, as ``parse_where`` reads them."""
    bounds = [f"{label}{sign}{condition[name]}" for sign, name in _BOUNDS.items() if name in condition]
    return bounds + [f"{label}{sign}{value}" for sign, name in _LISTS.items() for value in condition.get(name, ())]


class Skipped(NamedTuple):
    """An image file without a vector, and the reason."""

    path: Path
    reason: str


def data_url(image: bytes) -> str:
    """An encoded image as a data URL. The server decides by the bytes, not by the media type."""
    kind = next((kind for start, kind in IMAGE_SIGNATURES if image.startswith(start)), "png")
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"


def readable_path(path: str | os.PathLike[str]) -> str:
    """A path as text that any output can hold: bytes of a name that are not UTF-8 as ``\\xe9``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def without_none(**values: Any) -> Json:
    return {name: value for name, value in values.items() if value is not None}


def list_images(folder: Path) -> list[Path]:
    """Files below ``folder`` with an image's suffix, sorted. Raises: NotADirectoryError."""
    if not folder.is_dir():
        raise NotADirectoryError(20, "there is no such folder", str(folder))
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir())


def open_corpus_archive(source: Path) -> IO[bytes]:
    """A zip as it is, or a temporary one of the files of a folder, which is gone when it is closed.

    Hidden files, those of the system and links are left out. The files stand below one folder in the zip: the service
    takes a single folder off, which would be one of the corpus otherwise, such as ``val``.
    """
    try:
        if source.is_file():
            return source.open("rb")
        if not source.is_dir():
            raise UserError("there is no such folder or zip file", code="not_found", file=source)
        packed = tempfile.TemporaryFile()  # noqa: SIM115 - returned open
        # stored: images are compressed already
        with zipfile.ZipFile(packed, "w", strict_timestamps=False) as archive:
            for name, _ in regular_files(source):
                if not any(map(is_system_file, name.split("/"))):
                    archive.write(source / name, f"{PACKED_FOLDER}/{name}")
        return packed
    except OSError as error:
        message = f"it cannot be read or packed: {error.strerror}"
        raise UserError(message, code="corpus_unreadable", file=source) from error


_BINARY = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"))
_SI = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def format_bytes(count: float) -> str:
    """``1.5 GiB``, ``73 MiB``, ``12 KiB``, ``900 bytes``."""
    for size, unit in _BINARY:
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 1000 * size else f"{count / size:,.0f} {unit}"
    return f"{count / 1024:.3g} KiB" if count >= 1024 else f"{count:.0f} bytes"


def format_si(value: float) -> str:
    """``6411265`` -> ``6.41 M``; the unit follows the prefix, so that a small value ends in a space."""
    for size, prefix in _SI:
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g} "


def run_subject(run: Mapping[str, Any]) -> str:
    """What a run is about: ``tiny on sample``, ``tiny → drawings``; empty where its spec has no names."""
    spec = run.get("spec") or {}
    encoder, dataset = spec.get("encoder"), spec.get("dataset") or (spec.get("data") or {}).get("dataset")
    if collection := spec.get("collection"):
        return " → ".join(map(str, filter(None, (encoder or dataset, collection))))
    return " on ".join(map(str, filter(None, (encoder or spec.get("preset"), dataset))))
