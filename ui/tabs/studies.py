"""Studies tab: form that starts a study, its table as it fills, charts of cost and training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr

from api.client import ApiError, Client, UserError
from api.client.payloads import Json
from lcl_core.specs.base import presets
from lcl_core.specs.parsing import parse_as
from lcl_core.specs.pretrain import PretrainSpec
from ui.addresses import mark_view, read_address
from ui.charts import cost_chart, curves_chart
from ui.common import (
    BUSY_EVENT,
    EACH_COUNTS,
    FOCUS_QUESTION_SCRIPT,
    LAST_COUNTS,
    SILENT_EVENT,
    ListPage,
    PageSelection,
    draft_script,
    html_pane,
    parse_drafts,
    restore_script,
    seen_script,
    submitted_script,
    update_dropdown,
)
from ui.html import ACTIVE_STATES, PICK_SCRIPT, duration, error_box, esc, plural, toast
from ui.spec_fields import from_json, put_at, to_json
from ui.tabs.run_form import CERTAINTY_LABELS, invalid_message, valid_message
from ui.tabs.study_view import (
    NOTHING_SELECTED,
    draw_cells,
    draw_links,
    draw_notes,
    draw_question,
    draw_studies,
    draw_study_head,
    draw_table,
)

FIRST_STUDY = "loss_ablation"
REFRESH_SECONDS = 3


class StudyForm:
    """Fields and JSON editor show the same spec; the service counts the runs in advance."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def build(self, drawer: gr.Accordion) -> None:
        self.drawer = drawer
        spec = presets("study")[FIRST_STUDY]
        with gr.Column(elem_classes="lcl-form"):
            with gr.Row():
                names = sorted(presets("study"))
                self.preset = gr.Dropdown(names, value=FIRST_STUDY, label="Built-in study", min_width=180)
                self.name = gr.Textbox(
                    "", label="Name", placeholder=FIRST_STUDY, max_lines=1, min_width=160, elem_classes="lcl-form__name"
                )
                self.seeds = gr.Textbox(_seeds_text(spec), label="Seeds", max_lines=1, min_width=120)
                self.steps = gr.Number(_common_steps(spec), label="Steps of each", min_width=120)
            self.question = html_pane(_question_line(spec))
            with gr.Accordion("Full spec (JSON)", open=False):
                self.editor = gr.Code(
                    to_json(spec), language="json", label="Study", interactive=True, lines=12, max_lines=22, buttons=[]
                )
            with gr.Row(elem_classes="lcl-submit"):
                self.verdict = html_pane(elem_id="verdict-study")
                self.submit = gr.Button("Start study", variant="primary", elem_id="submit-study")

    def wire(self, tab: gr.Tab) -> None:
        """Events inside the form; what follows a submission is wired by the tab."""
        shown = [self.editor, self.question, self.seeds, self.steps, self.name, self.verdict]
        edits = [
            self.name.input(None),
            self.preset.input(self.apply_preset, self.preset, shown, **BUSY_EVENT | LAST_COUNTS),
        ]
        # One event for both fields: separate events overtake each other, and the older result could be written last.
        edits.append(gr.on(
            [self.seeds.input, self.steps.input],
            self.write_fields, [self.editor, self.seeds, self.steps], [self.editor, self.verdict],
            **SILENT_EVENT | LAST_COUNTS,
        ))  # fmt: skip
        read = [self.question, self.seeds, self.steps, self.verdict]
        edits.append(self.editor.input(
            self.read_editor, self.editor, read, **SILENT_EVENT | LAST_COUNTS,
        ))  # fmt: skip
        for edit in edits:
            edit.then(None, [self.name, self.editor], js=draft_script("study"))
        # the count comes after the fields: it waits for the service, and they may be edited meanwhile
        tab.select(
            self.restore_draft, self.editor, [self.drawer, self.name, self.editor, *read[:-1]],
            js=restore_script("studies"), **SILENT_EVENT,
        ).then(self.validate, self.editor, self.verdict, **SILENT_EVENT)  # fmt: skip

    def restore_draft(self, drafts: str) -> tuple[Any, ...]:
        """The form as it was before the page was loaded again: drawer, name, editor, question, seeds, steps."""
        if (saved := parse_drafts(drafts).get("study")) is None:
            return (gr.skip(),) * 6
        text, name = saved
        return gr.Accordion(open=True), name, text, *self._field_values(text)

    def apply_preset(self, preset: str) -> tuple[Any, ...]:
        spec = presets("study")[preset]
        text = to_json(spec)
        named = gr.Textbox(placeholder=preset)
        return text, _question_line(spec), _seeds_text(spec), _steps_field(spec), named, self.validate(text)

    def write_fields(self, text: str, seeds: str, steps: float | None) -> tuple[Any, str]:
        """Update the editor with both fields. The service reports seeds that are no numbers."""
        try:
            text = to_json(_apply_fields(from_json(text), seeds, steps))
        except UserError:
            return gr.skip(), self.validate(text)
        return text, self.validate(text)

    def read_editor(self, text: str) -> tuple[Any, ...]:
        """Update the fields; unchanged while the editor has no valid JSON."""
        return *self._field_values(text), self.validate(text)

    def _field_values(self, text: str) -> tuple[Any, ...]:
        """Question, seeds and steps of the editor's text."""
        try:
            spec = from_json(text)
        except UserError:
            return (gr.skip(),) * 3
        return _question_line(spec), _seeds_text(spec), _steps_field(spec)

    def validate(self, text: str) -> str:
        """Number of runs of the study, or the error."""
        try:
            return valid_message(plan_summary(self.client.plan_study(from_json(text))))
        except (UserError, ApiError) as error:
            return invalid_message(error.field, error.message)

    def send(self, text: str, name: str, preset: str, seeds: str, steps: float | None) -> tuple[str, str | None]:
        """Submit. Returns: message, and the id of the study or None if it was rejected."""
        try:
            spec = from_json(text)
            if _apply_fields(spec, seeds, steps) != spec:
                return invalid_message(None, "fields and JSON differ; check them and start again."), None
            study = self.client.submit_study(spec, name.strip() or preset)
        except (UserError, ApiError) as error:
            return invalid_message(error.field, error.message), None
        return valid_message(f"Submitted as {study['id']}. Its table fills below."), study["id"]


def plan_summary(plan: Mapping[str, Any]) -> str:
    """Number of runs to train and evaluate, and of those that are reused."""
    cells, reused = plan["cells"], plan["reused"]
    sizes = f"{plural(plan['rows'], 'row')} × {plural(plan['seeds'], 'seed')}"
    words = f"{sizes} = {plural(cells, 'pre-training')} and {plural(cells, 'evaluation')}"
    if reused:
        words += f"; {reused} of the pre-trainings are there already and are not run again"
    return f"{words}. {_training_time(plan)}".strip()


def _training_time(plan: Mapping[str, Any]) -> str:
    """Hours of the pre-trainings that are new, with their range and what they rest on."""
    if not (seconds := plan.get("seconds")):
        return ""
    word, why = CERTAINTY_LABELS[plan["certainty"]]
    low, high = duration(seconds["low"]), duration(seconds["high"])
    return (
        f"Pre-training takes {duration(seconds['expected'])} in one slot, one after another ({low} to {high}; "
        f"{word.lower()}: {why}); evaluations come on top."
    )


def _apply_fields(spec: dict[str, Any], seeds: str, steps: float | None) -> dict[str, Any]:
    """The spec with the values of the fields, where they differ."""
    words = [word.strip() for word in seeds.split(",") if word.strip()]
    if seeds != _seeds_text(spec):
        spec = put_at(spec, "seeds", [int(word) if word.isdigit() else word for word in words])
    if steps is not None and steps != _common_steps(spec):
        spec = put_at(spec, "pretrain.steps", int(steps) if float(steps).is_integer() else steps)
    return spec


def _seeds_text(spec: Mapping[str, Any]) -> str:
    seeds = spec.get("seeds", [0])
    return ", ".join(map(str, seeds)) if isinstance(seeds, list) else ""


def _common_steps(spec: Mapping[str, Any]) -> int | None:
    """Steps of the base spec; None if it is invalid or unfinished, or the rows differ in their steps."""
    try:
        variants = [variant for axis in spec.get("axes", ()) for variant in axis["variants"]]
        if any("steps" in variant.get("spec", ()) for variant in variants):
            return None
        return parse_as(PretrainSpec, spec.get("pretrain", {})).steps
    except (UserError, KeyError, TypeError, AttributeError):  # the service says what is wrong with it
        return None


def _steps_field(spec: Mapping[str, Any]) -> Any:
    """The field, disabled without common steps."""
    steps = _common_steps(spec)
    return gr.Number(steps, interactive=steps is not None)


def _question_line(spec: Mapping[str, Any]) -> str:
    return f'<p class="lcl-note">{esc(spec.get("question", ""))}</p>'


@dataclass(frozen=True)
class WatchedStudy:
    """The selected study and its curves."""

    id: str | None = None
    curves: Json | None = field(default=None, repr=False)
    complete: bool = False  # the study had ended when they were last fetched


@dataclass
class SelectedStudy(PageSelection[WatchedStudy]):
    """The selected study, and which page of the list is on show."""

    page: ListPage = field(default_factory=ListPage)


class StudiesTab:
    title = "Studies"

    def __init__(self, client: Client) -> None:
        self.client = client
        self.form = StudyForm(client)

    def build(self) -> None:
        self.selection = gr.State(SelectedStudy(WatchedStudy()))
        with gr.Accordion("New study", open=False, elem_classes="lcl-panel", elem_id="new-study") as drawer:
            self.form.build(drawer)
        with gr.Row(equal_height=False, elem_classes="lcl-columns"):
            with gr.Column(scale=3, min_width=260, elem_classes="lcl-panel"):
                self.listing = html_pane(js_on_load=PICK_SCRIPT, elem_id="study-list")
            with gr.Column(scale=9, min_width=300, elem_classes="lcl-panel lcl-run"):
                self._build_detail()

    def _build_detail(self) -> None:
        self.head = html_pane(NOTHING_SELECTED, elem_id="study-head")
        with gr.Row(elem_classes="lcl-actions"):
            small: dict[str, Any] = {"size": "sm", "min_width": 90, "visible": False}
            self.cancel = gr.Button("Cancel", variant="stop", elem_id="study-cancel", **small)
            self.resume = gr.Button("Resume", elem_id="study-resume", **small)
            self.delete = gr.Button("Delete", variant="stop", elem_id="study-delete", **small)
        self.refusal = html_pane(js_on_load=PICK_SCRIPT, elem_id="study-question")
        self.notes = html_pane(elem_id="study-notes")
        self.table = html_pane(elem_id="study-table")
        with gr.Row(elem_classes="lcl-toolbar", visible=False) as self.tools:
            self.metric = gr.Dropdown([], label="Figure", min_width=140)
            self.value = gr.Dropdown(["loss"], value="loss", label="Curve", min_width=140)
        self.charts = html_pane(elem_id="study-charts")
        self.links = html_pane(elem_id="study-links")
        with gr.Accordion("Cells and their runs", open=False):
            self.cells = html_pane(elem_id="study-cells")

    def wire(self, page: gr.Blocks, tab: gr.Tab, navigation: gr.HTML) -> None:
        self.clock = gr.Timer(REFRESH_SECONDS)
        inputs = [self.selection, self.metric, self.value]
        everything = [
            self.listing, self.head, self.cancel, self.resume, self.delete, self.notes, self.table, self.tools,
            self.metric, self.value, self.charts, self.links, self.cells,
        ]  # fmt: skip
        for event in (tab.select, navigation.select):
            event(self.open_address, inputs, everything, **SILENT_EVENT | LAST_COUNTS)
        self.metric.input(self.refresh, inputs, everything, **SILENT_EVENT | LAST_COUNTS)
        self.value.input(self.change_value, inputs, everything, **SILENT_EVENT | LAST_COUNTS)
        self.clock.tick(self.tick, inputs, everything, js=seen_script("studies"), **SILENT_EVENT)
        self.listing.select(self.select, inputs, everything, **SILENT_EVENT | EACH_COUNTS)
        self.listing.select(lambda: "", None, self.refusal, **SILENT_EVENT)
        self.resume.click(
            lambda selection: self.act("resume", str(selection.current.id)), self.selection, self.refusal, **BUSY_EVENT
        ).then(self.refresh, inputs, everything, **SILENT_EVENT)
        for button, verb in ((self.cancel, "cancel"), (self.delete, "delete")):
            button.click(
                lambda selection, verb=verb: self.show_question(verb, selection),
                self.selection,
                self.refusal,
                **BUSY_EVENT,
            ).then(None, js=FOCUS_QUESTION_SCRIPT)
        self.refusal.select(self.answer, inputs, [self.refusal, *everything], **BUSY_EVENT)
        self.form.wire(tab)
        self.form.submit.click(
            self.submit,
            [self.form.editor, self.form.name, self.form.preset, self.form.seeds, self.form.steps, self.selection],
            self.form.verdict,
            **BUSY_EVENT,
        ).then(self.refresh, inputs, everything, **SILENT_EVENT).then(None, js=submitted_script("study"))

    def submit(
        self, text: str, name: str, preset: str, seeds: str, steps: float | None, selection: SelectedStudy
    ) -> str:
        """The new study is selected."""
        verdict, study_id = self.form.send(text, name, preset, seeds, steps)
        if study_id:
            selection.current, selection.page = WatchedStudy(study_id), ListPage()
        return verdict

    def show_question(self, verb: str, selection: SelectedStudy) -> str:
        """The question before a study is cancelled or deleted, or the error of the service."""
        try:
            return draw_question(verb, self.client.study(str(selection.current.id)))
        except ApiError as error:
            return toast(error.message)

    def answer(self, selection: SelectedStudy, metric: str | None, value: str, event: gr.EventData) -> tuple[Any, ...]:
        """The question was answered; it names the study, since another may be selected by now."""
        verb, _, study_id = str(event.pick).partition(":")
        if verb not in ("cancel", "delete"):
            return "", *_unchanged()
        refusal = self.act(verb, study_id)
        if verb == "delete" and not refusal and selection.current.id == study_id:
            selection.current = WatchedStudy()
        return refusal, *self.refresh(selection, metric, value)

    def act(self, verb: str, study_id: str) -> str:
        """Cancel, resume or delete. Returns: the error of the service, or why runs were not resumed, if any."""
        try:
            answer = getattr(self.client, f"{verb}_study")(study_id) or {}
        except ApiError as error:
            return toast(error.message)
        refused = [run["message"] for run in answer.get("not_resumed", ())]
        return toast("; ".join(refused)) if refused else ""

    def select(self, selection: SelectedStudy, metric: str | None, value: str, event: gr.EventData) -> tuple[Any, ...]:
        action, colon, direction = str(event.pick).partition(":")
        if colon:
            selection.page = selection.page.turned(direction)
        elif selection.current.id != action:
            selection.current = WatchedStudy(action)
        return self.refresh(selection, metric, value)

    def change_value(self, selection: SelectedStudy, metric: str | None, value: str) -> tuple[Any, ...]:
        """Another curve: fetch it."""
        selection.current = WatchedStudy(selection.current.id)
        return self.refresh(selection, metric, value)

    def open_address(
        self, selection: SelectedStudy, metric: str | None, value: str, request: gr.Request
    ) -> tuple[Any, ...]:
        """The study of the address; on that of another tab the one that was shown."""
        study = read_address(request, "studies").get("study", selection.current.id)
        if study != selection.current.id:
            selection.current = WatchedStudy(study)
        return self.refresh(selection, metric, value)

    def tick(self, selection: SelectedStudy, metric: str | None, value: str | None, request: gr.Request) -> Any:
        """Fetches nothing while the tab is hidden (``value`` is None). A tick may precede the first refresh."""
        return gr.skip() if value is None else self.refresh(selection, metric, value, request)

    def refresh(
        self,
        selection: SelectedStudy,
        metric: str | None = None,
        value: str = "loss",
        request: gr.Request | None = None,
    ) -> tuple[Any, ...]:
        """Current list and selected study; initially the study of ``?study=ID``, else the newest."""
        try:
            shown = selection.page
            page = self.client.studies(cursor=shown.cursor)
            studies = page["items"]
            selection.page = selection.page.fetched(shown, page["next_cursor"])
        except ApiError as error:
            return error_box(error.message, "The studies cannot be shown"), *_unchanged()[1:]
        if selection.current.id is None:
            linked = request.query_params.get("study") if request else None
            selection.current = WatchedStudy(linked or (studies[0]["id"] if studies else None))
        watched = selection.current
        if watched.id is None:
            return draw_studies(studies, None) + selection.page.draw(), NOTHING_SELECTED, *_empty_detail()
        try:
            watched, detail = self.detail(watched, metric, value)
        except ApiError as error:
            detail = error_box(error.message, "This study cannot be shown"), *_empty_detail()
        if selection.current.id != watched.id:  # another study was selected since
            return _unchanged()
        selection.current = watched
        return draw_studies(studies, watched.id) + selection.page.draw(), *detail

    def detail(self, watched: WatchedStudy, metric: str | None, value: str) -> tuple[WatchedStudy, tuple[Any, ...]]:
        """Fetch the selected study and draw it; the curves of ``value`` if it recorded that. Raises: ApiError."""
        asked = value
        study = self.client.study(str(watched.id))
        moving = study["state"] in ACTIVE_STATES
        curves = watched.curves
        if moving or not watched.complete or curves is None or curves["value"] != value:
            curves = self.client.study_curves(str(watched.id), value)
            if curves["values"] and value not in curves["values"]:  # chosen for a study with other losses
                value = curves["values"][0]
                curves = self.client.study_curves(str(watched.id), value)
            watched = replace(watched, curves=curves, complete=not moving)
        heads = [column["name"] for column in study["table"]["metrics"]]
        head = heads[0] if metric not in heads else str(metric)
        charts = cost_chart(study["table"], head) + curves_chart(curves, value.replace("_", " "))
        return watched, (
            mark_view(draw_study_head(study), str(study.get("name") or ""), study=study["id"]),
            gr.Button(visible=study["state"] in ("queued", "running")),
            gr.Button(visible=study["state"] in ("failed", "cancelled")),
            gr.Button(visible=study["state"] in ("succeeded", "failed", "cancelled")),
            draw_notes(study),
            draw_table(study, head),
            gr.Row(visible=True),
            update_dropdown([(name, name) for name in heads], metric, head),
            update_dropdown([(name, name) for name in curves["values"] or [value]], asked, value),
            f'<div class="lcl-charts">{charts}</div>',
            draw_links(study),
            draw_cells(study),
        )


def _empty_detail() -> tuple[Any, ...]:
    hidden = gr.Button(visible=False)
    return hidden, hidden, hidden, "", "", gr.Row(visible=False), gr.skip(), gr.skip(), "", "", ""


def _unchanged() -> tuple[Any, ...]:
    """Of ``StudiesTab.refresh``: list, header and the rest stay as they are."""
    return tuple(gr.skip() for _ in ("list", "header", *_empty_detail()))
