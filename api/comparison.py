"""Figures of two encoders brought into one table, with paired tests where the answers are still at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lcl_core.errors import UserError

# What makes two figures comparable: the same question on the same data.
KEYS = ("task", "split", "variant", "transfer", "metric", "dataset", "dataset_hash")
_QUESTION = KEYS[:5]
_DRAWS = 2000  # a request can wait for so many, also on large splits

Json = dict[str, Any]


def compared(left: Sequence[Json], right: Sequence[Json]) -> list[Json]:
    """One row a figure that both have, from the newest evaluation of each; ``difference`` is right minus left."""
    first, second = _newest(left), _newest(right)
    rows = []
    for key, row in first.items():
        if key in second:
            before, after = row["value"], second[key]["value"]
            values = {"left": before, "right": after, "difference": _difference(before, after)}
            runs = {"left_run": row.get("run_id"), "right_run": second[key].get("run_id")}
            rows.append({**dict(zip(KEYS, key, strict=True)), **values, "chance": row.get("chance"), **runs})
    return rows


def tested(rows: Sequence[Json], records_of: Callable[[str], Path]) -> list[Json]:
    """The rows with ``interval`` (95 %, of the difference), ``p`` and ``units`` where both runs' answers are at hand.

    Args:
        records_of: the folder of a run's answers by its id; raises UserError for what the store does not give.

    The value of both over the units in common may differ from the row's where one run was asked more.
    """
    pairs = dict.fromkeys((row["left_run"], row["right_run"]) for row in rows)
    found = {key: facts for runs in pairs for key, facts in _paired(runs, records_of).items()}
    return [
        {**row, **found.get((row["left_run"], row["right_run"], *(row[name] for name in _QUESTION)), {})}
        for row in rows
    ]


def _paired(runs: tuple[str | None, str | None], records_of: Callable[[str], Path]) -> dict[tuple[Any, ...], Json]:
    """Tests of two runs by (left run, right run, question); none where answers are missing or unreadable."""
    from lcl_core.transfer.scoring.compare import compare  # numpy: not at start-up

    try:
        folders = [records_of(str(run)) for run in runs]
        if not all((folder / "index.json").is_file() for folder in folders):
            return {}
        found = compare(*folders, draws=_DRAWS)
    except UserError:
        return {}
    return {
        (*runs, *(getattr(each, name) for name in _QUESTION)): {
            "interval": list(each.interval), "p": each.p, "units": each.count,
        }
        for each in found
    }  # fmt: skip


def _newest(rows: Sequence[Json]) -> dict[tuple[Any, ...], Json]:
    found: dict[tuple[Any, ...], Json] = {}
    for row in rows:  # newest first
        found.setdefault(tuple(row.get(key) for key in KEYS), row)
    return found


def _difference(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else right - left
