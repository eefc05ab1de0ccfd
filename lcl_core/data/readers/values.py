"""Values of foreign files made fit to be kept: bounded text, and JSON that any program reads."""

from __future__ import annotations

import json
import math
from typing import Any

MAX_DEPTH = 64


class BadValue(Exception):
    """A line or member does not hold what it should; the text says what is wrong with it."""


def decode_text(data: bytes) -> str:
    """UTF-8, with or without a byte order mark. Raises: BadValue."""
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise BadValue(f"not UTF-8 at byte {error.start}") from error


def parse_json(data: bytes | str) -> Any:
    """A JSON value. NaN and infinities, which JSON lacks, become null; half surrogates become U+FFFD.

    Raises: BadValue.
    """
    text = decode_text(data) if isinstance(data, bytes) else data
    try:
        value = json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise BadValue(f"not JSON ({error})") from error
    # only such escapes make strings that cannot be written as UTF-8
    return plain_json(value) if "\\ud" in text or "\\uD" in text else value


def parse_object(data: bytes | str) -> dict[str, Any]:
    """A JSON object, likewise."""
    value = parse_json(data)
    if not isinstance(value, dict):
        raise BadValue("not a JSON object")
    return value


def plain_json(value: Any, depth: int = 0) -> Any:
    """``value`` as JSON can hold it: NaN and infinities become null, other types their text, bytes are left out.

    Raises: BadValue for what is nested deeper than ``MAX_DEPTH``.
    """
    if depth > MAX_DEPTH:
        raise BadValue(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, dict):
        kept = {well_formed(str(key)): item for key, item in value.items() if not isinstance(item, bytes)}
        return {key: plain_json(item, depth + 1) for key, item in kept.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item, depth + 1) for item in value if not isinstance(item, bytes)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int)) else str(value)


def well_formed(text: str) -> str:
    """``text`` with U+FFFD for surrogates that have lost their other half."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def printable(name: str) -> str:
    """A name from a file system or an archive as text that any program takes: no control characters, no stray bytes."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in name)
