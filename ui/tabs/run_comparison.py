"""Curves of several runs beside the selected run, a chart for each metric: choices, what is fetched, what is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import gradio as gr

from api.client import ApiError, Client
from api.client.payloads import Json
from ui.charts import (
    AXIS_LABELS,
    MAX_SERIES,
    METRIC_LABELS,
    RunSeries,
    metric_points,
    metric_value,
    overlay_chart,
    overlay_panels,
)
from ui.common import LAST_COUNTS, SILENT_EVENT, PageSelection, Shown
from ui.html import ACTIVE_STATES, error_box, status_line
from ui.tabs.run_table import RunListing, draw_spec_differences

Lines = tuple[dict[str, Any], ...]
FIRST_METRICS, FIRST_AXIS = ("loss",), "step"
ALL_METRICS = "all"  # of an address: those that any of the runs has recorded


@dataclass(frozen=True)
class RunCurve:
    """Metric lines of a run. ``complete``: the run had ended when they were last read."""

    attempt: int = 0
    lines: Lines = ()
    complete: bool = False


@dataclass(frozen=True)
class ComparisonChoice:
    """Runs, metrics and axis that the user has chosen. No metric: all that were recorded."""

    others: Sequence[str] = ()
    metrics: Sequence[str] = FIRST_METRICS
    axis: str = FIRST_AXIS

    @property
    def address(self) -> dict[str, str]:
        """Parameters of the page's address; none where nothing is compared."""
        if not self.others:
            return {}
        metrics = "" if tuple(self.metrics) == FIRST_METRICS else ",".join(self.metrics) or ALL_METRICS
        return {"with": ",".join(self.others), "metric": metrics, "over": "" if self.axis == FIRST_AXIS else self.axis}


class Annotation(NamedTuple):
    """Tags and notes of a run, as the service had them when they came into their fields."""

    run: str
    tags: Sequence[str]
    notes: str


@dataclass
class RunSelection(PageSelection[Shown]):
    """The selected run, how the runs are listed, and what it is compared with."""

    listing: RunListing = field(default_factory=RunListing)
    annotated: Annotation | None = None  # what the fields of tags and notes were filled with
    comparison: ComparisonChoice = ComparisonChoice()
    curves: dict[str, RunCurve] = field(default_factory=dict)  # of the other runs, by id
    choices: list[tuple[str, str]] = field(default_factory=list)  # label and id
    linked: bool = False  # an address has changed the comparison
    absent: Sequence[str] = ()  # runs of that address that cannot be compared


class RunComparison:
    """Dropdowns above the charts, and the charts."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def build(self) -> None:
        with gr.Row(elem_classes="lcl-beside"):
            self.others = gr.Dropdown(
                [], value=[], multiselect=True, max_choices=MAX_SERIES - 1, label="Compare with",
                elem_id="compare-with", scale=3, min_width=220, visible=False,
            )  # fmt: skip
            metrics = [(words, metric) for metric, words in METRIC_LABELS.items()]
            self.metrics = gr.Dropdown(
                metrics, value=[*FIRST_METRICS], multiselect=True, label="Metrics (none: all)", visible=False,
                elem_id="compare-metrics", scale=2, min_width=200,
            )  # fmt: skip
            axes = [(words.split()[0], axis) for axis, words in AXIS_LABELS.items()]
            self.axis = gr.Radio(
                axes, value=FIRST_AXIS, label="Over", visible=False, min_width=190, elem_classes="lcl-segment"
            )

    @property
    def inputs(self) -> list[Any]:
        """Components of a ``ComparisonChoice``."""
        return [self.others, self.metrics, self.axis]

    def wire(self) -> None:
        """Metrics and axis are visible once runs are chosen."""
        self.others.input(
            lambda others: [gr.Dropdown(visible=bool(others)), gr.Radio(visible=bool(others))],
            self.others, [self.metrics, self.axis], **SILENT_EVENT | LAST_COUNTS,
        )  # fmt: skip

    def open_linked(self, selection: RunSelection[Any], address: Mapping[str, str]) -> None:
        """Choose what an address compares. Runs of it that cannot be read, or are no pre-trainings, are ``absent``."""
        named, axis = address.get("metric", ",".join(FIRST_METRICS)), address.get("over", FIRST_AXIS)
        metrics = tuple(metric for metric in METRIC_LABELS if metric in named.split(","))
        wanted = [run_id for run_id in address.get("with", "").split(",") if run_id][: MAX_SERIES - 1]
        others = tuple(run_id for run_id in dict.fromkeys(wanted) if self._add_choice(selection, run_id))
        selection.absent = tuple(run_id for run_id in dict.fromkeys(wanted) if run_id not in others)
        choice = ComparisonChoice(
            others,
            metrics if metrics or named == ALL_METRICS else FIRST_METRICS,
            axis if axis in AXIS_LABELS else FIRST_AXIS,
        )
        if choice != selection.comparison:
            selection.comparison, selection.linked = choice, True

    def _add_choice(self, selection: RunSelection[Any], run_id: str) -> bool:
        """Whether the run can be compared; then the dropdown offers it."""
        if run_id in (known for _, known in selection.choices):
            return True
        try:
            run = self.client.run(run_id)
        except ApiError:
            return False
        if run["kind"] != "pretrain":
            return False
        selection.choices = [*selection.choices, (run_label(run), str(run["id"]))]
        selection.curves.setdefault(run_id, RunCurve())  # which keeps it among the choices
        return True

    def show_linked(self, selection: RunSelection[Any]) -> list[Any]:
        """What an address has chosen, in the ``inputs``; they stay as they are where it has changed nothing."""
        if not selection.linked:
            return [gr.skip()] * 3
        selection.linked, choice = False, selection.comparison
        choices, compares = [*selection.choices], bool(choice.others)
        return [
            gr.update(choices=choices, value=[*choice.others], visible=len(choices) > 1),
            gr.update(value=[*choice.metrics], visible=compares),
            gr.update(value=choice.axis, visible=compares),
        ]

    def update_choices(self, selection: RunSelection[Any], runs: Sequence[Json]) -> Any:
        """New choices of the dropdown, if they have changed: an update would close an open list."""
        listed = [(run_label(run), str(run["id"])) for run in runs if run["kind"] == "pretrain"]
        here = {run_id for _, run_id in listed}
        choices = listed + [each for each in selection.choices if each[1] in selection.curves and each[1] not in here]
        if not listed or choices == selection.choices:
            return gr.skip()
        selection.choices = choices
        return gr.Dropdown(choices=[*choices], visible=len(choices) > 1)

    def draw_absent(self, selection: RunSelection[Any]) -> str:
        """Which runs of the address are not compared."""
        if not selection.absent:
            return ""
        names = ", ".join(selection.absent)
        return status_line(f"Not compared: {names}. Each is gone, another owner's, or no pre-training.")

    def draw(self, selection: RunSelection[Any], run: Json, lines: Lines, listed: Sequence[Json]) -> str:
        """The selected run first, then the others in the order in which they were chosen."""
        choice = selection.comparison
        drawn = [(run, lines)]
        known, errors = {str(each["id"]): each for each in listed}, ""
        for run_id in (each for each in choice.others if each != run["id"]):
            try:
                other = known.get(run_id) or self.client.run(run_id)
                curve = self.read(run_id, other, selection.curves.get(run_id, RunCurve()))
            except ApiError as error:
                errors += error_box(error.message, "A run cannot be compared")
                continue
            selection.curves[run_id] = curve
            drawn.append((other, curve.lines))
        runs = [each for each, _ in drawn]
        return _draw_charts(drawn, choice) + draw_spec_differences(runs, [run_label(each) for each in runs]) + errors

    def read(self, run_id: str, run: Json, curve: RunCurve) -> RunCurve:
        """Add the new metric lines; no request after the run has ended. Raises: ApiError."""
        attempt, moving = run.get("attempt") or 0, run["state"] in ACTIVE_STATES
        if attempt != curve.attempt:
            curve = RunCurve(attempt)
        if curve.complete and not moving:
            return curve
        new = loss_lines(self.client.metrics(run_id, after=last_step(curve.lines)))
        return replace(curve, lines=curve.lines + new, complete=not moving)


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


def _draw_charts(drawn: Sequence[tuple[Json, Lines]], choice: ComparisonChoice) -> str:
    """One large chart of one metric, or a panel for each of several."""
    metrics = choice.metrics or [
        metric
        for metric in METRIC_LABELS
        if any(metric_value(line, metric) is not None for _, lines in drawn for line in lines)
    ]
    panels = {
        metric: [
            RunSeries(run_label(run), str(run["state"]), metric_points(lines, metric, choice.axis))
            for run, lines in drawn
        ]
        for metric in metrics or FIRST_METRICS
    }
    if len(panels) > 1:
        return overlay_panels(choice.axis, panels)
    metric, series = next(iter(panels.items()))
    return overlay_chart(metric, choice.axis, series)
