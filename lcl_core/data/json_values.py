"""JSON of foreign files as values that any program reads: bounded in depth, without half surrogates."""

from __future__ import annotations

import json
import math
from typing import Any

from lcl_core.common.names import replace_surrogates

MAX_JSON_DEPTH = 64


class BadValue(Exception):
    """A line or member is malformed; the text names the problem."""


def decode_utf8(data: bytes) -> str:
    """UTF-8, with or without a byte order mark. Raises: BadValue."""
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise BadValue(f"not UTF-8 at byte {error.start}") from error


def parse_json(data: bytes | str, keep_nan: bool = False) -> Any:
    """A JSON value. Half surrogates become U+FFFD.

    Args:
        keep_nan: whether NaN and infinities, which JSON lacks, stay; else they become null.

    Raises: BadValue.
    """
    text = decode_utf8(data) if isinstance(data, bytes) else data
    try:
        value = json.loads(text, parse_constant=None if keep_nan else lambda _: None)
    except (ValueError, RecursionError) as error:
        raise BadValue(f"not JSON ({error})") from error
    # only such escapes make strings that cannot be written as UTF-8
    return to_json_safe(value) if "\\ud" in text or "\\uD" in text else value


def parse_json_object(data: bytes | str) -> dict[str, Any]:
    """A JSON object, likewise."""
    value = parse_json(data)
    if not isinstance(value, dict):
        raise BadValue("not a JSON object")
    return value


def to_json_safe(value: Any, depth: int = 0) -> Any:
    """``value`` as JSON can hold it: NaN and infinities become null, other types their text, bytes are left out.

    Raises: BadValue for what is nested deeper than ``MAX_JSON_DEPTH``.
    """
    if depth > MAX_JSON_DEPTH:
        raise BadValue(f"nested deeper than {MAX_JSON_DEPTH} levels")
    if isinstance(value, str):
        return replace_surrogates(value)
    if isinstance(value, dict):
        kept = {replace_surrogates(str(key)): item for key, item in value.items() if not isinstance(item, bytes)}
        return {key: to_json_safe(item, depth + 1) for key, item in kept.items()}
    if isinstance(value, (list, tuple)):
        return [to_json_safe(item, depth + 1) for item in value if not isinstance(item, bytes)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int)) else str(value)
