"""Curves of several runs beside those of the open run: what is compared, fetched and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from api.client import ApiError, Client
from api.client.payloads import Json
from ui.charts import (
    AXIS_LABELS,
    MAX_SERIES,
    METRIC_LABELS,
    RunSeries,
    metric_points,
    overlay_chart,
    overlay_panels,
)
from ui.html import ACTIVE_STATES, esc, heading, html_table, status_line
from ui.spec_fields import spec_differences
from ui.tabs.run_table import draw_group, draw_menu, spec_text

Lines = tuple[dict[str, Any], ...]
FIRST_METRICS, FIRST_AXIS = ("loss",), "step"


@dataclass(frozen=True)
class RunCurve:
    """Metric lines of a run. ``complete``: the run had ended when they were last read."""

    attempt: int = 0
    lines: Lines = ()
    complete: bool = False


@dataclass(frozen=True)
class ComparisonChoice:
    """Runs, metrics and axis that the user has chosen."""

    others: tuple[str, ...] = ()
    metrics: tuple[str, ...] = FIRST_METRICS
    axis: str = FIRST_AXIS

    def changed(self, action: str, value: str) -> ComparisonChoice:
        """After a click on ``with:``, ``metric:``, which a second click turns back, or ``over:``."""
        if action == "over":
            return replace(self, axis=value if value in AXIS_LABELS else self.axis)
        before = self.others if action == "with" else self.metrics
        after = tuple(each for each in before if each != value) + ((value,) * (value not in before))
        if action == "with":
            return replace(self, others=after[-(MAX_SERIES - 1) :])
        return replace(self, metrics=tuple(metric for metric in METRIC_LABELS if metric in after) or FIRST_METRICS)

    @property
    def address(self) -> dict[str, str]:
        """Parameters of the page's address; none where nothing is compared."""
        if not self.others:
            return {}
        metrics = "" if self.metrics == FIRST_METRICS else ",".join(self.metrics)
        return {"with": ",".join(self.others), "metric": metrics, "over": "" if self.axis == FIRST_AXIS else self.axis}


def linked_choice(address: Mapping[str, str]) -> ComparisonChoice:
    """What an address compares; of what it does not know nothing."""
    named, axis = address.get("metric", ",".join(FIRST_METRICS)), address.get("over", FIRST_AXIS)
    others = dict.fromkeys(filter(None, address.get("with", "").split(",")))
    metrics = tuple(metric for metric in METRIC_LABELS if metric in named.split(","))
    return ComparisonChoice(
        tuple(others)[: MAX_SERIES - 1],
        metrics or FIRST_METRICS,
        axis if axis in AXIS_LABELS else FIRST_AXIS,
    )


def draw_comparison_menu(choice: ComparisonChoice, run_id: str, listed: Sequence[Json]) -> str:
    """Runs to compare with; metrics and axis once there are some. Empty where no other run has curves."""
    offered = [run for run in listed if run["kind"] == "pretrain" and run["id"] != run_id]
    names = {str(run["id"]): run_label(run) for run in offered} | {
        other: other for other in choice.others if other not in {run["id"] for run in offered}
    }
    if not names:
        return ""
    inside = draw_group("with", "Runs", names, choice.others)
    if choice.others:
        inside = draw_group("over", "Over", AXIS_LABELS, (choice.axis,)) + inside
        inside += draw_group("metric", "Metrics", METRIC_LABELS, choice.metrics)
    return draw_menu("Compare with", inside)


def read_curve(client: Client, run: Json, curve: RunCurve) -> RunCurve:
    """Add the new metric lines; no request after the run has ended. Raises: ApiError."""
    attempt, moving = run.get("attempt") or 0, run["state"] in ACTIVE_STATES
    if attempt != curve.attempt:
        curve = RunCurve(attempt)
    if curve.complete and not moving:
        return curve
    new = loss_lines(client.metrics(run["id"], after=last_step(curve.lines)))
    return replace(curve, lines=curve.lines + new, complete=not moving)


def draw_comparison(
    client: Client,
    choice: ComparisonChoice,
    curves: dict[str, RunCurve],
    opened: Json,
    listed: Sequence[Json],
) -> str:
    """The open run first, then the others in the order in which they were chosen; ``curves``: of runs, added to."""
    drawn, absent = [(opened, curves[opened["id"]].lines)], []
    known = {str(each["id"]): each for each in listed}
    for run_id in choice.others:
        try:
            other = known.get(run_id) or client.run(run_id)
            if other["kind"] != "pretrain":
                absent.append(run_id)
                continue
            curves[run_id] = read_curve(client, other, curves.get(run_id, RunCurve()))
        except ApiError:
            absent.append(run_id)
            continue
        drawn.append((other, curves[run_id].lines))
    said = f"Not compared: {', '.join(absent)}. Each is gone, another owner's, or no pre-training."
    runs = [run for run, _ in drawn]
    return _draw_charts(drawn, choice) + draw_spec_differences(runs) + (status_line(said) if absent else "")


def loss_lines(lines: Sequence[Mapping[str, Any]]) -> Lines:
    """Metrics and axes of the lines that contain a loss."""
    return tuple(
        {
            name: value
            for name, value in line.items()
            if name in METRIC_LABELS or name in AXIS_LABELS or name.endswith("_loss")
        }
        for line in lines
        if any(name.endswith("loss") and value is not None for name, value in line.items())
    )


def last_step(lines: Lines) -> int:
    return int(lines[-1]["step"]) if lines else 0


def run_label(run: Json) -> str:
    """Name and end of the id: names need not be unique."""
    return f"{run.get('name') or 'Pre-train'} · {str(run['id'])[-6:]}"


def draw_spec_differences(runs: Sequence[Json]) -> str:
    """The fields in which the specs of runs differ, a column each run; nothing for a single run."""
    if len(runs) < 2:
        return ""
    rows = spec_differences([run.get("spec") or {} for run in runs])
    if not rows:
        return status_line("The specs of these runs are the same.")
    body = "".join(
        f'<tr><th scope="row"><code>{esc(field)}</code></th>'
        + "".join(f"<td>{esc(spec_text(value))}</td>" for value in values)
        + "</tr>"
        for field, values in rows
    )
    columns = ("Field", *map(run_label, runs))
    return heading("Differences of their specs") + html_table("Differences of specs", columns, body, "specs")


def _draw_charts(drawn: Sequence[tuple[Json, Lines]], choice: ComparisonChoice) -> str:
    """One large chart of one metric, or a panel for each of several."""
    panels = {
        metric: [
            RunSeries(run_label(run), str(run["state"]), metric_points(lines, metric, choice.axis))
            for run, lines in drawn
        ]
        for metric in choice.metrics
    }
    if len(panels) > 1:
        return overlay_panels(choice.axis, panels)
    metric, series = next(iter(panels.items()))
    return overlay_chart(metric, choice.axis, series)
