"""How the description tells of answers that are something else than JSON."""

from __future__ import annotations

from typing import Any

PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
Responses = dict[int | str, dict[str, Any]]


def sends(*media_types: str, status: int = 200, words: str = "Successful Response") -> Responses:
    """For a route's ``responses``: an answer of one of these media types. Several are joined with ``|``."""
    return {status: {"description": words, "content": {name: {} for name in media_types}}}
