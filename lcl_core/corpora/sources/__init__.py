"""The sources by name, in the order of their documents in a corpus. Adding one is a file and a line here."""

from __future__ import annotations

from lcl_core.corpora.sources import cdda, emoji, manuals, openclipart, stamps, wesnoth
from lcl_core.corpora.sources.base import Material, Source
from lcl_core.errors import UserError

_ALL = (emoji.SOURCE, stamps.SOURCE, openclipart.SOURCE, cdda.SOURCE, wesnoth.SOURCE, *manuals.SOURCES)
SOURCES: dict[str, Source] = {source.name: source for source in _ALL}

__all__ = ["SOURCES", "Material", "Source", "chosen"]


def chosen(names: list[str] | None) -> list[Source]:
    """Those named, or all, in their order. Raises: UserError ``unknown_source``."""
    for name in names or ():
        if name not in SOURCES:
            message = f"there is no source {name!r}; choose from {', '.join(SOURCES)}"
            raise UserError(message, code="unknown_source", field="only")
    return [source for source in _ALL if not names or source.name in names]
