"""The sources by name, in the order of their documents in a corpus. Adding one is a file and a line here."""

from __future__ import annotations

from examples.corpora.sources import (
    emoji,
    fashion_mnist,
    icons,
    manuals,
    openclipart,
    tuxpaint_stamps,
)
from examples.corpora.sources.base import CorpusSource, SourceFiles
from lcl_core.common.errors import UserError

_ALL = (
    emoji.SOURCE,
    icons.SOURCE,
    tuxpaint_stamps.SOURCE,
    openclipart.SOURCE,
    *manuals.SOURCES,
    fashion_mnist.SOURCE,
)
SOURCES: dict[str, CorpusSource] = {source.name: source for source in _ALL}

__all__ = ["SOURCES", "CorpusSource", "SourceFiles", "select_sources"]


def select_sources(names: list[str] | None) -> list[CorpusSource]:
    """Those named, or all but exams, in their order. Raises: UserError ``unknown_source``."""
    for name in names or ():
        if name not in SOURCES:
            message = f"there is no source {name!r}; choose from {', '.join(SOURCES)}"
            raise UserError(message, code="unknown_source", field="only")
    return [source for source in _ALL if (source.name in names if names else not source.exam)]
