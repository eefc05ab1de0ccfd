"""Registry of vector indexes, and the protocol that each implements. A new index is one class and one entry here.

An index numbers the vectors of a collection's directory by row, images and texts apart. It only proposes rows: the
collection ranks them again by its own vectors (``lcl_core.collections.vector_index.ExternalIndex``), so that scores are
exact whatever an index rounds. Imports no index: the library of one is loaded when a collection uses it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, Protocol

from lcl_core.common.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from lcl_core.common.settings import Settings

Target = Literal["images", "texts"]
TARGETS: tuple[Target, ...] = ("images", "texts")
log = logging.getLogger(__name__)
UNUSABLE = "index_unusable"
BATCH_ROWS = 2000

# rows, the id of each item, and vectors [len(rows), E] of length 1, f32 or f16
VectorBatch = tuple[Sequence[int], Sequence[str], "np.ndarray"]


class SearchFn(Protocol):
    def __call__(self, target: Target, query: list[float], k: int, rows: Sequence[int], among: bool) -> Sequence[int]:
        """Up to ``k`` rows near to ``query``, in any order: ``among`` these, or among all but these.

        Fewer where the index finds no more. Raises: UserError ``index_unusable`` where it is damaged, missing or out of
        reach, ``missing_extra`` without its library: the caller compares all vectors instead.
        """


class VectorIndex(SearchFn, Protocol):
    """The index of one directory of a collection. Searching is thread-safe; one process writes at a time."""

    @classmethod
    def at(cls, location: IndexLocation) -> VectorIndex:
        """The index at that location, which need not exist yet. Opens nothing."""

    @classmethod
    def check(cls, location: IndexLocation) -> None:
        """Whether an index could be made there. Raises: UserError that says what is missing."""

    def build(self, target: Target, batches: Iterable[VectorBatch]) -> None:
        """Make the index anew from all its rows."""

    def drop(self) -> None:
        """Remove the whole index, if there is one."""


@dataclass(frozen=True)
class IndexLocation:
    """Where the index of a collection is. ``name``: as in its row (``vectors``), unique on the server."""

    name: str = ""
    dim: int = 0
    settings: Settings | None = None


@dataclass(frozen=True)
class IndexKind:
    """One kind of index, on a server.

    A worker writes it, before the collection is registered: the process of the run has no credentials of a server.

    Attributes:
        index: ``MODULE:CLASS``, a VectorIndex.
        package: library to import; the extra of ``lcl`` that brings it has the name of the kind.
    """

    index: str
    package: str

    def index_class(self) -> type[VectorIndex]:
        module, _, name = self.index.partition(":")
        found: type[VectorIndex] = getattr(import_module(module), name)
        return found


INDEXES: dict[str, IndexKind] = {
    "qdrant": IndexKind("lcl_core.collections.qdrant_index:QdrantIndex", "qdrant_client"),
}
FILES = "files"  # no index of these, but the collection's own files: ``lcl_core.collections.vector_index``


def index_name(vectors: str | None) -> str:
    """What a spec calls the index of a collection whose row has these ``vectors``, such as ``qdrant_1``."""
    return (vectors or FILES).partition("_")[0]


def open_index(vectors: str | None, location: IndexLocation) -> VectorIndex | None:
    """The index that the row of a collection names; None: the collection's own files are searched."""
    name = index_name(vectors)
    return None if name == FILES else INDEXES[name].index_class().at(location)


def drop_index(vectors: str | None, location: IndexLocation) -> bool:
    """Remove an index that no row names any more; one that cannot be reached is left. Returns: whether it is gone."""
    if vectors is None or index_name(vectors) == FILES:
        return True
    try:
        INDEXES[index_name(vectors)].index_class().at(replace(location, name=vectors)).drop()
    except UserError as error:
        log.warning("index %s is left behind: %s", vectors, error.message)
        return False
    return True


def check_index(name: str, location: IndexLocation) -> None:
    """Raises: UserError ``missing_extra`` that names the extra, or the index's own error, with the field ``index``."""
    if name not in INDEXES:
        return
    kind = INDEXES[name]
    if find_spec(kind.package) is None:
        message = f"index {name} needs {kind.package}: `pip install 'lcl[{name}]'` brings it, or set index to files"
        raise UserError(message, code="missing_extra", field="index")
    kind.index_class().check(location)


def unusable(what: str) -> UserError:
    """The error of an index that cannot be searched."""
    return UserError(f"{what}; all vectors are compared instead", code=UNUSABLE)
