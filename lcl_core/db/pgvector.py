"""Vectors of collections in PostgreSQL with the extension ``vector``: written with the row, searched, dropped.

Each directory of a collection has two tables, ``vec_…_images`` and ``vec_…_texts``; the row of the collection stores
the common prefix of their names. A directory never changes, and neither do its tables. They are created and filled in
the transaction that names them. The HNSW index of a table has vectors of one collection only, so a search visits no
others, and dropping the tables leaves no dead rows in a shared index.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ARRAY,
    Column,
    Connection,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    cast,
    delete,
    func,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.orm import Session
from sqlalchemy.schema import DropTable
from sqlalchemy.types import UserDefinedType

from lcl_core.common.errors import UserError
from lcl_core.db.models import CollectionRow, new_id
from lcl_core.db.session import UNREACHABLE, Database, allow_long_statements, lock_until_commit
from lcl_core.vector_indexes import (
    TARGETS,
    CollectionDirectory,
    IndexLocation,
    Target,
    VectorBatch,
    directory_batches,
    unusable,
)

if TYPE_CHECKING:
    import numpy as np

MIN_VERSION = (0, 8)  # the first with iterative scans: a filtered search continues until it has enough rows
HNSW_M, HNSW_EF_CONSTRUCTION = 16, 128  # as in the HNSW index of a file
HNSW_EF_SEARCH, MAX_EF_SEARCH = 100, 1000
_ITEM_ID_LENGTH = 20
_TABLE_NAME = re.compile(r"(vec_[0-9a-z]{18})_(?:images|texts)")
_NO_SUCH_TABLE = "42P01"
_EXTENSION_LOCK = 0x6C636C766563  # any constant: key of the advisory lock
# for one transaction: continue filtered scans; plan for the given rows; no JIT compilation
_SET_SEARCH_PARAMETERS = text(
    "SELECT set_config('hnsw.ef_search', :ef_search, true), set_config('hnsw.iterative_scan', 'relaxed_order', true), "
    "set_config('plan_cache_mode', 'force_custom_plan', true), set_config('jit', 'off', true)"
)
_SET_LOCK_TIMEOUT = text("SET LOCAL lock_timeout = '2s'")
_SELECT_TABLE_SIZES = text(
    "SELECT relname, pg_total_relation_size(oid) FROM pg_class "
    "WHERE relkind = 'r' AND pg_table_is_visible(oid) AND relname LIKE 'vec\\_%'"
)


def write_vectors(session: Session, directory: CollectionDirectory) -> str:
    """Create and fill the tables of a collection's directory, in the caller's transaction.

    Returns: prefix of their names. Raises: UserError ``pgvector_unavailable``, ``pgvector_failed``; UNREACHABLE.
    """
    name = new_id("vec")
    require_pgvector(session)
    index = PgVectorIndex(None, name, directory.dim, session)
    for target in TARGETS:
        index.build(target, directory_batches(directory, target))
    return name


def drop_vectors(database: Database, name: str | None) -> None:
    """Drop tables that no row names any more. While a search reads them they are left to the garbage collection."""
    if name is None:
        return
    with suppress(*UNREACHABLE), database.session() as session:
        session.execute(_SET_LOCK_TIMEOUT)
        for target in TARGETS:
            session.execute(DropTable(_table(name, target, 1), if_exists=True))


def orphaned_tables(session: Session) -> dict[str, int]:
    """{prefix: bytes} of the tables that no collection names."""
    if session.get_bind().dialect.name != "postgresql":
        return {}
    sizes: dict[str, int] = {}
    for table, size in session.execute(_SELECT_TABLE_SIZES).tuples():
        if match := _TABLE_NAME.fullmatch(table):
            sizes[match[1]] = sizes.get(match[1], 0) + size
    # read after the tables: a table that is visible was committed together with the row that names it
    query = select(CollectionRow.vectors).where(CollectionRow.vectors.is_not(None))
    named = set(session.scalars(query)) if sizes else set()
    return {name: size for name, size in sorted(sizes.items()) if name not in named}


@dataclass(frozen=True)
class PgVectorIndex:
    """The tables of a collection as a ``VectorIndex``; searching is safe from any thread.

    Writes are made in ``session``, else in a transaction each.
    """

    database: Database | None
    name: str
    dim: int
    session: Session | None = None

    @classmethod
    def at(cls, location: IndexLocation) -> PgVectorIndex:
        return cls(location.database, location.name, location.dim, location.session)

    @classmethod
    def check(cls, location: IndexLocation) -> None:
        """Raises: UserError ``pgvector_unavailable``."""
        require_pgvector(location.session)

    def __call__(self, target: Target, query: list[float], k: int, rows: Sequence[int], among: bool) -> Sequence[int]:
        """Rows nearest to ``query``, at most ``k``; among ``rows``, or outside them.

        Raises: UserError ``index_unusable`` when the tables are dropped: the collection has another directory by now;
        UNREACHABLE.
        """
        table = _table(self.name, target, self.dim)
        statement = select(table.c.row).order_by(table.c.embedding.op("<=>")(query)).limit(k)
        if among or rows:
            array = cast(list(rows), ARRAY(Integer))
            statement = statement.where(table.c.row == func.any(array) if among else table.c.row != func.all(array))
        assert self.database is not None, "an index that is searched has a database"
        with self.database.reading() as session:
            session.execute(_SET_SEARCH_PARAMETERS, {"ef_search": str(min(max(HNSW_EF_SEARCH, 2 * k), MAX_EF_SEARCH))})
            try:
                return session.scalars(statement).all()
            except ProgrammingError as error:
                if getattr(error.orig, "sqlstate", None) == _NO_SUCH_TABLE:
                    raise unusable(f"table {table.name} does not exist") from error
                raise

    def build(self, target: Target, batches: Iterable[VectorBatch]) -> None:
        """Raises: UserError ``pgvector_failed``; UNREACHABLE."""
        table = _new_table(self.name, target, self.dim)
        with self._writing() as connection:
            connection.execute(DropTable(table, if_exists=True))
            table.create(connection, checkfirst=False)
            _copy_vectors(connection, table, batches)
            _hnsw_index(table).create(connection)
            connection.execute(text(f"ANALYZE {table.name}"))  # the name has an id of ours

    def append(self, target: Target, batch: VectorBatch) -> None:
        """Raises: UserError ``pgvector_failed``; UNREACHABLE."""
        with self._writing() as connection:
            _copy_vectors(connection, _table(self.name, target, self.dim), [batch])

    def delete(self, target: Target, rows: Sequence[int]) -> None:
        table = _table(self.name, target, self.dim)
        with self._writing() as connection:
            connection.execute(delete(table).where(table.c.row == func.any(cast(list(rows), ARRAY(Integer)))))

    def drop(self) -> None:
        if self.database is not None:
            drop_vectors(self.database, self.name)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        assert self.session is not None or self.database is not None
        opened = nullcontext(self.session) if self.session is not None else self.database.session()  # type: ignore[union-attr]
        with opened as session:
            allow_long_statements(session)
            try:
                yield session.connection()
            except DBAPIError as error:
                if error.connection_invalidated:
                    raise
                cause = str(error.orig).partition("\n")[0]
                message = f"PostgreSQL did not take the vectors ({cause}); mend that and resume the run"
                raise UserError(f"{message}, or index with files", code="pgvector_failed", field="index") from error


def require_pgvector(session: Session) -> None:
    """Create the extension if it does not exist. Raises: UserError ``pgvector_unavailable``."""
    if session.get_bind().dialect.name != "postgresql":
        raise _unavailable("this service keeps its database in SQLite; pgvector is an extension of PostgreSQL")
    version = _version(session) or _create_extension(session)
    if tuple(int(part) for part in version.split(".")[:2]) < MIN_VERSION:
        needed = ".".join(map(str, MIN_VERSION))
        raise _unavailable(f"the database has pgvector {version}, {needed} is needed (ALTER EXTENSION vector UPDATE)")


def _version(session: Session) -> str | None:
    version: str | None = session.scalar(text("SELECT extversion FROM pg_extension WHERE extname = 'vector'"))
    return version


def _create_extension(session: Session) -> str:
    lock_until_commit(session, _EXTENSION_LOCK)
    try:
        with session.begin_nested():
            session.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        cause = str(error.orig).partition("\n")[0]
        raise _unavailable(
            f"PostgreSQL cannot make the extension vector ({cause}); install pgvector on its machine, or use the image "
            "pgvector/pgvector:pg17, and let an administrator of the database run CREATE EXTENSION vector"
        ) from error
    return str(_version(session))


def _unavailable(what: str) -> UserError:
    return UserError(f"{what}; or set index to files", code="pgvector_unavailable", field="index")


class Halfvec(UserDefinedType[list[float]]):
    """Column type ``halfvec(E)``, two bytes a number."""

    cache_ok = True

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def get_col_spec(self, **_: Any) -> str:
        return f"halfvec({int(self.dim)})"

    def bind_processor(self, dialect: Any) -> Any:
        return lambda numbers: "[" + ",".join(map(repr, numbers)) + "]"


@lru_cache(maxsize=64)
def _table(name: str, target: str, dim: int) -> Table:
    return _new_table(name, target, dim)


def _new_table(name: str, target: str, dim: int) -> Table:
    """A table that an HNSW index may be attached to, unlike the shared one."""
    return Table(
        f"{name}_{target}",
        MetaData(),
        Column("row", Integer, primary_key=True, autoincrement=False),
        Column("item", String(_ITEM_ID_LENGTH), nullable=False, unique=True),
        Column("embedding", Halfvec(dim), nullable=False),
    )


def _hnsw_index(table: Table) -> Index:
    return Index(
        f"{table.name}_hnsw",
        table.c.embedding,
        postgresql_using="hnsw",
        postgresql_ops={"embedding": "halfvec_cosine_ops"},
        postgresql_with={"m": HNSW_M, "ef_construction": HNSW_EF_CONSTRUCTION},
    )


def _copy_vectors(connection: Connection, table: Table, batches: Iterable[VectorBatch]) -> None:
    """Copy vectors with COPY. Raises: OperationalError, as a statement of the engine does."""
    driver, errors = connection.connection.driver_connection, connection.dialect.loaded_dbapi.Error
    assert driver is not None
    try:
        with driver.cursor() as cursor, cursor.copy(f"COPY {table.name} FROM STDIN (FORMAT BINARY)") as copy:
            copy.write(b"PGCOPY\n\xff\r\n\x00" + bytes(8))  # no flags, no extension
            for batch in batches:
                copy.write(_binary_rows(*batch))
            copy.write(b"\xff\xff")
    except errors as error:
        raise OperationalError("COPY", None, error, connection_invalidated=driver.closed) from error


def _binary_rows(positions: Sequence[int], ids: Sequence[str], vectors: np.ndarray) -> bytes:
    """Rows in the binary format of COPY: each value after its length in bytes, big-endian."""
    import numpy as np

    dim = vectors.shape[1]
    fields: list[Any] = [("columns", ">i2"), ("row_size", ">i4"), ("row", ">i4")]
    fields += [("item_size", ">i4"), ("item", f"S{_ITEM_ID_LENGTH}")]
    fields += [("size", ">i4"), ("dim", ">i2"), ("unused", ">i2"), ("embedding", ">f2", (dim,))]
    rows = np.zeros(len(positions), dtype=np.dtype(fields))
    rows["columns"], rows["row_size"], rows["item_size"], rows["size"] = 3, 4, _ITEM_ID_LENGTH, 4 + 2 * dim
    rows["row"], rows["item"], rows["dim"], rows["embedding"] = list(positions), ids, dim, vectors
    return rows.tobytes()
