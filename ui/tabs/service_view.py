"""HTML of the Service tab: state, workers, queue, storage, keys and audit log of the service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lcl_core.specs.parsing import KIND_LABELS
from ui.html import STATE_LABELS, ago, badge, definition_list, empty_state, esc, html_table, number, run_link
from ui.tabs.run_view import NO_WORKERS, RUN_ACTIONS

Json = Mapping[str, Any]
QUEUE_STATES = ("running", "pausing", "cancelling", "queued", "waiting", "paused")
QUEUE_ACTIONS = tuple(action for action in RUN_ACTIONS if action.verb in ("pause", "resume", "cancel"))
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
    rows = "".join(
        f'<tr><th scope="row">{esc(worker["id"])}</th><td>{esc(worker["host"])}</td><td>{_worker_state(worker)}</td>'
        f"<td>{esc(worker['slots'])}</td><td>{_devices(worker)}</td><td>{ago(worker['started_at'])}</td>"
        f"<td>{ago(worker['seen_at'])}</td></tr>"
        for worker in workers
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


def _worker_state(worker: Json) -> str:
    return f"works on {run_link(worker['current_run'])}" if worker["current_run"] else "idle"


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
