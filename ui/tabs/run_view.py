"""HTML of runs: the list, and head, figures, curves, files and log of the selected one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from ui.tabs.run_table import draw_tags, run_seconds

EXPECTED_LOSSES = ("contrastive_loss", "generation_loss")  # drawn before the first line
HELD_OUT_SHARES = ("held_out.retrieval_r5", "held_out.knn_accuracy")
SYSTEM_METRICS = ("images_per_s", "tokens_per_s", "mfu", "cpu_cores", "data_wait", "memory_gib")
LOADING = status_line("Loading the run …")
NO_SUCH_RUN = "There is no run of this name, or it is not yours."


@dataclass(frozen=True)
class WatchedRun:
    """Log and, once it has ended, files of the open run that were fetched.

    Args:
        log: its end, of at most ``MAX_LOG_CHARACTERS``.
        log_cut: the log has more before that.
        log_error: why the log could not be read the last time; empty: it was.
        start: figures on the same data of the encoder whose weights the evaluated one started from.
    """

    id: str | None = None
    attempt: int = 0
    log: str = field(default="", repr=False)
    log_cut: bool = False
    log_error: str = ""
    artifacts: tuple[Json, ...] = field(default=(), repr=False)
    start: tuple[Json, ...] = field(default=(), repr=False)
    offset: int = 0
    complete: bool = False  # the run had ended when they were last fetched


def draw_head(run: Json, menu: str = "") -> str:
    """Name, state, actions, what was done in how long, what came out, progress, and the reason of a failure.

    ``menu``: beside the actions.
    """
    kind = KIND_LABELS.get(run["kind"], run["kind"])
    return (
        f'<header class="lcl-run__head"><h2>{esc(run.get("name") or kind)}</h2>{badge(run["state"])}'
        f'{_draw_actions(run, menu)}</header><p class="lcl-run__line">{_facts(run)}</p>{_outcome(run)}'
        f"{_changes(run)}{_progress(run)}{_reason(run)}{draw_tags(run)}"
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


def _draw_actions(run: Json, menu: str) -> str:
    """Resume, links to new runs of its spec or encoder, and behind ⋯ what stops or removes it."""
    encoder = run.get("encoder_id") if run["kind"] == "pretrain" and run["state"] == "succeeded" else None
    links = {"Clone": address(tab="runs", new=run["kind"], clone=run["id"])}
    links |= {name: address(tab="runs", new=name.lower(), on=encoder) for name in ("Evaluate", "Index") if encoder}
    buttons = draw_buttons(RUN_ACTIONS, run)
    first = buttons.pop("resume", "")
    inside = "".join(f'<a href="{esc(link)}">{words}</a>' for words, link in links.items()) + menu
    if buttons:
        rest = "".join(buttons.values())
        inside += f'<details class="lcl-run__menu"><summary aria-label="More">⋯</summary><div>{rest}</div></details>'
    return f'<nav class="lcl-links lcl-actions-of" aria-label="Actions">{first}{inside}</nav>'


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


def draw_buttons(actions: Sequence[RunAction], of: Mapping[str, Any]) -> dict[str, str]:
    """A button for each verb that the state of a run or study allows."""
    return {
        action.verb: f'<button type="button" data-pick="{action.verb}:{esc(of["id"])}">{action.words}</button>'
        for action in actions
        if of["state"] in action.states
    }


_STATES_OF = {action.verb: action.states for action in RUN_ACTIONS}
NAMED_RUNS = 5  # in a question
STAYS_OF = {"pretrain": "encoder", "index": "collection", "convert": "dataset", "match": "dataset"}


def draw_question(verb: str, runs: Sequence[Json]) -> str:
    """The question before runs are cancelled, restarted or deleted: which of them can be, what is lost, what stays."""
    able = [run for run in runs if run["state"] in _STATES_OF[verb]]
    if not able:
        return toast("No chosen run can be, any more.", f"{verb.capitalize()} runs")
    names = [str(run.get("name") or run_subject(run) or run["id"]) for run in able]
    counted = plural(len(able), "run")
    title, yes, keep = {
        "cancel": ("Cancel {}?", "Cancel", "Keep running"),
        "retry": ("Restart {} from scratch?", "Restart", "Keep it"),
        "delete": ("Delete {}?", "Delete", "Keep it"),
    }[verb]
    words = [sentence for run in able for sentence in _lost(verb, run)]
    if len(able) > 1:
        rest = f" and {plural(len(able) - NAMED_RUNS, 'run')} more" if len(able) > NAMED_RUNS else ""
        words.insert(0, f"{', '.join(names[:NAMED_RUNS])}{rest}.")
    if others := len(runs) - len(able):
        words.append(f"{plural(others, 'run')} of the chosen cannot be.")
    pick, button = f"{verb}:{','.join(run['id'] for run in able)}", f"{yes} {counted.removeprefix('1 ')}"
    title = title.format(names[0] if len(runs) == 1 else counted)
    return question_box(title, " ".join(dict.fromkeys(words)), (pick, button), ("keep:", keep))


def _lost(verb: str, run: Json) -> list[str]:
    """What is lost by a verb, and what stays, in sentences that hold of several runs as well."""
    if verb == "retry":
        return ["Curves and checkpoints so far are deleted. Resume would go on from the last checkpoint."]
    if verb == "cancel" and run["state"] not in ("running", "pausing"):
        return ["What waits leaves the queue; nothing that was done is deleted.", "Resume queues it again."]
    if verb == "cancel" and run["kind"] == "pretrain":
        return ["A checkpoint is written first; nothing is lost. Resume goes on from there."]
    if verb == "cancel":
        return ["What was computed and not stored yet is lost.", "Resume queues it again."]
    removed = "Curves, log, checkpoints and files are removed for good."
    if run["kind"] == "evaluate":
        return [removed, "The encoder loses the figures of this evaluation."]
    made = STAYS_OF.get(run["kind"]) if run["state"] == "succeeded" else None
    return [removed, f"The {made} that it made stays."] if made else [removed]


def draw_chosen(runs: Sequence[Json]) -> str:
    """What can be done with several runs at once; nothing without any."""
    if not runs:
        return ""
    buttons = "".join(
        f'<button type="button" data-pick="all:{verb}">{words}</button>'
        for verb, words in (("cancel", "Cancel …"), ("delete", "Delete …"))
        if any(run["state"] in _STATES_OF[verb] for run in runs)
    )
    first, *others = [str(run["id"]) for run in runs if run["kind"] == "pretrain"] or [""]
    link = f'<a href="{esc(address(run=first, **{"with": ",".join(others)}))}">Compare</a>' if others else ""
    return (
        '<div class="lcl-chosen" role="group" aria-label="Chosen runs">'
        f"<b>{plural(len(runs), 'run')} chosen</b>{link}{buttons}"
        '<button type="button" data-pick="check:">Clear</button></div>'
    )


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


def draw_details(run: Json, watched: WatchedRun, lines: Sequence[dict[str, Any]] = ()) -> str:
    """Figures of an evaluation and problems of a validation; folded further curves, log, files, spec and notes."""
    artifacts = watched.artifacts
    recorded = _recorded(lines) if run["kind"] == "pretrain" else []
    system = [name for name in SYSTEM_METRICS if name in recorded]
    others = [
        name
        for name in recorded
        if name not in (*system, *HELD_OUT_SHARES) and not name.endswith("_loss") and not name.startswith("held_out.")
    ]
    rows, report = ((run.get("result") or {}).get(name) for name in ("rows", "report"))
    return (
        (draw_evaluation(run, _with_start(rows, watched.start), artifacts) if rows else "")
        + (_problems(report) if report else "")
        + (fold(f"{plural(len(others), 'more curve')}", _charts(run, lines, others)) if others else "")
        + (fold(f"System, {plural(len(system), 'curve')}", _charts(run, lines, system)) if system else "")
        + fold("Log", draw_log(watched))
        + _files(run["id"], artifacts)
        + fold("Spec", _spec(run))
        + f'<div id="run-annotation">{fold("Tags and notes", _annotation_form(run))}</div>'
    )


def _with_start(rows: Sequence[dict[str, Any]], start: Sequence[Json]) -> list[dict[str, Any]]:
    """The rows, each with the value that the encoder had whose weights the training started from, if that is known."""
    known = {figure_key(row): row["value"] for row in reversed(start)}  # newest first
    return [{**row, "start": known.get(figure_key(row))} for row in rows]


def figure_key(row: Json) -> tuple[Any, ...]:
    """What two figures have in common that are about the same."""
    return tuple(row.get(name) for name in ("task", "split", "variant", "transfer", "metric"))


def _annotation_form(run: Json) -> str:
    """Tags and notes; what is being typed stays while the run is drawn again."""
    tags = esc(" ".join(run.get("tags") or ()))
    return (
        f'<form data-form="annotate" data-reset="{esc(run["id"])}" class="lcl-form">'
        f'<input type="hidden" name="run" value="{esc(run["id"])}"><div class="lcl-field">'
        '<label for="run-tags">Tags</label><input id="run-tags" name="tags" maxlength="1000" '
        f'placeholder="separated by blanks or commas" value="{tags}"></div><div class="lcl-field">'
        '<label for="run-notes">Notes</label><textarea id="run-notes" name="notes" rows="3">\n'
        f"{esc(run.get('notes') or '')}</textarea></div>"
        '<div class="lcl-submit"><span></span><button type="submit">Save</button></div></form>'
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


def draw_log(watched: WatchedRun) -> str:
    """End of the log, which wraps, with a field that finds text in it and a button that saves it."""
    above = ""
    if watched.log_cut:
        above += status_line(f"The end of the log. “lcl runs logs {watched.id}” prints all of it.")
    if watched.log_error:
        above += status_line(f"The log cannot be read at the moment: {watched.log_error}")
    if not watched.log:
        return above or status_line("The log is empty so far.")
    return (
        f'{above}<p class="lcl-log__tools"><input type="search" data-find placeholder="Find in the log" '
        'aria-label="Find in the log"><button type="button" data-save="log.txt">Download</button></p>'
        f'<pre class="lcl-log" tabindex="0" role="log" aria-label="Log" aria-live="off">{esc(watched.log)}</pre>'
    )


def progress_fraction(run: Json) -> float | None:
    """Share of the work done, 0 to 1; None while unknown."""
    if run["state"] == "succeeded":
        return 1.0
    progress = run.get("progress") or {}
    total = progress.get("total_steps")
    return progress.get("step", 0) / total if total else None


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
