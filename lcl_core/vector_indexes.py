"""Registry of vector indexes, and the protocol that each implements. A new index is one class and one entry here.

An index numbers the vectors of a collection's directory by row, images and texts apart. It only proposes rows: the
collection ranks them again by its own vectors (``lcl_core.collections.vector_index.ExternalIndex``), so that scores are
exact whatever an index rounds. Imports no index: the library of one is loaded when a collection uses it.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

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


Scale = Literal["number", "date"]


@dataclass(frozen=True, slots=True)
class TextFilter:
    """The value, or a member of the set, is one of these; ``excluded``: neither is, or there is no value."""

    label: str
    values: tuple[str, ...]
    of_set: bool = False
    excluded: bool = False


@dataclass(frozen=True, slots=True)
class RangeFilter:
    """``low`` <= value < ``high``: an open bound is the next number above it."""

    label: str
    scale: Scale
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True, slots=True)
class SetFilter:
    """The set has every value."""

    label: str
    values: tuple[str, ...]


Filter = tuple[TextFilter | RangeFilter | SetFilter, ...]  # all of them apply


def column_name(what: Literal["text", "value", "members"], label: str) -> str:
    """Name of a label's column in an index: what is written, its number or time, or the members of the set."""
    plain = re.fullmatch(r"[A-Za-z0-9_]{1,60}", label)
    return f"{what}_{label if plain else hashlib.sha256(label.encode()).hexdigest()[:16]}"


def columns_of(filters: Filter) -> set[str]:
    """The columns that these filters need."""
    names = set()
    for each in filters:
        if isinstance(each, RangeFilter):
            names.add(column_name("value", each.label))
        else:
            names |= {column_name("members", each.label)} if isinstance(each, SetFilter) or each.of_set else set()
            names |= {column_name("text", each.label)} if isinstance(each, TextFilter) else set()
    return names


class LabelColumns(Protocol):
    """The labels of all images, by row."""

    def columns(self, rows: Sequence[int]) -> dict[str, list[Any]]:
        """{``column_name``: value of each of these rows, None where it has none}."""


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

    def build(self, target: Target, batches: Iterable[VectorBatch], labels: LabelColumns | None = None) -> None:
        """Make the index anew from all its rows. ``labels``: of the images, by row, for a ``LabelSearch``."""

    def drop(self) -> None:
        """Remove the whole index, if there is one."""


@runtime_checkable
class LabelSearch(Protocol):
    """An index that has the labels of the images in columns, and filters by them."""

    def search_labels(
        self, query: list[float], k: int, filters: Filter, without: Sequence[int], passing: int
    ) -> Sequence[int] | None:
        """As a search of the images that ``filters`` allow, all but ``without``, which are ``passing`` many.

        None: it has no columns for these labels, or cannot leave out so many: the caller lists rows instead.
        """


@dataclass(frozen=True)
class IndexLocation:
    """Where the index of a directory is. Each kind uses what it needs.

    Attributes:
        name: as in the row of the collection (``vectors``); unique on a server.
        directory: of the collection.
    """

    name: str = ""
    dim: int = 0
    directory: Path | None = None
    settings: Settings | None = None


@dataclass(frozen=True)
class IndexKind:
    """One kind of index.

    Attributes:
        index: ``MODULE:CLASS``, a VectorIndex.
        prefix: of names in the rows of collections.
        writer: ``job``: written into the directory by the index run's process; ``worker``: sent to a server before the
            collection is registered, by the worker, because that process has no credentials of a server.
        package, extra: library to import, and the extra of ``lcl`` that brings it.
    """

    index: str
    prefix: str
    writer: Literal["job", "worker"]
    package: str = ""
    extra: str = ""

    def index_class(self) -> type[VectorIndex]:
        module, _, name = self.index.partition(":")
        found: type[VectorIndex] = getattr(import_module(module), name)
        return found


INDEXES: dict[str, IndexKind] = {
    "lancedb": IndexKind(
        "lcl_core.collections.lancedb_index:LanceIndex",
        prefix="lancedb",
        writer="job",
        package="lancedb",
        extra="lancedb",
    ),
    "qdrant": IndexKind(
        "lcl_core.collections.qdrant_index:QdrantIndex",
        prefix="qdrant",
        writer="worker",
        package="qdrant_client",
        extra="qdrant",
    ),
}
FILES = "files"  # no index of these, but the collection's own files: ``lcl_core.collections.vector_index``


def index_name(vectors: str | None) -> str:
    """What a spec calls the index of a collection whose row has these ``vectors``."""
    prefix = (vectors or "").partition("_")[0]
    return next((name for name, kind in INDEXES.items() if kind.prefix == prefix), FILES)


def open_index(vectors: str | None, location: IndexLocation) -> VectorIndex | None:
    """The index that the row of a collection names; None: the collection's own files are searched."""
    name = index_name(vectors)
    return None if name == FILES else INDEXES[name].index_class().at(location)


def index_writer(vectors: str | None) -> str | None:
    """Who writes the index that the row of a collection names (``IndexKind``); None: it has none."""
    kind = INDEXES.get(index_name(vectors))
    return None if kind is None else kind.writer


def drop_index(vectors: str | None, location: IndexLocation) -> bool:
    """Remove an index outside of the directory that no row names any more; one that cannot be reached is left.

    Returns: whether it is gone.
    """
    if vectors is None or index_writer(vectors) in (None, "job"):  # goes with the directory
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
    if kind.package and find_spec(kind.package) is None:
        message = (
            f"index {name} needs {kind.package}, which is not installed; `pip install 'lcl[{kind.extra}]'` brings it"
        )
        raise UserError(f"{message}, or set index to files", code="missing_extra", field="index")
    kind.index_class().check(location)


class CollectionDirectory(Protocol):
    """What is read of a collection on disk, as ``lcl_core.collections.collection.Collection`` has it."""

    @property
    def dim(self) -> int: ...

    @property
    def label_index(self) -> LabelColumns: ...

    @property
    def vector_targets(self) -> tuple[Target, ...]: ...

    def count(self, target: Target) -> int: ...

    def at(self, target: Target, positions: Sequence[int], /) -> tuple[list[str], np.ndarray]: ...

    def in_base(self, item_id: str) -> bool: ...


def directory_batches(directory: CollectionDirectory, target: Target) -> Iterator[VectorBatch]:
    """All rows of a collection's directory, for ``VectorIndex.build``."""
    total = directory.count(target)
    for start in range(0, total, BATCH_ROWS):
        rows = range(start, min(start + BATCH_ROWS, total))
        yield (rows, *directory.at(target, rows))


def unusable(what: str) -> UserError:
    """The error of an index that cannot be searched."""
    return UserError(f"{what}; all vectors are compared instead", code=UNUSABLE)
