"""What two parsers might read differently in a request's body."""

from __future__ import annotations

from json import JSONDecodeError

from lcl_core.strict_json import loads


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
