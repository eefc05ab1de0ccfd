"""Runs tab: submit runs, follow them live, pause, cancel, resume and clone them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import gradio as gr

from api.client import ApiError, Client
from lcl_core.common.errors import UserError
from ui.common import BUSY_EVENT, SILENT_EVENT
from ui.html import PICK_SCRIPT, error_box, toast
from ui.tabs.run_comparison import (
    ACTIVE_STATES,
    ComparisonChoice,
    Lines,
    RunComparison,
    RunSelection,
    last_step,
    loss_lines,
)
from ui.tabs.run_form import SpecForm
from ui.tabs.run_view import KIND_LABELS, NOTHING_SELECTED, draw_curves, draw_head, draw_list, draw_log, draw_result


@dataclass(frozen=True)
class RunAction:
    """``verb``: the client's call. ``states``: those from which the service takes it."""

    verb: str
    words: str
    states: tuple[str, ...]
    variant: Literal["secondary", "stop"] = "secondary"


RUN_ACTIONS = (
    RunAction("pause", "Pause", ("waiting", "queued", "running")),
    RunAction("unpause", "Unpause", ("paused",)),
    RunAction("resume", "Resume", ("failed", "cancelled")),
    RunAction("retry", "Start anew", ("failed", "cancelled")),
    RunAction("cancel", "Cancel", ("waiting", "queued", "running", "pausing", "paused"), "stop"),
)
SMALL_BUTTON: dict[str, Any] = {"size": "sm", "min_width": 90, "visible": False}


class RunActions:
    """The row of buttons; the last one, Clone, fits every run."""

    def build(self) -> None:
        with gr.Row(elem_classes="lcl-actions"):
            self.buttons = {
                action.verb: gr.Button(
                    action.words, variant=action.variant, elem_id=f"run-{action.verb}", **SMALL_BUTTON
                )
                for action in RUN_ACTIONS
            }
            self.clone = gr.Button("Clone", elem_id="run-clone", **SMALL_BUTTON)

    @property
    def components(self) -> list[gr.Button]:
        return [*self.buttons.values(), self.clone]


def visible_buttons(state: str | None) -> list[gr.Button]:
    """Which of the buttons are visible; none without a run."""
    fitting = [gr.Button(visible=state in action.states) for action in RUN_ACTIONS]
    return [*fitting, gr.Button(visible=state is not None)]


REFRESH_SECONDS = 2
MAX_LOG_CHARACTERS = 20_000  # characters kept on the page
ALL = "all"
SCROLL_TO_FORM_SCRIPT = "() => document.querySelector('#new-run').scrollIntoView({behavior: 'smooth'})"
# what a refresh draws: list, what can be compared, head, curves, result, log, and a button each
REFRESHED_OUTPUTS = 6 + len(RUN_ACTIONS) + 1
# Asked of the page itself at each tick: the events of tabs may overtake each other.
VISIBLE_ONLY_SCRIPT = """(selection, only) => {
  const seen = !document.hidden && document.querySelector('#tab-runs-button[aria-selected="true"]');
  return [selection, seen ? only : null];
}"""


@dataclass(frozen=True)
class WatchedRun:
    """What the page has already fetched of the selected run."""

    id: str | None = None
    attempt: int = 0
    lines: Lines = field(default=(), repr=False)
    log: str = field(default="", repr=False)
    offset: int = 0
    settled: bool = False  # the run had ended when its metrics and log were last read


SelectedRun = RunSelection[WatchedRun]


class RunsTab:
    title = "Runs"

    def __init__(self, client: Client) -> None:
        self.client = client
        self.forms = {kind: SpecForm(client, kind) for kind in KIND_LABELS}
        self.actions = RunActions()
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
                self.listing = gr.HTML(apply_default_css=False, js_on_load=PICK_SCRIPT, elem_id="run-list")
            with gr.Column(scale=7, min_width=300, elem_classes="lcl-panel lcl-run"):
                self._build_detail()

    def _build_detail(self) -> None:
        self.head = gr.HTML(NOTHING_SELECTED, apply_default_css=False, elem_id="run-head")
        self.actions.build()
        self.refusal = gr.HTML(apply_default_css=False)
        self.comparison.build()
        self.curves = gr.HTML(apply_default_css=False, elem_id="run-curves")
        self.result = gr.HTML(apply_default_css=False, elem_id="run-result")
        with gr.Accordion("Log", open=False):
            self.log = gr.HTML(apply_default_css=False, autoscroll=True, elem_id="run-log")

    def wire(self, page: gr.Blocks, tab: gr.Tab) -> None:
        self.clock = gr.Timer(REFRESH_SECONDS)
        detail = [self.head, *self.actions.components, self.curves, self.result, self.log]
        everything = [self.listing, self.comparison.others, *detail]
        for event in (tab.select, self.only.input):
            event(self.refresh, [self.selection, self.only], everything, **SILENT_EVENT)
        self.clock.tick(self.tick, [self.selection, self.only], everything, js=VISIBLE_ONLY_SCRIPT, **SILENT_EVENT)
        self.listing.select(self.select, [self.selection, self.only], everything, **SILENT_EVENT)
        self.comparison.wire()
        gr.on(
            [component.input for component in self.comparison.inputs],
            self.compare, [self.selection, self.only, *self.comparison.inputs], everything, **SILENT_EVENT,
        )  # fmt: skip
        self.kind.input(self.show_form, self.kind, [form.column for form in self.forms.values()], **SILENT_EVENT)
        for verb, button in self.actions.buttons.items():
            button.click(
                lambda selection, verb=verb: self.act(verb, selection), self.selection, self.refusal, **BUSY_EVENT
            ).then(self.refresh, [self.selection, self.only], everything, **SILENT_EVENT)
        filled = [self.drawer, self.kind, *(part for form in self.forms.values() for part in form.parts), self.refusal]
        self.actions.clone.click(self.clone, self.selection, filled, **BUSY_EVENT).then(None, js=SCROLL_TO_FORM_SCRIPT)
        for form in self.forms.values():
            self._wire_form(form, tab, everything)

    def _wire_form(self, form: SpecForm, tab: gr.Tab, everything: list[Any]) -> None:
        form.wire()
        tab.select(lambda text: self.refresh_form(form, text), form.editor, form.shown, **SILENT_EVENT)
        form.submit.click(
            lambda text, name, selection, *values: self.submit(form, text, name, selection, values),
            [form.editor, form.name, self.selection, *form.inputs],
            form.verdict,
            **BUSY_EVENT,
        ).then(self.refresh, [self.selection, self.only], everything, **SILENT_EVENT)

    def show_form(self, kind: str) -> list[Any]:
        return [gr.Column(visible=kind == name) for name in self.forms]

    def refresh_form(self, form: SpecForm, text: str) -> list[Any]:
        """A service that does not answer, or JSON that is being written, leaves the form as it is."""
        try:
            return form.refresh(text)
        except (ApiError, UserError):
            return [gr.skip()] * form.width

    def submit(self, form: SpecForm, text: str, name: str, selection: SelectedRun, values: Sequence[Any]) -> str:
        """The new run becomes the selected one."""
        verdict, run_id = form.send(text, name, values)
        if run_id:
            selection.watched = WatchedRun(run_id)
        return verdict

    def act(self, verb: str, selection: SelectedRun) -> str:
        """One of ``ACTIONS``; a refusal is shown in the service's words."""
        try:
            getattr(self.client, verb)(selection.watched.id)
        except ApiError as error:
            return toast(error.message)
        return ""

    def clone(self, selection: SelectedRun) -> list[Any]:
        """The selected run's spec and name into the form of its kind, where it may be changed and submitted."""
        try:
            run = self.client.run(str(selection.watched.id))
        except ApiError as error:
            return [gr.skip()] * (2 + sum(len(form.parts) for form in self.forms.values())) + [toast(error.message)]
        filled = [
            part
            for kind, form in self.forms.items()
            for part in (form.fill(run["spec"], run["name"]) if kind == run["kind"] else form.put_aside())
        ]
        return [gr.Accordion(open=True), run["kind"], *filled, ""]

    def select(self, selection: SelectedRun, only: str, event: gr.EventData) -> tuple[Any, ...]:
        if selection.watched.id != str(event.pick):
            selection.watched = WatchedRun(str(event.pick))
        return self.refresh(selection, only)

    def compare(self, selection: SelectedRun, only: str, others: list[str], metric: str, axis: str) -> tuple[Any, ...]:
        selection.question = ComparisonChoice(tuple(others), metric, axis)
        return self.refresh(selection, only)

    def tick(self, selection: SelectedRun, only: str | None, request: gr.Request) -> Any:
        """Nothing is fetched while another tab is looked at; a tick may come before the tab's own event."""
        return gr.skip() if only is None else self.refresh(selection, only, request)

    def refresh(self, selection: SelectedRun, only: str = ALL, request: gr.Request | None = None) -> tuple[Any, ...]:
        """List and selected run as they are now; at first the run of ``?run=ID`` is taken, or the newest."""
        try:
            runs = self.client.runs(kind=None if only == ALL else only)["items"]
        except ApiError as error:
            return error_box(error.message, "The runs cannot be shown"), *[gr.skip()] * (REFRESHED_OUTPUTS - 1)
        if selection.watched.id is None:
            wanted = request.query_params.get("run") if request else None
            selection.watched = WatchedRun(wanted or (runs[0]["id"] if runs else None))
        watched = selection.watched
        if watched.id is None:
            return draw_list(runs, None), gr.skip(), NOTHING_SELECTED, *_empty_detail()
        offer = self.comparison.offer(selection, runs)
        try:
            watched, detail = self.detail(watched, selection, runs)
        except ApiError as error:
            detail = error_box(error.message, "This run cannot be shown"), *_empty_detail()
        if selection.watched.id != watched.id:  # chosen meanwhile: that event draws
            return (gr.skip(),) * REFRESHED_OUTPUTS
        selection.watched = watched
        return draw_list(runs, watched.id), offer, *detail

    def detail(
        self, watched: WatchedRun, selection: SelectedRun, listed: Sequence[dict[str, Any]]
    ) -> tuple[WatchedRun, tuple[Any, ...]]:
        """Fetch what is new of the selected run and draw it. Raises: ApiError."""
        run = self.client.run(str(watched.id))
        if run.get("attempt", 0) != watched.attempt:
            watched = WatchedRun(watched.id, run.get("attempt", 0))
        moving = run["state"] in ACTIVE_STATES
        if not watched.settled or moving:
            watched = replace(self.fetch(watched), settled=not moving)
        beside = selection.question.others and self.comparison.draw(selection, run, watched.lines, listed)
        return watched, (
            draw_head(run),
            *visible_buttons(run["state"]),
            beside or draw_curves(run, watched.lines),
            draw_result(run),
            draw_log(watched.log),
        )

    def fetch(self, watched: WatchedRun) -> WatchedRun:
        """Metric lines and log from where the page stands. Raises: ApiError."""
        new = loss_lines(self.client.metrics(str(watched.id), after=last_step(watched.lines)))
        log = self.client.logs(str(watched.id), offset=watched.offset)
        tail = (watched.log + log["text"])[-MAX_LOG_CHARACTERS:]
        return replace(watched, lines=watched.lines + new, log=tail, offset=log["offset"])


def _empty_detail() -> tuple[Any, ...]:
    return *visible_buttons(None), "", "", ""
