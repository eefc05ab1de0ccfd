"""Service tab, for admins: workers, the queue with pause and cancel, storage, keys and the audit log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from api.client import ApiError, Client
from api.client.payloads import ROLES, may
from ui.addresses import mark_view
from ui.common import BUSY_EVENT, FOCUS_QUESTION_SCRIPT, SILENT_EVENT, PageSelection, html_pane, seen_script
from ui.html import PICK_SCRIPT, error_box, heading, question_box, toast
from ui.tabs.run_form import invalid_message
from ui.tabs.run_view import draw_question
from ui.tabs.service_view import (
    QUEUE_ACTIONS,
    QUEUE_STATES,
    draw_audit,
    draw_keys,
    draw_new_key,
    draw_overview,
    draw_queue,
    draw_worker_table,
)

REFRESH_SECONDS = 5
QUEUE_PER_STATE, AUDIT_PAGE, MAX_AUDIT = 50, 50, 1000
QUESTIONS = {
    "revoke": ("Revoke this key?", "Whoever uses it is signed out at once; its runs and encoders stay.", "Revoke"),
}


class ServiceTab:
    title = "Service"

    def __init__(self, client: Client) -> None:
        self.client = client

    def build(self) -> None:
        self.audited = gr.State(PageSelection(AUDIT_PAGE))  # entries of the audit log on show
        self.seen = gr.Checkbox(True, visible=False)  # whether the tab is looked at (seen_script)
        with gr.Column(elem_classes="lcl-panel"):
            html_pane(heading("Service", "What runs, what waits, and who may use it."))
            self.overview = html_pane(elem_id="service-overview")
        with gr.Column(elem_classes="lcl-panel"):
            html_pane(heading("Workers"))
            self.workers = html_pane(elem_id="service-workers")
            html_pane(heading("Queue", "Runs that have not ended, with the reason why one waits."))
            self.run_question = html_pane(js_on_load=PICK_SCRIPT, elem_id="service-run-question")
            self.queue = html_pane(js_on_load=PICK_SCRIPT, elem_id="service-queue")
        with gr.Column(elem_classes="lcl-panel"):
            html_pane(heading("Keys", "A key is its owner's: it sees their runs. Secrets are not stored."))
            self.question = html_pane(js_on_load=PICK_SCRIPT, elem_id="service-question")
            self.keys = html_pane(js_on_load=PICK_SCRIPT, elem_id="service-keys")
            with gr.Row(elem_classes="lcl-toolbar"):
                self.owner = gr.Textbox(label="Owner of a new key", max_lines=1, min_width=180, elem_id="key-owner")
                self.role = gr.Dropdown(list(ROLES), value="submitter", label="Role", min_width=140, elem_id="key-role")
                self.expires = gr.Textbox(
                    label="Expires",
                    placeholder="never, or 2030-01-31",
                    max_lines=1,
                    min_width=160,
                    elem_id="key-expires",
                )
                self.create = gr.Button("Create key", variant="primary", min_width=130, elem_id="key-create")
            self.verdict = html_pane(elem_id="key-verdict")
        with gr.Column(elem_classes="lcl-panel"):
            html_pane(heading("Audit log", "Every change through the service, newest first."))
            self.audit = html_pane(js_on_load=PICK_SCRIPT, elem_id="service-audit")

    def wire(self, page: gr.Blocks, tab: gr.Tab, navigation: gr.HTML) -> None:
        moving = [self.overview, self.workers, self.queue]
        everything = [*moving, self.keys, self.audit]
        for event in (tab.select, navigation.select):
            event(self.refresh, self.audited, everything, **SILENT_EVENT)
        self.clock = gr.Timer(REFRESH_SECONDS)
        self.clock.tick(self.tick, self.seen, moving, js=seen_script("service"), **SILENT_EVENT)
        of_runs = [self.run_question, *moving]
        self.queue.select(self.pick_run_action, None, of_runs, **BUSY_EVENT).then(None, js=FOCUS_QUESTION_SCRIPT)
        self.run_question.select(self.answer_of_run, None, of_runs, **BUSY_EVENT)
        self.keys.select(self.show_question, None, self.question, **SILENT_EVENT).then(None, js=FOCUS_QUESTION_SCRIPT)
        self.audit.select(self.show_older, self.audited, self.audit, **BUSY_EVENT)
        self.question.select(self.answer, self.audited, [self.question, self.verdict, *everything], **BUSY_EVENT)
        self.create.click(
            self.create_key, [self.owner, self.role, self.expires], [self.verdict, self.owner], **BUSY_EVENT
        ).then(self.refresh, self.audited, everything, **SILENT_EVENT)

    def tick(self, seen: bool | None) -> tuple[Any, ...]:
        """Fetches nothing while another tab is looked at."""
        return self.refresh_moving() if seen else (gr.skip(),) * 3

    def refresh(self, audited: PageSelection[int]) -> tuple[str, ...]:
        return (
            *self.refresh_moving(),
            self._part(lambda: draw_keys(self.client.keys(), self.client.own_key()["prefix"])),
            self._part(lambda: self._audit(audited.current)),
        )

    def refresh_moving(self) -> tuple[str, str, str]:
        """State, workers and queue."""
        overview = self._part(lambda: draw_overview(self.client.status()))
        return (
            mark_view(overview, tab="service"),
            self._part(lambda: draw_worker_table(self.client.workers())),
            self._part(self._queue),
        )

    def pick_run_action(self, event: gr.EventData) -> tuple[Any, ...]:
        """A button of the queue: the question, where something would be lost, else it is done."""
        verb, _, run_id = str(event.pick).partition(":")
        action = next((action for action in QUEUE_ACTIONS if action.verb == verb), None)
        if action is None or not action.asks:
            return self.answer_of_run(event)
        try:
            return draw_question(verb, self.client.run(run_id)), *(gr.skip(),) * 3
        except ApiError as error:
            return toast(error.message), *self.refresh_moving()

    def answer_of_run(self, event: gr.EventData) -> tuple[Any, ...]:
        """Do what was picked for a run of the queue."""
        verb, _, run_id = str(event.pick).partition(":")
        if verb not in (action.verb for action in QUEUE_ACTIONS):
            return "", *(gr.skip(),) * 3
        refusal = ""
        try:
            getattr(self.client, verb)(run_id)
        except ApiError as error:
            refusal = toast(error.message)
        return refusal, *self.refresh_moving()

    def show_question(self, event: gr.EventData) -> str:
        """The question before a key is revoked."""
        verb, _, prefix = str(event.pick).partition(":")
        if verb not in QUESTIONS:
            return ""
        title, consequence, yes = QUESTIONS[verb]
        of = f" ({prefix})" if prefix else ""
        return question_box(title.replace("?", f"{of}?"), consequence, (f"{verb}:{prefix}", yes), ("keep:", "Keep it"))

    def answer(self, audited: PageSelection[int], event: gr.EventData) -> tuple[Any, ...]:
        """The question was answered."""
        verb, _, prefix = str(event.pick).partition(":")
        if verb not in QUESTIONS:
            return "", *(gr.skip(),) * 6
        try:
            self.client.revoke_key(prefix)
        except ApiError as error:
            return toast(error.message), *(gr.skip(),) * 6
        return "", "", *self.refresh(audited)

    def create_key(self, owner: str, role: str, expires: str) -> tuple[str, Any]:
        """Returns: the new secret or the error, and the owner's field."""
        until = expires.strip()
        if len(until) == len("2030-01-31"):
            until += "T00:00:00Z"
        try:
            return draw_new_key(self.client.create_key(owner.strip(), role, until or None)), ""
        except ApiError as error:
            return invalid_message(error.field, error.message), gr.skip()

    def show_older(self, audited: PageSelection[int]) -> str:
        audited.current = min(audited.current + AUDIT_PAGE, MAX_AUDIT)
        return self._part(lambda: self._audit(audited.current))

    def _audit(self, count: int) -> str:
        """The newest ``count`` entries. Raises: ApiError."""
        entries: list[Any] = []
        cursor = None
        while len(entries) < count:
            page = self.client.audit(limit=AUDIT_PAGE, cursor=cursor)
            entries += page["items"]
            if (cursor := page["next_cursor"]) is None:
                break
        return draw_audit(entries, more=cursor is not None and count < MAX_AUDIT)

    def _queue(self) -> str:
        """Unfinished runs, those that run first. Raises: ApiError."""
        pages = [self.client.runs(state=state, limit=QUEUE_PER_STATE) for state in QUEUE_STATES]
        runs = [run for page in pages for run in page["items"]]
        return draw_queue(runs, more=any(page.get("next_cursor") for page in pages))

    def _part(self, draw: Callable[[], str]) -> str:
        """A part of the page, or why it cannot be shown."""
        try:
            return draw()
        except ApiError as error:
            return error_box(error.message, "This cannot be shown", reopens=True)


def is_admin(client: Client) -> bool | None:
    """Whether the key of this visitor is an admin's; None: the service does not answer."""
    try:
        return may(client.own_key()["role"], "admin")
    except ApiError:
        return None
