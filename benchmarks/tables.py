"""The tables of ``docs/results.md`` out of the values by seed that are committed in ``docs/results``.

Means, deviations, differences and tests are computed anew, with the functions of the service's own tables. ``--write``
puts the tables into the page, each below the comment that names it.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

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
RESULTS = PAGE.with_suffix("") / "comparison"
BOTH_DIRECTIONS = "R@5"  # mean of IR@5 and TR@5, seed by seed
HEADS = {"acc@1": "acc@1", BOTH_DIRECTIONS: "R@5, both ways", "IR@5": "IR@5, tuned", "TR@5": "TR@5, tuned"}
EVALUATION_ROWS = {  # column: task, variant and metric in the table.csv of an evaluation
    "acc@1": ("classification", "subgroup", "acc@1"),
    "IR@5": ("tuned_retrieval", "captions[0]", "IR@5"),
    "TR@5": ("tuned_retrieval", "captions[0]", "TR@5"),
}
METRICS = ("acc@1", "IR@5", "TR@5")
METHODS = {
    **{name: (f"`{name}`", "pairs") for name in ("clip", "coca", "blip2")},
    **{name: (f"`{name}`", "documents") for name in ("beit3", "flamingo", "emu", "lcl")},
    "untrained": ("*untrained*", ""),
}  # their names on the page, and what they read
PLANNED = {"flamingo": None, "emu": None, "clip": 0.02, "coca": 0.02}  # tests that the protocol names
MILLION = ("lcl", "flamingo", "emu", "clip", "untrained")
CONTEXT_TESTS = {
    "`lcl`: own against other captions": ("lcl,own_caption", "lcl,other_captions"),
    "`flamingo`: own against other captions": ("flamingo,own_caption", "flamingo,other_captions"),
    "own captions: `lcl` against `flamingo`": ("lcl,own_caption", "flamingo,own_caption"),
    "other captions: `lcl` against `flamingo`": ("lcl,other_captions", "flamingo,other_captions"),
}  # of the study of context, and of its replication with other seeds
Json = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--write", action="store_true", help="put the tables into docs/results.md")


def main(options: argparse.Namespace) -> None:
    tables = {name: build(name) for name in TABLES}
    page = renewed = PAGE.read_text(encoding="utf-8")
    for name, lines in tables.items():
        renewed = replace_table(renewed, name, lines)
    if options.write:
        write_atomically(PAGE, renewed)
    print(json.dumps({"page_is_current": renewed == page, "tables": tables}, indent=1, ensure_ascii=False))


def build(name: str) -> list[str]:
    """Lines of a table in Markdown, from the values by seed."""
    heads, *rows = TABLES[name]()
    return [_line(heads), "|---" * len(heads) + "|", *map(_line, rows)]


def replace_table(page: str, name: str, lines: Sequence[str]) -> str:
    """The page with these lines below ``<!-- table NAME -->``. Raises: ValueError where it has no such table."""
    pattern = re.compile(rf"(<!-- table {re.escape(name)} -->\n)(?:\|.*\n)+")
    if not pattern.search(page):
        raise ValueError(f"the page has no table below <!-- table {name} -->")
    return pattern.sub(lambda match: match[1] + "".join(f"{line}\n" for line in lines), page)


def _methods(file: str, columns: Sequence[str]) -> list[list[str]]:
    """All methods beside ``lcl``, with what they read, and chance."""
    rows = _rows(file, "method")
    compared = _compare(rows, METHODS, "lcl", columns[0], PLANNED)
    lines = [_compared_heads("method", "`lcl`", columns, "reads")]
    for name, (title, reads) in METHODS.items():
        first, *others = _figures(rows[name], columns)
        lines.append([title, reads, first, compared.get(name, ""), *others])
    measured = next(iter(rows.values()))["figures"]
    first, *others = (_short(measured["IR@5" if each == BOTH_DIRECTIONS else each]["chance"]) for each in columns)
    return [*lines, ["*chance*", "", first, "", *others]]


def _variants(
    file: str, axis: str, head: str, titles: Mapping[str, str], against: str, more: Mapping[str, Json], tokens: bool
) -> list[list[str]]:
    """Variants beside the last one, each difference tested.

    Args:
        titles: {value of the axis: name on the page}.
        more: rows that another study has.
        tokens: whether the tokens seen are the last column.
    """
    rows, baseline = {**_rows(file, axis), **more}, list(titles)[-1]
    compared = _compare(rows, titles, baseline, METRICS[0], dict.fromkeys(list(titles)[:-1]))
    lines = [_compared_heads(head, against, METRICS) + ["tokens seen"] * tokens]
    for value, title in titles.items():
        first, *others = _figures(rows[value], METRICS)
        seen = [_millions(rows[value]["compute"]["tokens_seen"])] * tokens
        lines.append([title, first, compared.get(value, ""), *others, *seen])
    return lines


def _compared_heads(head: str, against: str, columns: Sequence[str], *more: str) -> list[str]:
    first, *others = (HEADS[column] for column in columns)
    return [head, *more, first, f"against {against}: difference (95 %), p by Holm", *others]


def _tests(
    file: str, axes: str, tests: Mapping[str, tuple[str, str]], more: Mapping[str, Json] | None = None
) -> list[list[str]]:
    """A line for each planned test of a study; p is corrected for all of them, with a p or without.

    Args:
        axes: labels of the study, with commas between; so are their values that name a row.
        tests: {name on the page: (row, row with which it is compared)}; the difference is the first less the second.
    """
    rows = _rows(file, axes) | dict(more or {})
    values = [[_values(rows[row], "acc@1") for row in pair] for pair in tests.values()]
    found = [
        paired_test(*map(list, zip(*_pair_by_seed(second, first).values(), strict=True))) for first, second in values
    ]
    adjusted = holm_adjust([test.p for test in found], len(tests))
    lines = [["test", "acc@1, first", "second", "difference (95 %), p by Holm"]]
    for title, pair, test, p in zip(tests, values, found, adjusted, strict=True):
        words = _difference(test, *pair) + ("" if p is None else f", {_p_value(p)}")
        lines.append([title, *(_spread(list(each.values())) for each in pair), words])
    return lines


def _million(*columns: tuple[str, Callable[[str], str]]) -> list[list[str]]:
    """One run for each method, in which nothing is tested; ``columns``: heads, and the figure of a method."""
    lines = [["method", "reads", *(head for head, _ in columns)]]
    return lines + [[*METHODS[name], *(figure(name) for _, figure in columns)] for name in MILLION]


def _of_seed(file: str, metric: str) -> Callable[[str], str]:
    """The method's figure of seed 0 in another table."""
    return lambda name: _short(_values(_rows(file, "method")[name], metric)["0"])


def _evaluated(folder: str, metric: str) -> Callable[[str], str]:
    """The figure of the evaluation ``FOLDER/METHOD.csv`` with the interval that the test items give, which a mean of
    both directions has not; empty without a file."""

    def figure(name: str) -> str:
        file = RESULTS / folder / f"{name}.csv"
        if not file.exists():
            return ""
        with file.open(encoding="utf-8", newline="") as lines:
            rows = {(row["task"], row["variant"], row["metric"]): row for row in csv.DictReader(lines)}
        if metric == BOTH_DIRECTIONS:
            return _short(sum(float(rows[EVALUATION_ROWS[each]]["value"]) for each in ("IR@5", "TR@5")) / 2)
        value, low, high = (_short(float(rows[EVALUATION_ROWS[metric]][key])) for key in ("value", "low", "high"))
        return f"{value} ({low} – {high})"

    return figure


TABLES: dict[str, Callable[[], list[list[str]]]] = {
    "comparison": lambda: _methods("table", METRICS),
    "comparison_documents": lambda: _methods("table_documents", (BOTH_DIRECTIONS, "IR@5", "TR@5")),
    "comparison_loss": lambda: _variants(
        *("table_loss", "loss", "losses of `lcl`"),
        {
            "contrastive": "contrastive alone",
            "generation": "generation alone: `flamingo`",
            "weight_0.1": "both, λ = .1",
            "both": "both, λ = 1",
        },
        *("both, λ = 1", {"both": _method("lcl"), "generation": _method("flamingo")}),
        tokens=False,
    ),
    "comparison_data": lambda: _variants(
        *("table_data", "data", "`lcl` reads"),
        {"pairs": "pairs", "documents": "documents", "both": "both, half of the images from each"},
        *("both", {"documents": _method("lcl")}),
        tokens=True,
    ),
    "comparison_latents": lambda: _tests(
        *("table_latents", "latents"),
        {
            "`emu`: target without gradient against live": ("emu_detached", "emu"),
            "`emu`: target of a moving average against live": ("emu_ema", "emu"),
            "`lcl`: sigmoid loss against InfoNCE": ("lcl_sigmoid", "lcl"),
        },
        more={name: _method(name) for name in ("emu", "lcl")},
    ),
    "comparison_context": lambda: _tests("table_context", "loss,context", CONTEXT_TESTS),
    "comparison_replication": lambda: _tests("table_replication", "loss,context", CONTEXT_TESTS),
    "comparison_balance": lambda: _tests(
        *("table_balance", "balance"),
        {
            "λ = 1 against λ = .1": ("weight_1", "weight_0.1"),
            "gradient ratio held at 1 against .1": ("ratio_1", "ratio_0.1"),
        },
    ),
    "million": lambda: _million(
        *(
            column
            for metric in METRICS
            for column in (
                (f"{metric}, 204,800 images", _of_seed("table", metric)),
                ("1,000,064 (95 %)", _evaluated("million", metric)),
            )
        )
    ),
    "million_documents": lambda: _million(
        ("R@5, 204,800 images", _of_seed("table_documents", BOTH_DIRECTIONS)),
        ("R@5, 1,000,064", _evaluated("million_documents", BOTH_DIRECTIONS)),
        *((f"{metric} (95 %)", _evaluated("million_documents", metric)) for metric in ("IR@5", "TR@5")),
        *((f"{metric}, unseen images (95 %)", _evaluated("million_unseen", metric)) for metric in ("IR@5", "TR@5")),
    ),
}


def _line(cells: Sequence[str]) -> str:
    """Line of a table in Markdown; an empty cell is one blank."""
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def _rows(file: str, axes: str) -> dict[str, Json]:
    """{values of the axes: row of the file}."""
    found = json.loads((RESULTS / f"{file}.json").read_text(encoding="utf-8"))
    return {",".join(row["labels"][axis] for axis in axes.split(",")): row for row in found["rows"]}


def _method(name: str) -> Json:
    return _rows("table", "method")[name]


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


def _compare(
    rows: Mapping[str, Json],
    names: Mapping[str, Any],
    baseline: str,
    column: str,
    planned: Mapping[str, float | None],
) -> dict[str, str]:
    """{name: difference, interval and p} of the rows that share a seed with the baseline, over the shared seeds.

    Args:
        planned: {name: margin of equivalence, or None for a test of a difference}; p is corrected for all of these,
            also where one gives no p, and other rows have none.
    """
    base = _values(rows[baseline], column)
    words: dict[str, str] = {}
    p_values: dict[str, float | None] = {}
    for name in names:
        other = _values(rows[name], column)
        pairs = _pair_by_seed(base, other)
        if name == baseline or not pairs:
            continue
        left, right = zip(*pairs.values(), strict=True)
        test = paired_test(left, right)
        words[name] = _difference(test, base, other)
        if name in planned:
            margin = planned[name]
            p_values[name] = test.p if margin is None else equivalence_p(left, right, margin)
    for name, p in zip(p_values, holm_adjust(list(p_values.values()), len(planned)), strict=True):
        if p is not None:
            words[name] += f", {_p_value(p)}" if planned[name] is None else f", equivalence {_p_value(p)}"
    return words


def _difference(test: PairedTest, first: Mapping[str, float], second: Mapping[str, float]) -> str:
    """The difference, its interval where there are two pairs, and the number of shared seeds where a row has others."""
    words = _short(test.difference) + (f" ({' – '.join(map(_short, test.interval))})" if test.interval else "")
    if test.count == max(len(first), len(second)):
        return words
    return f"{words}, {test.count} shared seed{'s' if test.count > 1 else ''}"


def _figures(row: Json, columns: Sequence[str]) -> list[str]:
    return [_spread(list(_values(row, column).values())) for column in columns]


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
