"""Runs tab: one table of runs and studies, what is open beside it, and the forms of new ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

import gradio as gr

from api.client import ApiError, Client
from api.client.payloads import Json
from lcl_core.specs.parsing import KIND_LABELS
from ui.addresses import address, mark_view, read_address
from ui.common import (
    BUSY_EVENT,
    EACH_COUNTS,
    FOCUS_QUESTION_SCRIPT,
    LAST_COUNTS,
    SILENT_EVENT,
    ListPage,
    html_pane,
    parse_draft,
    restore_script,
    seen_script,
    submitted_script,
)
from ui.html import ACTIVE_STATES, PICK_SCRIPT, error_box, esc, status_line, toast
from ui.spec_fields import FIRST_PRESETS, STUDY, put_at, starting_spec
from ui.tabs.run_comparison import (
    Annotation,
    ComparisonChoice,
    Lines,
    RunComparison,
    RunSelection,
    last_step,
    loss_lines,
)
from ui.tabs.run_form import FOCUS_ERROR_SCRIPT, SpecForm, invalid_message
from ui.tabs.run_table import MAX_NAME, draw_menus, draw_run_table, linked_listing, parse_tags
from ui.tabs.run_view import (
    LOADING,
    NO_SUCH_RUN,
    RUN_ACTIONS,
    draw_chosen,
    draw_curves,
    draw_details,
    draw_head,
    draw_question,
    draw_question_of_many,
    draw_refusal,
)
from ui.tabs.studies import StudyPanel, WatchedStudy
from ui.tabs.study_view import draw_question as draw_study_question

REFRESH_SECONDS = 2
MAX_LOG_CHARACTERS = 20_000
MAX_LOG_BYTES = 4 * MAX_LOG_CHARACTERS  # as UTF-8


@dataclass(frozen=True)
class WatchedRun:
    """Metric lines, log and, once it has ended, files of the open run that were fetched.

    Args:
        log: its end, of at most ``MAX_LOG_CHARACTERS``.
        log_cut: the log has more before that.
        log_error: why the log could not be read the last time; empty: it was.
    """

    id: str | None = None
    attempt: int = 0
    lines: Lines = field(default=(), repr=False)
    log: str = field(default="", repr=False)
    log_cut: bool = False
    log_error: str = ""
    artifacts: tuple[Json, ...] = field(default=(), repr=False)
    offset: int = 0
    complete: bool = False  # the run had ended when they were last fetched


@dataclass
class SelectedRun(RunSelection[WatchedRun]):
    """What is open beside the table: a run, or a study, or neither."""

    study: WatchedStudy = field(default_factory=WatchedStudy)

    def open(self, run: str | None = None, study: str | None = None) -> None:
        """What is open already keeps what was fetched."""
        if run != self.current.id:
            self.current, self.absent = WatchedRun(run), ()
        if study != self.study.id:
            self.study = WatchedStudy(study)


class RunsTab:
    def __init__(self, client: Client) -> None:
        self.client = client
        self.forms = {kind: SpecForm(client, kind) for kind in (*KIND_LABELS, STUDY)}
        self.comparison = RunComparison(client)
        self.study = StudyPanel(client)

    def build(self) -> None:
        self.selection = gr.State(SelectedRun(WatchedRun()))
        with gr.Column(visible=False, elem_id="new-run") as self.form_panel:
            self.form_head = html_pane()
            for form in self.forms.values():
                form.build()
        with gr.Column() as self.overview:
            with gr.Row(elem_classes="lcl-toolbar"):
                self.name = gr.Textbox(
                    label="Find runs", show_label=False, placeholder="Find …", max_lines=1, max_length=MAX_NAME,
                    elem_id="run-name-filter", min_width=160, container=False,
                )  # fmt: skip
                self.menus = html_pane(js_on_load=PICK_SCRIPT, elem_id="run-menus")
            self.refusal = html_pane(js_on_load=PICK_SCRIPT, elem_id="run-question")
            with gr.Row(equal_height=False, elem_classes="lcl-columns"):
                with gr.Column(scale=5, min_width=300):
                    self.listing = html_pane(js_on_load=PICK_SCRIPT, elem_id="run-list")
                self._build_run()
                self.study.build()

    def _build_run(self) -> None:
        with gr.Column(visible=False, scale=7, min_width=300, elem_classes="lcl-panel lcl-run") as self.panel:
            self.head = html_pane(LOADING, js_on_load=PICK_SCRIPT, elem_id="run-head")
            self.curves = html_pane(elem_id="run-curves")
            self.comparison.build()
            self.details = html_pane(elem_id="run-details")
            with gr.Accordion("Tags and notes", open=False, elem_id="run-annotation", visible=False) as self.annotation:
                self.tags = gr.Textbox(
                    label="Tags", info="separated by blanks or commas", max_lines=1, elem_id="run-tags"
                )
                self.notes = gr.Textbox(label="Notes", lines=3, max_lines=12, elem_id="run-notes")
                with gr.Row(elem_classes="lcl-submit"):
                    self.annotation_verdict = html_pane()
                    self.save = gr.Button("Save", size="sm", min_width=90, elem_id="run-annotate")

    @property
    def refreshed(self) -> list[Any]:
        """Outputs of ``refresh``."""
        run = [self.panel, self.head, self.annotation, self.tags, self.notes, self.curves, self.details]
        return [self.menus, self.listing, self.comparison.others, *run, *self.study.outputs]

    def wire(self, page: gr.Blocks, tab: gr.Tab, navigation: gr.HTML) -> None:
        filled = [part for form in self.forms.values() for part in form.parts]
        everything = [self.refusal, self.name, self.overview, self.form_panel, self.form_head, *self.refreshed]
        for event in (tab.select, navigation.select):
            opened = event(
                self.open_address, [self.selection, self.forms[STUDY].editor], [*everything, *filled],
                js=restore_script(), **SILENT_EVENT | LAST_COUNTS,
            )  # fmt: skip
            opened.then(self.comparison.show_linked, self.selection, self.comparison.inputs, **SILENT_EVENT)
            for form in self.forms.values():
                form.wire_estimate(opened)
        gr.Timer(REFRESH_SECONDS).tick(
            self.tick, [self.selection, self.name], self.refreshed, js=seen_script("runs"), **SILENT_EVENT
        )
        self.name.change(  # a text field has its event ``input`` at a key alone, not when a text is pasted
            self.list_named, [self.selection, self.name], self.refreshed, **SILENT_EVENT | LAST_COUNTS
        )
        gr.on(
            [pane.select for pane in (self.menus, self.listing, self.head, self.study.head)],
            self.pick, self.selection, [self.refusal, *self.refreshed], **SILENT_EVENT | EACH_COUNTS,
        ).then(None, js=FOCUS_QUESTION_SCRIPT)  # fmt: skip
        self.refusal.select(self.answer, self.selection, [self.refusal, *self.refreshed], **BUSY_EVENT)
        self.save.click(
            self.annotate, [self.selection, self.tags, self.notes], self.annotation_verdict, **BUSY_EVENT
        ).then(self.refresh, self.selection, self.refreshed, **SILENT_EVENT)
        self.comparison.wire()
        gr.on(
            [component.input for component in self.comparison.inputs],
            self.compare, [self.selection, *self.comparison.inputs], self.refreshed, **SILENT_EVENT | LAST_COUNTS,
        )  # fmt: skip
        gr.on(
            [self.study.metric.input, self.study.value.input],
            self.chart, [self.selection, self.study.metric, self.study.value], self.refreshed,
            **SILENT_EVENT | LAST_COUNTS,
        )  # fmt: skip
        for form in self.forms.values():
            self._wire_form(form, everything)

    def _wire_form(self, form: SpecForm, everything: list[Any]) -> None:
        form.wire()

        def start(selection: SelectedRun, *inputs: Any) -> dict[Any, Any]:
            return self.start(form, selection, *inputs)

        def answer(selection: SelectedRun, event: gr.EventData, *inputs: Any) -> dict[Any, Any]:
            if event.pick != "replace:":
                return {form.question: ""}
            return self.start(form, selection, *inputs, confirmed=True)

        given, shown = [self.selection, form.marked, *form.values], [*everything, *form.parts]
        started = form.submit.click(start, given, shown, **BUSY_EVENT)
        started.then(None, js=FOCUS_QUESTION_SCRIPT)
        for sent in (started, form.question.select(answer, given, shown, **BUSY_EVENT)):
            sent.then(None, js=submitted_script(form.kind)).then(None, js=FOCUS_ERROR_SCRIPT)

    def start(self, form: SpecForm, selection: SelectedRun, *inputs: Any, confirmed: bool = False) -> dict[Any, Any]:
        """Submit a form. Once that is done, it closes, and what it has made is open."""
        updates, made = form.send(*inputs, confirmed=confirmed)
        if made is None:
            return updates
        selection.listing = replace(selection.listing, page=ListPage())
        selection.open(**{STUDY if form.kind == STUDY else "run": made})
        return {**updates, **self._close(form), **self.refresh(selection)}

    def _close(self, *forms: SpecForm) -> dict[Any, Any]:
        hidden = {form.column: gr.Column(visible=False) for form in forms}
        return {**hidden, self.form_panel: gr.Column(visible=False), self.overview: gr.Column(visible=True)}

    def open_address(self, selection: SelectedRun, draft: str, request: gr.Request) -> dict[Any, Any]:
        """The form, or the table with the run or study, of the address; on that of another tab what was shown."""
        linked = read_address(request, "runs")
        if linked.get("new") in self.forms:
            return self.open_form(linked, draft)
        if linked:
            selection.listing = linked_listing(linked)
            self.comparison.open_linked(selection, linked)
            selection.open(linked.get("run"), linked.get(STUDY))
        listing = {self.name: selection.listing.name, **self.refresh(selection)}
        return {**listing, **(self._close(*self.forms.values()) if linked else {})}

    def open_form(self, linked: dict[str, str], draft: str = "null") -> dict[Any, Any]:
        """``?tab=runs&new=evaluate&on=ENCODER`` opens the form of the kind, filled in.

        ``on`` is the encoder of an evaluation or an index, ``dataset`` what a run reads. ``only_tags=TAG`` and
        ``without_tags=TAG`` choose what is converted, and ``clone=RUN`` fills in spec and name of a run. ``draft``: the
        form as it was left at this address.
        """
        kind = linked["new"]
        form, own = self.forms[kind], {name: value for name, value in linked.items() if name != "tab"}
        back = f'<a class="lcl-back" href="{address(tab="runs")}">‹ Runs</a>'
        shown: dict[Any, Any] = {other.column: gr.Column(visible=False) for other in self.forms.values()}
        shown |= {self.overview: gr.Column(visible=False), self.form_panel: gr.Column(visible=True)}
        shown |= {self.form_head: mark_view(back, "New run", **own)}
        if (saved := parse_draft(draft)) is not None:
            return shown | form.restore(*saved)
        if source := linked.get("clone"):
            try:
                run = self.client.run(source)
            except ApiError as error:
                return {self.refusal: toast(error.message)}
            spec = {name: value for name, value in run["spec"].items() if name != "mode"}
            return shown | form.open(spec, run["name"] or "")
        spec, about = starting_spec(kind, FIRST_PRESETS.get(kind)), linked.get("on")
        dataset = linked.get("dataset")
        if about and kind in ("evaluate", "index"):
            spec = put_at(spec, "encoder", about)
        if dataset and kind == "pretrain":
            spec = put_at(spec, "data.sources", self._sources(dataset))
        elif dataset and kind != STUDY:
            tags = {name: [linked[name]] for name in ("only_tags", "without_tags") if linked.get(name)}
            spec = {**spec, "dataset": dataset, **(tags if kind == "convert" else {})}
        return shown | form.open(spec)

    def _sources(self, dataset: str) -> list[dict[str, Any]]:
        """A mixture of what the dataset has: documents, captioned images, or both as in the presets."""
        try:
            counts = self.client.dataset_statistics(dataset)
        except ApiError:
            counts = {}
        views = {"interleaved": 1.0} if counts.get("documents") or not counts.get("pairs") else {}
        if counts.get("pairs"):
            views["pairs"] = 8.0 if views else 1.0
        return [{"dataset": dataset, "view": view, "weight": weight} for view, weight in views.items()]

    def pick(self, selection: SelectedRun, event: gr.EventData) -> dict[Any, Any]:
        """Something was pressed in the menus, the table, or the header of a run or study."""
        action, _, value = str(event.pick).partition(":")
        verb = action.removeprefix("study-")
        runs = {each.verb: each for each in RUN_ACTIONS}
        if action in ("run", STUDY):
            selection.open(**{action: value})
        elif action == "all":
            return {self.refusal: self.draw_question_of_many(selection, value)}
        elif action in runs and runs[action].asks:
            return {self.refusal: self._question_or_error(lambda: draw_question(action, self.client.run(value)))}
        elif action in runs:
            return {self.refusal: self._act(action, [value], selection), **self.refresh(selection)}
        elif action in ("study-cancel", "study-delete"):
            return {self.refusal: self._question_or_error(lambda: draw_study_question(verb, self.client.study(value)))}
        elif action == "study-resume":
            return {self.refusal: self.study.act(verb, value), **self.refresh(selection)}
        else:
            selection.listing = selection.listing.changed(action, value)
        return {self.refusal: "", **self.refresh(selection)}

    def _question_or_error(self, draw: Callable[[], str]) -> str:
        """A question, or the error of the service."""
        try:
            return draw()
        except ApiError as error:
            return toast(error.message)

    def draw_question_of_many(self, selection: SelectedRun, verb: str) -> str:
        """The question before the chosen runs are cancelled or deleted, or the error of the service."""
        runs = []
        for run_id in sorted(selection.listing.checked):
            try:
                runs.append(self.client.run(run_id))
            except ApiError as error:
                if error.status != HTTPStatus.NOT_FOUND:  # somebody else has deleted it
                    return toast(error.message)
        return draw_question_of_many(verb, runs)

    def answer(self, selection: SelectedRun, event: gr.EventData) -> dict[Any, Any]:
        """The question was answered; it names the runs or the study, since another may be open by now."""
        verb, _, ids = str(event.pick).partition(":")
        if verb in ("study-cancel-now", "study-delete-now"):
            verb = verb.split("-")[1]
            refusal = self.study.act(verb, ids)
            if verb == "delete" and not refusal and selection.study.id == ids:
                selection.open()
        elif verb in (action.verb for action in RUN_ACTIONS if action.asks):
            refusal = self._act(verb, ids.split(","), selection)
        else:
            return {self.refusal: ""}
        return {self.refusal: refusal, **self.refresh(selection)}

    def _act(self, verb: str, runs: Sequence[str], selection: SelectedRun) -> str:
        """Call a verb of ``RUN_ACTIONS`` for these runs. Returns: why some of them refused, if any did.

        A run that has ended or was deleted meanwhile is passed over. After another refusal the rest stay as they are.
        Those that were refused stay chosen.
        """
        done, refusals = 0, list[ApiError]()
        for run_id in runs:
            try:
                getattr(self.client, verb)(run_id)
            except ApiError as error:
                refusals.append(error)
                if error.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                    break
                continue
            done += 1
            selection.listing = replace(selection.listing, checked=selection.listing.checked - {run_id})
            if verb == "delete" and selection.current.id == run_id:
                selection.open()
        return draw_refusal(verb, refusals[0].message, len(runs) - done, len(runs)) if refusals else ""

    def annotate(self, selection: SelectedRun, tags: str, notes: str) -> str:
        """Replace what was edited of tags and notes of the run whose tags and notes the fields hold.

        Another run may be selected already while its own tags and notes are still being fetched. The fields keep what
        was typed: more may have been typed since. What was not edited here may have been edited elsewhere since, and is
        not sent.

        Returns: verdict.
        """
        if (filled := selection.annotated) is None:
            return invalid_message(None, "no run is open")
        edited = Annotation(filled.run, parse_tags(tags), notes.strip())
        changes: dict[str, Any] = {} if edited.tags == filled.tags else {"tags": edited.tags}
        changes |= {} if edited.notes == filled.notes.strip() else {"notes": edited.notes}
        try:
            if changes:
                self.client.annotate(filled.run, **changes)
        except ApiError as error:
            return invalid_message(error.field, error.message)
        selection.annotated = edited
        return status_line("Saved.")

    def list_named(self, selection: SelectedRun, name: str) -> dict[Any, Any]:
        """The newest runs whose name contains what was typed."""
        if name.strip() == selection.listing.name:  # the field was filled in from an address
            return {self.listing: gr.skip()}
        selection.listing = replace(selection.listing, name=name.strip(), page=ListPage())
        return self.refresh(selection)

    def compare(self, selection: SelectedRun, others: list[str], metrics: list[str], axis: str) -> dict[Any, Any]:
        selection.comparison, selection.absent = ComparisonChoice(tuple(others), tuple(metrics), axis), ()
        return self.refresh(selection)

    def chart(self, selection: SelectedRun, metric: str, value: str) -> dict[Any, Any]:
        """Another figure or curve of the study."""
        selection.study = replace(selection.study, metric=metric, value=value, curves=None)
        return self.refresh(selection)

    def tick(self, selection: SelectedRun, name: str | None) -> dict[Any, Any]:
        """Fetches nothing while the tab is hidden (``name`` is None)."""
        return {self.listing: gr.skip()} if name is None else self.refresh(selection)

    def refresh(self, selection: SelectedRun) -> dict[Any, Any]:
        """The present table, and the run or study beside it."""
        run_id, study_id = selection.current.id, selection.study.id
        shown: dict[Any, Any] = {self.panel: gr.Column(visible=run_id is not None)}
        shown[self.study.column] = gr.Column(visible=study_id is not None)
        try:
            listing = selection.listing
            page, studies = self.client.runs(**listing.query), self.client.studies()["items"]
            runs = page["items"]
            selection.listing = listing = listing.fetched(listing.page, runs, page.get("next_cursor"))
        except ApiError as error:
            return {self.listing: error_box(error.message, "The runs cannot be shown", reopens=True)}
        chosen = [run for run in runs if run["id"] in listing.checked]
        shown[self.menus] = draw_menus(runs, studies, listing)
        table = draw_run_table(runs, studies, run_id or study_id, listing)
        shown[self.listing] = mark_view(draw_chosen(chosen) + table + listing.page.draw(), **listing.address)
        back = f'<a class="lcl-back" href="{esc(address(tab="runs", **listing.address))}">‹ Runs</a>'
        if study_id is not None:
            watched, drawn = self.study.refresh(selection.study, back)
            if selection.study.id != study_id:  # another was opened since
                return {self.listing: gr.skip()}
            selection.study = watched
            return {**shown, **drawn, self.head: ""}
        shown[self.study.head] = ""
        if run_id is None:
            selection.annotated = None
            return {**shown, self.head: LOADING}
        shown[self.comparison.others] = self.comparison.update_choices(selection, runs)
        try:
            run, detail = self.detail(selection.current, selection, runs, back)
        except ApiError as error:
            message = NO_SUCH_RUN if error.status == HTTPStatus.NOT_FOUND else error.message
            empty = {self.curves: "", self.details: "", self.annotation: gr.Accordion(visible=False)}
            box = back + error_box(message, "This run cannot be shown")
            return {**shown, **empty, self.head: mark_view(box, run=run_id)}
        if selection.current.id != run_id:  # another was opened since
            return {self.listing: gr.skip()}
        selection.current = run
        return {**shown, **detail}

    def detail(
        self, watched: WatchedRun, selection: SelectedRun, listed: Sequence[Json], back: str
    ) -> tuple[WatchedRun, dict[Any, Any]]:
        """Fetch new lines of the open run and draw it. Raises: ApiError."""
        run = self.client.run(str(watched.id))
        if run.get("attempt", 0) != watched.attempt:
            watched = WatchedRun(watched.id, run.get("attempt", 0))
        moving = run["state"] in ACTIVE_STATES
        if not watched.complete or moving:
            files = () if moving else self._artifacts(str(watched.id))
            watched = self.fetch(watched)
            complete = not moving and files is not None and not watched.log_error
            watched = replace(watched, complete=complete, artifacts=files or ())
        compares = selection.comparison.others and run["kind"] == "pretrain"
        overlay = self.comparison.draw(selection, run, watched.lines, listed) if compares else ""
        title = run.get("name") or KIND_LABELS.get(run["kind"], "")
        return watched, {
            self.head: mark_view(back + draw_head(run), title, run=run["id"], **selection.comparison.address),
            **self._annotation(selection, run),
            self.curves: (overlay or draw_curves(run, watched.lines)) + self.comparison.draw_absent(selection),
            self.details: draw_details(
                run,
                watched.lines,
                watched.artifacts,
                watched.log,
                watched.log_error,
                f"lcl runs logs {run['id']}" if watched.log_cut else "",
            ),
        }

    def _annotation(self, selection: SelectedRun, run: Json) -> dict[Any, Any]:
        """Tags and notes of a run in their fields, once: a refresh does not overwrite what is being typed."""
        filled = selection.annotated
        if (filled and filled.run == run["id"]) or selection.current.id != run["id"]:
            return {}
        selection.annotated = filled = Annotation(str(run["id"]), list(run.get("tags") or ()), run.get("notes") or "")
        return {self.annotation: gr.Accordion(visible=True), self.tags: " ".join(filled.tags), self.notes: filled.notes}

    def _artifacts(self, run_id: str) -> tuple[Json, ...] | None:
        """None: they cannot be listed yet, as while they are on their way to the store; the header says so."""
        try:
            return tuple(self.client.artifacts(run_id))
        except ApiError:
            return None

    def fetch(self, watched: WatchedRun) -> WatchedRun:
        """Append new metric lines and log text. Raises: ApiError.

        The service sends a long log in chunks: after the first one, what is not shown anyway is skipped. A log that
        cannot be read, as while it is on its way to the store, leaves the rest of the run on show.
        """
        new = loss_lines(self.client.metrics(str(watched.id), after=last_step(watched.lines)))
        watched = replace(watched, lines=watched.lines + new)
        try:
            log = self.client.logs(str(watched.id), offset=watched.offset)
            text = watched.log + log["text"]
            if log["offset"] < log["size"]:
                log = self.client.logs(str(watched.id), offset=max(log["offset"], log["size"] - MAX_LOG_BYTES))
                text += log["text"]
        except ApiError as error:
            return replace(watched, log_error=error.message)
        cut = watched.log_cut or len(text) > MAX_LOG_CHARACTERS
        return replace(watched, log=text[-MAX_LOG_CHARACTERS:], log_cut=cut, log_error="", offset=log["offset"])
