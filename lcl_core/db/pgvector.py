"""Vectors of collections in PostgreSQL with the extension ``vector``: written with the row, searched, dropped.

Each directory of a collection has two tables, ``vec_…_images`` and ``vec_…_texts``; the row of the collection stores
the common prefix of their names. A directory never changes, and neither do its tables. They are created and filled in
the transaction that names them. The HNSW index of a table has vectors of one collection only, so a search visits no
others, and dropping the tables leaves no dead rows in a shared index.

The table of images has the columns of the labels (``column_name``), each with an index: ``text_…`` (text) and
``value_…`` (double precision) with a B-tree, ``members_…`` (text[]) with GIN; absent values are null.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    and_,
    cast,
    column,
    func,
    or_,
    select,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.orm import Session
from sqlalchemy.schema import DropTable
from sqlalchemy.types import UserDefinedType

from lcl_core.common.errors import UserError
from lcl_core.db.models import CollectionRow
from lcl_core.db.session import UNREACHABLE, Database, allow_long_statements, lock_until_commit
from lcl_core.vector_indexes import (
    TARGETS,
    Filter,
    IndexLocation,
    LabelColumns,
    RangeFilter,
    SetFilter,
    Target,
    TextFilter,
    VectorBatch,
    column_name,
    columns_of,
    unusable,
)

if TYPE_CHECKING:
    import numpy as np

MIN_VERSION = (0, 8)  # the first with iterative scans: a filtered search continues until it has enough rows
HNSW_M, HNSW_EF_CONSTRUCTION = 16, 128  # as in the HNSW index of a file
HNSW_EF_SEARCH, MAX_EF_SEARCH = 100, 1000
MAX_LISTED = 5_000  # rows that a search by labels leaves out; of so few that pass, all are compared
MAX_TEXT_BYTES = 2_000  # of a text in a label column: an entry of a B-tree or GIN index has at most 2,704 bytes
_MAX_NAME_BYTES = 63  # PostgreSQL cuts longer names
_ITEM_ID_LENGTH = 20
_TABLE_NAME = re.compile(r"(vec_[0-9a-z]{18})_(?:images|texts)")
_NO_SUCH_TABLE = "42P01"
_EXTENSION_LOCK = 0x6C636C766563  # any constant: key of the advisory lock
# for one transaction: continue filtered scans; plan for the given rows; no JIT compilation
_SET_SEARCH_PARAMETERS = text(
    "SELECT set_config('hnsw.ef_search', :ef_search, true), set_config('hnsw.iterative_scan', 'relaxed_order', true), "
    "set_config('plan_cache_mode', 'force_custom_plan', true), set_config('jit', 'off', true)"
)
_SELECT_COLUMNS = text(
    "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(:table) AND attnum > 0 AND NOT attisdropped "
    "ORDER BY attnum"
)
_SET_LOCK_TIMEOUT = text("SET LOCAL lock_timeout = '2s'")
_SELECT_TABLE_SIZES = text(
    "SELECT relname, pg_total_relation_size(oid) FROM pg_class "
    "WHERE relkind = 'r' AND pg_table_is_visible(oid) AND relname LIKE 'vec\\_%'"
)


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
            statement = statement.where(_row_condition(table, rows, among))
        with self._reading(table, k) as session:
            return session.scalars(statement).all()

    def search_labels(
        self, query: list[float], k: int, filters: Filter, without: Sequence[int], passing: int
    ) -> Sequence[int] | None:
        """Raises: as of a search."""
        if len(without) > MAX_LISTED:
            return None
        table = _table(self.name, "images", self.dim)
        distance: ColumnElement[float] = table.c.embedding.op("<=>", return_type=Double())(query)
        # the HNSW index is sorted by the distance, not by a sum: few rows are all compared
        order = distance + 0 if passing <= MAX_LISTED else distance
        statement = select(table.c.row).where(*map(_label_condition, filters)).order_by(order).limit(k)
        if without:
            statement = statement.where(_row_condition(table, without, False))
        with self._reading(table, k) as session:
            columns = session.scalars(_SELECT_COLUMNS, {"table": table.name}).all()
            # without a table there are none, and the search raises
            if columns and not {_identifier(name) for name in columns_of(filters)} <= set(columns):
                return None
            return session.scalars(statement).all()

    def build(self, target: Target, batches: Iterable[VectorBatch], labels: LabelColumns | None = None) -> None:
        """Raises: UserError ``pgvector_failed``; UNREACHABLE."""
        columns = [] if labels is None else [_identifier(name) for name in labels.columns([])]
        table = _new_table(self.name, target, self.dim, columns)
        with self._writing() as connection:
            connection.execute(DropTable(table, if_exists=True))
            table.create(connection, checkfirst=False)
            _copy_vectors(connection, table, batches, labels)
            for index in (_hnsw_index(table), *_label_indexes(table)):
                index.create(connection)
            connection.execute(text(f"ANALYZE {table.name}"))  # the name has an id of ours

    def drop(self) -> None:
        if self.database is not None:
            drop_vectors(self.database, self.name)

    @contextmanager
    def _reading(self, table: Table, k: int) -> Iterator[Session]:
        """A transaction with the parameters of a search. Raises: UserError ``index_unusable`` without the table."""
        assert self.database is not None, "an index that is searched has a database"
        with self.database.reading() as session:
            session.execute(_SET_SEARCH_PARAMETERS, {"ef_search": str(min(max(HNSW_EF_SEARCH, 2 * k), MAX_EF_SEARCH))})
            try:
                yield session
            except ProgrammingError as error:
                if getattr(error.orig, "sqlstate", None) == _NO_SUCH_TABLE:
                    raise unusable(f"table {table.name} does not exist") from error
                raise

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


class _LabelType(NamedTuple):
    """Type of a label column in SQL and for COPY, and the method of its index."""

    sql: Any
    copied: str
    method: str


_LABEL_TYPES: dict[str, _LabelType] = {
    "text": _LabelType(Text(), "text", "btree"),
    "value": _LabelType(Double(), "float8", "btree"),
    "members": _LabelType(ARRAY(Text), "text[]", "gin"),
}


def _label_type(name: str) -> _LabelType:
    return _LABEL_TYPES[name.partition("_")[0]]


def _new_table(name: str, target: str, dim: int, label_columns: Sequence[str] = ()) -> Table:
    """A table that indexes may be attached to, unlike the shared one."""
    return Table(
        f"{name}_{target}",
        MetaData(),
        Column("row", Integer, primary_key=True, autoincrement=False),
        Column("item", String(_ITEM_ID_LENGTH), nullable=False, unique=True),
        Column("embedding", Halfvec(dim), nullable=False),
        *(Column(each, _label_type(each).sql) for each in label_columns),
    )


def _label_columns(table: Table) -> list[Column[Any]]:
    return list(table.c)[3:]


def _hnsw_index(table: Table) -> Index:
    return Index(
        f"{table.name}_hnsw",
        table.c.embedding,
        postgresql_using="hnsw",
        postgresql_ops={"embedding": "halfvec_cosine_ops"},
        postgresql_with={"m": HNSW_M, "ef_construction": HNSW_EF_CONSTRUCTION},
    )


def _label_indexes(table: Table) -> list[Index]:
    # by number: with the column's name that of the index would be too long
    return [
        Index(f"{table.name}_label{number}", each, postgresql_using=_label_type(each.name).method)
        for number, each in enumerate(_label_columns(table))
    ]


def _row_condition(table: Table, rows: Sequence[int], among: bool) -> ColumnElement[bool]:
    array = cast(list(rows), ARRAY(Integer))
    return table.c.row == func.any(array) if among else table.c.row != func.all(array)


def _label_condition(each: TextFilter | RangeFilter | SetFilter) -> ColumnElement[bool]:
    def label_column(what: Literal["text", "value", "members"]) -> ColumnElement[Any]:
        return column(_identifier(column_name(what, each.label)), _LABEL_TYPES[what].sql)

    if isinstance(each, RangeFilter):
        value = label_column("value")
        bounds = [value >= each.low] if math.isfinite(each.low) else []
        bounds += [value < each.high] if math.isfinite(each.high) else []
        return and_(*bounds) if bounds else value.is_not(None)
    values = cast([_stored(value) for value in each.values], ARRAY(Text))
    if isinstance(each, SetFilter):
        return label_column("members").bool_op("@>")(values)
    equal = label_column("text") == func.any(values)
    found = or_(equal, label_column("members").bool_op("&&")(values)) if each.of_set else equal
    return found.is_not(true()) if each.excluded else found  # also where the image has no such label


def _identifier(name: str) -> str:
    """Name of a label's column in PostgreSQL; a long one ends in a part of its hash."""
    if len(name) <= _MAX_NAME_BYTES:  # ``column_name`` is ASCII
        return name
    # no label's own name has a tilde
    return f"{name[: _MAX_NAME_BYTES - 17]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"


_HASHED = "sha256:"
_UNSTORABLE = re.compile(f"\\A{_HASHED}|[\0\ud800-\udfff]")


def _stored(label_text: str) -> str:
    """A text of a label as a column has it: its hash, where an index or PostgreSQL itself does not take the text.

    The hash of a text that looks like one is stored too, so that different texts stay different.
    """
    encoded = label_text.encode("utf-8", "surrogatepass")
    if len(encoded) <= MAX_TEXT_BYTES and not _UNSTORABLE.search(label_text):
        return label_text
    return _HASHED + hashlib.sha256(encoded).hexdigest()


def _copy_vectors(
    connection: Connection, table: Table, batches: Iterable[VectorBatch], labels: LabelColumns | None = None
) -> None:
    """Copy vectors, and labels into the label columns of ``table``, with COPY.

    Raises: OperationalError, as a statement of the engine does.
    """
    driver, errors = connection.connection.driver_connection, connection.dialect.loaded_dbapi.Error
    assert driver is not None
    columns = ", ".join(map(connection.dialect.identifier_preparer.format_column, table.c))
    try:
        with (
            driver.cursor() as cursor,
            cursor.copy(f"COPY {table.name} ({columns}) FROM STDIN (FORMAT BINARY)") as copy,
        ):
            if labels is not None and _label_columns(table):
                _write_rows(copy, table, batches, labels)
            else:
                _write_vectors(copy, batches)
    except errors as error:
        raise OperationalError("COPY", None, error, connection_invalidated=driver.closed) from error


def _write_vectors(copy: Any, batches: Iterable[VectorBatch]) -> None:
    copy.write(b"PGCOPY\n\xff\r\n\x00" + bytes(8))  # no flags, no extension
    for batch in batches:
        copy.write(_binary_rows(*batch))
    copy.write(b"\xff\xff")


def _write_rows(copy: Any, table: Table, batches: Iterable[VectorBatch], labels: LabelColumns) -> None:
    """Write vectors with labels, whose values have any length: psycopg encodes each row. A missing column is null."""
    names = [each.name for each in _label_columns(table)]
    # the bytes of a bytea are sent as they are
    copy.set_types(["int4", "varchar", "bytea", *(_label_type(name).copied for name in names)])
    for positions, ids, vectors in batches:
        found = {_identifier(name): values for name, values in labels.columns(positions).items()}
        absent = [None] * len(positions)
        columns = [[_stored_value(value) for value in found.get(name, absent)] for name in names]
        embeddings = (row.tobytes() for row in _binary_embeddings(vectors))
        for row in zip(map(int, positions), ids, embeddings, *columns, strict=True):
            copy.write_row(row)


def _stored_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_stored(member) for member in value]
    return _stored(value) if isinstance(value, str) else value


def _binary_rows(positions: Sequence[int], ids: Sequence[str], vectors: np.ndarray) -> bytes:
    """Rows in the binary format of COPY: each value after its length in bytes, big-endian."""
    import numpy as np

    embeddings = _binary_embeddings(vectors)
    fields: list[Any] = [("columns", ">i2"), ("row_size", ">i4"), ("row", ">i4")]
    fields += [("item_size", ">i4"), ("item", f"S{_ITEM_ID_LENGTH}")]
    fields += [("size", ">i4"), ("embedding", embeddings.dtype)]
    rows = np.zeros(len(positions), dtype=np.dtype(fields))
    rows["columns"], rows["row_size"], rows["item_size"] = 3, 4, _ITEM_ID_LENGTH
    rows["row"], rows["item"] = list(positions), ids
    rows["size"], rows["embedding"] = embeddings.itemsize, embeddings
    return rows.tobytes()


def _binary_embeddings(vectors: np.ndarray) -> np.ndarray:
    """Each vector as PostgreSQL receives a ``halfvec``."""
    import numpy as np

    dim = vectors.shape[1]
    made = np.zeros(len(vectors), np.dtype([("dim", ">i2"), ("unused", ">i2"), ("numbers", ">f2", (dim,))]))
    made["dim"], made["numbers"] = dim, vectors
    return made
