"""Service tab: its state, workers, storage, the queue with pause and cancel; for admins keys and the audit log."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from api.client import ApiError, Client
from api.client.payloads import ROLES, Json, may
from lcl_core.specs.parsing import KIND_LABELS
from ui.addresses import address, mark_view
from ui.common import BUSY_EVENT, EACH_COUNTS, FOCUS_QUESTION_SCRIPT, SILENT_EVENT, html_pane, own_key, seen_script
from ui.figures import number
from ui.html import (
    OPENING,
    PICK_SCRIPT,
    ago,
    badge,
    definition_list,
    error_box,
    esc,
    fold,
    heading,
    html_table,
    pick_form,
    plural,
    question_box,
    run_link,
    toast,
)
from ui.tabs.run_view import RUN_ACTIONS, draw_question

REFRESH_SECONDS = 5
QUEUE_STATES = ("running", "pausing", "cancelling", "queued", "waiting", "paused")
QUEUE_PER_STATE, AUDIT_ENTRIES = 50, 100
CALLS = {"pause": "pause", "resume": "resume", "cancel": "cancel", "revoke": "revoke_key"}  # verb -> client's method


class ServiceTab:
    def __init__(self, client: Client) -> None:
        self.client = client

    def build(self) -> None:
        self.seen = gr.Checkbox(True, visible=False)  # whether the tab is looked at (seen_script)
        with gr.Column():
            self.said = html_pane(js_on_load=PICK_SCRIPT, elem_id="service-said")
            self.shown = html_pane(OPENING, js_on_load=PICK_SCRIPT, elem_id="service-shown")
            self.for_admins = html_pane(js_on_load=PICK_SCRIPT, elem_id="service-admins")

    def wire(self, page: gr.Blocks, tab: gr.Tab, navigation: gr.HTML) -> None:
        panes = [self.said, self.shown, self.for_admins]
        gr.on([tab.select, navigation.select], self.refresh, None, panes[1:], **SILENT_EVENT)
        clock = gr.Timer(REFRESH_SECONDS)
        clock.tick(self.tick, self.seen, self.shown, js=seen_script("service"), **SILENT_EVENT)
        picks = [pane.select for pane in panes]
        gr.on(picks, self.act, None, panes, **BUSY_EVENT | EACH_COUNTS).then(None, js=FOCUS_QUESTION_SCRIPT)

    def tick(self, seen: bool | None) -> Any:
        """Fetches nothing while another tab is looked at."""
        return self.refresh_moving() if seen else gr.skip()

    def refresh(self) -> tuple[str, str]:
        """What everybody sees, and what admins see below it."""
        own, moving = own_key(self.client), self.refresh_moving()
        if not may(own["role"], "admin"):
            return moving, ""
        keys = _part(lambda: draw_keys(self.client.keys(), own["prefix"]))
        return moving, keys + _part(lambda: draw_audit(self.client.audit(limit=AUDIT_ENTRIES)["items"]))

    def refresh_moving(self) -> str:
        """State, workers and queue."""
        return mark_view(_part(self._moving_part), tab="service")

    def act(self, event: gr.EventData) -> tuple[Any, ...]:
        """A run or a key is to be changed. Returns: what is to be said or asked, and the page as it is then."""
        verb, _, value = str(event.pick).partition(":")
        said = ""
        try:
            if verb == "ask-cancel":
                return draw_question("cancel", [self.client.run(value)]), gr.skip(), gr.skip()
            if verb == "ask-revoke":
                lost = "Whoever uses it is signed out at once; its runs and encoders stay."
                yes, no = (f"revoke:{value}", "Revoke"), ("keep:", "Keep it")
                return question_box(f"Revoke this key ({value})?", lost, yes, no), gr.skip(), gr.skip()
            if verb == "create":
                form = json.loads(value)
                said = draw_new_key(self.client.create_key(form["text"], form["button"]))
            elif verb in CALLS:
                getattr(self.client, CALLS[verb])(value)
        except ApiError as error:
            said = toast(error.message)
        return said, *self.refresh()

    def _moving_part(self) -> str:
        """Runs are asked for in those states that some are in. Raises: ApiError."""
        status, workers = self.client.status(), self.client.workers()
        counts = {state: status["runs"].get(state, 0) for state in QUEUE_STATES}
        asked = [state for state, count in counts.items() if count]
        pages = [self.client.runs(state=state, limit=QUEUE_PER_STATE)["items"] for state in asked]
        queue = draw_queue([run for page in pages for run in page], sum(counts.values()))
        return draw_state(status, workers) + draw_worker_table(workers) + queue + draw_storage(status)


def _part(draw: Callable[[], str]) -> str:
    """A part of the page, or why it cannot be shown."""
    try:
        return draw()
    except ApiError as error:
        return error_box(error.message, "This cannot be shown", reopens=True)


def draw_state(status: Json, workers: Sequence[Json]) -> str:
    """Whether the service is ready, what its workers do and how many runs wait; and the checks that fail."""
    busy = sum(worker["current_run"] is not None for worker in workers)
    idle, waits = len(workers) - busy, sum(status["runs"].get(state, 0) for state in ("queued", "waiting"))
    facts = [f"{plural(count, 'worker')} {words}" for count, words in ((busy, "busy"), (idle, "idle")) if count]
    facts.append(f"{plural(waits, 'run')} waiting" if waits else "nothing waits")
    failing = "".join(
        f"<li>{esc(name)}: {esc(check['detail'])}</li>" for name, check in status["checks"].items() if not check["ok"]
    )
    kind, word = ("part", "Not ready") if failing else ("up", "Ready")
    problems = f'<div class="lcl-problem"><ul>{failing}</ul></div>' if failing else ""
    return (
        f'<p class="lcl-pill lcl-pill--{kind}" role="status"><i aria-hidden="true"></i><b>{word}</b>'
        f"<span> · {' · '.join(facts)}</span></p>{problems}"
    )


def draw_worker_table(workers: Sequence[Json]) -> str:
    """State, slots, devices and current run of each worker; nothing without any, since a check says so."""
    rows = ""
    for worker in workers:
        state = f"works on {run_link(worker['current_run'])}" if worker["current_run"] else "idle"
        devices = [f"{gpu['name'] or gpu['id']}: {gpu['use']}" for gpu in worker["gpus"]] or worker["devices"]
        rows += (
            f'<tr><th scope="row">{esc(worker["id"])}</th><td>{state}</td><td>{esc(worker["host"])}</td>'
            f"<td>{esc(worker['slots'])}</td><td>{'<br>'.join(map(esc, devices))}</td>"
            f"<td>{ago(worker['started_at'])}</td><td>{ago(worker['seen_at'])}</td></tr>"
        )
    columns = ("Worker", "State", "Machine", "Slots", "Devices", "Started", "Seen")
    return heading("Workers") + html_table("Workers", columns, rows) if workers else ""


def draw_queue(runs: Sequence[Json], total: int) -> str:
    """Unfinished runs with the reason why each waits; nothing without any. ``total``: with those that are not shown."""
    if not runs:
        return ""
    rows = "".join(
        f'<tr><th scope="row"><a href="{esc(address(run=run["id"]))}">{esc(run.get("name") or run["id"])}</a></th>'
        f'<td>{badge(run["state"])}</td><td class="lcl-why">{_why(run)}</td>'
        f"<td>{esc(KIND_LABELS.get(run['kind'], run['kind']))}</td>"
        f"<td>{esc(run.get('owner') or '')}</td><td>{ago(run.get('created_at'))}</td><td>{_run_actions(run)}</td></tr>"
        for run in runs
    )
    note = f'<p class="lcl-note">{len(runs)} of {number(total)}; others: <code>lcl runs list --state STATE</code></p>'
    columns = ("Run", "State", "Waits because", "Kind", "Owner", "Submitted", "Actions")
    return heading("Queue") + html_table("Queue", columns, rows) + (note if total > len(runs) else "")


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
        f'<button type="button" data-pick="{"ask-" * action.asks}{action.verb}:{esc(run["id"])}" '
        f'aria-label="{esc(f"{action.words} {name}")}">{action.words}</button>'
        for action in RUN_ACTIONS
        if run["state"] in action.states
    )


def draw_keys(keys: Sequence[Json], own: str) -> str:
    """All keys, folded, and a form for a new one. ``own``: the prefix of the key in use, which cannot revoke itself."""
    rows = ""
    for key in keys:
        label = esc(f"Revoke the key of {key['owner']}, {key['prefix']}")
        revoke = f'<button type="button" data-pick="ask-revoke:{key["prefix"]}" aria-label="{label}">Revoke</button>'
        rows += (
            f'<tr><th scope="row"><code>{esc(key["prefix"])}</code></th><td>{esc(key["owner"])}</td>'
            f"<td>{esc(key['role'])}</td><td>{ago(key['created_at'])}</td><td>{ago(key['last_used']) or 'never'}</td>"
            f"<td>{_minute(key['expires']) or 'never'}</td>"
            f"<td>{'<small>in use here</small>' if key['prefix'] == own else revoke}</td></tr>"
        )
    roles = "".join(f'<button type="submit" value="{role}">{role.title()}</button>' for role in ROLES)
    owner = '<input name="owner" maxlength="100" required autocomplete="off" aria-label="Owner of a new key"'
    form = pick_form("create", "lcl-tag", f'{owner} placeholder="Make a key of …, who is a">{roles}')
    note = '<p class="lcl-note">One that expires: <code>lcl keys create NAME --expires 2030-01-31T00:00:00Z</code></p>'
    columns = ("Key", "Owner", "Role", "Made", "Used", "Expires", "Actions")
    return fold(plural(len(keys), "key"), html_table("Keys", columns, rows) + form + note)


def draw_new_key(key: Json) -> str:
    """A new secret, which is shown this once."""
    return (
        f'<div class="lcl-secret" role="status"><strong>The key of {esc(key["owner"])} ({esc(key["role"])})</strong>'
        f'<p>It is shown this once: copy it now.</p><p><code tabindex="0">{esc(key["key"])}</code> '
        '<button type="button" data-lcl-copy>Copy</button></p></div>'
    )


def draw_audit(entries: Sequence[Json]) -> str:
    """Who changed what last, newest first, folded."""
    rows = "".join(
        f"<tr><td>{_minute(entry['at'])}</td><td>{esc(entry['owner'])}</td><td><code>{esc(entry['prefix'])}</code></td>"
        f"<td>{esc(entry['action'])}</td><td>{esc(entry['object'])}</td></tr>"
        for entry in entries
    )
    table = html_table("Audit log", ("Time (UTC)", "Owner", "Key", "Action", "Object"), rows)
    return fold(f"Audit, newest {AUDIT_ENTRIES}", f'{table}<p class="lcl-note">Older ones: <code>lcl audit</code></p>')


def draw_storage(status: Json) -> str:
    """Version, database and checks, folded."""
    facts = {"version": status["version"], "kind": status["database"]}
    facts |= {name: check["detail"] for name, check in status["checks"].items()}
    return fold("Storage", definition_list([(name.title(), str(value)) for name, value in facts.items()]))


def _minute(iso: str | None) -> str:
    return esc(iso[:16].replace("T", " ")) if iso else ""
