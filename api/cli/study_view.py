"""A study on the terminal."""

from __future__ import annotations

from typing import Any

from api.cli.common import show_table

Json = dict[str, Any]


def counts_of(study: Json) -> str:
    """``5 succeeded, 1 running``."""
    return ", ".join(f"{count} {state}" for state, count in study["counts"].items()) or "no cells"


def show_rows(study: Json) -> None:
    """The table: labels, drawn settings, the states of the cells, and each figure as mean ± deviation."""
    table = study["table"]
    rungs = any(row["rung"] is not None for row in table["rows"])
    heads = [metric["name"] for metric in table["metrics"]]
    columns = [*table["axes"], *table["parameters"], *(["rung"] if rungs else []), "cells", *heads]
    show_table(columns, [_row(table, row, heads, rungs) for row in table["rows"]], "no rows")


def _row(table: Json, row: Json, heads: list[str], rungs: bool) -> list[object]:
    labels = [row["labels"].get(axis) for axis in table["axes"]]
    drawn = [row["parameters"].get(name) for name in table["parameters"]]
    states = ", ".join(f"{count} {state}" for state, count in row["states"].items())
    return [*labels, *drawn, *([row["rung"]] if rungs else []), states, *(_figure(row, head) for head in heads)]


def _figure(row: Json, head: str) -> str:
    found = row["figures"].get(head)
    if found is None:
        return ""
    spread = "" if found["sd"] is None else f" ± {found['sd']:.3g}"
    return f"{found['mean']:.3g}{spread}"
