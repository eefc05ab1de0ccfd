"""Runs: submit one, watch them live, stop them and take them up again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr

from api.client import ApiError, Client
from lcl_core.specs import UserError
from ui.common import BUSY, QUIET
from ui.html import PICK, problem
from ui.tabs.run_form import SpecForm
from ui.tabs.run_view import (
    KIND_WORDS,
    MOVING,
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
# Asked of the page itself at each tick: the events of tabs may overtake each other.
ONLY_WHEN_SEEN = """(watched, only) => {
  const seen = !document.hidden && document.querySelector('#tab-runs-button[aria-selected="true"]');
  return [watched, seen ? only : null];
}"""


@dataclass(frozen=True)
class Watched:
    """What the page has already fetched of the selected run."""

    id: str | None = None
    attempt: int = 0
    points: tuple[tuple[float, ...], ...] = field(default=(), repr=False)
    log: str = field(default="", repr=False)
    offset: int = 0
    settled: bool = False  # the run had ended when its metrics and log were last read

    @property
    def step(self) -> int:
        return int(self.points[-1][0]) if self.points else 0


class RunsTab:
    title = "Runs"

    def __init__(self, client: Client) -> None:
        self.client = client
        self.forms = {kind: SpecForm(client, kind) for kind in KIND_WORDS}

    def build(self) -> None:
        self.watched = gr.State(Watched())
        with gr.Accordion("New run", open=False, elem_classes="lcl-panel", elem_id="new-run"):
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
        with gr.Row(elem_classes="lcl-actions"):
            small: dict[str, Any] = {"size": "sm", "min_width": 90, "visible": False}
            self.cancel = gr.Button("Cancel", variant="stop", elem_id="run-cancel", **small)
            self.resume = gr.Button("Resume", elem_id="run-resume", **small)
            self.retry = gr.Button("Start anew", elem_id="run-retry", **small)
        self.curves = gr.HTML(apply_default_css=False, elem_id="run-curves")
        self.result = gr.HTML(apply_default_css=False, elem_id="run-result")
        with gr.Accordion("Log", open=False):
            self.log = gr.HTML(apply_default_css=False, autoscroll=True, elem_id="run-log")

    def wire(self, page: gr.Blocks, tab: gr.Tab) -> None:
        self.clock = gr.Timer(REFRESH_SECONDS)
        detail = [self.watched, self.head, self.cancel, self.resume, self.retry, self.curves, self.result, self.log]
        everything = [self.listing, *detail]
        for event in (tab.select, self.only.input):
            event(self.refresh, [self.watched, self.only], everything, **QUIET)
        self.clock.tick(self.tick, [self.watched, self.only], everything, js=ONLY_WHEN_SEEN, **QUIET)
        self.listing.select(self.select, [self.watched, self.only], everything, **QUIET)
        self.kind.input(self.show_form, self.kind, [form.column for form in self.forms.values()], **QUIET)
        verbs = ((self.cancel, self.client.cancel), (self.resume, self.client.resume), (self.retry, self.client.retry))
        for button, verb in verbs:
            button.click(lambda watched, verb=verb: self.act(verb, watched), self.watched, **QUIET).then(
                self.refresh, [self.watched, self.only], everything, **QUIET
            )
        for form in self.forms.values():
            self._wire_form(form, tab, everything)

    def _wire_form(self, form: SpecForm, tab: gr.Tab, everything: list[Any]) -> None:
        form.wire()
        tab.select(
            lambda text: self.refresh_form(form, text), form.editor, [form.editor, form.verdict, *form.inputs], **QUIET
        )
        form.submit.click(
            lambda text, name, watched, *values: self.submit(form, text, name, watched, values),
            [form.editor, form.name, self.watched, *form.inputs],
            [form.verdict, self.watched],
            **BUSY,
        ).then(self.refresh, [self.watched, self.only], everything, **QUIET)

    def show_form(self, kind: str) -> list[Any]:
        return [gr.Column(visible=kind == name) for name in self.forms]

    def refresh_form(self, form: SpecForm, text: str) -> list[Any]:
        """A service that does not answer, or JSON that is being written, leaves the form as it is."""
        try:
            return form.refresh(text)
        except (ApiError, UserError):
            return [gr.skip()] * (2 + len(form.inputs))

    def submit(
        self, form: SpecForm, text: str, name: str, watched: Watched, values: Sequence[Any]
    ) -> tuple[str, Watched]:
        """The new run becomes the selected one."""
        verdict, run_id = form.send(text, name, values)
        return verdict, Watched(run_id) if run_id else watched

    def act(self, verb: Any, watched: Watched) -> None:
        """Cancel, resume or start anew; a refusal is shown in the service's words."""
        try:
            verb(watched.id)
        except ApiError as error:
            gr.Warning(error.message, title="Not possible")

    def select(self, watched: Watched, only: str, event: gr.EventData) -> tuple[Any, ...]:
        chosen = str(event.pick)
        return self.refresh(watched if watched.id == chosen else Watched(chosen), only)

    def tick(self, watched: Watched, only: str | None) -> Any:
        """Nothing is fetched while another tab is looked at."""
        return gr.skip() if only is None else self.refresh(watched, only)

    def refresh(self, watched: Watched, only: str = ALL, request: gr.Request | None = None) -> tuple[Any, ...]:
        """List and selected run as they are now; at first the run of ``?run=ID`` is taken, or the newest."""
        try:
            runs = self.client.runs(kind=None if only == ALL else only)["items"]
        except ApiError as error:
            return problem(error.message, "The runs cannot be shown"), watched, *[gr.skip()] * 7
        if watched.id is None:
            wanted = request.query_params.get("run") if request else None
            watched = Watched(wanted or (runs[0]["id"] if runs else None))
        listing = draw_list(runs, watched.id)
        if watched.id is None:
            return listing, watched, NOTHING_SELECTED, *_blank()
        try:
            return listing, *self.detail(watched)
        except ApiError as error:
            return listing, watched, problem(error.message, "This run cannot be shown"), *_blank()

    def detail(self, watched: Watched) -> tuple[Any, ...]:
        """Fetch what is new of the selected run and draw it. Raises: ApiError."""
        run = self.client.run(str(watched.id))
        if run.get("attempt", 0) != watched.attempt:
            watched = Watched(watched.id, run.get("attempt", 0))
        moving = run["state"] in MOVING
        if not watched.settled or moving:
            watched = replace(self.fetch(watched), settled=not moving)
        return (
            watched,
            draw_head(run),
            gr.Button(visible=run["state"] in ("queued", "running")),
            gr.Button(visible=run["state"] in ("failed", "cancelled")),
            gr.Button(visible=run["state"] in ("failed", "cancelled")),
            draw_curves(run, watched.points),
            draw_result(run),
            draw_log(watched.log),
        )

    def fetch(self, watched: Watched) -> Watched:
        """Metric lines and log from where the page stands. Raises: ApiError."""
        lines = self.client.metrics(str(watched.id), after=watched.step)
        new = tuple(
            (line["step"], line["contrastive_loss"], line["generation_loss"])
            for line in lines
            if line.get("contrastive_loss") is not None and line.get("generation_loss") is not None
        )
        log = self.client.logs(str(watched.id), offset=watched.offset)
        tail = (watched.log + log["text"])[-LOG_TAIL:]
        return replace(watched, points=watched.points + new, log=tail, offset=log["offset"])


def _blank() -> tuple[Any, ...]:
    hidden = gr.Button(visible=False)
    return hidden, hidden, hidden, "", "", ""
