"""Studies: start one, watch its table fill, see what is worth its cost."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr

from api.client import ApiError, Client
from ui.common import BUSY, QUIET, Selection
from ui.html import PICK, problem, toast
from ui.study_charts import cost_chart, curves_chart
from ui.tabs.study_form import StudyForm
from ui.tabs.study_view import (
    MOVING,
    NOTHING_SELECTED,
    draw_cells,
    draw_links,
    draw_notes,
    draw_studies,
    draw_study_head,
    draw_table,
)

REFRESH_SECONDS = 3
ONLY_WHEN_SEEN = """(selection, metric, value) => {
  const seen = !document.hidden && document.querySelector('#tab-studies-button[aria-selected="true"]');
  return [selection, metric, seen ? value : null];
}"""


@dataclass(frozen=True)
class WatchedStudy:
    """What the page knows of the selected study."""

    id: str | None = None
    curves: dict[str, Any] | None = field(default=None, repr=False)
    settled: bool = False  # it had ended when its curves were last read


class StudiesTab:
    title = "Studies"

    def __init__(self, client: Client) -> None:
        self.client = client
        self.form = StudyForm(client)

    def build(self) -> None:
        self.selection = gr.State(Selection(WatchedStudy()))
        with gr.Accordion("New study", open=False, elem_classes="lcl-panel", elem_id="new-study"):
            self.form.build()
        with gr.Row(equal_height=False, elem_classes="lcl-columns"):
            with gr.Column(scale=3, min_width=260, elem_classes="lcl-panel"):
                self.listing = gr.HTML(apply_default_css=False, js_on_load=PICK, elem_id="study-list")
            with gr.Column(scale=9, min_width=300, elem_classes="lcl-panel lcl-run"):
                self._build_detail()

    def _build_detail(self) -> None:
        self.head = gr.HTML(NOTHING_SELECTED, apply_default_css=False, elem_id="study-head")
        with gr.Row(elem_classes="lcl-actions"):
            small: dict[str, Any] = {"size": "sm", "min_width": 90, "visible": False}
            self.cancel = gr.Button("Cancel", variant="stop", elem_id="study-cancel", **small)
            self.resume = gr.Button("Resume", elem_id="study-resume", **small)
        self.refusal = gr.HTML(apply_default_css=False)
        self.notes = gr.HTML(apply_default_css=False, elem_id="study-notes")
        self.table = gr.HTML(apply_default_css=False, elem_id="study-table")
        with gr.Row(elem_classes="lcl-toolbar", visible=False) as self.tools:
            self.metric = gr.Dropdown([], label="Figure", min_width=140)
            self.value = gr.Dropdown(["loss"], value="loss", label="Curve", min_width=140)
        self.charts = gr.HTML(apply_default_css=False, elem_id="study-charts")
        self.links = gr.HTML(apply_default_css=False, elem_id="study-links")
        with gr.Accordion("Cells and their runs", open=False):
            self.cells = gr.HTML(apply_default_css=False, elem_id="study-cells")

    def wire(self, page: gr.Blocks, tab: gr.Tab) -> None:
        self.clock = gr.Timer(REFRESH_SECONDS)
        asked = [self.selection, self.metric, self.value]
        everything = [
            self.listing, self.head, self.cancel, self.resume, self.notes, self.table, self.tools, self.metric,
            self.value, self.charts, self.links, self.cells,
        ]  # fmt: skip
        for event in (tab.select, self.metric.input):
            event(self.refresh, asked, everything, **QUIET)
        self.value.input(self.draw_anew, asked, everything, **QUIET)
        self.clock.tick(self.tick, asked, everything, js=ONLY_WHEN_SEEN, **QUIET)
        self.listing.select(self.select, asked, everything, **QUIET)
        for button, verb in ((self.cancel, self.client.cancel_study), (self.resume, self.client.resume_study)):
            button.click(
                lambda selection, verb=verb: self.act(verb, selection), self.selection, self.refusal, **BUSY
            ).then(self.refresh, asked, everything, **QUIET)
        self.form.wire(tab)
        self.form.submit.click(
            self.submit,
            [self.form.editor, self.form.name, self.form.preset, self.form.seeds, self.form.steps, self.selection],
            self.form.verdict,
            **BUSY,
        ).then(self.refresh, asked, everything, **QUIET)

    def submit(
        self, text: str, name: str, preset: str, seeds: str, steps: float | None, selection: Selection[WatchedStudy]
    ) -> str:
        """The new study becomes the selected one."""
        verdict, study_id = self.form.send(text, name, preset, seeds, steps)
        if study_id:
            selection.watched = WatchedStudy(study_id)
        return verdict

    def act(self, verb: Any, selection: Selection[WatchedStudy]) -> str:
        """Cancel or resume; a refusal is shown in the service's words."""
        try:
            verb(selection.watched.id)
        except ApiError as error:
            return toast(error.message)
        return ""

    def select(
        self, selection: Selection[WatchedStudy], metric: str | None, value: str, event: gr.EventData
    ) -> tuple[Any, ...]:
        if selection.watched.id != str(event.pick):
            selection.watched = WatchedStudy(str(event.pick))
        return self.refresh(selection, metric, value)

    def draw_anew(self, selection: Selection[WatchedStudy], metric: str | None, value: str) -> tuple[Any, ...]:
        """Another curve is asked for: what was read is of no use."""
        selection.watched = WatchedStudy(selection.watched.id)
        return self.refresh(selection, metric, value)

    def tick(
        self, selection: Selection[WatchedStudy], metric: str | None, value: str | None, request: gr.Request
    ) -> Any:
        """Nothing is fetched while another tab is looked at; a tick may come before the tab's own event."""
        return gr.skip() if value is None else self.refresh(selection, metric, value, request)

    def refresh(
        self,
        selection: Selection[WatchedStudy],
        metric: str | None = None,
        value: str = "loss",
        request: gr.Request | None = None,
    ) -> tuple[Any, ...]:
        """List and selected study as they are now; at first the study of ``?study=ID`` is taken, or the newest."""
        try:
            studies = self.client.studies()["items"]
        except ApiError as error:
            return problem(error.message, "The studies cannot be shown"), *[gr.skip()] * 11
        if selection.watched.id is None:
            wanted = request.query_params.get("study") if request else None
            selection.watched = WatchedStudy(wanted or (studies[0]["id"] if studies else None))
        watched = selection.watched
        if watched.id is None:
            return draw_studies(studies, None), NOTHING_SELECTED, *_blank()
        try:
            watched, detail = self.detail(watched, metric, value)
        except ApiError as error:
            detail = problem(error.message, "This study cannot be shown"), *_blank()
        if selection.watched.id != watched.id:  # chosen meanwhile: that event draws
            return (gr.skip(),) * 12
        selection.watched = watched
        return draw_studies(studies, watched.id), *detail

    def detail(self, watched: WatchedStudy, metric: str | None, value: str) -> tuple[WatchedStudy, tuple[Any, ...]]:
        """Fetch the selected study and draw it. Raises: ApiError."""
        study = self.client.study(str(watched.id))
        moving = study["state"] in MOVING
        if moving or not watched.settled or watched.curves is None:
            curves = self.client.study_curves(str(watched.id), value)
            watched = replace(watched, curves=curves, settled=not moving)
        heads = [column["name"] for column in study["table"]["metrics"]]
        head = heads[0] if metric not in heads else str(metric)
        drawn = watched.curves or {"rows": [], "values": []}
        charts = cost_chart(study["table"], head) + curves_chart(drawn, value.replace("_", " "))
        return watched, (
            draw_study_head(study),
            gr.Button(visible=study["state"] in ("queued", "running")),
            gr.Button(visible=study["state"] in ("failed", "cancelled")),
            draw_notes(study),
            draw_table(study, head),
            gr.Row(visible=True),
            gr.Dropdown(choices=heads, value=head),
            gr.Dropdown(choices=drawn["values"] or [value], value=value),
            f'<div class="lcl-charts">{charts}</div>',
            draw_links(study),
            draw_cells(study),
        )


def _blank() -> tuple[Any, ...]:
    hidden = gr.Button(visible=False)
    return hidden, hidden, "", "", gr.Row(visible=False), gr.skip(), gr.skip(), "", "", ""
