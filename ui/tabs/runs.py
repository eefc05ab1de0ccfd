"""Runs tab: submit runs, follow, pause, cancel, resume, clone and annotate them, compare curves of several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

import gradio as gr

from api.client import ApiError, Client
from api.client.payloads import Json
from lcl_core.specs.parsing import KIND_LABELS
from ui.addresses import mark_view, read_address
from ui.common import (
    BUSY_EVENT,
    EACH_COUNTS,
    FOCUS_QUESTION_SCRIPT,
    LAST_COUNTS,
    SILENT_EVENT,
    ListPage,
    html_pane,
    parse_drafts,
    restore_script,
    seen_script,
    submitted_script,
)
from ui.html import ACTIVE_STATES, PICK_SCRIPT, error_box, toast
from ui.ranking import SAMPLE_DATASET
from ui.spec_fields import FIRST_PRESET, preset_names, put_at, starting_spec
from ui.tabs.run_comparison import (
    Annotation,
    ComparisonChoice,
    Lines,
    RunComparison,
    RunSelection,
    last_step,
    loss_lines,
)
from ui.tabs.run_form import SpecForm, invalid_message, valid_message
from ui.tabs.run_table import (
    MAX_NAME,
    TABLE,
    RunListing,
    draw_listing_controls,
    draw_run_table,
    linked_listing,
    parse_tags,
)
from ui.tabs.run_view import (
    LOADING,
    NO_SUCH_RUN,
    RUN_ACTIONS,
    draw_chosen,
    draw_curves,
    draw_details,
    draw_head,
    draw_list,
    draw_question,
    draw_question_of_many,
    draw_refusal,
)

REFRESH_SECONDS = 2
MAX_LOG_CHARACTERS = 20_000
MAX_LOG_BYTES = 4 * MAX_LOG_CHARACTERS  # as UTF-8
ALL = "all"
# the editor's text, or none where a link has changed the tab
SAME_TAB_SCRIPT = "(text, ...values) => [window.lclAddress.changedTab ? '' : text, ...values]"
SCROLL_TO_FORM_SCRIPT = "() => document.querySelector('#new-run').scrollIntoView({behavior: 'smooth'})"
# to a form that an address has filled in
OPEN_FORM_SCRIPT = f"() => new URLSearchParams(location.search).has('new') && ({SCROLL_TO_FORM_SCRIPT})()"


@dataclass(frozen=True)
class WatchedRun:
    """Metric lines, log and, once it has ended, files of the selected run that were fetched.

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


SelectedRun = RunSelection[WatchedRun]


class RunsTab:
    title = "Runs"

    def __init__(self, client: Client) -> None:
        self.client = client
        self.forms = {kind: SpecForm(client, kind) for kind in KIND_LABELS}
        self.comparison = RunComparison(client)

    def build(self) -> None:
        self.selection = gr.State(SelectedRun(WatchedRun()))
        with gr.Accordion("New run", open=False, elem_classes="lcl-panel", elem_id="new-run") as self.drawer:
            kinds = [(words, kind) for kind, words in KIND_LABELS.items()]
            self.kind = gr.Radio(kinds, value="pretrain", label="Kind", show_label=False, elem_classes="lcl-segment")
            for kind, form in self.forms.items():
                form.build(visible=kind == "pretrain")
        with gr.Row(equal_height=False, elem_classes="lcl-columns"):
            with gr.Column(scale=4, min_width=300, elem_classes="lcl-panel"):
                filters = [("All", ALL), *((words, kind) for kind, words in KIND_LABELS.items())]
                self.only = gr.Radio(
                    filters, value=ALL, label="Show", show_label=False, elem_classes="lcl-segment lcl-segment--small"
                )
                self.name = gr.Textbox(
                    label="Find runs", show_label=False, placeholder="Find runs whose name contains …", max_lines=1,
                    max_length=MAX_NAME, elem_id="run-name-filter",
                )  # fmt: skip
                self.listing = html_pane(js_on_load=PICK_SCRIPT, elem_id="run-list")
            with gr.Column(scale=7, min_width=300, elem_classes="lcl-panel lcl-run"):
                self._build_detail()

    def _build_detail(self) -> None:
        self.head = html_pane(LOADING, js_on_load=PICK_SCRIPT, elem_id="run-head")
        self.refusal = html_pane(js_on_load=PICK_SCRIPT, elem_id="run-question")
        self.curves = html_pane(elem_id="run-curves")
        self.comparison.build()
        self.details = html_pane(elem_id="run-details")
        with gr.Accordion("Tags and notes", open=False, elem_id="run-annotation", visible=False) as self.annotation:
            self.tags = gr.Textbox(label="Tags", info="separated by blanks or commas", max_lines=1, elem_id="run-tags")
            self.notes = gr.Textbox(label="Notes", lines=3, max_lines=12, elem_id="run-notes")
            with gr.Row(elem_classes="lcl-submit"):
                self.annotation_verdict = html_pane()
                self.save = gr.Button("Save", size="sm", min_width=90, elem_id="run-annotate")

    def wire(self, page: gr.Blocks, tab: gr.Tab, navigation: gr.HTML) -> None:
        self.clock = gr.Timer(REFRESH_SECONDS)
        edited = [self.annotation, self.tags, self.notes]
        everything = [
            self.listing, self.comparison.others, self.head, *edited, self.curves, self.details,
        ]  # fmt: skip
        for event in (tab.select, navigation.select):
            event(
                self.open_address, [self.selection, self.only], [self.only, self.name, *everything],
                **SILENT_EVENT | LAST_COUNTS,
            ).then(
                self.comparison.show_linked, self.selection, self.comparison.inputs, **SILENT_EVENT | LAST_COUNTS
            )  # fmt: skip
        self._wire_listing(everything)
        self.save.click(
            self.annotate, [self.selection, self.tags, self.notes], self.annotation_verdict, **BUSY_EVENT
        ).then(self.refresh, [self.selection, self.only], everything, **SILENT_EVENT)
        self.comparison.wire()
        gr.on(
            [component.input for component in self.comparison.inputs],
            self.compare, [self.selection, self.only, *self.comparison.inputs], everything,
            **SILENT_EVENT | LAST_COUNTS,
        )  # fmt: skip
        self.kind.input(
            lambda kind: [gr.Column(visible=kind == name) for name in self.forms],
            self.kind, [form.column for form in self.forms.values()], **SILENT_EVENT | LAST_COUNTS,
        )  # fmt: skip
        self.refusal.select(self.answer, [self.selection, self.only], [self.refusal, *everything], **BUSY_EVENT)
        self.head.select(self.act, [self.selection, self.only], [self.refusal, *everything], **BUSY_EVENT).then(
            None, js=FOCUS_QUESTION_SCRIPT
        )
        filled = [self.drawer, self.kind, *(part for form in self.forms.values() for part in form.parts), self.refusal]
        carrier = self.forms["pretrain"].editor  # of the drafts
        opened = tab.select(self.restore_drafts, carrier, filled, js=restore_script("runs"), **SILENT_EVENT)
        prepared = opened.then(self.prepare_form, None, filled, **SILENT_EVENT)
        # a link from another tab has selected this one: filled in again, the form would lose what was done meanwhile
        followed = navigation.select(self.follow_link, carrier, filled, js=SAME_TAB_SCRIPT, **SILENT_EVENT)
        for event in (prepared, followed):
            event.then(None, js=OPEN_FORM_SCRIPT)
        for form in self.forms.values():
            self._wire_form(form, prepared, followed, everything)

    def _wire_listing(self, everything: list[Any]) -> None:
        self.name.change(  # a text field has its event ``input`` at a key alone, not when a text is pasted
            self.list_named, [self.selection, self.only, self.name], everything, **SILENT_EVENT | LAST_COUNTS
        )
        self.only.input(self.list_kind, [self.selection, self.only], everything, **SILENT_EVENT | LAST_COUNTS)
        self.clock.tick(self.tick, [self.selection, self.only], everything, js=seen_script("runs"), **SILENT_EVENT)
        self.listing.select(self.select, [self.selection, self.only], everything, **SILENT_EVENT | EACH_COUNTS)
        self.listing.select(self.show_question_of_many, self.selection, self.refusal, **SILENT_EVENT).then(
            None, js=FOCUS_QUESTION_SCRIPT
        )

    def _wire_form(self, form: SpecForm, prepared: Any, followed: Any, everything: list[Any]) -> None:
        form.wire()
        form.wire_proposal(prepared, None)
        form.wire_proposal(followed, SAME_TAB_SCRIPT)
        form.submit.click(
            lambda text, name, selection, *values: self.submit(form, text, name, selection, values),
            [form.editor, form.name, self.selection, *form.inputs],
            form.verdict,
            **BUSY_EVENT,
        ).then(self.refresh, [self.selection, self.only], everything, **SILENT_EVENT).then(
            None, js=submitted_script(form.kind)
        )

    def submit(self, form: SpecForm, text: str, name: str, selection: SelectedRun, values: Sequence[Any]) -> str:
        """The new run is selected."""
        verdict, run_id = form.send(text, name, values)
        if run_id:
            selection.current = WatchedRun(run_id)
            selection.listing = replace(selection.listing, page=ListPage())
        return verdict

    def show_question(self, verb: str, run_id: str) -> str:
        """The question before a verb of ``RUN_ACTIONS``, or the error of the service."""
        try:
            return draw_question(verb, self.client.run(run_id))
        except ApiError as error:
            return toast(error.message)

    def show_question_of_many(self, selection: SelectedRun, event: gr.EventData) -> str:
        """The question before the chosen runs are cancelled or deleted, or the error of the service."""
        action, _, verb = str(event.pick).partition(":")
        if action != "all":
            return ""
        runs = []
        for run_id in sorted(selection.listing.checked):
            try:
                runs.append(self.client.run(run_id))
            except ApiError as error:
                if error.status != HTTPStatus.NOT_FOUND:  # somebody else has deleted it
                    return toast(error.message)
        return draw_question_of_many(verb, runs)

    def answer(self, selection: SelectedRun, only: str, event: gr.EventData) -> tuple[Any, ...]:
        """The question was answered; it names the runs, since another may be selected by now.

        A run that has ended or was deleted meanwhile is passed over. After another refusal the rest stay as they are.
        Those that were refused stay chosen.
        """
        verb, _, ids = str(event.pick).partition(":")
        if verb not in (action.verb for action in RUN_ACTIONS if action.asks):
            return "", *_unchanged()
        runs, done, refusals = ids.split(","), 0, list[ApiError]()
        for run_id in runs:
            try:
                getattr(self.client, verb)(run_id)
            except ApiError as error:
                refusals.append(error)
                if error.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                    break
                continue
            done += 1
            if run_id in selection.listing.checked:
                selection.listing = selection.listing.changed("check", run_id)
            if verb == "delete" and selection.current.id == run_id:
                selection.current = WatchedRun()
        refusal = draw_refusal(verb, refusals[0].message, len(runs) - done, len(runs)) if refusals else ""
        return refusal, *self.refresh(selection, only)

    def act(self, selection: SelectedRun, only: str, event: gr.EventData) -> tuple[Any, ...]:
        """A verb of ``RUN_ACTIONS`` was pressed, with the run: it is done, or asked about first."""
        verb, _, run_id = str(event.pick).partition(":")
        action = next((action for action in RUN_ACTIONS if action.verb == verb), None)
        if action is None or action.asks:
            return self.show_question(verb, run_id) if action else "", *_unchanged()
        try:
            getattr(self.client, verb)(run_id)
        except ApiError as error:
            return toast(error.message), *_unchanged()
        return "", *self.refresh(selection, only)

    def annotate(self, selection: SelectedRun, tags: str, notes: str) -> str:
        """Replace what was edited of tags and notes of the run whose tags and notes the fields hold.

        Another run may be selected already while its own tags and notes are still being fetched. The fields keep what
        was typed: more may have been typed since. What was not edited here may have been edited elsewhere since, and is
        not sent.

        Returns: verdict.
        """
        if (filled := selection.annotated) is None:
            return invalid_message(None, "no run is selected")
        edited = Annotation(filled.run, parse_tags(tags), notes.strip())
        changes: dict[str, Any] = {} if edited.tags == filled.tags else {"tags": edited.tags}
        changes |= {} if edited.notes == filled.notes.strip() else {"notes": edited.notes}
        try:
            if changes:
                self.client.annotate(filled.run, **changes)
        except ApiError as error:
            return invalid_message(error.field, error.message)
        selection.annotated = edited
        return valid_message("Saved.")

    def _open_form(self, kind: str, spec: dict[str, Any], name: str | None) -> list[Any]:
        """The form of the kind alone, filled in."""
        filled = [
            part
            for each, form in self.forms.items()
            for part in (form.fill(spec, name) if each == kind else form.hide())
        ]
        return [gr.Accordion(open=True), kind, *filled, ""]

    def _forms_unchanged(self) -> list[Any]:
        return [gr.skip()] * (3 + sum(len(form.parts) for form in self.forms.values()))

    def follow_link(self, text: str, request: gr.Request) -> list[Any]:
        """``prepare_form`` for a link inside the tab. ``text``: empty where the link has changed the tab."""
        return self.prepare_form(request) if text else self._forms_unchanged()

    def prepare_form(self, request: gr.Request) -> list[Any]:
        """``?tab=runs&new=evaluate&on=ENCODER`` opens the form of the kind, filled in.

        ``clone=RUN`` fills in spec and name of a run, ``dataset=NAME`` the dataset of a pre-training, an index or a
        conversion, and ``only_tags=TAG`` or ``without_tags=TAG`` what a conversion keeps or leaves out.
        """
        linked = read_address(request, "runs")
        kind = linked.get("new", "")
        if kind not in self.forms:
            return self._forms_unchanged()
        if source := linked.get("clone"):
            try:
                run = self.client.run(source)
            except ApiError as error:
                return [*self._forms_unchanged()[:-1], toast(error.message)]
            return self._open_form(run["kind"], run["spec"], run["name"])
        spec = starting_spec(kind, FIRST_PRESET if FIRST_PRESET in preset_names(kind) else None)
        encoder, dataset = linked.get("on"), linked.get("dataset")
        if encoder and kind != "pretrain":
            spec = put_at(spec, "encoder", encoder)
        if dataset and kind == "pretrain":
            spec = put_at(spec, "data.sources", self._sources(dataset))
        if dataset and kind == "convert":
            tags = {field: [linked[field]] for field in ("only_tags", "without_tags") if linked.get(field)}
            spec = {**spec, **tags, "dataset": dataset, "name": f"{dataset}-chosen"}
        if kind == "index":
            spec = put_at(spec, "dataset", dataset or SAMPLE_DATASET)
            new = f"{SAMPLE_DATASET}-{str(encoder or 'new').removeprefix('enc_')[-8:]}"
            spec = put_at(spec, "collection", dataset or new)
        return self._open_form(kind, spec, None)

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

    def restore_drafts(self, drafts: str) -> list[Any]:
        """Forms that were filled in before the page was loaded again; the newest is shown."""
        saved = {kind: draft for kind, draft in parse_drafts(drafts).items() if kind in self.forms}
        if not saved:
            return self._forms_unchanged()
        newest = list(saved)[-1]
        filled = [
            part
            for kind, form in self.forms.items()
            for part in (form.restore(*saved[kind], visible=kind == newest) if kind in saved else form.hide())
        ]
        return [gr.Accordion(open=True), newest, *filled, ""]

    def select(self, selection: SelectedRun, only: str, event: gr.EventData) -> tuple[Any, ...]:
        """A run was picked, or the layout, the order, the state or the tag of the list."""
        action, colon, value = str(event.pick).partition(":")
        if action == "all":  # a question is asked first
            return _unchanged()
        if colon:
            selection.listing = selection.listing.changed(action, value)
            return self.refresh(selection, only)
        if selection.current.id != str(event.pick):
            selection.current, selection.absent = WatchedRun(str(event.pick)), ()
        return self.refresh(selection, only)

    def list_kind(self, selection: SelectedRun, only: str) -> tuple[Any, ...]:
        """The newest runs of another kind."""
        selection.listing = replace(selection.listing, page=ListPage())
        return self.refresh(selection, only)

    def list_named(self, selection: SelectedRun, only: str, name: str) -> tuple[Any, ...]:
        """The newest runs whose name contains what was typed."""
        if name.strip() == selection.listing.name:  # the field was filled in from an address
            return _unchanged()
        selection.listing = selection.listing.changed("name", name.strip())
        return self.refresh(selection, only)

    def compare(
        self, selection: SelectedRun, only: str, others: list[str], metrics: list[str], axis: str
    ) -> tuple[Any, ...]:
        selection.comparison, selection.absent = ComparisonChoice(tuple(others), tuple(metrics), axis), ()
        return self.refresh(selection, only)

    def open_address(self, selection: SelectedRun, only: str, request: gr.Request) -> tuple[Any, ...]:
        """The run, its comparison and the kinds of the address; on that of another tab what was shown."""
        if address := read_address(request, "runs"):
            kind = address.get("kind", ALL)
            only = kind if kind in KIND_LABELS else ALL
            selection.listing = linked_listing(address)
            self.comparison.open_linked(selection, address)
            if address.get("run", selection.current.id) != selection.current.id:
                selection.current = WatchedRun(address["run"])
        return only, selection.listing.name, *self.refresh(selection, only)

    def tick(self, selection: SelectedRun, only: str | None, request: gr.Request) -> Any:
        """Fetches nothing while the tab is hidden (``only`` is None). A tick may precede the first refresh."""
        return gr.skip() if only is None else self.refresh(selection, only, request)

    def refresh(self, selection: SelectedRun, only: str = ALL, request: gr.Request | None = None) -> tuple[Any, ...]:
        """Current list and selected run; initially the run of ``?run=ID``, else the newest."""
        try:
            listing = selection.listing
            page = self.client.runs(
                kind=None if only == ALL else only,
                state=listing.state or None,
                tag=listing.tag or None,
                name=listing.name or None,
                limit=listing.limit,
                cursor=listing.page.cursor,
            )
            runs = page["items"]
            selection.listing = listing = selection.listing.fetched(listing.page, runs, page.get("next_cursor"))
        except ApiError as error:
            return error_box(error.message, "The runs cannot be shown"), *_unchanged()[1:]
        if selection.current.id is None:
            linked = request.query_params.get("run") if request else None
            selection.current = WatchedRun(linked or (runs[0]["id"] if runs else None))
        watched = selection.current
        if watched.id is None:
            selection.annotated = None
            return _draw_list(runs, None, only, listing), gr.skip(), "", *_empty_detail()
        choices = self.comparison.update_choices(selection, runs)
        try:
            watched, detail = self.detail(watched, selection, runs)
        except ApiError as error:
            edits = selection.annotated is not None and selection.annotated.run == watched.id
            if not edits and selection.current.id == watched.id:
                selection.annotated = None  # the fields are emptied
            message = NO_SUCH_RUN if error.status == HTTPStatus.NOT_FOUND else error.message
            detail = error_box(message, "This run cannot be shown"), *_empty_detail(keep_annotation=edits)
        if selection.current.id != watched.id:  # another run was selected since
            return _unchanged()
        selection.current = watched
        return _draw_list(runs, watched.id, only, listing), choices, *detail

    def detail(
        self, watched: WatchedRun, selection: SelectedRun, listed: Sequence[Json]
    ) -> tuple[WatchedRun, tuple[Any, ...]]:
        """Fetch new lines of the selected run and draw it. Raises: ApiError."""
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
        return watched, (
            mark_view(
                draw_head(run),
                run.get("name") or KIND_LABELS.get(run["kind"], ""),
                run=run["id"],
                **selection.comparison.address,
            ),
            *self._annotation(selection, run),
            (overlay or draw_curves(run, watched.lines)) + self.comparison.draw_absent(selection),
            draw_details(
                run,
                watched.lines,
                watched.artifacts,
                watched.log,
                watched.log_error,
                f"lcl runs logs {run['id']}" if watched.log_cut else "",
            ),
        )

    def _annotation(self, selection: SelectedRun, run: Json) -> list[Any]:
        """Tags and notes of a run in their fields, once: a refresh does not overwrite what is being typed."""
        filled = selection.annotated
        if (filled and filled.run == run["id"]) or selection.current.id != run["id"]:
            return [gr.skip()] * 3
        selection.annotated = Annotation(str(run["id"]), list(run.get("tags") or ()), run.get("notes") or "")
        return [gr.Accordion(visible=True), " ".join(selection.annotated.tags), selection.annotated.notes]

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


def _draw_list(runs: Sequence[Json], selected: str | None, only: str, listing: RunListing) -> str:
    if listing.layout == TABLE and runs:
        chosen = [run for run in runs if run["id"] in listing.checked]
        drawn = draw_chosen(chosen) + draw_run_table(runs, selected, listing)
    else:
        drawn = draw_list(runs, selected, filtered=only != ALL or listing.filtered)
    controls = draw_listing_controls(runs, listing) if runs or listing.filtered else ""
    return mark_view(controls + drawn + listing.page.draw(), kind="" if only == ALL else only, **listing.address)


def _empty_detail(*, keep_annotation: bool = False) -> tuple[Any, ...]:
    """``keep_annotation``: the fields of tags and notes stay, with what is being typed there."""
    annotation = (gr.skip(),) * 3 if keep_annotation else (gr.Accordion(visible=False), "", "")
    return *annotation, "", ""


def _unchanged() -> tuple[Any, ...]:
    """Of ``RunsTab.refresh``: list, choices of the comparison, header and the rest stay as they are."""
    return tuple(gr.skip() for _ in ("list", "choices", "header", *_empty_detail()))
