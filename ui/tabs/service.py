"""Service tab, for admins: workers, the queue with pause and cancel, storage, keys and the audit log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from api.client import ApiError, Client
from api.client.payloads import ROLES, may
from lcl_core.specs.parsing import KIND_LABELS
from ui.addresses import mark_view
from ui.common import BUSY_EVENT, FOCUS_QUESTION_SCRIPT, SILENT_EVENT, PageSelection, html_pane, seen_script
from ui.figures import number
from ui.html import (
    PICK_SCRIPT,
    STATE_LABELS,
    ago,
    badge,
    definition_list,
    empty_state,
    error_box,
    esc,
    heading,
    html_table,
    question_box,
    run_link,
    toast,
)
from ui.tabs.run_form import invalid_message
from ui.tabs.run_view import RUN_ACTIONS, draw_question

Json = Mapping[str, Any]
QUEUE_STATES = ("running", "pausing", "cancelling", "queued", "waiting", "paused")
QUEUE_ACTIONS = tuple(action for action in RUN_ACTIONS if action.verb in ("pause", "resume", "cancel"))
NO_WORKERS = empty_state("No worker is alive", "Start one, and queued runs begin by themselves.")
EMPTY_QUEUE = empty_state("Nothing waits", "Runs that are submitted are listed here until they end.")
NO_ACTIONS = empty_state("Nothing was changed yet", "Changes through the service are recorded here.")


def draw_overview(status: Json) -> str:
    """Version, database, slots, runs in each state, and checks that fail."""
    runs = {STATE_LABELS.get(state, state): count for state, count in status["runs"].items() if count}
    facts = [
        ("Version", str(status["version"])),
        ("Database", str(status["database"])),
        ("Workers", number(status["workers"])),
        ("Slots", number(status["slots"])),
        ("Runs", " · ".join(f"{number(count)} {words.lower()}" for words, count in runs.items()) or "none"),
    ]
    failing = "".join(
        f"<li>{esc(name)}: {esc(check['detail'])}</li>" for name, check in status["checks"].items() if not check["ok"]
    )
    problems = f'<div class="lcl-problem" role="status"><strong>Not ready</strong><ul>{failing}</ul></div>'
    return definition_list(facts) + (problems if failing else "")


def draw_worker_table(workers: Sequence[Json]) -> str:
    """State, slots, devices and current run of each worker."""
    if not workers:
        return NO_WORKERS
    rows = ""
    for worker in workers:
        state = f"works on {run_link(worker['current_run'])}" if worker["current_run"] else "idle"
        rows += (
            f'<tr><th scope="row">{esc(worker["id"])}</th><td>{esc(worker["host"])}</td><td>{state}</td>'
            f"<td>{esc(worker['slots'])}</td><td>{_devices(worker)}</td><td>{ago(worker['started_at'])}</td>"
            f"<td>{ago(worker['seen_at'])}</td></tr>"
        )
    return html_table("Workers", ("Worker", "Machine", "State", "Slots", "Devices", "Started", "Seen"), rows)


def draw_queue(runs: Sequence[Json], more: bool = False) -> str:
    """Unfinished runs with the reason why each waits. ``more``: there are runs beside these."""
    if not runs:
        return EMPTY_QUEUE
    rows = "".join(
        f"<tr><td>{run_link(run['id'])}</td><td>{badge(run['state'])}</td>"
        f'<td class="lcl-why">{_why(run)}</td><td>{esc(run.get("name") or "")}</td>'
        f"<td>{esc(KIND_LABELS.get(run['kind'], run['kind']))}</td><td>{esc(run.get('owner') or '')}</td>"
        f"<td>{ago(run.get('created_at'))}</td><td>{_run_actions(run)}</td></tr>"
        for run in runs
    )
    words = "The newest of each state; “lcl runs list --state STATE” lists the others."
    note = f'<p class="lcl-note">{words}</p>' if more else ""
    columns = ("Run", "State", "Why it waits", "Name", "Kind", "Owner", "Submitted", "Actions")
    return html_table("Queue", columns, rows) + note


def draw_keys(keys: Sequence[Json], own: str) -> str:
    """All keys, each with what can be done with it. ``own``: the prefix of the key that is used here."""
    rows = "".join(
        f'<tr><th scope="row"><code>{esc(key["prefix"])}</code></th><td>{esc(key["owner"])}</td>'
        f"<td>{esc(key['role'])}</td><td>{ago(key['created_at'])}</td><td>{ago(key['last_used']) or 'never'}</td>"
        f"<td>{esc(str(key['expires'] or 'never')[:16].replace('T', ' '))}</td><td>{_key_actions(key, own)}</td></tr>"
        for key in keys
    )
    return html_table("Keys", ("Key", "Owner", "Role", "Made", "Used", "Expires", "Actions"), rows)


def draw_new_key(key: Json) -> str:
    """A new secret, which is shown this once."""
    return (
        '<div class="lcl-secret" role="status"><strong>The key of '
        f"{esc(key['owner'])} ({esc(key['role'])})</strong><p>It is shown this once: copy it now.</p>"
        f'<p><code tabindex="0">{esc(key["key"])}</code> '
        '<button type="button" data-lcl-copy>Copy</button></p></div>'
    )


def draw_audit(entries: Sequence[Json], more: bool = False) -> str:
    """Who changed what, newest first."""
    if not entries:
        return NO_ACTIONS
    rows = "".join(
        f"<tr><td>{esc(str(entry['at'])[:19].replace('T', ' '))}</td><td>{esc(entry['owner'])}</td>"
        f"<td><code>{esc(entry['prefix'])}</code></td><td>{esc(entry['action'])}</td><td>{esc(entry['object'])}</td></tr>"
        for entry in entries
    )
    button = '<p class="lcl-back"><button type="button" data-pick="older:">Show older</button></p>' if more else ""
    return html_table("Audit log", ("Time (UTC)", "Owner", "Key", "Action", "Object"), rows) + button


def _devices(worker: Json) -> str:
    """GPUs with their use, else the devices."""
    if not worker["gpus"]:
        return esc(", ".join(map(str, worker["devices"])))
    return "<br>".join(f"{esc(gpu['name'] or gpu['id'])}: {esc(gpu['use'])}" for gpu in worker["gpus"])


def _why(run: Json) -> str:
    """Why a run has not begun."""
    if run["state"] == "queued":
        return esc((run.get("obstacle") or {}).get("message") or "Its turn comes with the next free slot.")
    if run["state"] == "waiting":
        return f"Comes after {', '.join(map(run_link, run.get('after') or []))}."
    return "Held back until it is resumed." if run["state"] == "paused" else ""


def _run_actions(run: Json) -> str:
    """Buttons of what the state of a run allows."""
    name = run.get("name") or run["id"]
    return " ".join(
        f'<button type="button" data-pick="{action.verb}:{esc(run["id"])}" '
        f'aria-label="{esc(f"{action.words} {name}")}">{action.words}</button>'
        for action in QUEUE_ACTIONS
        if run["state"] in action.states
    )


def _key_actions(key: Json, own: str) -> str:
    """A key cannot revoke itself."""
    if key["prefix"] == own:
        return "<small>in use here</small>"
    label = esc(f"Revoke the key of {key['owner']}, {key['prefix']}")
    return f'<button type="button" data-pick="revoke:{esc(key["prefix"])}" aria-label="{label}">Revoke</button>'


REFRESH_SECONDS = 5
QUEUE_PER_STATE, AUDIT_PAGE, MAX_AUDIT = 50, 50, 1000
QUESTIONS = {
    "revoke": ("Revoke this key?", "Whoever uses it is signed out at once; its runs and encoders stay.", "Revoke")
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
        with gr.Column(visible=False) as self.for_admins:
            with gr.Column(elem_classes="lcl-panel"):
                html_pane(heading("Keys", "A key is its owner's: it sees their runs. Secrets are not stored."))
                self.question = html_pane(js_on_load=PICK_SCRIPT, elem_id="service-question")
                self.keys = html_pane(js_on_load=PICK_SCRIPT, elem_id="service-keys")
                with gr.Row(elem_classes="lcl-toolbar"):
                    self.owner = gr.Textbox(label="Owner of a new key", max_lines=1, min_width=180, elem_id="key-owner")
                    self.role = gr.Dropdown(
                        list(ROLES), value="submitter", label="Role", min_width=140, elem_id="key-role"
                    )
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
        everything = [*moving, self.for_admins, self.keys, self.audit]
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

    def refresh(self, audited: PageSelection[int]) -> tuple[Any, ...]:
        try:
            own = self.client.own_key()
        except ApiError:
            own = {"role": ""}
        if not may(own["role"], "admin"):
            return (*self.refresh_moving(), gr.update(visible=False), "", "")
        return (
            *self.refresh_moving(),
            gr.update(visible=True),
            self._part(lambda: draw_keys(self.client.keys(), own["prefix"])),
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
            return "", *(gr.skip(),) * 7
        try:
            self.client.revoke_key(prefix)
        except ApiError as error:
            return toast(error.message), *(gr.skip(),) * 7
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
