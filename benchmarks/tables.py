"""The tables of ``docs/results.md`` out of the values by seed that are committed in ``docs/results``.

Means, deviations, differences and tests are computed anew, with the functions of the service's own tables. ``--write``
puts the tables into the page, each below the comment that names it.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lcl_core.common.files import write_atomically
from lcl_core.studies.statistics import PairedTest, holm_adjust, mean, paired_test, sample_deviation

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
RESULTS = PAGE.with_suffix("")
HEADS = {"acc@1": "acc@1", "IR@5": "IR@5, tuned", "TR@5": "TR@5, tuned", "zero-shot IR@5": "IR@5, zero-shot"}
UNTRAINED = {  # column: task, variant and metric in untrained.csv
    "acc@1": ("classification", "subgroup", "acc@1"),
    "IR@5": ("tuned_retrieval", "captions[0]", "IR@5"),
    "TR@5": ("tuned_retrieval", "captions[0]", "TR@5"),
    "zero-shot IR@5": ("retrieval", "captions[0]", "IR@5"),
}
Json = dict[str, Any]


@dataclass(frozen=True)
class PublishedTable:
    """One table of the page; the comparison is of its first column.

    Attributes:
        axis: label of the study whose values are the rows.
        head: of the first column.
        rows: {value of the label: name on the page}, in the page's order.
        baseline: value with which the others are compared; ``against`` names it.
        reads: {value: further cell}.
        tokens: whether the tokens seen are the last column.
        below: further rows: ``untrained`` and ``chance``.
    """

    axis: str
    head: str
    rows: Mapping[str, str]
    baseline: str
    against: str
    columns: Sequence[str] = tuple(HEADS)
    reads: Mapping[str, str] = field(default_factory=dict)
    tokens: bool = False
    below: Sequence[str] = ()


_PAIRS, _DOCUMENTS = dict.fromkeys(("clip", "coca", "blip2"), "pairs"), ("beit3", "flamingo", "emu", "lcl")
_METHODS = (*_PAIRS, *_DOCUMENTS)
TABLES = {
    "table1": PublishedTable(
        *("method", "method", {name: f"`{name}`" for name in _METHODS}, "lcl", "`lcl`"),
        reads={**_PAIRS, **dict.fromkeys(_DOCUMENTS, "documents")},
        below=("untrained", "chance"),
    ),
    "loss_ablation": PublishedTable(
        *("loss", "loss"),
        {"contrastive": "contrastive alone (weight 1)", "generation": "generation alone", "both": "both, λ = .1"},
        *("both", "both"),
        columns=("acc@1", "IR@5", "TR@5"),
    ),
    "data_ablation": PublishedTable(
        *("data", "data"),
        {"pairs": "captioned images", "interleaved": "documents", "both": "both, by images 1 : 1"},
        *("interleaved", "documents"),
        tokens=True,
    ),
    "lambda_ablation": PublishedTable(
        *("lambda", "λ", {"0.05": ".05", "0.1": ".1", "0.2": ".2", "1.0": "1"}, "0.1", ".1"), below=("untrained",)
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--write", action="store_true", help="put the tables into docs/results.md")


def main(options: argparse.Namespace) -> None:
    tables = {name: build(name) for name in TABLES}
    page = PAGE.read_text(encoding="utf-8")
    renewed = page
    for name, lines in tables.items():
        renewed = replace_table(renewed, name, lines)
    if options.write:
        write_atomically(PAGE, renewed)
    print(json.dumps({"page_is_current": renewed == page, "tables": tables}, indent=1, ensure_ascii=False))


def build(name: str) -> list[str]:
    """Lines of a table in Markdown, from ``table.json`` and ``untrained.csv`` of the study's folder."""
    published = TABLES[name]
    found = json.loads((RESULTS / name / "table.json").read_text(encoding="utf-8"))
    rows = {row["labels"][published.axis]: row for row in found["rows"]}
    main_column, *others = published.columns
    heads = [published.head, *(["reads"] if published.reads else []), HEADS[main_column]]
    heads += [f"against {published.against}: difference (95 %), p by Holm", *(HEADS[column] for column in others)]
    heads += ["tokens seen"] if published.tokens else []
    compared = _compare(rows, published, main_column)
    lines = [heads, ["---"] * len(heads)]
    for value, title in published.rows.items():
        reads = [published.reads[value]] if published.reads else []
        figures = [_spread(_values(rows[value], column)) for column in published.columns]
        tokens = [_millions(rows[value]["compute"]["tokens_seen"])] if published.tokens else []
        lines.append([title, *reads, figures[0], compared.get(value, ""), *figures[1:], *tokens])
    below = {"untrained": _untrained, "chance": _chance}
    for kind in published.below:
        title, figures = below[kind](name, published.columns, rows)
        lines.append([title, *([""] if published.reads else []), figures[0], "", *figures[1:]])
    divider = "|---" * len(heads) + "|"
    return [divider if line[0] == "---" else "| " + " | ".join(line).replace("|  |", "| |") + " |" for line in lines]


def _values(row: Json, column: str) -> list[float]:
    """In the order of the seeds."""
    values = row["figures"][column]["values"]
    return [values[seed] for seed in sorted(values)]


def _compare(rows: Mapping[str, Json], published: PublishedTable, column: str) -> dict[str, str]:
    """{value: difference, interval and p} of all rows but the baseline, over the same seeds."""
    base = _values(rows[published.baseline], column)
    tests: dict[str, PairedTest] = {
        value: paired_test(base, _values(rows[value], column))
        for value in published.rows
        if value != published.baseline
    }
    adjusted = holm_adjust([test.p for test in tests.values()])
    return {value: _difference(test, p) for (value, test), p in zip(tests.items(), adjusted, strict=True)}


def _difference(test: PairedTest, p: float | None) -> str:
    assert test.interval is not None
    assert p is not None
    low, high = map(_short, test.interval)
    return f"{_short(test.difference)} ({low} – {high}), {_p_value(p)}"


def _untrained(name: str, columns: Sequence[str], _: Mapping[str, Json]) -> tuple[str, list[str]]:
    with (RESULTS / name / "untrained.csv").open(encoding="utf-8", newline="") as file:
        found = {
            (row["task"], row["variant"], row["metric"]): float(row["untrained"] or 0) for row in csv.DictReader(file)
        }
    return "*untrained*", [_short(found[UNTRAINED[column]]) for column in columns]


def _chance(name: str, columns: Sequence[str], rows: Mapping[str, Json]) -> tuple[str, list[str]]:
    """Chance, and of the first column the share of the largest class."""
    with (RESULTS / name / "untrained.csv").open(encoding="utf-8", newline="") as file:
        majority = next(float(row["majority"]) for row in csv.DictReader(file) if row["metric"] == "acc@1")
    first = next(iter(rows.values()))["figures"]
    figures = [_short(first[column]["chance"]) for column in columns]
    return "*chance; majority*", [f"{figures[0]}; {_short(majority)}", *figures[1:]]


def _spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    average, spread = mean(values), sample_deviation(values)
    assert average is not None
    assert spread is not None
    return f"{_short(average)} ± {_short(spread)}"


def _short(value: float) -> str:
    """Three decimals without a zero before the point: ``.173``, ``−.041``."""
    return f"{value:.3f}".replace("-", "−").replace("0.", ".", 1)


def _p_value(p: float) -> str:
    """Two significant digits."""
    return f"{p:.2g}".replace("0.", ".", 1)


def _millions(tokens: float) -> str:
    return f"{tokens / 1e6:.2f} M".replace("0.", ".", 1) if tokens < 1e6 else f"{tokens / 1e6:.2f} M"


def replace_table(page: str, name: str, lines: Sequence[str]) -> str:
    """The page with these lines below ``<!-- table NAME -->``. Raises: ValueError where it has no such table."""
    pattern = re.compile(rf"(<!-- table {re.escape(name)} -->\n)(?:\|.*\n)+")
    if not pattern.search(page):
        raise ValueError(f"the page has no table below <!-- table {name} -->")
    return pattern.sub(lambda match: match[1] + "".join(f"{line}\n" for line in lines), page)
