"""Table of a study: one row a combination, figures over the seeds, comparisons, notes; as JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import Any, Literal

from lcl_core.specs.study import TRIAL, GridSearch, MetricSpec, StudySpec
from lcl_core.studies.results import (
    CANCELLED,
    COSTS,
    FAILED,
    SELECTORS,
    SUCCEEDED,
    CellRecord,
    MetricValue,
    count_states,
    group_by_row,
    mean_costs,
    metric_value,
)

# ---- statistics

LEVEL = 0.95
Json = dict[str, Any]
Interval = tuple[float, float]


def mean(values: Sequence[float]) -> float | None:
    """None without values."""
    return fmean(values) if values else None


def sample_deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation (n - 1); None for fewer than two values."""
    return stdev(values) if len(values) > 1 else None


def t_interval(values: Sequence[float]) -> Interval | None:
    """Student's 95 % interval of the mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    from scipy.special import stdtrit  # here: slow to import

    half = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2)) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def paired_test(left: Sequence[float], right: Sequence[float]) -> Json:
    """Right minus left over values of the same seeds (Student's paired test, two-sided).

    ``interval``, ``t`` and ``p`` are None for fewer than two pairs, and the latter where all differences are the same.
    """
    differences = [after - before for before, after in zip(left, right, strict=True)]
    spread = sample_deviation(differences)
    t: float | None = None
    p: float | None = None
    if spread is not None and spread > 1e-12 * max(map(abs, differences)):
        from scipy.special import stdtr

        t = fmean(differences) * math.sqrt(len(differences)) / spread
        p = 2 * float(stdtr(len(differences) - 1, -abs(t)))
    interval = t_interval(differences)
    return {"count": len(differences), "difference": fmean(differences), "interval": interval, "t": t, "p": p}


def holm_adjust(values: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted by Holm's step-down method; None stays None."""
    ranked = sorted((p, index) for index, p in enumerate(values) if p is not None)
    adjusted: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (p, index) in enumerate(ranked):
        highest = max(highest, min(1.0, p * (len(ranked) - rank)))
        adjusted[index] = highest
    return adjusted


def pareto_front(points: Sequence[tuple[float, float]], better: Literal["higher", "lower"] = "higher") -> list[int]:
    """Indices of the Pareto-optimal (cost, quality), cheapest first."""
    sign = 1.0 if better == "higher" else -1.0
    front: list[int] = []
    best = float("-inf")
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -sign * points[i][1])):
        quality = sign * points[index][1]
        if quality > best:
            front.append(index)
            best = quality
    return front


# ---- notes below the table


def table_notes(study: StudySpec, cells: Sequence[CellRecord]) -> list[str]:
    """Notes below the table, a sentence each."""
    return contents_notes(cells) + [note for metric in study.metrics if (note := _empty_column_note(metric, cells))]


def contents_notes(cells: Sequence[CellRecord]) -> list[str]:
    """Notes about the datasets whose contents, as far as they are known, are not the same for all runs that count."""
    evaluations = [cell.evaluation for cell in cells if cell.evaluation]
    notes = []
    for subject, runs in (("Pre-trainings", [cell.run for cell in cells]), ("Evaluations", evaluations)):
        contents: dict[str, set[str]] = {}
        for run in runs:
            if run.state not in (FAILED, CANCELLED):
                for name, digest in run.inputs.get("datasets", {}).items():
                    contents.setdefault(name, set()).update([digest] if digest else [])
        different = [
            f"{name} ({', '.join(digest[:12] for digest in sorted(digests))})"
            for name, digests in sorted(contents.items())
            if len(digests) > 1
        ]
        if different:
            notes.append(
                f"{subject} read different contents of {', '.join(different)}: the dataset changed during the study, "
                "and figures over one of its contents do not compare with those over another. A new study reads the "
                "present ones."
            )
    return notes


def _empty_column_note(metric: MetricSpec, cells: Sequence[CellRecord]) -> str:
    """A column that stays empty although there are results, and the metrics that there are."""
    ended = [cell for cell in cells if cell.state() == SUCCEEDED]
    if not ended or any(metric_value(metric, cell) for cell in ended):
        return ""
    if metric.of == "training":
        there = sorted({key for cell in ended for key in cell.run.result.get("final") or {}})
    else:
        rows = [row for cell in ended if cell.evaluation for row in cell.evaluation.result.get("rows", ())]
        there = sorted({" ".join(str(row[key]) for key in SELECTORS if row.get(key)) for row in rows})
    words = "; ".join(there[:6]) + " and others" * (len(there) > 6)
    return f"No result has a figure for {metric.name}. There are: {words or 'none'}."


# ---- the table


def build_table(study: StudySpec, cells: Sequence[CellRecord], *, cancelled: bool = False) -> Json:
    """The table of the cells so far, as JSON.

    Returns: ``axes``, ``parameters`` and ``metrics`` (the columns), ``rows``, the number of the first row that is the
        study's ``baseline``, and by the name of each metric ``comparisons`` with the row whose number ``baselines``
        has, and the ``pareto`` front as numbers of rows.
    """
    names = [metric.name for metric in study.metrics]
    rows = [_build_row(study, line, cancelled) for line in group_by_row(cells)]
    candidates = [
        number
        for number, row in enumerate(rows)
        if study.baseline is None or study.baseline.items() <= row["labels"].items()
    ]
    baselines = {
        name: next((number for number in candidates if name in rows[number]["figures"]), next(iter(candidates), None))
        for name in names
    }
    results = [cell.evaluation.result for cell in cells if cell.evaluation and cell.evaluation.state == SUCCEEDED]
    return {
        "axes": [axis.name for axis in study.axes] + ([] if isinstance(study.search, GridSearch) else [TRIAL]),
        "parameters": sorted({name for row in rows for name in row["parameters"]}),
        "metrics": [metric.model_dump(mode="json") for metric in study.metrics],
        "compute": study.compute,
        "rows": rows,
        "baseline": candidates[0] if candidates else None,
        "baselines": baselines,
        "comparisons": {name: _comparisons(name, rows, baselines[name]) for name in names},
        "pareto": {metric.name: _pareto_rows(study, metric, rows) for metric in study.metrics},
        "provenance": {
            "versions": sorted({str(result["version"]) for result in results if "version" in result}),
            "datasets": sorted({f"{r['dataset']} {r['dataset_hash']}" for r in results if r.get("dataset_hash")}),
        },
    }


def _build_row(study: StudySpec, cells: list[CellRecord], cancelled: bool) -> Json:
    first = cells[0]
    figures = {metric.name: {cell.seed: metric_value(metric, cell) for cell in cells} for metric in study.metrics}
    order = [*(axis.name for axis in study.axes), TRIAL]
    return {
        "labels": {axis: first.labels[axis] for axis in order if axis in first.labels},
        "parameters": first.parameters,
        "steps": first.run.spec.get("steps"),
        "seeds": [cell.seed for cell in cells],
        "cells": [cell.number for cell in cells],
        "states": count_states(cell.state(cancelled=cancelled) for cell in cells),
        "figures": {name: summary for name, found in figures.items() if (summary := _summarize(found))},
        "compute": mean_costs(cells),
    }


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
    }


def _comparisons(name: str, rows: Sequence[Json], baseline: int | None) -> list[Json]:
    """Each other row minus the baseline over the seeds of both, with Holm-adjusted p-values."""
    if baseline is None:
        return []
    found = [
        {"row": number, **compared}
        for number, row in enumerate(rows)
        if number != baseline and (compared := compare_rows(name, rows[baseline], row))
    ]
    for comparison, p in zip(found, holm_adjust([comparison["p"] for comparison in found]), strict=True):
        comparison["p_holm"] = p
    return found


def compare_rows(name: str, left: Json, right: Json) -> Json | None:
    """``right`` minus ``left`` over the seeds of both; None without any."""
    ours, theirs = (row["figures"].get(name, {}).get("values", {}) for row in (left, right))
    shared = [seed for seed in ours if seed in theirs]
    return paired_test([ours[seed] for seed in shared], [theirs[seed] for seed in shared]) if shared else None


def _pareto_rows(study: StudySpec, metric: MetricSpec, rows: Sequence[Json]) -> list[int]:
    """Numbers of the rows on the front of the metric over the cost, of those that have both."""
    known = [
        (number, (cost, row["figures"][metric.name]["mean"]))
        for number, row in enumerate(rows)
        if (cost := row["compute"][study.compute]) is not None and metric.name in row["figures"]
    ]
    return [known[index][0] for index in pareto_front([point for _, point in known], metric.better)]


# ---- formats

DIGITS = 10  # of numbers in a spreadsheet: the last digits of a sum are rounding
SUMMARY = ("mean", "sd", "low", "high", "count", "chance", "untrained")


def as_csv(table: Json, title: str) -> str:
    """One line a row and metric; unknown values are empty."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([*table["axes"], *table["parameters"], "steps", "metric", *SUMMARY, *COSTS])
    for row in table["rows"]:
        settings = [row["labels"].get(axis) for axis in table["axes"]]
        settings += [row["parameters"].get(name) for name in table["parameters"]]
        for metric in table["metrics"]:
            figure = row["figures"].get(metric["name"], {})
            low, high = figure.get("interval") or (None, None)
            summary = [{**figure, "low": low, "high": high}.get(name) for name in SUMMARY]
            cost = [row["compute"][name] for name in COSTS]
            facts = [*settings, row["steps"], metric["name"], *summary, *cost]
            writer.writerow([float(f"{fact:.{DIGITS}g}") if isinstance(fact, float) else fact for fact in facts])
    return out.getvalue()


def as_json(table: Json, title: str) -> str:
    return json.dumps({"title": title, **table}, indent=1, ensure_ascii=False) + "\n"


FORMATS: dict[str, tuple[Callable[[Json, str], str], str]] = {
    "json": (as_json, "application/json"),
    "csv": (as_csv, "text/csv; charset=utf-8"),
}
