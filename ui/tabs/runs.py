"""Runs tab: one table of runs and studies, what is open beside it, and the form of a new one."""

from __future__ import annotations

from collections.abc import Sequence
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
    LAST_COUNTS,
    SILENT_EVENT,
    ListPage,
    html_pane,
    restore_script,
    seen_script,
)
from ui.html import ACTIVE_STATES, PICK_SCRIPT, error_box, esc, notice, toast
from ui.spec_fields import FIRST_PRESETS, STUDY, put_at, starting_spec
from ui.tabs.run_comparison import (
    ComparisonChoice,
    RunCurve,
    draw_comparison,
    draw_comparison_menu,
    linked_choice,
    read_curve,
)
from ui.tabs.run_form import FORM_SCRIPT, TITLES, FilledForm, RunForm, parse_values
from ui.tabs.run_table import MAX_NAME, RunListing, draw_menus, draw_run_table, linked_listing, parse_tags
from ui.tabs.run_view import (
    LOADING,
    NO_SUCH_RUN,
    RUN_ACTIONS,
    WatchedRun,
    draw_chosen,
    draw_curves,
    draw_details,
    draw_head,
    draw_question,
)
from ui.tabs.study_view import STUDY_ACTIONS, WatchedStudy, draw_study, read_study
from ui.tabs.study_view import draw_question as draw_study_question

REFRESH_SECONDS = 2
QUESTION_SCRIPT = "watch('value', () => window.lclQuestion.focus());"  # in js_on_load
MAX_LOG_CHARACTERS = 20_000
MAX_LOG_BYTES = 4 * MAX_LOG_CHARACTERS  # as UTF-8
ACTIONS = {action.verb: action for action in (*RUN_ACTIONS, *STUDY_ACTIONS)}


@dataclass
class SelectedRun:
    """What one page shows of the tab, changed in place: events overtake each other, and the newest state counts.

    Args:
        current, study: what is open beside the table: a run, or a study, or neither.
        curves: of runs that were open, or compared with the open one, by id.
        form: the form that is open in place of the table.
        sent: number of the newest edit of it.
    """

    current: WatchedRun = field(default_factory=WatchedRun)
    study: WatchedStudy = field(default_factory=WatchedStudy)
    listing: RunListing = field(default_factory=RunListing)
    comparison: ComparisonChoice = field(default_factory=ComparisonChoice)
    curves: dict[str, RunCurve] = field(default_factory=dict)
    form: FilledForm | None = None
    sent: str = ""

    def open(self, run: str | None = None, study: str | None = None) -> None:
        """What is open already keeps what was fetched."""
        if run != self.current.id:
            self.current = WatchedRun(run)
        if study != self.study.id:
            self.study = WatchedStudy(study)


class RunsTab:
    def __init__(self, client: Client) -> None:
        self.client = client
        self.forms = RunForm(client)

    def build(self) -> None:
        self.selection = gr.State(SelectedRun())
        self.form = html_pane(js_on_load=FORM_SCRIPT, elem_id="new-run")
        with gr.Column(elem_classes="lcl-overview") as self.overview:
            with gr.Row(elem_classes="lcl-toolbar"):
                self.name = gr.Textbox(
                    label="Find runs", show_label=False, placeholder="Find …", max_lines=1, max_length=MAX_NAME,
                    elem_id="run-name-filter", min_width=160, container=False,
                )  # fmt: skip
                self.menus = html_pane(js_on_load=PICK_SCRIPT, elem_id="run-menus")
            self.question = html_pane(js_on_load=PICK_SCRIPT + QUESTION_SCRIPT, elem_id="run-question")
            with gr.Row(equal_height=False, elem_classes="lcl-columns"):
                with gr.Column(scale=5, min_width=300):
                    self.listing = html_pane(js_on_load=PICK_SCRIPT, elem_id="run-list")
                with gr.Column(visible=False, scale=7, min_width=300, elem_classes="lcl-panel lcl-run") as self.panel:
                    self.opened = html_pane(LOADING, js_on_load=PICK_SCRIPT + FORM_SCRIPT, elem_id="opened-run")

    def wire(self, page: gr.Blocks, tab: gr.Tab, navigation: gr.HTML) -> None:
        refreshed = [self.question, self.menus, self.listing, self.panel, self.opened]
        everything = [*refreshed, self.name, self.overview, self.form]
        opened = gr.on(
            [tab.select, navigation.select], self.open_address, [self.selection, self.name], everything,
            js=restore_script(), **SILENT_EVENT | LAST_COUNTS,
        )  # fmt: skip
        gr.Timer(REFRESH_SECONDS).tick(
            self.tick, [self.selection, self.name], refreshed, js=seen_script("runs"), **SILENT_EVENT
        )
        self.name.change(  # a text field has its event ``input`` at a key alone, not when a text is pasted
            self.list_named, [self.selection, self.name], refreshed, **SILENT_EVENT | LAST_COUNTS
        )
        gr.on(
            [pane.select for pane in (self.menus, self.listing, self.opened)],
            self.pick, self.selection, refreshed, **SILENT_EVENT | EACH_COUNTS,
        )  # fmt: skip
        self.question.select(self.answer, self.selection, refreshed, **BUSY_EVENT)
        edited = self.form.select(self.edit, self.selection, everything, **SILENT_EVENT | EACH_COUNTS)
        for event in (opened, edited):
            event.then(self.estimate, self.selection, self.form, **SILENT_EVENT | LAST_COUNTS)

    def open_address(self, selection: SelectedRun, draft: str, request: gr.Request) -> dict[Any, Any]:
        """The form, or the table with the run or study, of the address; on that of another tab what was shown.

        ``draft``: the form as it was left at this address, as JSON.
        """
        linked = read_address(request, "runs")
        if linked.get("new") in TITLES:
            try:
                selection.form = self.open_form(linked, draft)
            except ApiError as error:
                return {self.question: toast(error.message)}
            return self._show_form(selection.form)
        if linked:
            selection.form, selection.sent = None, ""
            selection.listing = linked_listing(linked)
            selection.comparison = linked_choice(linked)
            selection.open(linked.get("run"), linked.get(STUDY))
        return {self.name: selection.listing.name, **self._show_table(), **self.refresh(selection)}

    def _show_form(self, draft: FilledForm) -> dict[Any, Any]:
        return {self.overview: gr.Column(visible=False), self.form: draft.draw()}

    def _show_table(self) -> dict[Any, Any]:
        return {self.overview: gr.Column(visible=True), self.form: ""}

    def open_form(self, linked: dict[str, str], draft: str = "null") -> FilledForm:
        """``?tab=runs&new=evaluate&on=ENCODER`` opens the form of the kind, filled in. Raises: ApiError.

        ``on`` is the encoder of an evaluation or an index, ``dataset`` what a run reads. ``only_tags=TAG`` and
        ``without_tags=TAG`` choose what is converted, and ``clone=RUN`` fills in spec and name of a run. ``draft``: the
        form as it was left at this address.
        """
        kind = linked["new"]
        own = {name: value for name, value in linked.items() if name != "tab"}
        if source := linked.get("clone"):
            run = self.client.run(source)
            spec = {name: value for name, value in run["spec"].items() if name != "mode"}
            opened = self.forms.open(kind, spec, run["name"] or "", own)
        else:
            opened = self.forms.open(kind, self._linked_spec(kind, linked), linked=own)
        values = parse_values(draft)
        return self.forms.change(opened, values) if values.get("kind") == [kind] else opened

    def _linked_spec(self, kind: str, linked: dict[str, str]) -> dict[str, Any]:
        spec, about = starting_spec(kind, FIRST_PRESETS.get(kind)), linked.get("on")
        dataset = linked.get("dataset")
        if about and kind in ("evaluate", "index"):
            spec = put_at(spec, "encoder", about)
        if dataset and kind == "pretrain":
            spec = put_at(spec, "data.sources", self._sources(dataset))
        elif dataset and kind != STUDY:
            tags = {name: [linked[name]] for name in ("only_tags", "without_tags") if linked.get(name)}
            spec = {**spec, "dataset": dataset, **(tags if kind == "convert" else {})}
        return spec

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

    def edit(self, selection: SelectedRun, event: gr.EventData) -> dict[Any, Any]:
        """A field of the form was edited, or the form submitted. Then it closes, and what it has made is open."""
        verb, _, text = str(event.pick).partition(":")
        values = parse_values(text)
        draft, sent, made = selection.form, "".join(values.get("sent", [])), None
        if draft is None or sent < selection.sent:
            return {self.form: gr.skip()}
        selection.sent = sent
        if verb in ("start", "replace"):
            changed, made = self.forms.start(draft, values, confirmed=verb == "replace")
        else:
            changed = self.forms.change(draft, values)
        if made is None and (selection.form is None or selection.sent != sent):  # a newer event counts
            return {self.form: gr.skip()}
        if made is None:
            selection.form = replace(changed, sent=sent)
            return {self.form: selection.form.draw()}
        selection.form = None
        selection.listing = replace(selection.listing, page=ListPage())
        selection.open(**{STUDY if draft.kind == STUDY else "run": made})
        return {**self._show_table(), **self.refresh(selection)}

    def estimate(self, selection: SelectedRun) -> Any:
        """The form with the estimate of the service; no change if it was edited or closed meanwhile."""
        if (draft := selection.form) is None:
            return gr.skip()
        drawn = self.forms.draw_cost(draft)
        if selection.form is not draft or drawn == draft.estimate:
            return gr.skip()
        selection.form = replace(draft, estimate=drawn)
        return selection.form.draw()

    def pick(self, selection: SelectedRun, event: gr.EventData) -> dict[Any, Any]:
        """Something was pressed in the menus, the table, or the run or study that is open."""
        action, _, value = str(event.pick).partition(":")
        said = ""
        if action in ("run", STUDY):
            selection.open(**{action: value})
        elif action == "all":
            return {self.question: self.question_before(value, sorted(selection.listing.checked))}
        elif action in ACTIONS and ACTIONS[action].asks:
            return {self.question: self.question_before(action, [value])}
        elif action in ACTIONS:
            said = self.act(selection, action, [value])
        elif action == "annotate":
            said = self.annotate(value)
        elif action in ("with", "metric", "over"):
            selection.comparison = selection.comparison.changed(action, value)
        elif action in ("figure", "curve"):
            selection.study = selection.study.changed(action, value)
        else:
            selection.listing = selection.listing.changed(action, value)
        return {self.question: said, **self.refresh(selection)}

    def question_before(self, verb: str, ids: Sequence[str]) -> str:
        """The question before something is lost, or the error of the service."""
        found = []
        try:
            if verb.endswith("_study"):
                return draw_study_question(verb, self.client.study(ids[0]))
            for run_id in ids:
                try:
                    found.append(self.client.run(run_id))
                except ApiError as error:
                    if error.status != HTTPStatus.NOT_FOUND:  # somebody else has deleted it
                        raise
        except ApiError as error:
            return toast(error.message)
        return draw_question(verb, found) if verb in ACTIONS else ""

    def answer(self, selection: SelectedRun, event: gr.EventData) -> dict[Any, Any]:
        """The question was answered; it names the runs or the study, since another may be open by now."""
        verb, _, ids = str(event.pick).partition(":")
        if verb not in ACTIONS:
            return {self.question: ""}
        return {self.question: self.act(selection, verb, ids.split(",")), **self.refresh(selection)}

    def act(self, selection: SelectedRun, verb: str, ids: Sequence[str]) -> str:
        """Call a verb of ``ACTIONS`` for runs or a study. Returns: why some of them refused, if any did.

        A run that has ended or was deleted meanwhile is passed over. After another refusal the rest stay as they are.
        Those that were refused stay chosen.
        """
        done, refusals = 0, list[str]()
        for each in ids:
            try:
                answer = getattr(self.client, verb)(each)
            except ApiError as error:
                refusals.append(error.message)
                if error.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                    break
                continue
            done += 1
            if verb == "resume_study":
                refusals += [run["message"] for run in answer["not_resumed"]]
            selection.listing = replace(selection.listing, checked=selection.listing.checked - {each})
            if verb in ("delete", "delete_study") and each in (selection.current.id, selection.study.id):
                selection.open()
        if len(ids) > 1 and refusals:
            return toast(refusals[0], f"{done} of {len(ids)} runs: {ACTIONS[verb].words.lower()}")
        return toast("; ".join(refusals)) if refusals else ""

    def annotate(self, text: str) -> str:
        """Replace tags and notes of a run. Returns: what is said of it."""
        run_id, tags, notes = ("".join(parse_values(text).get(name, [])) for name in ("run", "tags", "notes"))
        try:
            self.client.annotate(run_id, tags=parse_tags(tags), notes=notes.replace("\r\n", "\n").strip())
        except ApiError as error:
            return toast(error.message)
        return notice("Tags and notes are stored.", "Saved")

    def list_named(self, selection: SelectedRun, name: str) -> dict[Any, Any]:
        """The newest runs whose name contains what was typed."""
        if name.strip() == selection.listing.name:  # the field was filled in from an address
            return {self.listing: gr.skip()}
        selection.listing = replace(selection.listing, name=name.strip(), page=ListPage())
        return self.refresh(selection)

    def tick(self, selection: SelectedRun, name: str | None) -> dict[Any, Any]:
        """Fetches nothing while the tab is hidden (``name`` is None), or behind a form."""
        return {self.listing: gr.skip()} if name is None or selection.form else self.refresh(selection)

    def refresh(self, selection: SelectedRun) -> dict[Any, Any]:
        """The present table, and the run or study beside it."""
        run_id, study_id, listing = selection.current.id, selection.study.id, selection.listing
        try:
            page, studies = self.client.runs(**listing.query), self.client.studies()["items"]
        except ApiError as error:
            return {self.listing: error_box(error.message, "The runs cannot be shown", reopens=True)}
        runs = page["items"]
        selection.listing = listing = selection.listing.fetched(listing.page, runs, page.get("next_cursor"))
        chosen = [run for run in runs if run["id"] in listing.checked]
        table = draw_run_table(runs, studies, run_id or study_id, listing)
        shown = {
            self.menus: draw_menus(runs, studies, listing),
            self.listing: mark_view(draw_chosen(chosen) + table + listing.page.draw(), **listing.address),
            self.panel: gr.Column(visible=bool(run_id or study_id)),
        }
        opened = self.draw_opened(selection, runs)
        if (selection.current.id, selection.study.id) != (run_id, study_id):  # another was opened since
            return {self.listing: gr.skip()}
        return {**shown, self.opened: opened}

    def draw_opened(self, selection: SelectedRun, listed: Sequence[Json]) -> str:
        """The run or study beside the table, or why it cannot be shown; ``listed``: the runs of the table."""
        run_id, study_id = selection.current.id, selection.study.id
        back = f'<a class="lcl-back" href="{esc(address(tab="runs", **selection.listing.address))}">‹ Runs</a>'
        try:
            if study_id:
                watched, study = read_study(self.client, selection.study)
                selection.study = watched if selection.study.id == study_id else selection.study
                return mark_view(back + draw_study(study, watched), str(study.get("name") or ""), study=study_id)
            return self.draw_run(selection, listed, back) if run_id else LOADING
        except ApiError as error:
            gone = error.status == HTTPStatus.NOT_FOUND and run_id
            box = error_box(
                NO_SUCH_RUN if gone else error.message, f"This {'run' if run_id else 'study'} cannot be shown"
            )
            return mark_view(back + box, run=run_id, study=study_id)

    def draw_run(self, selection: SelectedRun, listed: Sequence[Json], back: str) -> str:
        """Fetch what is new of the open run, and draw it. Raises: ApiError."""
        run, watched = self.client.run(str(selection.current.id)), selection.current
        if run.get("attempt", 0) != watched.attempt:
            watched = WatchedRun(watched.id, run.get("attempt", 0))
        if not watched.complete or run["state"] in ACTIVE_STATES:
            watched = self.fetch(watched, run)
        if selection.current.id == watched.id:
            selection.current = watched
        curve = selection.curves[run["id"]] = read_curve(self.client, run, selection.curves.get(run["id"], RunCurve()))
        choice, menu, curves = selection.comparison, "", draw_curves(run, curve.lines)
        if run["kind"] == "pretrain":
            choice = replace(choice, others=tuple(each for each in choice.others if each != run["id"]))
            menu = draw_comparison_menu(choice, run["id"], listed)
            if choice.others:
                curves = draw_comparison(self.client, choice, selection.curves, run, listed)
        title = run.get("name") or KIND_LABELS.get(run["kind"], "")
        drawn = (
            f'<div id="run-head">{back}{draw_head(run, menu)}</div><div id="run-curves">{curves}</div>'
            f'<div id="run-details">{draw_details(run, watched, curve.lines)}</div>'
        )
        return mark_view(drawn, title, run=run["id"], **(choice.address if menu else {}))

    def fetch(self, watched: WatchedRun, run: Json) -> WatchedRun:
        """Append new log text; once the run has ended its files.

        The service sends a long log in chunks: after the first one, what is not shown anyway is skipped. What cannot
        be read, as while it is on its way to the store, leaves the rest of the run on show.
        """
        run_id, ended = run["id"], run["state"] not in ACTIVE_STATES
        watched = replace(watched, log_error="")
        try:
            log = self.client.logs(run_id, offset=watched.offset)
            text = watched.log + log["text"]
            if log["offset"] < log["size"]:
                log = self.client.logs(run_id, offset=max(log["offset"], log["size"] - MAX_LOG_BYTES))
                text += log["text"]
            cut = watched.log_cut or len(text) > MAX_LOG_CHARACTERS
            watched = replace(watched, log=text[-MAX_LOG_CHARACTERS:], log_cut=cut, offset=log["offset"])
        except ApiError as error:
            watched = replace(watched, log_error=error.message)
        try:
            files = tuple(self.client.artifacts(run_id)) if ended else ()
        except ApiError:
            return watched
        start = self.start_figures(run) if ended and run["kind"] == "evaluate" else ()
        return replace(watched, artifacts=files, start=start, complete=ended and not watched.log_error)

    def start_figures(self, run: Json) -> tuple[Json, ...]:
        """Figures on the same data of the encoder whose weights the evaluated one started from; none if unknown."""
        if not run.get("encoder_id"):
            return ()
        data = (run["spec"].get("dataset"), (run.get("result") or {}).get("dataset_hash"))
        try:
            spec = self.client.encoder_card(run["encoder_id"])["spec"]
            start = (spec.get("model") or {}).get("init")
            figures = self.client.encoder_figures(start) if start else []
        except ApiError:
            return ()
        return tuple(row for row in figures if (row.get("dataset"), row.get("dataset_hash")) == data)
