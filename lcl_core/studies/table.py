"""Table of a study: one row a combination, figures over the seeds, comparisons, notes; as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lcl_core.specs.study import TRIAL, GridSearch, HalvingSearch, MetricSpec, StudySpec
from lcl_core.studies.results import (
    CANCELLED,
    COSTS,
    FAILED,
    SELECTORS,
    SUCCEEDED,
    CellRecord,
    MetricValue,
    RunRecord,
    count_states,
    group_by_row,
    mean_costs,
    metric_value,
)
from lcl_core.studies.statistics import (
    holm_adjust,
    mean,
    paired_test,
    pareto_front,
    power_law,
    sample_deviation,
    t_interval,
)
from lcl_core.studies.trials import sample_settings


@dataclass(frozen=True)
class Column:
    """A metric of the table.

    Attributes:
        head: its name, marked where it ranks the trials of a search.
        rungs: the rungs whose cells have it; None: all.
    """

    head: str
    metric: MetricSpec
    rungs: range | None = None

    def covers(self, cell: CellRecord) -> bool:
        """Whether a cell has, or will have, this value."""
        return self.rungs is None or cell.rung in self.rungs

    def figure(self, cell: CellRecord) -> MetricValue | None:
        """Value of one cell; None while it has none."""
        return metric_value(self.metric, cell) if self.covers(cell) else None


def table_columns(study: StudySpec) -> list[Column]:
    """The study's metrics; with halving those of its finalists, and the ranking metric of every trial.

    Metrics of the training are of the rungs that train: finalists have the runs of the last of them.
    """
    search = study.search
    if not isinstance(search, HalvingSearch):
        return [Column(metric.name, metric) for metric in study.metrics]
    trained = range(len(search.rungs))
    rungs = {"training": trained, "evaluation": range(trained.stop, trained.stop + 1)}
    reported = [Column(metric.name, metric, rungs[metric.of]) for metric in study.metrics]
    return [*reported, Column(f"validation {search.metric.name}", search.metric, trained)]


MAX_LISTED = 6
SHOWN_DIGITS = 12  # of the hash of a dataset


def table_notes(study: StudySpec, cells: Sequence[CellRecord]) -> list[str]:
    """Notes below the table, a sentence each."""
    notes = [_equal_settings_note(study), _promotion_note(study, cells), *contents_notes(cells)]
    notes += [_empty_column_note(column, cells) for column in table_columns(study)]
    return [note for note in notes if note]


def _equal_settings_note(study: StudySpec) -> str:
    if isinstance(study.search, GridSearch):
        return ""
    different = len(sample_settings(study.search))
    if different == study.search.trials:
        return ""
    return f"Of {study.search.trials} settings drawn {different} differ; equal ones are tried once."


def _promotion_note(study: StudySpec, cells: Sequence[CellRecord]) -> str:
    """Whether promoted trials continued from their checkpoints."""
    if not isinstance(study.search, HalvingSearch):
        return ""
    trained = [cell for cell in cells if 0 < cell.rung < len(study.search.rungs)]
    if not trained:
        return ""
    if all(cell.run.continues for cell in trained):
        return "Promoted trials go on from their checkpoints; their figures are those of the whole training."
    return (
        "Promoted trials begin anew with more steps: a longer training differs from theirs. With optimizer.schedule "
        "constant they go on from their checkpoints; with monitor.export best this also takes rungs that monitor.every "
        "divides."
    )


def contents_notes(cells: Sequence[CellRecord]) -> list[str]:
    """Notes about the datasets whose contents are not the same for all runs of these cells, a sentence each."""
    notes = [
        _contents_note("Pre-trainings", [cell.run for cell in cells]),
        _contents_note("Evaluations", [cell.evaluation for cell in cells if cell.evaluation]),
    ]
    return [note for note in notes if note]


def _contents_note(subject: str, runs: Sequence[RunRecord]) -> str:
    """Datasets whose contents, as far as they are known, are not the same for all of the runs that count."""
    contents: dict[str, set[str]] = {}
    for run in runs:
        if run.state not in (FAILED, CANCELLED):
            for name, digest in run.inputs.get("datasets", {}).items():
                contents.setdefault(name, set()).update([digest] if digest else [])
    different = [
        f"{name} ({', '.join(digest[:SHOWN_DIGITS] for digest in sorted(digests))})"
        for name, digests in sorted(contents.items())
        if len(digests) > 1
    ]
    if not different:
        return ""
    return (
        f"{subject} read different contents of {', '.join(different)}: the dataset changed during the study, and "
        "figures over one of its contents do not compare with those over another. A new study reads the present ones."
    )


def _empty_column_note(column: Column, cells: Sequence[CellRecord]) -> str:
    """A column that stays empty although there are results, and the metrics that there are."""
    ended = [cell for cell in cells if cell.state() == SUCCEEDED and column.covers(cell)]
    if not ended or any(column.figure(cell) for cell in ended):
        return ""
    if column.metric.of == "training":
        there = sorted({key for cell in ended for key in cell.run.result.get("final") or {}})
    else:
        rows = [row for cell in ended if cell.evaluation for row in cell.evaluation.result.get("rows", ())]
        there = sorted({" ".join(str(row[key]) for key in SELECTORS if row.get(key)) for row in rows})
    words = "; ".join(there[:MAX_LISTED]) + (f" and {len(there) - MAX_LISTED} more" if len(there) > MAX_LISTED else "")
    return f"No result has a figure for {column.head}. There are: {words or 'none'}."


Json = dict[str, Any]


def build_table(study: StudySpec, cells: Sequence[CellRecord], *, cancelled: bool = False) -> Json:
    """The table of the cells so far, as JSON.

    Returns: ``axes``, ``parameters`` and ``metrics`` (the columns), ``rows``, the number of the first row that is the
        study's ``baseline``, and by the head of each metric ``comparisons`` with the row whose number ``baselines``
        has, the ``pareto`` front as numbers of rows, and the power law of the figure over ``compute`` as ``fits``.
    """
    columns, lines = table_columns(study), group_by_row(cells)
    rows = [_build_row(study, columns, line, cancelled) for line in lines]
    candidates = _baseline_rows(study, rows)
    baselines = {column.head: _baseline(column, rows, candidates) for column in columns}
    return {
        "axes": [axis.name for axis in study.axes] + ([TRIAL] if _has_trials(study) else []),
        "parameters": sorted({name for row in rows for name in row["parameters"]}),
        "metrics": [{**column.metric.model_dump(mode="json"), "name": column.head} for column in columns],
        "compute": study.compute,
        "rows": rows,
        "baseline": candidates[0] if candidates else None,
        "baselines": baselines,
        "comparisons": {column.head: _comparisons(column, rows, baselines[column.head]) for column in columns},
        "pareto": {column.head: _pareto_rows(study, column, rows) for column in columns},
        "fits": {column.head: _fit_law(study, column, rows) for column in columns},
        "provenance": _provenance(cells),
    }


def point_of(row: Json, head: str, compute: str) -> tuple[float, float] | None:
    """(cost, mean of the figure) of a row of the table; None while one is unknown."""
    cost, figure = row["compute"][compute], row["figures"].get(head)
    return None if cost is None or figure is None else (cost, figure["mean"])


def _build_row(study: StudySpec, columns: Sequence[Column], cells: list[CellRecord], cancelled: bool) -> Json:
    first = cells[0]
    figures = {column.head: {cell.seed: column.figure(cell) for cell in cells} for column in columns}
    return {
        "labels": {axis: first.labels[axis] for axis in [axis.name for axis in study.axes]} | _trial_label(first),
        "parameters": first.parameters,
        "rung": first.rung if isinstance(study.search, HalvingSearch) else None,
        "steps": first.run.spec.get("steps"),
        "seeds": [cell.seed for cell in cells],
        "cells": [cell.number for cell in cells],
        "states": count_states(cell.state(cancelled=cancelled) for cell in cells),
        "figures": {head: summary for head, found in figures.items() if (summary := _summarize(found))},
        "compute": mean_costs(cells),
    }


def _trial_label(cell: CellRecord) -> dict[str, str]:
    return {TRIAL: cell.labels[TRIAL]} if TRIAL in cell.labels else {}


def _has_trials(study: StudySpec) -> bool:
    return study.search.kind != "grid"


def _summarize(found: dict[int, MetricValue | None]) -> Json | None:
    """Statistics over the seeds that have a value; None while none has."""
    known = {seed: figure for seed, figure in found.items() if figure is not None}
    if not known:
        return None
    values = [figure.value for figure in known.values()]
    return {
        "mean": mean(values),
        "sd": sample_deviation(values),
        "interval": t_interval(values),
        "count": len(values),
        "values": {str(seed): figure.value for seed, figure in known.items()},
        "chance": mean([figure.chance for figure in known.values() if figure.chance is not None]),
        "untrained": mean([figure.untrained for figure in known.values() if figure.untrained is not None]),
        "averaged": max(figure.rows for figure in known.values()),
    }


def _baseline_rows(study: StudySpec, rows: Sequence[Json]) -> list[int]:
    """Numbers of the rows with the variants of the study's baseline; all where it names none."""
    return [
        number
        for number, row in enumerate(rows)
        if study.baseline is None or study.baseline.items() <= row["labels"].items()
    ]


def _baseline(column: Column, rows: Sequence[Json], candidates: Sequence[int]) -> int | None:
    """Number of the row with which a column's figures are compared: the first with a figure, else the first.

    With halving it is of the finalists, or by the validation and the training of the lowest rung, which has all trials.
    """
    rung = None if column.rungs is None else column.rungs[0]
    own = [number for number in candidates if rows[number]["rung"] == rung]
    known = [number for number in own if column.head in rows[number]["figures"]]
    return next(iter([*known, *own]), None)


def _comparisons(column: Column, rows: Sequence[Json], baseline: int | None) -> list[Json]:
    """Each other row of its rung minus the baseline over the seeds of both, with Holm-adjusted p-values."""
    if baseline is None:
        return []
    others = [number for number, row in enumerate(rows) if number != baseline and row["rung"] == rows[baseline]["rung"]]
    found = [
        {"row": number, **compared}
        for number in others
        if (compared := compare_rows(column.head, rows[baseline], rows[number]))
    ]
    for comparison, p in zip(found, holm_adjust([comparison["p"] for comparison in found]), strict=True):
        comparison["p_holm"] = p
    return found


def compare_rows(head: str, left: Json, right: Json) -> Json | None:
    """``right`` minus ``left`` over the seeds of both; None without any."""
    ours, theirs = (row["figures"].get(head, {}).get("values", {}) for row in (left, right))
    shared = [seed for seed in ours if seed in theirs]
    return asdict(paired_test([ours[seed] for seed in shared], [theirs[seed] for seed in shared])) if shared else None


def _pareto_rows(study: StudySpec, column: Column, rows: Sequence[Json]) -> list[int]:
    points = [(number, point_of(row, column.head, study.compute)) for number, row in enumerate(rows)]
    known = [(number, point) for number, point in points if point is not None]
    return [known[index][0] for index in pareto_front([point for _, point in known], column.metric.better)]


def _fit_law(study: StudySpec, column: Column, rows: Sequence[Json]) -> Json | None:
    points = [point for row in rows if (point := point_of(row, column.head, study.compute))]
    law = power_law(points)
    return None if law is None else asdict(law)


def _provenance(cells: Sequence[CellRecord]) -> Json:
    """Versions of the code and hashes of the datasets behind the figures."""
    results = [cell.evaluation.result for cell in cells if cell.evaluation and cell.evaluation.state == SUCCEEDED]
    return {
        "versions": sorted({str(result["version"]) for result in results if "version" in result}),
        "datasets": sorted({f"{r['dataset']} {r['dataset_hash']}" for r in results if r.get("dataset_hash")}),
    }


DIGITS = 10  # of numbers in a spreadsheet: the last digits of a sum are rounding
SUMMARY = ("mean", "sd", "low", "high", "count", "chance", "untrained")


def as_json(table: Json, title: str) -> str:
    return json.dumps({"title": title, **table}, indent=1, ensure_ascii=False) + "\n"


def as_csv(table: Json, title: str) -> str:
    """One line a row and metric; unknown values are empty."""
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
            facts = [*labels, *drawn, *(row[name] for name in extra), metric["name"], *_summary_fields(figure), *cost]
            writer.writerow([float(f"{fact:.{DIGITS}g}") if isinstance(fact, float) else fact for fact in facts])
    return out.getvalue()


def as_markdown(table: Json, title: str) -> str:
    """The figures as mean ± sd, then the comparisons with the baseline."""
    rung = ["rung"] if _has_rungs(table) else []
    heads = [*table["axes"], *table["parameters"], *rung, "seeds", "images seen", *_metric_names(table)]
    lines = [
        f"**{title}**",
        "",
        *_markdown_table(heads, [_markdown_cells(table, row, rung) for row in table["rows"]]),
        "",
    ]
    lines += ["Mean ± standard deviation over seeds, and in brackets Student's 95 % interval of the mean.", ""]
    for head, comparisons in table["comparisons"].items():
        if any(comparison["t"] is not None for comparison in comparisons):
            lines += _comparison_lines(table, head, comparisons)
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
    """Short name of a row: its variants, and its rung."""
    words = [row["labels"][axis] for axis in table["axes"] if axis in row["labels"]]
    return " ".join(words + ([f"rung {row['rung']}"] if row["rung"] is not None else [])) or "all"


def _has_rungs(table: Json) -> bool:
    return any(row["rung"] is not None for row in table["rows"])


def _metric_names(table: Json) -> list[str]:
    return [metric["name"] for metric in table["metrics"]]


def _summary_fields(figure: Json | None) -> list[Any]:
    if figure is None:
        return [None] * len(SUMMARY)
    low, high = figure["interval"] or (None, None)
    return [{**figure, "low": low, "high": high}[name] for name in SUMMARY]


def _markdown_cells(table: Json, row: Json, rung: list[str]) -> list[str]:
    labels = [row["labels"].get(axis, "") for axis in table["axes"]]
    drawn = [_format_number(row["parameters"].get(name)) for name in table["parameters"]]
    seen = row["compute"]["images_seen"]
    facts = [*(str(row[name]) for name in rung), str(len(row["seeds"])), "" if seen is None else f"{seen:,.0f}"]
    return [*labels, *drawn, *facts, *(_format_figure(row["figures"].get(head)) for head in _metric_names(table))]


def _format_figure(figure: Json | None) -> str:
    if figure is None:
        return ""
    words = _format_number(figure["mean"])
    if figure["sd"] is not None:
        low, high = figure["interval"]
        words += f" ± {_format_number(figure['sd'])} ({_format_number(low)} – {_format_number(high)})"
    return words


def _comparison_lines(table: Json, head: str, comparisons: Sequence[Json]) -> list[str]:
    rows = [
        [
            row_name(table, table["rows"][comparison["row"]]),
            _format_number(comparison["difference"]),
            " – ".join(map(_format_number, comparison["interval"] or ())),
            _format_number(comparison["p"]),
            _format_number(comparison["p_holm"]),
            str(comparison["count"]),
        ]
        for comparison in comparisons
    ]
    name = row_name(table, table["rows"][table["baselines"][head]])
    heads = ["row", "difference", "95 %", "p", "p (Holm)", "pairs"]
    return [f"{head} against {name}, paired over seeds:", "", *_markdown_table(heads, rows), ""]


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *rows)]


def _format_number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
