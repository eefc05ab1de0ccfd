"""The result table in three forms: JSON for programs, CSV for spreadsheets, Markdown for people."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from lcl_core.rundir import write_json_atomically
from lcl_core.transfer.scoring import Row


def write_tables(folder: Path, facts: dict[str, Any], rows: list[Row]) -> None:
    """Write ``table.json``, ``table.csv`` and ``table.md``; ``facts`` say who was examined, and on what."""
    write_json_atomically(folder / "table.json", {**facts, "rows": [row.to_dict() for row in rows]})
    with (folder / "table.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(_flat(row) for row in rows)
    (folder / "table.md").write_text(markdown(facts, rows), encoding="utf-8")


def markdown(facts: dict[str, Any], rows: list[Row]) -> str:
    """A heading line of facts and the table."""
    lines = [
        f"Encoder `{facts['encoder']}` ({facts['encoder_hash'][:12]}) on `{facts['dataset']}` "
        f"({facts['dataset_hash'][:12]}), lcl {facts['version']}, seed {facts['seed']}.",
        "",
        "| task | split | variant | transfer | metric | value | 95 % | untrained | chance | majority | n | of |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shown = _shown_ranks if row.metric.endswith("median rank") else _shown_share
        interval = f"{shown(row.interval[0])} – {shown(row.interval[1])}"
        spread = "" if row.spread is None else f" ± {shown(row.spread)}"
        numbers = [shown(row.value) + spread, interval, shown(row.untrained), shown(row.chance), shown(row.majority)]
        counts = [str(row.count), "" if row.candidates is None else str(row.candidates)]
        words = [row.task, row.split, row.variant, row.transfer, row.metric, *numbers, *counts]
        lines.append(f"| {' | '.join(words)} |")
    lines += [f"\nLeft out: {text}." for text in _left_out(rows)]
    return "\n".join(lines) + "\n"


_COLUMNS = (
    "task", "split", "variant", "transfer", "metric", "value", "low", "high", "spread",
    "untrained", "untrained_low", "untrained_high", "chance", "majority", "count", "candidates", "left_out",
)  # fmt: skip


def _flat(row: Row) -> dict[str, Any]:
    values = row.to_dict()
    values["low"], values["high"] = values.pop("interval")
    values["untrained_low"], values["untrained_high"] = values.pop("untrained_interval") or (None, None)
    values["left_out"] = json.dumps(values["left_out"]) if values["left_out"] else ""
    return values


def _left_out(rows: list[Row]) -> list[str]:
    """One sentence a question that left pictures out."""
    said = (
        f"{count} pictures of {row.split}, {row.task} {row.variant} ({reason.replace('_', ' ')})"
        for row in rows
        for reason, count in row.left_out.items()
    )
    return list(dict.fromkeys(said))


def _shown_share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _shown_ranks(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
