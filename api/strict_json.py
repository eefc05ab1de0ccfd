"""JSON that every parser reads alike: no name twice in an object, no NaN, no number too large, no endless nesting."""

from __future__ import annotations

import re
from json import JSONDecodeError

from lcl_core.strict_json import loads

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
        loads(body)
    except JSONDecodeError:
        return None
    except (ValueError, RecursionError) as error:
        return str(error)
    return None
