"""The study that is open beside the table of runs: header, its table as it fills, charts and cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from api.client import Client
from ui.addresses import address
from ui.charts import cost_chart, curves_chart, row_colour_class, row_label
from ui.figures import metric_text, number
from ui.html import (
    ACTIVE_STATES,
    STATE_LABELS,
    ago,
    badge,
    esc,
    html_table,
    progress_bar,
    question_box,
    run_link,
)
from ui.tabs.run_table import draw_group, draw_menu
from ui.tabs.run_view import RunAction, draw_buttons

Json = Mapping[str, Any]
STUDY_ACTIONS = (
    RunAction("resume_study", "Resume", ("failed", "cancelled")),
    RunAction("cancel_study", "Cancel", ("queued", "running"), asks=True),
    RunAction("delete_study", "Delete", ("succeeded", "failed", "cancelled"), asks=True),
)
TABLE_FORMATS = ("csv", "json")


@dataclass(frozen=True)
class WatchedStudy:
    """The study that is open, the figure and the curve that its charts show, and its curves."""

    id: str | None = None
    figure: str = ""
    curve: str = "loss"
    curves: Json | None = field(default=None, repr=False)
    complete: bool = False  # the study had ended when they were last fetched

    def changed(self, action: str, value: str) -> WatchedStudy:
        """After a click on ``figure:`` or ``curve:``."""
        return replace(self, figure=value) if action == "figure" else replace(self, curve=value, curves=None)


def read_study(client: Client, watched: WatchedStudy) -> tuple[WatchedStudy, Json]:
    """The study, and its curves while it moves. Raises: ApiError."""
    study = client.study(str(watched.id))
    moving, curves, curve = study["state"] in ACTIVE_STATES, watched.curves, watched.curve
    if moving or not watched.complete or curves is None:
        curves = client.study_curves(study["id"], curve)
        if curves["values"] and curve not in curves["values"]:  # chosen for a study with other losses
            curve = curves["values"][0]
            curves = client.study_curves(study["id"], curve)
    figures = [metric["name"] for metric in study["table"]["metrics"]]
    figure = watched.figure if watched.figure in figures else figures[0]
    return replace(watched, figure=figure, curve=curve, curves=curves, complete=not moving), study


def draw_study(study: Json, watched: WatchedStudy) -> str:
    """All of a study."""
    curves = watched.curves or {"values": [], "rows": []}
    figures = {metric["name"]: metric["name"] for metric in study["table"]["metrics"]}
    curve_words = {name: name.replace("_", " ") for name in curves["values"] or [watched.curve]}
    menus = draw_menu(f"Figure: {watched.figure}", draw_group("figure", "Figure", figures, (watched.figure,)))
    menus += draw_menu(f"Curve: {curve_words.get(watched.curve, watched.curve)}",
                       draw_group("curve", "Curve", curve_words, (watched.curve,)))  # fmt: skip
    charts = cost_chart(study["table"], watched.figure) + curves_chart(curves, watched.curve.replace("_", " "))
    return (
        f"{draw_study_head(study)}{draw_notes(study)}{draw_table(study, watched.figure)}"
        f'<div class="lcl-menus">{menus}</div><div class="lcl-charts lcl-charts--study">{charts}</div>'
        f"{draw_links(study)}"
    )


def draw_study_head(study: Json) -> str:
    """Name, question, state, number of finished cells."""
    done, total = study["counts"].get("succeeded", 0), sum(study["counts"].values())
    counts = " · ".join(f"{count} {STATE_LABELS[state].lower()}" for state, count in study["counts"].items())
    line = f"Study · submitted {ago(study['created_at'])} · {esc(study['owner'])}"
    question = f'<p class="lcl-question">{esc(study["question"])}</p>' if study["question"] else ""
    return (
        f'<header class="lcl-run__head"><h2>{esc(study["name"] or "Study")}</h2>{badge(study["state"])}'
        f'{_draw_actions(study)}</header><p class="lcl-run__line">{line}</p>{question}<div class="lcl-progress">'
        f"{progress_bar(done / max(total, 1), 'cells that succeeded')}<p>{esc(counts)}</p></div>"
    )


def _draw_actions(study: Json) -> str:
    buttons = draw_buttons(STUDY_ACTIONS, study)
    runs = f'<a href="{esc(address(tab="runs", of=study["id"]))}">Its runs</a>'
    return f'<nav class="lcl-links lcl-actions-of" aria-label="Actions">{runs}{"".join(buttons.values())}</nav>'


def draw_question(verb: str, study: Json) -> str:
    """The question before a study is cancelled or deleted: what is lost, and what stays."""
    name = study["name"] or study["id"]
    if verb == "delete_study":
        lost = "Its table is removed. Its runs and their encoders stay."
        words, keep = "Delete the study", "Keep it"
    else:
        running = study["counts"].get("running", 0)
        stops = f"{number(running)} of its cells are running: each writes a checkpoint first. "
        lost = f"{stops if running else ''}Cells that have ended stay. Resume queues the others again."
        words, keep = "Cancel the study", "Keep running"
    return question_box(f"{words.split()[0]} {name}?", lost, (f"{verb}:{study['id']}", words), ("keep:", keep))


def draw_table(study: Json, head: str) -> str:
    """The table so far: every metric with mean, deviation and interval, and ``head`` compared with the baseline."""
    table = study["table"]
    baseline = table["baselines"].get(head)
    compared = {each["row"]: each for each in table["comparisons"].get(head, ())}
    axes = [*table["axes"], *table["parameters"]]
    heads = [metric["name"] for metric in table["metrics"]]
    against: list[str] = []
    if baseline is not None and len(table["rows"]) > 1:
        against = [f"{head} against {row_label(table['rows'][baseline])}"]
    names = [*(axes or ["row"]), "cells", "images", *heads, *against]
    best = {metric["name"]: _best(table, metric) for metric in table["metrics"]}
    body = "".join(
        _row(study, index, best, [_comparison_cell(head, compared.get(index), index == baseline)] if against else [])
        for index in range(len(table["rows"]))
    )
    return html_table("Table of the study", names, body, "study") + (
        '<p class="lcl-note">Mean ± standard deviation over seeds; below, Student’s 95 % interval. '
        "p-values are paired over seeds and adjusted for being several (Holm).</p>"
    )


def draw_notes(study: Json) -> str:
    """Failed runs, and notes on the table."""
    problems = "".join(
        f"<li>{run_link(run['id'])} {esc(' '.join(cell['labels'].values()))} seed {cell['seed']}: "
        f"{esc((run['reason'] or {}).get('message', 'no reason was given'))}</li>"
        for cell in study["cells"]
        for run in (cell["run"], cell["evaluation"])
        if run is not None and run["state"] == "failed"
    )
    shown = f'<div class="lcl-problem" role="status"><ul>{problems}</ul></div>' if problems else ""
    return shown + "".join(f'<p class="lcl-note">{esc(note)}</p>' for note in study["notes"])


def draw_links(study: Json) -> str:
    """Links to the table as files."""
    address = f"study/{quote(study['id'], safe='')}"
    tables = "".join(f'<a href="{address}/table.{kind}" download>table.{kind}</a>' for kind in TABLE_FORMATS)
    return f'<div class="lcl-links"><span>Download</span>{tables}</div>'


def _row(study: Json, index: int, best: Mapping[str, int | None], against: list[str]) -> str:
    table = study["table"]
    row = table["rows"][index]
    labels = [row["labels"].get(axis, "") for axis in table["axes"]]
    drawn = [number(row["parameters"].get(name)) for name in table["parameters"]]
    words = [*labels, *drawn] or ["all"]
    dot = f'<i class="lcl-dot {row_colour_class(index)}" aria-hidden="true"></i>'
    first = f'<th scope="row">{dot}{esc(words[0])}</th>' + "".join(f"<td>{esc(word)}</td>" for word in words[1:])
    figures = "".join(_figure(head, row["figures"].get(head), best[head] == index) for head in best)
    seen = row["compute"]["images_seen"]
    seen_words = "–" if seen is None else number(round(seen))
    return f"<tr>{first}<td>{_dots(study, row)}</td><td>{seen_words}</td>{figures}{''.join(against)}</tr>"


def _dots(study: Json, row: Json) -> str:
    """One dot for each cell, coloured by its state, with a text for screen readers."""
    cells = [cell for cell in study["cells"] if cell["number"] in row["cells"]]
    words = ", ".join(f"{count} {STATE_LABELS[state].lower()}" for state, count in row["states"].items())
    dots = "".join(
        f'<i class="lcl-cell lcl-cell--{esc(cell["state"])}" title="seed {cell["seed"]}: '
        f'{esc(STATE_LABELS[cell["state"]].lower())}"></i>'
        for cell in cells
    )
    return f'<span class="lcl-cells" role="img" aria-label="{esc(words)}">{dots}</span>'


def _figure(head: str, figure: Json | None, best: bool) -> str:
    if figure is None:
        return '<td class="lcl-figure"><span aria-label="not yet">–</span></td>'
    mean = metric_text(head, figure["mean"])
    shown = f"<b>{mean}</b>" if best else f"<span>{mean}</span>"
    if figure["sd"] is None:
        return f'<td class="lcl-figure">{shown}<small>one seed</small></td>'
    low, high = figure["interval"]
    return (
        f'<td class="lcl-figure">{shown} <em>± {metric_text(head, figure["sd"])}</em>'
        f"<small>{metric_text(head, low)} to {metric_text(head, high)}</small></td>"
    )


def _comparison_cell(head: str, comparison: Json | None, is_baseline: bool) -> str:
    if is_baseline:
        return '<td class="lcl-figure"><small>baseline</small></td>'
    if comparison is None:
        return '<td class="lcl-figure"><span aria-label="not yet">–</span></td>'
    p = comparison["p_holm"]
    chance = "no test: fewer than two pairs" if p is None else f"p {'< .001' if p < 0.001 else f'= {p:.3f}'}"
    difference = ("+" if comparison["difference"] > 0 else "") + metric_text(head, comparison["difference"])
    return f'<td class="lcl-figure"><span>{difference}</span><small>{esc(chance)}</small></td>'


def _best(table: Json, metric: Json) -> int | None:
    """Index of the row with the best mean, if several rows have one."""
    means = [
        (row["figures"][metric["name"]]["mean"], index)
        for index, row in enumerate(table["rows"])
        if metric["name"] in row["figures"]
    ]
    if len(means) < 2:
        return None
    return (max if metric["better"] == "higher" else min)(means)[1]
