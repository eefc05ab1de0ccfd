"""Runs: submit one, watch them live, hold them, stop them and take them up again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr

from api.client import ApiError, Client
from lcl_core.specs import UserError
from ui.common import BUSY, QUIET
from ui.html import PICK, problem, toast
from ui.tabs.comparison import (
    MOVING,
    Comparison,
    Lines,
    Question,
    RunSelection,
    kept,
    last_step,
)
from ui.tabs.run_actions import ACTIONS, RunActions, shown_for
from ui.tabs.run_form import SpecForm
from ui.tabs.run_view import (
    KIND_WORDS,
    NOTHING_SELECTED,
    draw_curves,
    draw_head,
    draw_list,
    draw_log,
    draw_result,
)

REFRESH_SECONDS = 2
LOG_TAIL = 20_000  # characters kept on the page
ALL = "all"
TO_THE_FORM = "() => document.querySelector('#new-run').scrollIntoView({behavior: 'smooth'})"
# what a refresh draws: list, what can be compared, head, curves, result, log, and a button each
DRAWN = 6 + len(ACTIONS) + 1
# Asked of the page itself at each tick: the events of tabs may overtake each other.
ONLY_WHEN_SEEN = """(selection, only) => {
  const seen = !document.hidden && document.querySelector('#tab-runs-button[aria-selected="true"]');
  return [selection, seen ? only : null];
}"""


@dataclass(frozen=True)
class Watched:
    """What the page has already fetched of the selected run."""

    id: str | None = None
    attempt: int = 0
    lines: Lines = field(default=(), repr=False)
    log: str = field(default="", repr=False)
    offset: int = 0
    settled: bool = False  # the run had ended when its metrics and log were last read

Chosen = RunSelection[Watched]


class RunsTab:
    title = "Runs"

    def __init__(self, client: Client) -> None:
        self.client = client
        self.forms = {kind: SpecForm(client, kind) for kind in KIND_WORDS}
        self.actions = RunActions()
        self.comparison = Comparison(client)

    def build(self) -> None:
        self.selection = gr.State(Chosen(Watched()))
        with gr.Accordion("New run", open=False, elem_classes="lcl-panel", elem_id="new-run") as self.drawer:
            kinds = [(words, kind) for kind, words in KIND_WORDS.items()]
            self.kind = gr.Radio(kinds, value="pretrain", label="Kind", show_label=False, elem_classes="lcl-segment")
            for kind, form in self.forms.items():
                form.build(visible=kind == "pretrain")
        with gr.Row(equal_height=False, elem_classes="lcl-columns"):
            with gr.Column(scale=4, min_width=300, elem_classes="lcl-panel"):
                filters = [("All", ALL), *((words, kind) for kind, words in KIND_WORDS.items())]
                self.only = gr.Radio(
                    filters, value=ALL, label="Show", show_label=False, elem_classes="lcl-segment lcl-segment--small"
                )
                self.listing = gr.HTML(apply_default_css=False, js_on_load=PICK, elem_id="run-list")
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
            event(self.refresh, [self.selection, self.only], everything, **QUIET)
        self.clock.tick(self.tick, [self.selection, self.only], everything, js=ONLY_WHEN_SEEN, **QUIET)
        self.listing.select(self.select, [self.selection, self.only], everything, **QUIET)
        self.comparison.wire()
        gr.on(
            [component.input for component in self.comparison.inputs],
            self.compare, [self.selection, self.only, *self.comparison.inputs], everything, **QUIET,
        )  # fmt: skip
        self.kind.input(self.show_form, self.kind, [form.column for form in self.forms.values()], **QUIET)
        for verb, button in self.actions.buttons.items():
            button.click(
                lambda selection, verb=verb: self.act(verb, selection), self.selection, self.refusal, **BUSY
            ).then(self.refresh, [self.selection, self.only], everything, **QUIET)
        filled = [self.drawer, self.kind, *(part for form in self.forms.values() for part in form.parts), self.refusal]
        self.actions.clone.click(self.clone, self.selection, filled, **BUSY).then(None, js=TO_THE_FORM)
        for form in self.forms.values():
            self._wire_form(form, tab, everything)

    def _wire_form(self, form: SpecForm, tab: gr.Tab, everything: list[Any]) -> None:
        form.wire()
        tab.select(
            lambda text: self.refresh_form(form, text), form.editor, form.shown, **QUIET
        )
        form.submit.click(
            lambda text, name, selection, *values: self.submit(form, text, name, selection, values),
            [form.editor, form.name, self.selection, *form.inputs],
            form.verdict,
            **BUSY,
        ).then(self.refresh, [self.selection, self.only], everything, **QUIET)

    def show_form(self, kind: str) -> list[Any]:
        return [gr.Column(visible=kind == name) for name in self.forms]

    def refresh_form(self, form: SpecForm, text: str) -> list[Any]:
        """A service that does not answer, or JSON that is being written, leaves the form as it is."""
        try:
            return form.refresh(text)
        except (ApiError, UserError):
            return [gr.skip()] * form.width

    def submit(
        self, form: SpecForm, text: str, name: str, selection: Chosen, values: Sequence[Any]
    ) -> str:
        """The new run becomes the selected one."""
        verdict, run_id = form.send(text, name, values)
        if run_id:
            selection.watched = Watched(run_id)
        return verdict

    def act(self, verb: str, selection: Chosen) -> str:
        """One of ``ACTIONS``; a refusal is shown in the service's words."""
        try:
            getattr(self.client, verb)(selection.watched.id)
        except ApiError as error:
            return toast(error.message)
        return ""

    def clone(self, selection: Chosen) -> list[Any]:
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

    def select(self, selection: Chosen, only: str, event: gr.EventData) -> tuple[Any, ...]:
        if selection.watched.id != str(event.pick):
            selection.watched = Watched(str(event.pick))
        return self.refresh(selection, only)

    def compare(self, selection: Chosen, only: str, others: list[str], metric: str, axis: str) -> tuple[Any, ...]:
        selection.question = Question(tuple(others), metric, axis)
        return self.refresh(selection, only)

    def tick(self, selection: Chosen, only: str | None, request: gr.Request) -> Any:
        """Nothing is fetched while another tab is looked at; a tick may come before the tab's own event."""
        return gr.skip() if only is None else self.refresh(selection, only, request)

    def refresh(self, selection: Chosen, only: str = ALL, request: gr.Request | None = None) -> tuple[Any, ...]:
        """List and selected run as they are now; at first the run of ``?run=ID`` is taken, or the newest."""
        try:
            runs = self.client.runs(kind=None if only == ALL else only)["items"]
        except ApiError as error:
            return problem(error.message, "The runs cannot be shown"), *[gr.skip()] * (DRAWN - 1)
        if selection.watched.id is None:
            wanted = request.query_params.get("run") if request else None
            selection.watched = Watched(wanted or (runs[0]["id"] if runs else None))
        watched = selection.watched
        if watched.id is None:
            return draw_list(runs, None), gr.skip(), NOTHING_SELECTED, *_blank()
        offer = self.comparison.offer(selection, runs)
        try:
            watched, detail = self.detail(watched, selection, runs)
        except ApiError as error:
            detail = problem(error.message, "This run cannot be shown"), *_blank()
        if selection.watched.id != watched.id:  # chosen meanwhile: that event draws
            return (gr.skip(),) * DRAWN
        selection.watched = watched
        return draw_list(runs, watched.id), offer, *detail

    def detail(
        self, watched: Watched, selection: Chosen, listed: Sequence[dict[str, Any]]
    ) -> tuple[Watched, tuple[Any, ...]]:
        """Fetch what is new of the selected run and draw it. Raises: ApiError."""
        run = self.client.run(str(watched.id))
        if run.get("attempt", 0) != watched.attempt:
            watched = Watched(watched.id, run.get("attempt", 0))
        moving = run["state"] in MOVING
        if not watched.settled or moving:
            watched = replace(self.fetch(watched), settled=not moving)
        beside = selection.question.others and self.comparison.draw(selection, run, watched.lines, listed)
        return watched, (
            draw_head(run),
            *shown_for(run["state"]),
            beside or draw_curves(run, watched.lines),
            draw_result(run),
            draw_log(watched.log),
        )

    def fetch(self, watched: Watched) -> Watched:
        """Metric lines and log from where the page stands. Raises: ApiError."""
        new = kept(self.client.metrics(str(watched.id), after=last_step(watched.lines)))
        log = self.client.logs(str(watched.id), offset=watched.offset)
        tail = (watched.log + log["text"])[-LOG_TAIL:]
        return replace(watched, lines=watched.lines + new, log=tail, offset=log["offset"])


def _blank() -> tuple[Any, ...]:
    return *shown_for(None), "", "", ""
