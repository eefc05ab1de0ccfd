"""JSON parser that rejects what parsers disagree about: duplicate names, NaN, Infinity, huge integers."""

from __future__ import annotations

import json
import math
from collections import Counter
from functools import partial
from typing import Any

MAX_DIGITS = 20  # of a whole number: more than 64 bits


def loads(body: bytes | str, max_digits: int = MAX_DIGITS) -> Any:
    """Parse a document.

    Raises: ValueError where parsers differ, JSONDecodeError (a ValueError) for invalid JSON, RecursionError for a too
        deep nesting.
    """
    return json.loads(
        body,
        object_pairs_hook=_object,
        parse_constant=_constant,
        parse_float=_float,
        parse_int=partial(_int, max_digits),
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    parsed = dict(pairs)
    if len(parsed) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the name {twice[:80]!r} appears twice in one object")
    return parsed


def _constant(word: str) -> Any:
    raise ValueError(f"{word} is no number in JSON")


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _int(max_digits: int, text: str) -> int:
    if len(text) > max_digits:
        raise ValueError(f"a number has more than {max_digits} digits")
    return int(text)
