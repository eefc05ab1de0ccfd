"""JSON that every parser reads alike: no name twice in an object, no NaN, no number too large, no endless nesting."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any

MAX_DIGITS = 20  # of a whole number: more than 64 bits
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
BRACKET = re.compile(rb"[\[\]{}]")


def problem_in(body: bytes, max_depth: int) -> str | None:
    """What is wrong with a request body before anybody parses it, in words; None for one that may be parsed."""
    if depth_of(body, max_depth) > max_depth:
        return f"the body is nested deeper than {max_depth} levels"
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"the body is not UTF-8 at byte {error.start}"
    if body.startswith(BYTE_ORDER_MARK):
        return "the body begins with a byte order mark; send it without"
    if b"\0" in body:  # UTF-16 and UTF-32 also end here
        return "the body holds a NUL byte"
    return ambiguity_in(body)


def depth_of(body: bytes, enough: int) -> int:
    """Nesting of brackets outside strings; counting stops above ``enough``."""
    if body.count(b"[") + body.count(b"{") <= enough:
        return 0
    depth = deepest = 0
    for bracket in BRACKET.finditer(STRING.sub(b"", body)):
        depth += 1 if bracket.group() in b"[{" else -1
        deepest = max(deepest, depth)
        if deepest > enough:
            break
    return deepest


def ambiguity_in(body: bytes) -> str | None:
    """What two parsers might read differently in a UTF-8 body, in words.

    None for a body that is plain, and for one that is no JSON at all: whoever parses it says where it breaks.
    """
    try:
        json.loads(
            body,
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_int,
        )
    except json.JSONDecodeError:
        return None
    except (ValueError, RecursionError) as error:
        return str(error)
    return None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the name {twice[:80]!r} stands twice in one object")
    return found


def _constant(word: str) -> Any:
    raise ValueError(f"{word} is no number in JSON")


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number has more than {MAX_DIGITS} digits")
    return int(text)
