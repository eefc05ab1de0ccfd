"""A study's table for programs, spreadsheets and people."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

from lcl_core.studies.costs import COSTS

Json = dict[str, Any]
DIGITS = 10  # of numbers in a spreadsheet: the last ones of a sum are only noise
SUMMARY = ("mean", "sd", "low", "high", "count", "chance", "untrained")


def as_json(table: Json, title: str) -> str:
    return json.dumps({"title": title, **table}, indent=1, ensure_ascii=False) + "\n"


def as_csv(table: Json, title: str) -> str:
    """One line a row and metric; what is not known is empty."""
    out = io.StringIO()
    writer = csv.writer(out)
    extra = (["rung"] if _has_rungs(table) else []) + ["steps"]
    writer.writerow([*table["axes"], *table["parameters"], *extra, "metric", *SUMMARY, *COSTS])
    for row in table["rows"]:
        labels = [row["labels"].get(axis) for axis in table["axes"]]
        drawn = [row["parameters"].get(name) for name in table["parameters"]]
        for metric in table["metrics"]:
            figure = row["figures"].get(metric["name"])
            cost = [row["compute"][name] for name in COSTS]
            facts = [*labels, *drawn, *(row[name] for name in extra), metric["name"], *_summary(figure), *cost]
            writer.writerow([float(f"{fact:.{DIGITS}g}") if isinstance(fact, float) else fact for fact in facts])
    return out.getvalue()


def as_markdown(table: Json, title: str) -> str:
    """The figures as mean ± sd, then the comparisons with the baseline."""
    rung = ["rung"] if _has_rungs(table) else []
    heads = [*table["axes"], *table["parameters"], *rung, "seeds", "images seen", *_heads(table)]
    lines = [f"**{title}**", "", *_table(heads, [_cells(table, row, rung) for row in table["rows"]]), ""]
    lines += ["Mean ± standard deviation over seeds, and in brackets Student's 95 % interval of the mean.", ""]
    for head, comparisons in table["comparisons"].items():
        if any(comparison["t"] is not None for comparison in comparisons):
            lines += _against(table, head, comparisons)
    known = table["provenance"]
    if known["versions"]:
        lines.append(f"lcl {', '.join(known['versions'])}, examined on {'; '.join(known['datasets'])}.")
    return "\n".join(lines) + "\n"


FORMATS: dict[str, tuple[Callable[[Json, str], str], str]] = {
    "json": (as_json, "application/json"),
    "csv": (as_csv, "text/csv; charset=utf-8"),
    "md": (as_markdown, "text/markdown; charset=utf-8"),
}


def row_name(table: Json, row: Json) -> str:
    """A row in a few words."""
    words = [row["labels"][axis] for axis in table["axes"] if axis in row["labels"]]
    return " ".join(words + ([f"rung {row['rung']}"] if row["rung"] is not None else [])) or "all"


def _has_rungs(table: Json) -> bool:
    return any(row["rung"] is not None for row in table["rows"])


def _heads(table: Json) -> list[str]:
    return [metric["name"] for metric in table["metrics"]]


def _summary(figure: Json | None) -> list[Any]:
    if figure is None:
        return [None] * len(SUMMARY)
    low, high = figure["interval"] or (None, None)
    return [{**figure, "low": low, "high": high}[name] for name in SUMMARY]


def _cells(table: Json, row: Json, rung: list[str]) -> list[str]:
    labels = [row["labels"].get(axis, "") for axis in table["axes"]]
    drawn = [_number(row["parameters"].get(name)) for name in table["parameters"]]
    seen = row["compute"]["images_seen"]
    facts = [*(str(row[name]) for name in rung), str(len(row["seeds"])), "" if seen is None else f"{seen:,.0f}"]
    return [*labels, *drawn, *facts, *(_figure(row["figures"].get(head)) for head in _heads(table))]


def _figure(figure: Json | None) -> str:
    if figure is None:
        return ""
    words = _number(figure["mean"])
    if figure["sd"] is not None:
        low, high = figure["interval"]
        words += f" ± {_number(figure['sd'])} ({_number(low)} – {_number(high)})"
    return words


def _against(table: Json, head: str, comparisons: Sequence[Json]) -> list[str]:
    rows = [
        [
            row_name(table, table["rows"][comparison["row"]]),
            _number(comparison["difference"]),
            " – ".join(map(_number, comparison["interval"] or ())),
            _number(comparison["p"]),
            _number(comparison["p_holm"]),
            str(comparison["count"]),
        ]
        for comparison in comparisons
    ]
    name = row_name(table, table["rows"][table["baseline"]])
    heads = ["row", "difference", "95 %", "p", "p (Holm)", "pairs"]
    return [f"{head} against {name}, paired over seeds:", "", *_table(heads, rows), ""]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *rows)]


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
