"""One partial spec laid over another."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from lcl_core.errors import UserError


def laid_over(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the fields of ``over``; objects within objects too, a list as a whole.

    Keys of ``over`` may be dotted: ``{"data.sources.0.view": "pairs"}`` changes one field of one source.

    Raises: UserError ``bad_spec`` for a path through something that is neither an object nor an item of a list.
    """
    result = copy.deepcopy(base)
    for path, value in over.items():
        _put(result, path.split("."), value, path)
    return result


def _put(place: Any, keys: Sequence[str], value: Any, path: str) -> None:
    head, *rest = keys
    if isinstance(place, list):
        if not head.isdigit() or int(head) >= len(place):
            raise _nothing_at(path, f"the list there has {len(place)} items, and none is {head!r}")
        key: Any = int(head)
        there = place[key]
    elif isinstance(place, dict):
        key, there = head, place.get(head)
    else:
        raise _nothing_at(path, f"{head!r} lies within what is no object")
    if not rest:
        place[key] = _joined(there, value)
        return
    if there is None:
        if rest[0].isdigit():
            raise _nothing_at(path, f"the base does not give the list {head!r}; give it whole")
        there = place[key] = {}
    _put(there, rest, value, path)


def _joined(there: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        return copy.deepcopy(value)
    return laid_over(there if isinstance(there, dict) else {}, value)


def _nothing_at(path: str, why: str) -> UserError:
    return UserError(f"{path}: there is no such field to set: {why}", code="bad_spec", field=path)
