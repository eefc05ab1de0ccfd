"""The study that is open beside the table of runs: its table as it fills, charts of cost and training, its cells."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr

from api.client import ApiError, Client
from api.client.payloads import Json
from ui.addresses import mark_view
from ui.charts import cost_chart, curves_chart
from ui.common import html_pane, update_dropdown
from ui.html import ACTIVE_STATES, PICK_SCRIPT, error_box, toast
from ui.tabs.study_view import draw_cells, draw_links, draw_notes, draw_study_head, draw_table


@dataclass(frozen=True)
class WatchedStudy:
    """The study that is open, the figure and the curve that its charts show, and its curves."""

    id: str | None = None
    metric: str = ""
    value: str = "loss"
    curves: Json | None = field(default=None, repr=False)
    complete: bool = False  # the study had ended when they were last fetched


class StudyPanel:
    def __init__(self, client: Client) -> None:
        self.client = client

    def build(self) -> None:
        with gr.Column(visible=False, min_width=300, scale=7, elem_classes="lcl-panel lcl-run") as self.column:
            self.head = html_pane(js_on_load=PICK_SCRIPT, elem_id="study-head")
            self.table = html_pane(elem_id="study-table")
            with gr.Row(elem_classes="lcl-toolbar"):
                self.metric = gr.Dropdown([], label="Figure", min_width=140)
                self.value = gr.Dropdown(["loss"], value="loss", label="Curve", min_width=140)
            self.charts = html_pane(elem_id="study-charts")
            self.cells = html_pane(elem_id="study-cells")

    @property
    def outputs(self) -> list[Any]:
        return [self.column, self.head, self.table, self.metric, self.value, self.charts, self.cells]

    def act(self, verb: str, study_id: str) -> str:
        """Cancel, resume or delete. Returns: the service's error, and which runs were not resumed, if any."""
        try:
            answer = getattr(self.client, f"{verb}_study")(study_id) or {}
        except ApiError as error:
            return toast(error.message)
        refused = [run["message"] for run in answer.get("not_resumed", ())]
        return toast("; ".join(refused)) if refused else ""

    def refresh(self, watched: WatchedStudy, back: str) -> tuple[WatchedStudy, dict[Any, Any]]:
        """Fetch the study and draw it; its curves while it moves. ``back``: link to the table."""
        try:
            study = self.client.study(str(watched.id))
            moving = study["state"] in ACTIVE_STATES
            curves, value = watched.curves, watched.value
            if moving or not watched.complete or curves is None:
                curves = self.client.study_curves(str(watched.id), value)
                if curves["values"] and value not in curves["values"]:  # chosen for a study with other losses
                    value = curves["values"][0]
                    curves = self.client.study_curves(str(watched.id), value)
        except ApiError as error:
            empty = dict.fromkeys((self.table, self.charts, self.cells), "")
            return watched, {self.head: back + error_box(error.message, "This study cannot be shown"), **empty}
        heads = [column["name"] for column in study["table"]["metrics"]]
        head = heads[0] if watched.metric not in heads else watched.metric
        charts = cost_chart(study["table"], head) + curves_chart(curves, value.replace("_", " "))
        drawn = back + draw_study_head(study) + draw_notes(study)
        return replace(watched, metric=head, value=value, curves=curves, complete=not moving), {
            self.head: mark_view(drawn, str(study.get("name") or ""), study=study["id"]),
            self.table: draw_table(study, head),
            self.metric: update_dropdown([(name, name) for name in heads], watched.metric, head),
            self.value: update_dropdown([(name, name) for name in curves["values"] or [value]], watched.value, value),
            self.charts: f'<div class="lcl-charts">{charts}</div>',
            self.cells: draw_links(study) + draw_cells(study),
        }
