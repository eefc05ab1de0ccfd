"""Runs tab: submit runs, follow, pause, cancel, resume, clone and annotate them, compare curves of several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import gradio as gr

from api.client import ApiError, Client, UserError
from lcl_core.specs.parsing import KIND_LABELS
from ui.addresses import mark_view, read_address
from ui.charts import AXIS_LABELS, MAX_SERIES, METRIC_LABELS, RunSeries, metric_points, overlay_chart
from ui.common import (
    BUSY_EVENT,
    SILENT_EVENT,
    PageSelection,
    Shown,
    html_pane,
    parse_drafts,
    restore_script,
    submitted_script,
)
from ui.html import ACTIVE_STATES, PICK_SCRIPT, error_box, toast
from ui.ranking import SAMPLE_DATASET
from ui.spec_fields import FIRST_PRESET, preset_names, put_at, starting_spec
from ui.tabs.run_form import SpecForm, invalid_message, valid_message
from ui.tabs.run_table import (
    TABLE,
    RunListing,
    draw_listing_controls,
    draw_run_table,
    draw_spec_differences,
    linked_listing,
    parse_tags,
)
from ui.tabs.run_view import (
    NOTHING_SELECTED,
    draw_artifacts,
    draw_curves,
    draw_head,
    draw_list,
    draw_log,
    draw_result,
    draw_system,
    draw_workers,
)

Run = Mapping[str, Any]
Lines = tuple[dict[str, Any], ...]
FIRST_METRIC, FIRST_AXIS = "loss", "step"


@dataclass(frozen=True)
class RunCurve:
    """Metric lines of a run. ``complete``: the run had ended when they were last read."""

    attempt: int = 0
    lines: Lines = ()
    complete: bool = False


@dataclass(frozen=True)
class ComparisonChoice:
    """Runs, metric and axis that the user has chosen."""

    others: Sequence[str] = ()
    metric: str = FIRST_METRIC
    axis: str = FIRST_AXIS


@dataclass
class RunSelection(PageSelection[Shown]):
    """The selected run, how the runs are listed, the chosen comparison, curves of the other runs by id, the choices
    (label, id), and the run whose tags and notes stand in the fields."""

    listing: RunListing = field(default_factory=RunListing)
    annotated: str | None = None
    comparison: ComparisonChoice = ComparisonChoice()
    curves: dict[str, RunCurve] = field(default_factory=dict)
    choices: list[tuple[str, str]] = field(default_factory=list)


class RunComparison:
    """Dropdowns above the chart, and the chart."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def build(self) -> None:
        with gr.Row(elem_classes="lcl-beside"):
            self.others = gr.Dropdown(
                [], value=[], multiselect=True, max_choices=MAX_SERIES - 1, label="Compare with",
                elem_id="compare-with", scale=3, min_width=220, visible=False,
            )  # fmt: skip
            metrics = [(words, metric) for metric, words in METRIC_LABELS.items()]
            self.metric = gr.Dropdown(metrics, value=FIRST_METRIC, label="Metric", visible=False, min_width=160)
            axes = [(words.split()[0], axis) for axis, words in AXIS_LABELS.items()]
            self.axis = gr.Radio(
                axes, value=FIRST_AXIS, label="Over", visible=False, min_width=190, elem_classes="lcl-segment"
            )

    @property
    def inputs(self) -> list[Any]:
        """Components of a ``ComparisonChoice``."""
        return [self.others, self.metric, self.axis]

    def wire(self) -> None:
        """Metric and axis are visible once runs are chosen."""
        self.others.input(
            lambda others: [gr.Dropdown(visible=bool(others)), gr.Radio(visible=bool(others))],
            self.others, [self.metric, self.axis], **SILENT_EVENT,
        )  # fmt: skip

    def update_choices(self, selection: RunSelection[Any], runs: Sequence[Run]) -> Any:
        """New choices of the dropdown, if they have changed: an update would close an open list."""
        listed = [(run_label(run), str(run["id"])) for run in runs if run["kind"] == "pretrain"]
        here = {run_id for _, run_id in listed}
        choices = listed + [each for each in selection.choices if each[1] in selection.curves and each[1] not in here]
        if not listed or choices == selection.choices:
            return gr.skip()
        selection.choices = choices
        return gr.Dropdown(choices=[*choices], visible=len(choices) > 1)

    def draw(self, selection: RunSelection[Any], run: Run, lines: Lines, listed: Sequence[Run]) -> str:
        """The selected run first, if it is a pre-training, then the others in the order in which they were chosen."""
        choice = selection.comparison
        drawn = [run] if run["kind"] == "pretrain" else []
        series = [_series(each, lines, choice) for each in drawn]
        known, errors = {str(each["id"]): each for each in listed}, ""
        for run_id in (each for each in choice.others if each != run["id"]):
            try:
                other = known.get(run_id) or self.client.run(run_id)
                curve = self.read(run_id, other, selection.curves.get(run_id, RunCurve()))
            except ApiError as error:
                errors += error_box(error.message, "A run cannot be compared")
                continue
            selection.curves[run_id] = curve
            drawn.append(other)
            series.append(_series(other, curve.lines, choice))
        differences = draw_spec_differences(drawn, [each.name for each in series])
        return overlay_chart(choice.metric, choice.axis, series) + differences + errors

    def read(self, run_id: str, run: Run, curve: RunCurve) -> RunCurve:
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


def run_label(run: Run) -> str:
    """Name and end of the id: names need not be unique."""
    return f"{run.get('name') or 'Pre-train'} · {str(run['id'])[-6:]}"


def _series(run: Run, lines: Lines, choice: ComparisonChoice) -> RunSeries:
    return RunSeries(run_label(run), str(run["state"]), metric_points(lines, choice.metric, choice.axis))


@dataclass(frozen=True)
class RunAction:
    """``verb``: method of the client. ``states``: those in which the service allows it."""

    verb: str
    words: str
    states: tuple[str, ...]
    variant: Literal["secondary", "stop"] = "secondary"


RUN_ACTIONS = (
    RunAction("pause", "Pause", ("waiting", "queued", "running")),
    RunAction("unpause", "Unpause", ("paused",)),
    RunAction("resume", "Resume", ("failed", "cancelled")),
    RunAction("retry", "Restart from scratch", ("failed", "cancelled")),
    RunAction("cancel", "Cancel", ("waiting", "queued", "running", "pausing", "paused"), "stop"),
)
REFRESH_SECONDS = 2
MAX_LOG_CHARACTERS = 20_000
ALL = "all"
# the editor's text, or none where a link has changed the tab
SAME_TAB_SCRIPT = "(text) => window.lclAddress.changedTab ? '' : text"
SCROLL_TO_FORM_SCRIPT = "() => document.querySelector('#new-run').scrollIntoView({behavior: 'smooth'})"
# to a form that an address has filled in
OPEN_FORM_SCRIPT = f"() => new URLSearchParams(location.search).has('new') && ({SCROLL_TO_FORM_SCRIPT})()"
# list, choices of the comparison, header, form with tags and notes, system, curves, result, log, and the buttons
REFRESHED_OUTPUTS = 10 + len(RUN_ACTIONS) + 1
# Evaluated in the browser at each tick, since the events of tabs may overtake each other.
VISIBLE_ONLY_SCRIPT = """(selection, only) => {
  const seen = !document.hidden && document.querySelector('#tab-runs-button[aria-selected="true"]');
  return [selection, seen ? only : null];
}"""


def visible_buttons(state: str | None) -> list[gr.Button]:
    """Visibility of the buttons in a state; None: no run."""
    buttons = [gr.Button(visible=state in action.states) for action in RUN_ACTIONS]
    return [*buttons, gr.Button(visible=state is not None)]


@dataclass(frozen=True)
class WatchedRun:
    """Metric lines, log and, once it has ended, files of the selected run that were fetched."""

    id: str | None = None
    attempt: int = 0
    lines: Lines = field(default=(), repr=False)
    log: str = field(default="", repr=False)
    artifacts: tuple[dict[str, Any], ...] = field(default=(), repr=False)
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
                self.listing = html_pane(js_on_load=PICK_SCRIPT, elem_id="run-list")
            with gr.Column(scale=7, min_width=300, elem_classes="lcl-panel lcl-run"):
                self._build_detail()
        with gr.Accordion("Workers", open=False, elem_id="workers") as self.workers_drawer:
            self.workers = html_pane(elem_id="worker-list")

    def _build_detail(self) -> None:
        self.head = html_pane(NOTHING_SELECTED, elem_id="run-head")
        small: dict[str, Any] = {"size": "sm", "min_width": 90, "visible": False}
        with gr.Row(elem_classes="lcl-actions"):
            self.buttons = {
                action.verb: gr.Button(action.words, variant=action.variant, elem_id=f"run-{action.verb}", **small)
                for action in RUN_ACTIONS
            }
            self.clone_button = gr.Button("Clone", elem_id="run-clone", **small)
        self.refusal = html_pane()
        with gr.Accordion(
            "Edit tags and notes", open=False, elem_id="run-annotation", visible=False
        ) as self.annotation:
            self.tags = gr.Textbox(label="Tags", info="separated by blanks or commas", max_lines=1, elem_id="run-tags")
            self.notes = gr.Textbox(label="Notes", lines=3, max_lines=12, elem_id="run-notes")
            with gr.Row(elem_classes="lcl-submit"):
                self.annotation_verdict = html_pane()
                self.save = gr.Button("Save", size="sm", min_width=90, elem_id="run-annotate")
        self.comparison.build()
        self.curves = html_pane(elem_id="run-curves")
        self.result = html_pane(elem_id="run-result")
        with gr.Accordion("System", open=False, elem_id="run-system"):
            self.system = html_pane()
        with gr.Accordion("Log", open=False):
            self.log = html_pane(autoscroll=True, elem_id="run-log")

    def wire(self, page: gr.Blocks, tab: gr.Tab, navigation: gr.HTML) -> None:
        self.clock = gr.Timer(REFRESH_SECONDS)
        edited = [self.annotation, self.tags, self.notes]
        detail = [
            self.head,
            *self.buttons.values(),
            self.clone_button,
            *edited,
            self.system,
            self.curves,
            self.result,
            self.log,
        ]
        everything = [self.listing, self.comparison.others, *detail]
        for event in (tab.select, navigation.select):
            event(self.open_address, [self.selection, self.only], [self.only, *everything], **SILENT_EVENT)
        self.only.input(self.refresh, [self.selection, self.only], everything, **SILENT_EVENT)
        self.clock.tick(self.tick, [self.selection, self.only], everything, js=VISIBLE_ONLY_SCRIPT, **SILENT_EVENT)
        self.listing.select(self.select, [self.selection, self.only], everything, **SILENT_EVENT)
        self.save.click(
            self.annotate, [self.selection, self.tags, self.notes], self.annotation_verdict, **BUSY_EVENT
        ).then(self.refresh, [self.selection, self.only], everything, **SILENT_EVENT)
        self.workers_drawer.expand(self.show_workers, None, self.workers, **SILENT_EVENT)
        self.comparison.wire()
        gr.on(
            [component.input for component in self.comparison.inputs],
            self.compare, [self.selection, self.only, *self.comparison.inputs], everything, **SILENT_EVENT,
        )  # fmt: skip
        self.kind.input(self.show_form, self.kind, [form.column for form in self.forms.values()], **SILENT_EVENT)
        for verb, button in self.buttons.items():
            button.click(
                lambda selection, verb=verb: self.act(verb, selection), self.selection, self.refusal, **BUSY_EVENT
            ).then(self.refresh, [self.selection, self.only], everything, **SILENT_EVENT)
        filled = [self.drawer, self.kind, *(part for form in self.forms.values() for part in form.parts), self.refusal]
        self.clone_button.click(self.clone, self.selection, filled, **BUSY_EVENT).then(None, js=SCROLL_TO_FORM_SCRIPT)
        carrier = self.forms["pretrain"].editor  # of the drafts
        opened = tab.select(self.restore_drafts, carrier, filled, js=restore_script("runs"), **SILENT_EVENT)
        prepared = opened.then(self.prepare_form, None, filled, **SILENT_EVENT)
        # a link from another tab has selected this one: filled in again, the form would lose what was done meanwhile
        followed = navigation.select(self.follow_link, carrier, filled, js=SAME_TAB_SCRIPT, **SILENT_EVENT)
        for event in (prepared, followed):
            event.then(None, js=OPEN_FORM_SCRIPT)
        for form in self.forms.values():
            self._wire_form(form, prepared, followed, everything)

    def _wire_form(self, form: SpecForm, prepared: Any, followed: Any, everything: list[Any]) -> None:
        form.wire()
        for event, js in ((prepared, None), (followed, SAME_TAB_SCRIPT)):  # later: it keeps the values that it is given
            event.then(lambda text: self.refresh_form(form, text), form.editor, form.outputs, js=js, **SILENT_EVENT)
        form.submit.click(
            lambda text, name, selection, *values: self.submit(form, text, name, selection, values),
            [form.editor, form.name, self.selection, *form.inputs],
            form.verdict,
            **BUSY_EVENT,
        ).then(self.refresh, [self.selection, self.only], everything, **SILENT_EVENT).then(
            None, js=submitted_script(form.kind)
        )

    def show_workers(self) -> str:
        try:
            return draw_workers(self.client.workers())
        except ApiError as error:
            return error_box(error.message, "The workers cannot be shown")

    def show_form(self, kind: str) -> list[Any]:
        return [gr.Column(visible=kind == name) for name in self.forms]

    def refresh_form(self, form: SpecForm, text: str) -> list[Any]:
        """Unchanged on an error of the service, or while the editor has no valid JSON."""
        try:
            return form.refresh(text)
        except (ApiError, UserError):
            return [gr.skip()] * form.output_count

    def submit(self, form: SpecForm, text: str, name: str, selection: SelectedRun, values: Sequence[Any]) -> str:
        """The new run is selected."""
        verdict, run_id = form.send(text, name, values)
        if run_id:
            selection.current = WatchedRun(run_id)
        return verdict

    def act(self, verb: str, selection: SelectedRun) -> str:
        """Call a verb of ``RUN_ACTIONS``. Returns: the error of the service, if any."""
        try:
            getattr(self.client, verb)(selection.current.id)
        except ApiError as error:
            return toast(error.message)
        return ""

    def annotate(self, selection: SelectedRun, tags: str, notes: str) -> str:
        """Replace tags and notes of the selected run. Returns: verdict."""
        try:
            self.client.annotate(str(selection.current.id), tags=parse_tags(tags), notes=notes.strip())
        except ApiError as error:
            return invalid_message(error.field, error.message)
        selection.annotated = None  # the fields get what the service has
        return valid_message("Saved.")

    def clone(self, selection: SelectedRun) -> list[Any]:
        """Copy spec and name of the selected run into the form of its kind."""
        try:
            run = self.client.run(str(selection.current.id))
        except ApiError as error:
            return [gr.skip()] * (2 + sum(len(form.parts) for form in self.forms.values())) + [toast(error.message)]
        filled = [
            part
            for kind, form in self.forms.items()
            for part in (form.fill(run["spec"], run["name"]) if kind == run["kind"] else form.hide())
        ]
        return [gr.Accordion(open=True), run["kind"], *filled, ""]

    def follow_link(self, text: str, request: gr.Request) -> list[Any]:
        """``prepare_form`` for a link inside the tab. ``text``: empty where the link has changed the tab."""
        return self.prepare_form(request) if text else [gr.skip()] * self._filled_count

    @property
    def _filled_count(self) -> int:
        """Outputs of ``prepare_form``."""
        return 3 + sum(len(form.parts) for form in self.forms.values())

    def prepare_form(self, request: gr.Request) -> list[Any]:
        """``?tab=runs&new=evaluate&on=ENCODER`` opens the form of the kind, filled in.

        ``dataset=NAME`` fills in the dataset of a pre-training or an index.
        """
        linked = read_address(request, "runs")
        kind = linked.get("new", "")
        if kind not in self.forms:
            return [gr.skip()] * self._filled_count
        spec = starting_spec(kind, FIRST_PRESET if FIRST_PRESET in preset_names(kind) else None)
        encoder, dataset = linked.get("on"), linked.get("dataset")
        if encoder and kind != "pretrain":
            spec = put_at(spec, "encoder", encoder)
        if dataset and kind == "pretrain":
            spec = put_at(spec, "data.sources", self._sources(dataset))
        if kind == "index":
            spec = put_at(spec, "dataset", dataset or SAMPLE_DATASET)
            new = f"{SAMPLE_DATASET}-{str(encoder or 'new').removeprefix('enc_')[-8:]}"
            spec = put_at(spec, "collection", dataset or new)
        filled = [
            part
            for name, form in self.forms.items()
            for part in (form.fill(spec, None) if name == kind else form.hide())
        ]
        return [gr.Accordion(open=True), kind, *filled, ""]

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
            return [gr.skip()] * self._filled_count
        newest = list(saved)[-1]
        filled = [
            part
            for kind, form in self.forms.items()
            for part in (form.restore(*saved[kind], visible=kind == newest) if kind in saved else form.hide())
        ]
        return [gr.Accordion(open=True), newest, *filled, ""]

    def select(self, selection: SelectedRun, only: str, event: gr.EventData) -> tuple[Any, ...]:
        """A run was picked, or the layout, the order or the tag of the list."""
        action, colon, value = str(event.pick).partition(":")
        if colon:
            selection.listing = selection.listing.changed(action, value)
            return self.refresh(selection, only)
        if selection.current.id != str(event.pick):
            selection.current = WatchedRun(str(event.pick))
        return self.refresh(selection, only)

    def compare(self, selection: SelectedRun, only: str, others: list[str], metric: str, axis: str) -> tuple[Any, ...]:
        selection.comparison = ComparisonChoice(tuple(others), metric, axis)
        return self.refresh(selection, only)

    def open_address(self, selection: SelectedRun, only: str, request: gr.Request) -> tuple[Any, ...]:
        """The run and the kinds of the address; on that of another tab what was shown."""
        if address := read_address(request, "runs"):
            kind = address.get("kind", ALL)
            only = kind if kind in KIND_LABELS else ALL
            selection.listing = linked_listing(address)
            if address.get("run", selection.current.id) != selection.current.id:
                selection.current = WatchedRun(address["run"])
        return only, *self.refresh(selection, only)

    def tick(self, selection: SelectedRun, only: str | None, request: gr.Request) -> Any:
        """Fetches nothing while the tab is hidden (``only`` is None). A tick may precede the first refresh."""
        return gr.skip() if only is None else self.refresh(selection, only, request)

    def refresh(self, selection: SelectedRun, only: str = ALL, request: gr.Request | None = None) -> tuple[Any, ...]:
        """Current list and selected run; initially the run of ``?run=ID``, else the newest."""
        try:
            listing = selection.listing
            page = self.client.runs(kind=None if only == ALL else only, tag=listing.tag or None, limit=listing.limit)
            runs = page["items"]
        except ApiError as error:
            return error_box(error.message, "The runs cannot be shown"), *[gr.skip()] * (REFRESHED_OUTPUTS - 1)
        if selection.current.id is None:
            linked = request.query_params.get("run") if request else None
            selection.current = WatchedRun(linked or (runs[0]["id"] if runs else None))
        watched = selection.current
        if watched.id is None:
            return _draw_list(page, None, only, listing), gr.skip(), NOTHING_SELECTED, *_empty_detail()
        choices = self.comparison.update_choices(selection, runs)
        try:
            watched, detail = self.detail(watched, selection, runs)
        except ApiError as error:
            detail = error_box(error.message, "This run cannot be shown"), *_empty_detail()
        if selection.current.id != watched.id:  # another run was selected since
            return (gr.skip(),) * REFRESHED_OUTPUTS
        selection.current = watched
        return _draw_list(page, watched.id, only, listing), choices, *detail

    def detail(
        self, watched: WatchedRun, selection: SelectedRun, listed: Sequence[dict[str, Any]]
    ) -> tuple[WatchedRun, tuple[Any, ...]]:
        """Fetch new lines of the selected run and draw it. Raises: ApiError."""
        run = self.client.run(str(watched.id))
        if run.get("attempt", 0) != watched.attempt:
            watched = WatchedRun(watched.id, run.get("attempt", 0))
        moving = run["state"] in ACTIVE_STATES
        if not watched.complete or moving:
            files = () if moving else self._artifacts(str(watched.id))
            watched = replace(self.fetch(watched), complete=not moving and files is not None, artifacts=files or ())
        overlay = selection.comparison.others and self.comparison.draw(selection, run, watched.lines, listed)
        return watched, (
            mark_view(draw_head(run), run.get("name") or KIND_LABELS.get(run["kind"], ""), run=run["id"]),
            *visible_buttons(run["state"]),
            *self._annotation(selection, run),
            draw_system(run, watched.lines),
            overlay or draw_curves(run, watched.lines),
            draw_result(run) + draw_artifacts(str(watched.id), watched.artifacts),
            draw_log(watched.log),
        )

    def _annotation(self, selection: SelectedRun, run: Run) -> list[Any]:
        """Tags and notes of a run in their fields, once: a refresh does not overwrite what is being typed."""
        if selection.annotated == run["id"]:
            return [gr.skip()] * 3
        selection.annotated = str(run["id"])
        return [gr.Accordion(visible=True), " ".join(run.get("tags") or ()), run.get("notes") or ""]

    def _artifacts(self, run_id: str) -> tuple[dict[str, Any], ...] | None:
        """None: they cannot be listed yet, as while they are on their way to the store; the header says so."""
        try:
            return tuple(self.client.artifacts(run_id))
        except ApiError:
            return None

    def fetch(self, watched: WatchedRun) -> WatchedRun:
        """Append new metric lines and log text. Raises: ApiError."""
        new = loss_lines(self.client.metrics(str(watched.id), after=last_step(watched.lines)))
        log = self.client.logs(str(watched.id), offset=watched.offset)
        tail = (watched.log + log["text"])[-MAX_LOG_CHARACTERS:]
        return replace(watched, lines=watched.lines + new, log=tail, offset=log["offset"])


def _draw_list(page: Mapping[str, Any], selected: str | None, only: str, listing: RunListing) -> str:
    runs, more = page["items"], bool(page.get("next_cursor"))
    if listing.layout == TABLE and runs:
        drawn = draw_run_table(runs, selected, listing, more=more)
    else:
        drawn = draw_list(runs, selected)
    controls = draw_listing_controls(runs, listing) if runs or listing.tag else ""
    return mark_view(controls + drawn, kind="" if only == ALL else only, **listing.address)


def _empty_detail() -> tuple[Any, ...]:
    return *visible_buttons(None), gr.Accordion(visible=False), "", "", "", "", "", ""
