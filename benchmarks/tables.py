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

from lcl_core.common.errors import UserError
from lcl_core.common.files import write_atomically
from lcl_core.studies.statistics import (
    PairedTest,
    equivalence_p,
    holm_adjust,
    mean,
    paired_test,
    sample_deviation,
)

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
RESULTS = PAGE.with_suffix("")
HEADS = {
    "acc@1": "acc@1",
    "R@5": "R@5, both ways",
    "IR@5": "IR@5, tuned",
    "TR@5": "TR@5, tuned",
    "zero-shot IR@5": "IR@5, zero-shot",
}
BOTH_DIRECTIONS = "R@5"  # mean of IR@5 and TR@5, seed by seed
EVALUATION_ROWS = {  # column: task, variant and metric in the table.csv of an evaluation
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
        chance: whether the last row is chance.
        values: file of the values by seed, without its suffix, below ``docs/results``; none: ``NAME/table``.
        margins: {value: margin of equivalence, or None for a test of a difference} of the tests that were planned; p
            is corrected for all of these, also where one gives no p, and other rows have none. None: each row is tested
            for a difference.
        from_table: {value: (table, its value)} of rows that another table has, since they were not run again.
    """

    axis: str
    head: str
    rows: Mapping[str, str]
    baseline: str
    against: str
    columns: Sequence[str] = ("acc@1", "IR@5", "TR@5", "zero-shot IR@5")
    reads: Mapping[str, str] = field(default_factory=dict)
    tokens: bool = False
    chance: bool = False
    values: str = ""
    margins: Mapping[str, float | None] | None = None
    from_table: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def planned(self) -> Mapping[str, float | None]:
        """Tests that the table makes, as ``margins``."""
        return dict.fromkeys(self.others()) if self.margins is None else self.margins

    def others(self) -> list[str]:
        """Values that are compared with the baseline."""
        return [value for value in self.rows if value != self.baseline]


@dataclass(frozen=True)
class PublishedTests:
    """A table with one line for each planned test of a study; p is corrected for all of them, with a p or without.

    Attributes:
        axis: labels of the study, with commas between; so are their values that name a row.
        tests: {name on the page: (row, row with which it is compared)}; the difference is the first less the second.
        column: what is compared.
        values, from_table: as of ``PublishedTable``.
    """

    axis: str
    tests: Mapping[str, tuple[str, str]]
    values: str
    column: str = "acc@1"
    from_table: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class SingleRunColumn:
    """Figures of one run for each row of a ``SingleRunTable``.

    Attributes:
        metric: key of EVALUATION_ROWS, or BOTH_DIRECTIONS.
        table: table of the page that has the figure of the table's seed; none: from ``evaluations``.
        evaluations: folder below ``docs/results`` with the ``table.csv`` of one evaluation for each row, ``ROW.csv``.
            Figures from there have the interval that the test items give, which a mean of both directions has not.
    """

    head: str
    metric: str
    table: str = ""
    evaluations: str = ""


@dataclass(frozen=True)
class SingleRunTable:
    """A table with one run for each row, in which nothing is tested.

    Attributes:
        axis: label of the study whose values are the rows.
        rows: {value of the label: name on the page}; a value without a file in a column's folder has an empty cell.
        reads: {value: second cell}.
        columns: of figures.
        values: file of the study's own table.
        seed: of the figures that a column takes from another table.
    """

    axis: str
    rows: Mapping[str, str]
    reads: Mapping[str, str]
    columns: Sequence[SingleRunColumn]
    values: str
    seed: str = "0"


_PAIRS, _DOCUMENTS = dict.fromkeys(("clip", "coca", "blip2"), "pairs"), ("beit3", "flamingo", "emu", "lcl")
_TITLES = {name: f"`{name}`" for name in (*_PAIRS, *_DOCUMENTS)}
_FROM_SAME_DOCUMENTS = {**_TITLES, "untrained": "*untrained*"}
_READS = {**_PAIRS, **dict.fromkeys(_DOCUMENTS, "documents")}
_PLANNED = {"flamingo": None, "emu": None, "clip": 0.02, "coca": 0.02}  # tests that the protocol names
_MILLION = ("lcl", "flamingo", "emu", "clip", "untrained")
_MILLION_ROWS = {name: _FROM_SAME_DOCUMENTS[name] for name in _MILLION}
_MILLION_READS = {name: _READS.get(name, "") for name in _MILLION}
_CONTEXT_TESTS = {
    "`lcl`: own against other captions": ("lcl,own_caption", "lcl,other_captions"),
    "`flamingo`: own against other captions": ("flamingo,own_caption", "flamingo,other_captions"),
    "own captions: `lcl` against `flamingo`": ("lcl,own_caption", "flamingo,own_caption"),
    "other captions: `lcl` against `flamingo`": ("lcl,other_captions", "flamingo,other_captions"),
}  # of the study of context, and of its replication with other seeds
TABLES: dict[str, PublishedTable | PublishedTests | SingleRunTable] = {
    "comparison": PublishedTable(
        *("method", "method", _FROM_SAME_DOCUMENTS, "lcl", "`lcl`"),
        columns=("acc@1", "IR@5", "TR@5"),
        reads={**_READS, "untrained": ""},
        chance=True,
        margins=_PLANNED,
    ),
    "comparison_documents": PublishedTable(
        *("method", "method", _FROM_SAME_DOCUMENTS, "lcl", "`lcl`"),
        columns=(BOTH_DIRECTIONS, "IR@5", "TR@5"),
        reads={**_READS, "untrained": ""},
        chance=True,
        values="comparison/table_documents",
        margins=_PLANNED,
    ),
    "comparison_loss": PublishedTable(
        *("loss", "losses of `lcl`"),
        {
            "contrastive": "contrastive alone",
            "generation": "generation alone: `flamingo`",
            "weight_0.1": "both, λ = .1",
            "both": "both, λ = 1",
        },
        *("both", "both, λ = 1"),
        columns=("acc@1", "IR@5", "TR@5"),
        values="comparison/table_loss",
        from_table={"both": ("comparison", "lcl"), "generation": ("comparison", "flamingo")},
    ),
    "comparison_data": PublishedTable(
        *("data", "`lcl` reads"),
        {"pairs": "pairs", "documents": "documents", "both": "both, half of the images from each"},
        *("both", "both"),
        columns=("acc@1", "IR@5", "TR@5"),
        tokens=True,
        values="comparison/table_data",
        from_table={"documents": ("comparison", "lcl")},
    ),
    "comparison_latents": PublishedTests(
        "latents",
        {
            "`emu`: target without gradient against live": ("emu_detached", "emu"),
            "`emu`: target of a moving average against live": ("emu_ema", "emu"),
            "`lcl`: sigmoid loss against InfoNCE": ("lcl_sigmoid", "lcl"),
        },
        values="comparison/table_latents",
        from_table={"emu": ("comparison", "emu"), "lcl": ("comparison", "lcl")},
    ),
    "comparison_context": PublishedTests("loss,context", _CONTEXT_TESTS, values="comparison/table_context"),
    "comparison_replication": PublishedTests("loss,context", _CONTEXT_TESTS, values="comparison/table_replication"),
    "comparison_balance": PublishedTests(
        "balance",
        {
            "λ = 1 against λ = .1": ("weight_1", "weight_0.1"),
            "gradient ratio held at 1 against .1": ("ratio_1", "ratio_0.1"),
        },
        values="comparison/table_balance",
    ),
    "million": SingleRunTable(
        *("method", _MILLION_ROWS, _MILLION_READS),
        columns=[
            column
            for metric in ("acc@1", "IR@5", "TR@5")
            for column in (
                SingleRunColumn(f"{metric}, 204,800 images", metric, table="comparison"),
                SingleRunColumn("1,000,064 (95 %)", metric, evaluations="comparison/million"),
            )
        ],
        values="comparison/table_million",
    ),
    "million_documents": SingleRunTable(
        *("method", _MILLION_ROWS, _MILLION_READS),
        columns=[
            SingleRunColumn("R@5, 204,800 images", BOTH_DIRECTIONS, table="comparison_documents"),
            SingleRunColumn("R@5, 1,000,064", BOTH_DIRECTIONS, evaluations="comparison/million_documents"),
            *(
                SingleRunColumn(f"{metric} (95 %)", metric, evaluations="comparison/million_documents")
                for metric in ("IR@5", "TR@5")
            ),
            *(
                SingleRunColumn(f"{metric}, unseen images (95 %)", metric, evaluations="comparison/million_unseen")
                for metric in ("IR@5", "TR@5")
            ),
        ],
        values="comparison/table_million_documents",
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
    """Lines of a table in Markdown, from the values by seed."""
    published = TABLES[name]
    if isinstance(published, PublishedTests):
        return _build_tests(name, published)
    if isinstance(published, SingleRunTable):
        return _build_single_runs(published)
    rows = _rows_with_others(name, published.from_table)
    main_column, *others = published.columns
    heads = [published.head, *(["reads"] if published.reads else []), HEADS[main_column]]
    heads += [f"against {published.against}: difference (95 %), p by Holm", *(HEADS[column] for column in others)]
    heads += ["tokens seen"] if published.tokens else []
    compared = _compare(rows, published, main_column)
    lines = []
    for value, title in published.rows.items():
        reads = [published.reads[value]] if published.reads else []
        figures = [_spread(list(_values(rows[value], column).values())) for column in published.columns]
        tokens = [_millions(rows[value]["compute"]["tokens_seen"])] if published.tokens else []
        lines.append([title, *reads, figures[0], compared.get(value, ""), *figures[1:], *tokens])
    if published.chance:
        figures = _chance(published.columns, rows)
        lines.append(["*chance*", *([""] if published.reads else []), figures[0], "", *figures[1:]])
    return [_line(heads), "|---" * len(heads) + "|", *map(_line, lines)]


def _line(cells: Sequence[str]) -> str:
    """Line of a table in Markdown; an empty cell is one blank."""
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def _build_single_runs(published: SingleRunTable) -> list[str]:
    """Lines of a table of single runs in Markdown."""
    heads = [published.axis, "reads", *(column.head for column in published.columns)]
    lines = []
    for value, title in published.rows.items():
        cells = [_single_figure(column, value, published.seed) for column in published.columns]
        lines.append([title, published.reads[value], *cells])
    return [_line(heads), "|---" * len(heads) + "|", *map(_line, lines)]


def _single_figure(column: SingleRunColumn, value: str, seed: str) -> str:
    """A row's figure, with its interval if it has one; empty where the column's folder has no file of the row."""
    if column.table:
        return _short(_values(_rows(column.table)[value], column.metric)[seed])
    file = RESULTS / column.evaluations / f"{value}.csv"
    if not file.exists():
        return ""
    rows = evaluation_rows(file)
    if column.metric == BOTH_DIRECTIONS:
        to_image, to_text = (float(rows[EVALUATION_ROWS[metric]]["value"]) for metric in ("IR@5", "TR@5"))
        return _short((to_image + to_text) / 2)
    figure, low, high = (_short(float(rows[EVALUATION_ROWS[column.metric]][key])) for key in ("value", "low", "high"))
    return f"{figure} ({low} – {high})"


def evaluation_rows(file: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    """{task, variant, metric: row} of the ``table.csv`` of an evaluation."""
    with file.open(encoding="utf-8", newline="") as lines:
        return {(row["task"], row["variant"], row["metric"]): row for row in csv.DictReader(lines)}


def values_path(name: str, suffix: str) -> Path:
    """File of the values behind a table, ``.json`` or ``.csv``."""
    return RESULTS / f"{TABLES[name].values or f'{name}/table'}{suffix}"


def _rows(name: str) -> dict[str, Json]:
    """{value of the table's axis: row of its file}."""
    found = json.loads(values_path(name, ".json").read_text(encoding="utf-8"))
    axes = TABLES[name].axis.split(",")
    return {",".join(row["labels"][axis] for axis in axes): row for row in found["rows"]}


def _rows_with_others(name: str, from_table: Mapping[str, tuple[str, str]]) -> dict[str, Json]:
    """The rows of the table's file, and those of other tables that it compares with."""
    return _rows(name) | {value: _rows(table)[its_value] for value, (table, its_value) in from_table.items()}


def _build_tests(name: str, published: PublishedTests) -> list[str]:
    """Lines of a table of tests in Markdown. Raises: UserError ``no_shared_seed``, naming the test."""
    rows = _rows_with_others(name, published.from_table)
    tested = [
        [_values(rows[row], published.column) for row in (first, second)] for first, second in published.tests.values()
    ]
    pairs = [list(_pair_by_seed(second, first).values()) for first, second in tested]
    for title, shared in zip(published.tests, pairs, strict=True):
        if not shared:
            raise UserError(
                f"table {name}: the two rows of the test {title} share no seed; add a seed that both have to "
                f"{values_path(name, '.json')}, or name other rows",
                code="no_shared_seed",
            )
    tests = [paired_test(*map(list, zip(*shared, strict=True))) for shared in pairs]
    heads = ["test", f"{HEADS[published.column]}, first", "second", "difference (95 %), p by Holm"]
    lines = [_line(heads), "|---" * len(heads) + "|"]
    adjusted = holm_adjust([test.p for test in tests], len(published.tests))
    for title, values, test, p in zip(published.tests, tested, tests, adjusted, strict=True):
        figures = [_spread(list(each.values())) for each in values]
        words = _difference(test, *values) + ("" if p is None else f", {_p_value(p)}")
        lines.append(_line([title, *figures, words]))
    return lines


def _values(row: Json, column: str) -> dict[str, float]:
    """{seed: value}, in the order of the seeds."""
    if column == BOTH_DIRECTIONS:
        pairs = _pair_by_seed(_values(row, "IR@5"), _values(row, "TR@5"))
        return {seed: (to_image + to_text) / 2 for seed, (to_image, to_text) in pairs.items()}
    values = row["figures"][column]["values"]
    return {seed: values[seed] for seed in sorted(values, key=int)}


def _pair_by_seed(left: Mapping[str, float], right: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """{seed: both values}, of the seeds that have both."""
    return {seed: (left[seed], right[seed]) for seed in left if seed in right}


def _compare(rows: Mapping[str, Json], published: PublishedTable, column: str) -> dict[str, str]:
    """{value: difference, interval and p} of the rows that share a seed with the baseline, over the shared seeds."""
    base, planned = _values(rows[published.baseline], column), published.planned()
    words: dict[str, str] = {}
    p_values: dict[str, float | None] = {}
    for value in published.others():
        other = _values(rows[value], column)
        if not (pairs := _pair_by_seed(base, other)):
            continue
        left, right = zip(*pairs.values(), strict=True)
        test = paired_test(left, right)
        words[value] = _difference(test, base, other)
        if value in planned:
            margin = planned[value]
            p_values[value] = test.p if margin is None else equivalence_p(left, right, margin)
    for value, p in zip(p_values, holm_adjust(list(p_values.values()), len(planned)), strict=True):
        if p is not None:
            words[value] += f", {_p_value(p)}" if planned[value] is None else f", equivalence {_p_value(p)}"
    return words


def _difference(test: PairedTest, first: Mapping[str, float], second: Mapping[str, float]) -> str:
    """The difference, its interval where there are two pairs, and the number of shared seeds where a row has others.

    Args:
        first, second: values of the rows by seed.
    """
    words = _short(test.difference) + (f" ({' – '.join(map(_short, test.interval))})" if test.interval else "")
    if test.count == max(len(first), len(second)):
        return words
    return f"{words}, {test.count} shared seed{'s' if test.count > 1 else ''}"


def _chance(columns: Sequence[str], rows: Mapping[str, Json]) -> list[str]:
    first = next(iter(rows.values()))["figures"]
    return [_short(first["IR@5" if column == BOTH_DIRECTIONS else column]["chance"]) for column in columns]


def _spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation; of one value the value."""
    average, spread = mean(values), sample_deviation(values)
    assert average is not None
    return _short(average) + ("" if spread is None else f" ± {_short(spread)}")


def _short(value: float) -> str:
    """Three decimals without a zero before the point: ``.173``, ``−.041``."""
    return f"{round(value, 3) + 0.0:.3f}".replace("-", "−").replace("0.", ".", 1)  # + 0: no −.000


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
