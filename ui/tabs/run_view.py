"""HTML of runs: the list, and head, figures, curves, files and log of the selected one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from api.client.payloads import Json, format_bytes, run_subject
from lcl_core.specs.parsing import KIND_LABELS
from ui.addresses import address
from ui.charts import METRIC_LABELS, line_chart, metric_points
from ui.figures import TASK_LABELS, draw_figures, draw_table, main_figures, metric_text, number
from ui.html import (
    ACTIVE_STATES,
    ago,
    badge,
    duration,
    empty_state,
    esc,
    fold,
    html_table,
    plural,
    progress_bar,
    question_box,
    run_link,
    status_line,
    toast,
)
from ui.spec_fields import preset_names, spec_differences, starting_spec
from ui.tabs.run_table import run_seconds

EXPECTED_LOSSES = ("contrastive_loss", "generation_loss")  # drawn before the first line
HELD_OUT_SHARES = ("held_out.retrieval_r5", "held_out.knn_accuracy")
SYSTEM_METRICS = ("images_per_s", "tokens_per_s", "mfu", "cpu_cores", "data_wait", "memory_gib")
NO_RUNS = empty_state("No runs yet", "Open “New run”: the sample preset learns on two CPU cores in minutes.")
NO_MATCHING_RUNS = empty_state(
    "No run matches",
    "No run has this kind, state, tag and name. “All” shows every kind or state; a second click clears a tag.",
)
LOADING = status_line("Loading the run …")
NO_SUCH_RUN = "There is no run of this name, or it is not yours."


def draw_list(runs: Sequence[Json], selected: str | None, *, filtered: bool = False) -> str:
    """Newest first; each is a button. ``filtered``: only runs of one kind, or with one tag, were asked for."""
    if not runs:
        return NO_MATCHING_RUNS if filtered else NO_RUNS
    return f'<ul class="lcl-runs">{"".join(_row(run, run["id"] == selected) for run in runs)}</ul>'


def draw_head(run: Json) -> str:
    """Name, state, actions, what was done in how long, what came out, progress, and the reason of a failure."""
    kind = KIND_LABELS.get(run["kind"], run["kind"])
    return (
        f'<header class="lcl-run__head"><h2>{esc(run.get("name") or kind)}</h2>{badge(run["state"])}'
        f'{_draw_actions(run)}</header><p class="lcl-run__line">{_facts(run)}</p>{_outcome(run)}'
        f"{_changes(run)}{_progress(run)}{_reason(run)}{_annotation(run)}"
    )


def _facts(run: Json) -> str:
    """Kind and data, steps, time, device, and when it was submitted."""
    kind, subject = KIND_LABELS.get(run["kind"], run["kind"]), run_subject(run)
    ended = run["state"] not in ACTIVE_STATES
    gpus = len(run.get("devices") or ())
    cpu = run.get("resource") == "cpu" or (run["state"] == "running" and not gpus)
    words = [
        f"{kind} · {subject}" if subject else kind,
        f"{reached} steps" if ended and (reached := _fraction(run)) else "",
        duration(run_seconds(run)),
        plural(gpus, "GPU") if gpus else "CPU" if cpu else "",
        f"attempt {run['attempt']}" if (run.get("attempt") or 0) > 1 else "",
    ]
    created = f'<span title="{esc(run.get("created_at"))}">submitted {ago(run.get("created_at"))}</span>'
    return " · ".join([*map(esc, filter(None, words)), created])


def _outcome(run: Json) -> str:
    """What an ended run has made, with a link to it."""
    result = run.get("result") or {}
    words, link, to = "", "", ""
    if isinstance(encoder := result.get("encoder"), dict):
        monitor = result.get("monitor") or {}
        if best := monitor.get("best"):
            name = METRIC_LABELS.get(monitor["choose"], monitor["choose"])
            words = f"Best: {name} {metric_text(monitor['choose'], best['value'])} at step {number(best['step'])}"
        else:
            words = f"{number(encoder.get('parameters'))} parameters, {number(encoder.get('images_seen'))} images seen"
        name = result.get("registered_as") or run.get("name") or ""
        link, to = f"encoder {name}".strip(), address(encoder=run.get("encoder_id"))
    elif collection := result.get("collection"):
        words = f"{number(collection.get('images'))} images, {number(collection.get('texts'))} texts"
        link, to = f"collection {collection.get('name')}", address(collection=run.get("collection_id"))
    elif isinstance(dataset := result.get("dataset"), dict):  # of an evaluation it is a name
        words = f"{number(dataset.get('records'))} records, {number(dataset.get('pictures'))} images"
        words += f", {format_bytes(dataset.get('bytes') or 0)}"
        link, to = f"dataset {dataset.get('name')}", address(dataset=dataset.get("name"))
    elif report := result.get("report"):
        unit = report.get("length_unit") or "tokens"
        words = f"{number(report.get('documents'))} documents, {number(report.get('images'))} images "
        words += f"({number(report.get('distinct_images'))} different), {number(report.get('tokens'))} {unit}"
    elif run.get("encoder_id") and result:
        link, to = "its encoder", address(encoder=run["encoder_id"])
    led = f'<a href="{esc(to)}">{esc(link)}</a>' if link else ""
    shown = " → ".join(filter(None, (f"<b>{esc(words)}</b>" if words else "", led)))
    return f'<p class="lcl-run__made">{shown}</p>' if shown else ""


def _changes(run: Json) -> str:
    """The fields in which a spec differs from its preset."""
    spec = run.get("spec") or {}
    if spec.get("preset") not in preset_names(run["kind"]):
        return ""
    rows = spec_differences([starting_spec(run["kind"], spec["preset"]), spec])
    plain = [(name.rpartition(".")[2], value) for name, (_, value) in rows if isinstance(value, str | int | float)]
    words = [f"{name} {metric_text(name, value)}" for name, value in plain]
    return status_line(f"Differs from the preset {spec['preset']}: {', '.join(words)}") if words else ""


def _draw_actions(run: Json) -> str:
    """Resume, links to new runs of its spec or encoder, and behind ⋯ what stops or removes it."""
    encoder = run.get("encoder_id") if run["kind"] == "pretrain" and run["state"] == "succeeded" else None
    links = {"Clone": address(tab="runs", new=run["kind"], clone=run["id"])}
    links |= {name: address(tab="runs", new=name.lower(), on=encoder) for name in ("Evaluate", "Index") if encoder}
    buttons = {
        action.verb: f'<button type="button" data-pick="{action.verb}:{esc(run["id"])}">{action.words}</button>'
        for action in RUN_ACTIONS
        if run["state"] in action.states
    }
    first = buttons.pop("resume", "")
    inside = "".join(f'<a href="{esc(link)}">{words}</a>' for words, link in links.items())
    if buttons:
        rest = "".join(buttons.values())
        inside += f'<details class="lcl-run__menu"><summary aria-label="More">⋯</summary><div>{rest}</div></details>'
    return f'<nav class="lcl-links lcl-actions-of" aria-label="Actions">{first}{inside}</nav>'


def _annotation(run: Json) -> str:
    """Tags, and notes with their line breaks."""
    tags = "".join(f"<span>{esc(tag)}</span>" for tag in run.get("tags") or ())
    notes = f'<p class="lcl-notes">{esc(run["notes"])}</p>' if run.get("notes") else ""
    return (f'<div class="lcl-tags">{tags}</div>' if tags else "") + notes


@dataclass(frozen=True)
class RunAction:
    """``verb``: method of the client. ``states``: those in which the service allows it."""

    verb: str
    words: str
    states: tuple[str, ...]
    asks: bool = False  # before something is lost


RUN_ACTIONS = (
    RunAction("pause", "Pause", ("waiting", "queued", "running")),
    RunAction("resume", "Resume", ("paused", "failed", "cancelled")),
    RunAction("retry", "Restart from scratch", ("failed", "cancelled"), asks=True),
    RunAction("cancel", "Cancel", ("waiting", "queued", "running", "pausing", "paused"), asks=True),
    RunAction("delete", "Delete", ("succeeded", "failed", "cancelled"), asks=True),
)


def draw_question(verb: str, run: Json) -> str:
    """The question before a run is cancelled, restarted or deleted: what is lost, and what stays."""
    name = run.get("name") or run_subject(run) or run["id"]
    title, lost, words, keep = {
        "cancel": (f"Cancel {name}?", _lost_by_cancel(run), "Cancel run", "Keep running"),
        "retry": (f"Restart {name} from scratch?", LOST_BY_RESTART, "Restart", "Keep it"),
        "delete": (f"Delete {name}?", _lost_by_deletion(run), "Delete run", "Keep it"),
    }[verb]
    return question_box(title, lost, (f"{verb}:{run['id']}", words), ("keep:", keep))


def draw_chosen(runs: Sequence[Json]) -> str:
    """What can be done with several runs at once; nothing without any."""
    if not runs:
        return ""
    buttons = "".join(
        f'<button type="button" data-pick="all:{verb}">{words}</button>'
        for verb, words in (("cancel", "Cancel …"), ("delete", "Delete …"))
        if any(run["state"] in _STATES_OF[verb] for run in runs)
    )
    return (
        '<div class="lcl-chosen" role="group" aria-label="Chosen runs">'
        f"<b>{plural(len(runs), 'run')} chosen</b>{buttons}"
        '<button type="button" data-pick="check:">Clear</button></div>'
    )


def draw_question_of_many(verb: str, runs: Sequence[Json]) -> str:
    """The question before several runs are cancelled or deleted: how many of them can be, and what is lost."""
    able = [run for run in runs if run["state"] in _STATES_OF[verb]]
    if not able:
        return toast("No chosen run can be, any more.", f"{verb.capitalize()} runs")
    lost, keep = (LOST_BY_CANCELS, "Keep running") if verb == "cancel" else (LOST_BY_DELETIONS, "Keep them")
    named = ", ".join(run.get("name") or run["id"] for run in able[:NAMED_RUNS])
    if rest := len(able) - NAMED_RUNS if len(able) > NAMED_RUNS else 0:
        named += f" and {plural(rest, 'run')} more"
    if others := len(runs) - len(able):
        lost += f" {plural(others, 'run')} of the chosen cannot be: {'ended' if verb == 'cancel' else 'not ended'}."
    title, pick = f"{verb.capitalize()} {plural(len(able), 'run')}?", f"{verb}:{','.join(run['id'] for run in able)}"
    return question_box(title, f"{named}. {lost}", (pick, f"{verb.capitalize()} them"), ("keep:", keep))


def draw_refusal(verb: str, message: str, refused: int, runs: int) -> str:
    """Why so many of some runs were not cancelled, deleted or restarted."""
    done = {"cancel": "cancelled", "delete": "deleted", "retry": "restarted"}[verb]
    return toast(message, f"{refused} of {runs} runs were not {done}") if runs > 1 else toast(message)


NAMED_RUNS = 5  # in a question
_STATES_OF = {action.verb: action.states for action in RUN_ACTIONS}
LOST_BY_CANCELS = "A training writes a checkpoint first and loses nothing. Resume queues each again."
LOST_BY_DELETIONS = (
    "Their curves, logs, checkpoints and files are removed for good; encoders lose the figures of their evaluations. "
    "Encoders, collections and datasets that they made stay."
)
LOST_BY_RESTART = "Its curves and checkpoints so far are deleted. Resume would go on from its last checkpoint."


def _lost_by_cancel(run: Json) -> str:
    if run["state"] not in ("running", "pausing"):
        return "It leaves the queue; nothing that it has done is deleted. Resume queues it again."
    if run["kind"] == "pretrain":
        return "A checkpoint is written first; nothing is lost. Resume goes on from there."
    return "What it has computed and not stored yet is lost. Resume queues it again."


STAYS_OF = {"pretrain": "encoder", "index": "collection", "convert": "dataset", "match": "dataset"}


def _lost_by_deletion(run: Json) -> str:
    lost = "Its curves, log, checkpoints and files are removed for good."
    if run["kind"] == "evaluate":
        return f"{lost} Its encoder loses the figures of this evaluation."
    made = STAYS_OF.get(run["kind"]) if run["state"] == "succeeded" else None
    return f"{lost} The {made} that it made stays." if made else lost


def draw_curves(run: Json, lines: Sequence[dict[str, Any]]) -> str:
    """Losses of a pre-training run, and the numbers of its held-out data. ``lines``: of its metrics."""
    if run["kind"] != "pretrain":
        return ""
    losses = [name for name in _recorded(lines) if name.endswith("_loss")]
    shares = [name for name in HELD_OUT_SHARES if name in _recorded(lines)]
    legend = status_line("Pale: as recorded, like the number. Bold: smoothed.") if len(lines) > 1 else ""
    return _charts(run, lines, [*(losses or EXPECTED_LOSSES), *shares]) + legend


def _recorded(lines: Sequence[dict[str, Any]]) -> list[str]:
    return [name for name in METRIC_LABELS if any(line.get(name) is not None for line in lines)]


def _charts(run: Json, lines: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    ended = run["state"] not in ACTIVE_STATES and run["state"] != "paused"
    charts = (
        line_chart(
            name,
            metric_points(lines, name, "step"),
            colour,
            metric_points(lines, f"held_out.{name}", "step"),
            ended=ended,
        )
        for colour, name in enumerate(names, start=1)
    )
    return f'<div class="lcl-charts">{"".join(charts)}</div>'


def draw_details(
    run: Json,
    lines: Sequence[dict[str, Any]],
    artifacts: Sequence[Json],
    log: str,
    log_error: str = "",
    whole: str = "",
) -> str:
    """Figures of an evaluation and problems of a validation; folded further curves, log, files and spec.

    ``whole``: command that prints a log of which ``log`` is the end; ``log_error``: why it could not be read.
    """
    recorded = _recorded(lines) if run["kind"] == "pretrain" else []
    system = [name for name in SYSTEM_METRICS if name in recorded]
    others = [
        name
        for name in recorded
        if name not in (*system, *HELD_OUT_SHARES) and not name.endswith("_loss") and not name.startswith("held_out.")
    ]
    rows, report = ((run.get("result") or {}).get(name) for name in ("rows", "report"))
    return (
        (draw_evaluation(run, rows, artifacts) if rows else "")
        + (_problems(report) if report else "")
        + (fold(f"{plural(len(others), 'more curve')}", _charts(run, lines, others)) if others else "")
        + (fold(f"System, {plural(len(system), 'curve')}", _charts(run, lines, system)) if system else "")
        + fold("Log", draw_log(log, log_error, whole))
        + _files(run["id"], artifacts)
        + fold("Spec", _spec(run))
    )


def _spec(run: Json) -> str:
    """Ids, owner and spec."""
    ids = {"Run": run["id"], "Encoder": run.get("encoder_id"), "Collection": run.get("collection_id")}
    words = " · ".join(f"{name} {value}" for name, value in {**ids, "Owner": run.get("owner")}.items() if value)
    text = json.dumps(run.get("spec") or {}, indent=2, ensure_ascii=False)
    return f'{status_line(words)}<pre class="lcl-log" tabindex="0" aria-label="Spec">{esc(text)}</pre>'


def draw_evaluation(run: Json, rows: Sequence[dict[str, Any]], artifacts: Sequence[Json]) -> str:
    """The main figures with their bars, confusions and examples as thumbnails, and all figures folded."""
    names = [file["name"] for file in artifacts]
    csv = (
        f'<p class="lcl-links"><a href="{_file(run["id"], "table.csv")}" download>CSV</a></p>'
        if "table.csv" in names
        else ""
    )
    images = "".join(
        _thumbnail(_file(run["id"], name), name.removeprefix("figures/").removesuffix(".png"), place)
        for place, name in enumerate(names)
        if name.startswith("figures/") and name.endswith(".png")
    )
    return (
        draw_figures(main_figures(rows))
        + (f'<div class="lcl-thumbnails">{images}</div>' if images else "")
        + fold(f"All {plural(len(rows), 'figure')}", csv + draw_table(rows))
    )


def _thumbnail(source: str, name: str, place: int) -> str:
    """A small image; a click opens it over the page, and Escape closes it. ``name``: KIND-TASK-SPLIT-… of the run."""
    kind, task, *_ = [*name.split("-"), ""]
    way = next((way.replace("_", " ") for way in ("image_to_text", "text_to_image") if way in name), "")
    words = esc(", ".join(filter(None, (kind.capitalize(), TASK_LABELS.get(task, task).lower(), way))))
    image = f'<img src="{source}" alt="{words}" loading="lazy" decoding="async">'
    return (
        f'<button type="button" popovertarget="figure-{place}">{image}<span>{words}</span></button>'
        f'<div popover id="figure-{place}" class="lcl-figure-view">{image}</div>'
    )


def _file(run_id: str, name: str) -> str:
    return f"artifacts/{quote(run_id, safe='')}/{quote(name)}"


def _files(run_id: str, artifacts: Sequence[Json]) -> str:
    """The files that a run left, each a download, folded away."""
    if not artifacts:
        return ""
    total = format_bytes(sum(file["bytes"] for file in artifacts))
    rows = "".join(
        f'<tr><td><a href="{_file(run_id, file["name"])}" download>{esc(file["name"])}</a></td>'
        f'<td class="lcl-number">{format_bytes(file["bytes"])}</td></tr>'
        for file in artifacts
    )
    table = html_table("Files of the run", ("File", "Size"), rows)
    return fold(f"{plural(len(artifacts), 'file')}, {total}", table)


def draw_log(text: str, error: str = "", whole: str = "") -> str:
    """End of the log, which wraps, with a field that finds text in it and a button that saves it."""
    above = status_line(f"The end of the log. “{whole}” prints all of it.") if whole else ""
    above += status_line(f"The log cannot be read at the moment: {error}") if error else ""
    if not text:
        return above if error else status_line("The log is empty so far.")
    return (
        f'{above}<p class="lcl-log__tools"><input type="search" data-find placeholder="Find in the log" '
        'aria-label="Find in the log"><button type="button" data-save="log.txt">Download</button></p>'
        f'<pre class="lcl-log" tabindex="0" role="log" aria-label="Log" aria-live="off">{esc(text)}</pre>'
    )


def progress_fraction(run: Json) -> float | None:
    """Share of the work done, 0 to 1; None while unknown."""
    if run["state"] == "succeeded":
        return 1.0
    progress = run.get("progress") or {}
    total = progress.get("total_steps")
    return progress.get("step", 0) / total if total else None


def _row(run: Json, selected: bool) -> str:
    kind = str(KIND_LABELS.get(run["kind"], run["kind"]))
    subject = run_subject(run)
    line = " · ".join(filter(None, (kind, subject if run.get("name") else "", ago(run.get("created_at")))))
    bar = (
        progress_bar(progress_fraction(run), "progress") if run["state"] in ("running", "pausing", "cancelling") else ""
    )
    current = ' aria-current="true"' if selected else ""
    return (
        f'<li><button type="button" data-pick="{esc(run["id"])}"{current}>'
        f"<span><b>{esc(run.get('name') or subject or kind)}</b>"
        f"<small>{esc(line)}</small></span>"
        f"{badge(run['state'])}{bar}</button></li>"
    )


def _progress(run: Json) -> str:
    """How far a run is, or why it does not move."""
    state, reached, progress = run["state"], _fraction(run), run.get("progress") or {}
    if state in ("running", "pausing", "cancelling"):
        resumes = state == "running" and not progress.get("step") and (run.get("attempt") or 0) > 1
        left, rate = progress.get("seconds_left"), progress.get("images_per_s")
        parts = [
            str(progress.get("phase") or ""),
            f"step {number(progress.get('step'))} of {number(total)}" if (total := progress.get("total_steps")) else "",
            f"{duration(left)} left" if left is not None else "",
            f"{number(rate)} images a second" if rate else "",
        ]
        words = "Resuming from its last checkpoint" if resumes else " · ".join(filter(None, parts)) or "Starting"
        bar = progress_bar(None if resumes else progress_fraction(run), words)
        return f'<div class="lcl-progress">{bar}<p>{esc(words)}</p></div>'
    if state == "waiting":
        return f'<p class="lcl-note">Comes after {", ".join(map(run_link, run.get("after") or []))}.</p>'
    words = ""
    if state == "queued":
        words = (run.get("obstacle") or {}).get("message") or "Waiting for a worker."
        words += f" It goes on from its last checkpoint, {reached}." if reached else ""
    elif state == "paused":
        words = f"Held back, its place in the queue kept. Resume goes on{f' from step {reached}' if reached else ''}."
    elif state in ("cancelled", "failed") and reached:
        words = f"Stopped at {reached}. Resume goes on from its last checkpoint."
    elif note := (run.get("artifacts") or {}).get("message"):
        words = f"The run has ended; {note}."
    return status_line(words) if words else ""


def _fraction(run: Json) -> str:
    """``30/60``: the last step of which a line of metrics is known."""
    progress = run.get("progress") or {}
    step, total = progress.get("step"), progress.get("total_steps")
    return f"{number(step)}/{number(total)}" if step and total else ""


def _reason(run: Json) -> str:
    reason = run.get("reason")
    if not reason:
        return ""
    field = reason.get("field") or ""
    where = f"<code>{esc(field)}</code> " if field else ""
    words = (reason.get("message") or reason.get("code") or "").removeprefix(f"{field}: ")
    kind = "problem" if run["state"] == "failed" else "note"
    return f'<div class="lcl-{kind}" role="status"><p>{where}{esc(words)}</p></div>'


def _problems(report: dict[str, Any]) -> str:
    """Problems of a validation by reason, and the first of them."""
    reasons = " · ".join(f"{reason} {number(count)}" for reason, count in (report.get("reasons") or {}).items())
    first = "".join(
        f"<li><code>{esc(row['file'])}{':' + str(row['line']) if row['line'] else ''}</code> "
        f"{esc(row['reason'])}: {esc(row['detail'])}</li>"
        for row in report.get("first") or ()
    )
    if not reasons:
        return status_line("No problems.")
    listed = f'<ul class="lcl-findings" tabindex="0" aria-label="First problems">{first}</ul>'
    return status_line(f"Problems: {reasons}") + listed
