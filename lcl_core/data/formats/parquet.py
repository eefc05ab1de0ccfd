"""Rows of Parquet and Arrow files, a few at a time, from untrusted files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lcl_core.data.jsonl import BadValue
from lcl_core.data.records import BadItem

# Far above what the known corpora have. It bounds memory for files that state their sizes truly. (The columns' metadata
# in a row group must not be read: damage there ends the process in the library's C++.)
MAX_GROUP_BYTES = 4 << 30
_BATCH_ROWS = 64
MAX_ENTRIES = 100_000  # of a list in a row
READ_ERRORS = (pa.ArrowException, OSError, ValueError, EOFError, MemoryError)


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Some rows of a file; ``start`` is the 0-based number of the first."""

    start: int
    batch: pa.RecordBatch


def is_arrow_file(path: Path) -> bool:
    """By its name: .parquet, .arrow (file or stream form), .feather."""
    return path.suffix in (".parquet", ".arrow", ".feather")


def read_schema(path: Path) -> pa.Schema | None:
    """The columns of a file; None when it cannot be read."""
    try:
        schema = _schema(path)
        return schema if schema.names is not None else None  # names that are not UTF-8 raise
    except READ_ERRORS:
        return None


def _schema(path: Path) -> pa.Schema:
    if _is_parquet(path):
        return pq.read_schema(path)
    with pa.memory_map(str(path)) as source:
        return (pa.ipc.open_file if _magic(path) == b"ARRO" else pa.ipc.open_stream)(source).schema


def read_batches(path: Path, name: str, columns: Sequence[str] | None = None) -> Iterator[RowBatch | BadItem]:
    """All rows in order, in batches of at most a few dozen (Parquet) or as they were written (Arrow).

    A damaged row group of a Parquet file is one BadItem and the next group follows; an Arrow file ends there.

    Args:
        name: of the file, for messages.
        columns: those to read, left out where the file lacks them; None: all.
    """
    try:
        parquet = _is_parquet(path)
    except OSError as error:
        yield BadItem(name, 0, "unreadable file", str(error.strerror))
        return
    yield from (_parquet_rows if parquet else _arrow_rows)(path, name, columns)


def _is_parquet(path: Path) -> bool:
    return path.suffix == ".parquet" or _magic(path) == b"PAR1"


def _magic(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


def _parquet_rows(path: Path, name: str, columns: Sequence[str] | None) -> Iterator[RowBatch | BadItem]:
    try:
        schema = pq.read_metadata(path).schema
        leaves = [schema.column(number) for number in range(len(schema))]
        # a value that rows repeat stays one: a file of a kilobyte could fill memory with copies otherwise
        repeated = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
        file = pq.ParquetFile(path, read_dictionary=repeated, buffer_size=1 << 20, pre_buffer=False)
        names = file.schema_arrow.names
    except READ_ERRORS as error:
        yield BadItem(name, 0, "damaged parquet", first_line(error))
        return
    with file:
        present = None if columns is None else [column for column in columns if column in names]
        start = 0
        for group in range(file.metadata.num_row_groups):
            about = file.metadata.row_group(group)
            if about.total_byte_size > MAX_GROUP_BYTES:
                detail = f"{about.total_byte_size:,} bytes; write it again with smaller row groups"
                yield BadItem(name, start + 1, "row group too large", detail)
            else:
                yield from _group_rows(file, group, name, start, present)
            start += max(about.num_rows, 0)


def _group_rows(
    file: pq.ParquetFile, group: int, name: str, start: int, columns: Sequence[str] | None
) -> Iterator[RowBatch | BadItem]:
    try:
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns):
            yield RowBatch(start, batch)
            start += batch.num_rows
    except READ_ERRORS as error:
        yield BadItem(name, start + 1, "damaged parquet", f"the rest of the row group is lost: {first_line(error)}")


def _arrow_rows(path: Path, name: str, columns: Sequence[str] | None) -> Iterator[RowBatch | BadItem]:
    start = 0
    try:
        with pa.memory_map(str(path)) as source:
            for batch in _arrow_batches(source):
                yield _validate_batch(batch, name, start, columns)
                start += batch.num_rows
    except READ_ERRORS as error:
        yield BadItem(name, start + 1 if start else 0, "damaged arrow", f"the rest is lost: {first_line(error)}")


def _validate_batch(batch: pa.RecordBatch, name: str, start: int, columns: Sequence[str] | None) -> RowBatch | BadItem:
    """The batch, unless it is crafted: its offsets could point anywhere."""
    try:
        batch.validate(full=True)
        present = [column for column in batch.schema.names if columns is None or column in columns]
        return RowBatch(start, batch.select(present))
    except READ_ERRORS as error:
        return BadItem(name, start + 1, "damaged arrow", f"{batch.num_rows:,} rows are lost: {first_line(error)}")


def _arrow_batches(source: pa.MemoryMappedFile) -> Iterator[pa.RecordBatch]:
    if source.read(6) != b"ARROW1":
        source.seek(0)
        yield from pa.ipc.open_stream(source)
        return
    file = pa.ipc.open_file(source)
    for number in range(file.num_record_batches):
        yield file.get_batch(number)


def read_rows(path: Path, name: str) -> Iterator[tuple[int, dict[str, Any]] | BadItem]:
    """All rows, with their numbers from 1, as Python values by column; empty and repeated names get their number."""
    for rows in read_batches(path, name):
        if isinstance(rows, BadItem):
            yield rows
            continue
        columns = dict(zip(unique_names(rows.batch.schema.names), rows.batch.columns, strict=True))
        for index in range(rows.batch.num_rows):
            line = rows.start + index + 1
            try:
                yield line, {name: _value(name, column[index]) for name, column in columns.items()}
            except (BadValue, ValueError, OverflowError, pa.ArrowException) as error:  # such as a date beyond Python's
                yield BadItem(name, line, "bad row", str(error)[:200])


def _value(name: str, value: pa.Scalar) -> Any:
    """Raises: BadValue for a list of more than ``MAX_ENTRIES``: empty entries are tiny in a file, large in memory."""
    if isinstance(value, pa.ListScalar | pa.LargeListScalar) and value.is_valid and len(value) > MAX_ENTRIES:
        raise BadValue(f"{name} has {len(value):,} places; {MAX_ENTRIES:,} are allowed")
    return value.as_py()


def unique_names(fields: Sequence[str]) -> list[str]:
    """Names of columns; empty and repeated ones get their number."""
    names: list[str] = []
    for number, field in enumerate(fields):
        names.append(field if field and field not in names else f"{field or 'column'} {number}")
    return names


def is_list_column(field: pa.Field) -> bool:
    """Whether the values of a column are lists."""
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(kind(field.type) for kind in kinds)


def image_source(image: Any) -> tuple[str, bytes | None]:
    """URL or path of an image, maybe empty, and its bytes if they are at hand.

    Args:
        image: either of them, or {bytes, path} as Hugging Face writes it.
    """
    if isinstance(image, dict):
        where, data = image.get("path"), image.get("bytes")
        return where if isinstance(where, str) else "", data if isinstance(data, bytes) else None
    return (image, None) if isinstance(image, str) else ("", image if isinstance(image, bytes) else None)


def first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0][:200]
