"""The table that img2dataset writes beside a tar: a row for each image it tried, the failures too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lcl_core.data.readers.arrow_files import Rows, read_rows
from lcl_core.data.readers.values import BadValue, plain_json
from lcl_core.data.record import BadItem

# img2dataset writes 10,000 samples a shard
MAX_SIDE_ROWS = 250_000
MAX_SIDE_BYTES = 512 << 20


class SideFile:
    """Rows by key, held in memory for as long as its tar is read.

    Args:
        path: the Parquet file; it need not exist.

    Attributes:
        problems: why it, or some of its rows, could not be used.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.problems: list[BadItem] = []
        self._batches: list[pa.RecordBatch] = []
        self._places: dict[str, tuple[int, int, int]] = {}
        if path.is_file():
            self._fill(path)

    def row(self, key: str) -> dict[str, Any]:
        """The fields of a sample, empty where there is no row."""
        place = self._places.get(key)
        if place is None:
            return {}
        batch, index, _ = place
        try:
            fields = {name: column[index].as_py() for name, column in self._columns(batch)}
            return {name: value for name, value in plain_json(fields).items() if value is not None}
        except (BadValue, ValueError, pa.ArrowException):  # text that is not UTF-8, a date beyond Python's
            return {}

    def lost(self, seen: set[str]) -> Iterator[BadItem]:
        """A BadItem for each row whose sample is not among ``seen``, with the reason that the row gives."""
        for key, (_, _, number) in self._places.items():
            if key in seen:
                continue
            row = self.row(key)
            status = str(row.get("status", "success"))
            detail = " ".join(str(part) for part in (key, row.get("url"), row.get("error_message")) if part)[:300]
            reason = "not in the tar" if status == "success" else "not downloaded"
            yield BadItem(self.name, number, reason, detail)

    def _columns(self, batch: int) -> Iterator[tuple[str, Any]]:
        found = self._batches[batch]
        return ((name, found.column(place)) for place, name in enumerate(found.schema.names))

    def _fill(self, path: Path) -> None:
        wanted = self._usable_columns(path)
        if wanted is None:
            return
        for rows in read_rows(path, self.name, wanted):
            if not isinstance(rows, Rows):
                self.problems.append(rows)
                continue
            self._batches.append(rows.batch)
            self._add(rows)

    def _add(self, rows: Rows) -> None:
        keys = rows.batch.column(rows.batch.schema.get_field_index("key"))
        for index in range(len(keys)):
            try:
                key = keys[index].as_py()
            except ValueError:
                key = None
            place = (len(self._batches) - 1, index, rows.start + index + 1)
            if key is None or self._places.setdefault(str(key), place) != place:
                problem = "no key" if key is None else f"the key {str(key)[:120]!r} occurs twice"
                self.problems.append(BadItem(self.name, rows.start + index + 1, "bad side row", problem))

    def _usable_columns(self, path: Path) -> list[str] | None:
        try:
            about = pq.read_metadata(path)
            schema = pq.read_schema(path)
            names = schema.names
        except (pa.ArrowException, OSError, ValueError) as error:
            self.problems.append(BadItem(self.name, 0, "damaged parquet", str(error).split("\n", 1)[0][:200]))
            return None
        size = sum(about.row_group(group).total_byte_size for group in range(about.num_row_groups))
        problem = ""
        if about.num_rows > MAX_SIDE_ROWS or size > MAX_SIDE_BYTES:
            problem = f"{about.num_rows:,} rows in {size:,} bytes; {MAX_SIDE_ROWS:,} in {MAX_SIDE_BYTES:,} are allowed"
        elif "key" not in names or len(names) != len(set(names)):
            problem = "it needs one column 'key', and no two columns of one name"
        if problem:
            self.problems.append(BadItem(self.name, 0, "side file not used", problem))
            return None
        binary = (pa.types.is_binary, pa.types.is_large_binary)
        return [field.name for field in schema if not any(kind(field.type) for kind in binary)]
