"""Vectors of collections in tables of PostgreSQL: written with the collection's row, searched, dropped.

For each directory there are two tables, ``vec_…_images`` and ``vec_…_texts``, whose beginning the row of the collection
names: a directory never changes, and neither do they. A table of its own is made and filled in the transaction that
names it, beside everybody's way; its index knows nothing of other collections, so a search walks among its rows alone;
and all of it goes at once, where deleted rows would stay in a common index until it is vacuumed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import ARRAY, Column, Connection, Index, Integer, MetaData, String, Table, cast, func, select, text
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.orm import Session
from sqlalchemy.schema import DropTable
from sqlalchemy.types import UserDefinedType

from lcl_core.errors import UserError
from lcl_core.runs.database import UNREACHABLE, Database
from lcl_core.runs.ids import new_id
from lcl_core.runs.pgvector import require_pgvector
from lcl_core.runs.tables import Collection

if TYPE_CHECKING:
    import numpy as np

    from lcl_core.serving.collection import Collection as Directory

TARGETS: tuple[Literal["images", "texts"], ...] = ("images", "texts")
LINKS, BREADTH_BUILDING = 16, 128  # as those of a graph in a file
BREADTH_SEARCHING, WIDEST = 100, 1000  # candidates kept while a query walks; the most that the extension allows
_ROWS_AT_ONCE = 2000
_ID_LENGTH = 20
_TABLE = re.compile(r"(vec_[0-9a-z]{18})_(?:images|texts)")
# for this transaction alone: go on until enough have passed the filter; a plan for these very rows, and not compiled
_SEARCHING = text(
    "SELECT set_config('hnsw.ef_search', :breadth, true), set_config('hnsw.iterative_scan', 'relaxed_order', true), "
    "set_config('plan_cache_mode', 'force_custom_plan', true), set_config('jit', 'off', true)"
)
_WAITING = text("SET LOCAL lock_timeout = '2s'")
_SIZES = text(
    "SELECT relname, pg_total_relation_size(oid) FROM pg_class "
    "WHERE relkind = 'r' AND pg_table_is_visible(oid) AND relname LIKE 'vec\\_%'"
)


class Halfvec(UserDefinedType[list[float]]):
    """``halfvec(E)``, two bytes a number."""

    cache_ok = True

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def get_col_spec(self, **_: Any) -> str:
        return f"halfvec({int(self.dim)})"

    def bind_processor(self, dialect: Any) -> Any:
        return lambda numbers: "[" + ",".join(map(repr, numbers)) + "]"


def write_vectors(session: Session, folder: Path) -> str:
    """Make and fill the tables of a collection's directory. Seen by nobody before the commit.

    Returns: the beginning of their names. Raises: UserError ``pgvector_unavailable``, ``pgvector_failed``; UNREACHABLE.
    """
    from lcl_core.serving.collection import Collection as Directory  # numpy: only when there is something to write

    directory, name = Directory.open(folder), new_id("vec")
    require_pgvector(session)
    try:
        for target in TARGETS:
            table, connection = _table(name, target, directory.dim), session.connection()
            table.create(connection, checkfirst=False)
            _copy(connection, table, directory, target)
            _index_of(table).create(connection)
            connection.execute(text(f"ANALYZE {table.name}"))  # the name is made of an id of ours
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        told = str(error.orig).partition("\n")[0]
        message = f"PostgreSQL did not take the vectors ({told}); mend that and resume the run, or index with files"
        raise UserError(message, code="pgvector_failed", field="index") from error
    return name


def drop_vectors(database: Database, name: str | None) -> None:
    """Drop the tables that no row names any more. While somebody reads them it is left to the garbage collection."""
    if name is None:
        return
    with suppress(*UNREACHABLE), database.session() as session:
        session.execute(_WAITING)
        for target in TARGETS:
            session.execute(DropTable(_table(name, target, 1), if_exists=True))


def unnamed_vectors(session: Session) -> dict[str, int]:
    """The beginnings of the names of tables that no collection has, and their bytes."""
    if session.get_bind().dialect.name != "postgresql":
        return {}
    sizes: dict[str, int] = {}
    for table, size in session.execute(_SIZES).tuples():
        if found := _TABLE.fullmatch(table):
            sizes[found[1]] = sizes.get(found[1], 0) + size
    # looked at after the tables: those that are seen were named in the same moment
    named = set(session.scalars(select(Collection.vectors).where(Collection.vectors.is_not(None)))) if sizes else set()
    return {name: size for name, size in sorted(sizes.items()) if name not in named}


@dataclass(frozen=True)
class Neighbours:
    """Asks the tables of a collection; what ``Collection.open`` takes as ``ask``. From any thread."""

    database: Database
    name: str
    dim: int

    def __call__(
        self, target: Literal["images", "texts"], query: list[float], k: int, rows: Sequence[int], among: bool
    ) -> Sequence[int]:
        """Nothing when the tables are gone: another directory is the collection's by now. Raises: UNREACHABLE."""
        table = _table(self.name, target, self.dim)
        statement = select(table.c.row).order_by(table.c.embedding.op("<=>")(query)).limit(k)
        if among or rows:
            given = cast(list(rows), ARRAY(Integer))
            statement = statement.where(table.c.row == func.any(given) if among else table.c.row != func.all(given))
        with self.database.reading() as session:
            session.execute(_SEARCHING, {"breadth": str(min(max(BREADTH_SEARCHING, 2 * k), WIDEST))})
            try:
                return session.scalars(statement).all()
            except ProgrammingError as error:
                if getattr(error.orig, "sqlstate", None) == "42P01":  # no such table
                    return ()
                raise


@lru_cache(maxsize=64)
def _table(name: str, target: str, dim: int) -> Table:
    return Table(
        f"{name}_{target}",
        MetaData(),
        Column("row", Integer, primary_key=True, autoincrement=False),
        Column("item", String(_ID_LENGTH), nullable=False, unique=True),
        Column("embedding", Halfvec(dim), nullable=False),
    )


def _index_of(table: Table) -> Index:
    return Index(
        f"{table.name}_hnsw",
        table.c.embedding,
        postgresql_using="hnsw",
        postgresql_ops={"embedding": "halfvec_cosine_ops"},
        postgresql_with={"m": LINKS, "ef_construction": BREADTH_BUILDING},
    )


def _copy(connection: Connection, table: Table, directory: Directory, target: Literal["images", "texts"]) -> None:
    """Raises: OperationalError that says whether the connection is lost, as of a statement that the engine sends."""
    driver, faults = connection.connection.driver_connection, connection.dialect.loaded_dbapi.Error
    assert driver is not None
    total = directory.count(target)
    try:
        with driver.cursor() as cursor, cursor.copy(f"COPY {table.name} FROM STDIN (FORMAT BINARY)") as copy:
            copy.write(b"PGCOPY\n\xff\r\n\x00" + bytes(8))  # no flags, no extension
            for start in range(0, total, _ROWS_AT_ONCE):
                places = range(start, min(start + _ROWS_AT_ONCE, total))
                copy.write(_lines(places, *directory.at(target, places)))
            copy.write(b"\xff\xff")
    except faults as error:
        raise OperationalError("COPY", None, error, connection_invalidated=driver.closed) from error


def _lines(places: Sequence[int], ids: Sequence[str], vectors: np.ndarray) -> bytes:
    """Rows as COPY takes them: each value behind its length in bytes, everything big-endian."""
    import numpy as np

    dim = vectors.shape[1]
    parts: list[Any] = [("columns", ">i2"), ("row_size", ">i4"), ("row", ">i4")]
    parts += [("item_size", ">i4"), ("item", f"S{_ID_LENGTH}")]
    parts += [("size", ">i4"), ("dim", ">i2"), ("unused", ">i2"), ("embedding", ">f2", (dim,))]
    lines = np.zeros(len(places), dtype=np.dtype(parts))
    lines["columns"], lines["row_size"], lines["item_size"], lines["size"] = 3, 4, _ID_LENGTH, 4 + 2 * dim
    lines["row"], lines["item"], lines["dim"], lines["embedding"] = list(places), ids, dim, vectors
    return lines.tobytes()
