"""HTML of runs: the list, and header, curves, result and log of the selected one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from api.client.payloads import Json, format_bytes, run_subject
from lcl_core.specs.parsing import KIND_LABELS
from ui.addresses import address
from ui.charts import METRIC_LABELS, line_chart, metric_points
from ui.html import (
    ACTIVE_STATES,
    ago,
    badge,
    definition_list,
    duration,
    empty_state,
    esc,
    html_table,
    number,
    parse_time,
    plural,
    progress_bar,
    question_box,
    run_link,
    status_line,
    toast,
)

EXPECTED_LOSSES = ("contrastive_loss", "generation_loss")  # drawn before the first line
HELD_OUT_SHARES = ("held_out.retrieval_r5", "held_out.knn_accuracy")
SYSTEM_METRICS = ("images_per_s", "mfu", "cpu_cores", "data_wait", "memory_gib", "rss_gib")
NO_SYSTEM = empty_state(
    "Nothing was measured", "A pre-training measures its speed, processor and memory with each line of metrics."
)
NO_RUNS = empty_state("No runs yet", "Open “New run”: the sample preset learns on two CPU cores in minutes.")
NO_MATCHING_RUNS = empty_state(
    "No run matches",
    "No run has this kind, state, tag and name. “All” shows every kind or state; a second click clears a tag.",
)
NO_WORKERS = empty_state("No worker is alive", "Start one, and queued runs begin by themselves.")
NOTHING_SELECTED = empty_state("No run selected", "Choose one on the left to see its curves, log and result.")
PAUSED_TEXT = "Held back, its place in the queue kept. Resume lets it go on from where it was"


def draw_list(runs: Sequence[Json], selected: str | None, *, filtered: bool = False) -> str:
    """Newest first; each is a button. ``filtered``: only runs of one kind, or with one tag, were asked for."""
    if not runs:
        return NO_MATCHING_RUNS if filtered else NO_RUNS
    return f'<ul class="lcl-runs">{"".join(_row(run, run["id"] == selected) for run in runs)}</ul>'


def draw_head(run: Json) -> str:
    """Name, state, progress, reason of a failure, current metrics."""
    kind = KIND_LABELS.get(run["kind"], run["kind"])
    title = run.get("name") or kind
    attempt = f" · attempt {run['attempt']}" if (run.get("attempt") or 0) > 1 else ""
    devices = len(run.get("devices") or ())
    attempt += f" · {devices} GPU{'s' if devices > 1 else ''}" if devices else ""
    about = f"{kind} · {subject}" if (subject := run_subject(run)) else kind
    line = f"{about} · {run['id']}{attempt} · submitted {ago(run.get('created_at'))}"
    return (
        f'<header class="lcl-run__head"><div><h2>{esc(title)}</h2><p>{esc(line)}</p></div>'
        f"{badge(run['state'])}</header>{_annotation(run)}{_progress(run)}{_reason(run)}"
        f"{definition_list(_figures(run))}"
    )


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
    variant: Literal["secondary", "stop"] = "secondary"
    asks: bool = False  # before something is lost


RUN_ACTIONS = (
    RunAction("pause", "Pause", ("waiting", "queued", "running")),
    RunAction("resume", "Resume", ("paused", "failed", "cancelled")),
    RunAction("retry", "Restart from scratch", ("failed", "cancelled"), asks=True),
    RunAction("cancel", "Cancel", ("waiting", "queued", "running", "pausing", "paused"), "stop", asks=True),
    RunAction("delete", "Delete", ("succeeded", "failed", "cancelled"), "stop", asks=True),
)


def draw_question(verb: str, run: Json) -> str:
    """The question before a run is cancelled, restarted or deleted: what is lost, and what stays."""
    name = run.get("name") or run_subject(run) or run["id"]
    title, lost, words, keep = {
        "cancel": (f"Cancel {name}?", _lost_by_cancel(run), "Cancel the run", "Let it go on"),
        "retry": (f"Restart {name} from scratch?", LOST_BY_RESTART, "Restart", "Keep it"),
        "delete": (f"Delete {name}?", _lost_by_deletion(run), "Delete the run", "Keep it"),
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
    rest = len(runs) - len(able)
    others = (
        f" {plural(rest, 'run')} of the chosen cannot be: {'ended' if verb == 'cancel' else 'not ended'}."
        if rest
        else ""
    )
    title, lost, words, keep = {
        "cancel": (f"Cancel {plural(len(able), 'run')}?", LOST_BY_CANCELS, "Cancel them", "Let them go on"),
        "delete": (f"Delete {plural(len(able), 'run')}?", LOST_BY_DELETIONS, "Delete them", "Keep them"),
    }[verb]
    names = [run.get("name") or run["id"] for run in able[:NAMED_RUNS]]
    named = ", ".join(names) + (f" and {plural(len(able) - len(names), 'run')} more" if len(able) > len(names) else "")
    lost = f"{named}. {lost}"
    return question_box(title, lost + others, (f"{verb}:{','.join(run['id'] for run in able)}", words), ("keep:", keep))


def draw_refusal(verb: str, message: str, refused: int, runs: int) -> str:
    """Why so many of some runs were not cancelled, deleted or restarted."""
    done = {"cancel": "cancelled", "delete": "deleted", "retry": "restarted"}[verb]
    return toast(message, f"{refused} of {runs} runs were not {done}") if runs > 1 else toast(message)


NAMED_RUNS = 5  # in a question
_STATES_OF = {action.verb: action.states for action in RUN_ACTIONS}
LOST_BY_CANCELS = "Those that run lose what they have done since their last checkpoint. Resume queues each again."
LOST_BY_DELETIONS = (
    "Their curves, logs, checkpoints and files are removed for good; encoders lose the figures of their evaluations. "
    "Encoders, collections and datasets that they made stay."
)
LOST_BY_RESTART = "Its curves and checkpoints so far are deleted. Resume would go on from its last checkpoint."


def _lost_by_cancel(run: Json) -> str:
    if run["state"] not in ("running", "pausing"):
        return "It leaves the queue; nothing that it has done is deleted. Resume queues it again."
    reached = f"It is at step {_fraction(run)}. " if _fraction(run) else ""
    if run["kind"] != "pretrain":
        return f"{reached}What it has computed and not stored yet is lost. Resume queues it again."
    every = (run.get("spec") or {}).get("checkpoint_every")
    steps = f", at most {number(every)}," if every else ""
    return f"{reached}The steps since its last checkpoint{steps} are lost. Resume goes on from that checkpoint."


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
    losses = [
        name for name in METRIC_LABELS if name.endswith("_loss") and any(line.get(name) is not None for line in lines)
    ]
    shares = [name for name in HELD_OUT_SHARES if any(line.get(name) is not None for line in lines)]
    charts = (
        line_chart(
            METRIC_LABELS[name],
            metric_points(lines, name, "step"),
            colour,
            metric_points(lines, f"held_out.{name}", "step"),
            ended=run["state"] not in ACTIVE_STATES and run["state"] != "paused",
        )
        for colour, name in enumerate([*(losses or EXPECTED_LOSSES), *shares], start=1)
    )
    legend = status_line("Pale: as recorded, like the number. Bold: smoothed.") if len(lines) > 1 else ""
    return f'<div class="lcl-charts">{"".join(charts)}</div>{legend}'


def draw_system(run: Json, lines: Sequence[dict[str, Any]]) -> str:
    """Speed, and use of processor and memory, of a pre-training run; what a run did not record is left out."""
    drawn = [name for name in SYSTEM_METRICS if any(line.get(name) is not None for line in lines)]
    if not drawn:
        return NO_SYSTEM
    ended = run["state"] not in ACTIVE_STATES and run["state"] != "paused"
    charts = (
        line_chart(METRIC_LABELS[name], metric_points(lines, name, "step"), colour, ended=ended)
        for colour, name in enumerate(drawn, start=1)
    )
    return f'<div class="lcl-charts">{"".join(charts)}</div>'


def draw_result(run: Json) -> str:
    """Result: encoder, table of metrics, collection, validation report or dataset; and what can be done with it."""
    return _draw_result(run) + _ways_on(run)


def _ways_on(run: Json) -> str:
    """Links to what a finished run made or evaluated."""
    if run["state"] != "succeeded":
        return ""
    encoder, collection = run.get("encoder_id"), run.get("collection_id")
    links = {"Search it": address(collection=collection, captions="0")} if collection else {}  # by the encoder alone
    if encoder and run["kind"] in ("pretrain", "evaluate"):
        links["The encoder"] = address(encoder=encoder)
    if encoder and run["kind"] == "pretrain":
        links |= {name: address(tab="runs", new=name.lower(), on=encoder) for name in ("Evaluate", "Index")}
    inside = "".join(f'<a href="{esc(link)}">{words}</a>' for words, link in links.items())
    return f'<nav class="lcl-links lcl-actions-of" aria-label="Next">{inside}</nav>' if inside else ""


def _draw_result(run: Json) -> str:
    result = run.get("result") or {}
    if rows := result.get("rows"):
        return draw_metrics(rows)
    if encoder := result.get("encoder") if isinstance(result.get("encoder"), dict) else None:
        return _section(
            "Encoder",
            [
                ("Parameters", number(encoder.get("parameters"))),
                ("Images seen", number(encoder.get("images_seen"))),
                ("Trained for", duration(encoder.get("seconds"))),
                *_best(result.get("monitor") or {}),
                ("Hash", str(encoder.get("hash") or "")[:12]),
                ("Id", str(run.get("encoder_id") or "")),
            ],
        )
    if collection := result.get("collection"):
        return _section(
            "Collection",
            [
                ("Name", str(collection.get("name") or "")),
                ("Images", number(collection.get("images"))),
                ("Texts", number(collection.get("texts"))),
                ("Vector", f"{collection.get('dim')} numbers"),
                ("Id", str(run.get("collection_id") or "")),
            ],
        )
    if report := result.get("report"):
        return _validation_report(report)
    if dataset := result.get("dataset"):
        return _dataset(dataset)
    return ""


def _best(monitor: dict[str, Any]) -> list[tuple[str, str]]:
    """The best weights of a monitored run."""
    if not (best := monitor.get("best")):
        return []
    label = METRIC_LABELS.get(monitor["choose"], monitor["choose"])
    return [(f"Best: {label}", f"{number(best['value'])} at step {number(best['step'])}")]


def draw_artifacts(run_id: str, artifacts: Sequence[Json]) -> str:
    """The files that a run left, each a download, folded away."""
    if not artifacts:
        return ""
    total = format_bytes(sum(file["bytes"] for file in artifacts))
    rows = "".join(
        f'<tr><td><a href="artifacts/{quote(run_id, safe="")}/{quote(file["name"])}" download>'
        f"{esc(file['name'])}</a></td><td>{format_bytes(file['bytes'])}</td></tr>"
        for file in artifacts
    )
    count = f"{plural(len(artifacts), 'file')}, {total}"
    table = html_table("Files of the run", ("File", "Size"), rows)
    return f'<details class="lcl-files"><summary>{count}</summary>{table}</details>'


def draw_log(text: str, error: str = "", whole: str = "") -> str:
    """End of the log, which the keyboard can scroll; ``error``: why no more; ``whole``: command that prints all."""
    above = status_line(f"The end of the log. “{whole}” prints all of it.") if whole else ""
    above += status_line(f"The log cannot be read at the moment: {error}") if error else ""
    if error and not text:
        return above
    shown = esc(text) if text else "The log is empty so far."
    return f'{above}<pre class="lcl-log" tabindex="0" role="log" aria-label="Log" aria-live="off">{shown}</pre>'


def draw_workers(workers: Sequence[Json]) -> str:
    """A row for each GPU of each worker, with the run that has it; one row for a worker without GPUs."""
    if not workers:
        return NO_WORKERS
    rows = [row for worker in workers for row in _worker_rows(worker)]
    columns = ("Worker", "Device", "Use", "Memory", "Seen")
    return html_table("Workers and their devices", columns, "".join(rows))


_USE_LABELS = {"free": "free", "run": "", "inference": "inference"}


def _worker_rows(worker: Json) -> list[str]:
    seen = ago(worker["seen_at"])
    if not worker["gpus"]:
        run = run_link(worker["current_run"]) if worker["current_run"] else ""
        return [_worker_row(worker["id"], ", ".join(map(str, worker["devices"])), run, "", seen)]
    rows = []
    for gpu in worker["gpus"]:
        use = _USE_LABELS[gpu["use"]] + (run_link(gpu["run"]) if gpu["run"] else "")
        used, total = gpu["memory_used"], gpu["memory_total"]
        memory = "" if used is None or total is None else f"{format_bytes(used)} of {format_bytes(total)}"
        rows.append(_worker_row(worker["id"], f"{gpu['name']} · {gpu['id']}", use, memory, seen))
    return rows


def _worker_row(worker: str, device: str, use: str, memory: str, seen: str) -> str:
    """``use`` is HTML, the others are text."""
    return f"<tr><td>{esc(worker)}</td><td>{esc(device)}</td><td>{use}</td><td>{esc(memory)}</td><td>{seen}</td></tr>"


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
    if run["state"] == "queued":
        obstacle = run.get("obstacle") or {}
        words = obstacle.get("message") or "Waiting for a worker."
        if reached := _fraction(run):
            words += f" Resuming: it stopped at {reached} and goes on from its last checkpoint."
        return f'<p class="lcl-note">{esc(words)}</p>'
    if run["state"] == "waiting":
        return f'<p class="lcl-note">Comes after {", ".join(map(run_link, run.get("after") or []))}.</p>'
    if run["state"] == "paused":
        reached = _fraction(run).replace("/", " of ")
        return f'<p class="lcl-note">{PAUSED_TEXT}{f": step {reached}" if reached else ""}.</p>'
    if run["state"] not in ACTIVE_STATES:
        if run["state"] in ("cancelled", "failed") and (reached := _fraction(run)):
            return f'<p class="lcl-note">Stopped at {reached}. Resume goes on from its last checkpoint.</p>'
        note = (run.get("artifacts") or {}).get("message")
        return f'<p class="lcl-note">The run has ended; {esc(note)}.</p>' if note else ""
    progress = run.get("progress") or {}
    step, total = progress.get("step"), progress.get("total_steps")
    if not step and run["state"] == "running" and (run.get("attempt") or 0) > 1:
        words = "Resuming from its last checkpoint"
        return f'<div class="lcl-progress">{progress_bar(None, words)}<p>{words}</p></div>'
    parts = [
        str(progress.get("phase") or ""),
        f"step {number(step)} of {number(total)}" if total else "",
        f"{duration(progress.get('seconds_left'))} left" if progress.get("seconds_left") is not None else "",
    ]
    words = " · ".join(part for part in parts if part) or "Starting"
    return f'<div class="lcl-progress">{progress_bar(progress_fraction(run), words)}<p>{esc(words)}</p></div>'


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


def _figures(run: Json) -> list[tuple[str, str]]:
    progress = run.get("progress") or {}
    start, end = parse_time(run.get("started_at")), parse_time(run.get("finished_at"))
    per_second = progress.get("images_per_s")
    return [
        ("Images per second", number(per_second, 3) if per_second else ""),
        ("Images seen", number(progress.get("images_seen"))),
        ("Learning rate", number(progress.get("lr"), 2)),
        ("In-batch accuracy", number(progress.get("in_batch_accuracy"), 2)),
        ("Took", duration((end - start).total_seconds()) if start and end else ""),
        ("Owner", str(run.get("owner") or "")),
    ]


def _section(what: str, pairs: list[tuple[str, str]]) -> str:
    return f'<section class="lcl-made"><h3>{what}</h3>{definition_list(pairs)}</section>'


def _validation_report(report: dict[str, Any]) -> str:
    """Counts of a validation report and its first problems."""
    counts = [
        ("Documents", number(report.get("documents"))),
        ("Images", number(report.get("images"))),
        ("Different images", number(report.get("distinct_images"))),
        (str(report.get("length_unit") or "").capitalize(), number(report.get("tokens"))),
    ]
    reasons = [(reason.capitalize(), number(count)) for reason, count in (report.get("reasons") or {}).items()]
    first = "".join(
        f"<li><code>{esc(row['file'])}{':' + str(row['line']) if row['line'] else ''}</code> "
        f"{esc(row['reason'])}: {esc(row['detail'])}</li>"
        for row in report.get("first") or ()
    )
    problems = _section("Problems", reasons) if reasons else ""
    listed = f'<ul class="lcl-findings" tabindex="0" aria-label="First problems">{first}</ul>' if first else ""
    return _section("Report", counts) + problems + listed


def _dataset(dataset: dict[str, Any]) -> str:
    return _section(
        "Dataset",
        [
            ("Name", str(dataset.get("name") or "")),
            ("Records", number(dataset.get("records"))),
            ("Images", number(dataset.get("pictures"))),
            ("Shards", number(dataset.get("shards"))),
            ("Megabytes", number(round((dataset.get("bytes") or 0) / 1e6, 1))),
            ("Contents", str(dataset.get("content_hash") or "")[:12]),
        ],
    )


def draw_metrics(rows: Sequence[dict[str, Any]]) -> str:
    """Table of the metrics of evaluations; a value never without its baselines, on a narrow screen too."""
    columns = ("Task", "Metric", "Value (95 %)", "Chance", "Untrained", "Split", "Variant", "Transfer")
    return html_table("Result", columns, "".join(map(_table_row, rows)))


def _table_row(row: dict[str, Any]) -> str:
    low, high = row.get("interval") or (None, None)
    interval = f" <small>{number(low, 3)} – {number(high, 3)}</small>" if low is not None else ""
    what, how = (
        "".join(f"<td>{esc(row.get(key, ''))}</td>" for key in keys)
        for keys in (("task", "metric"), ("split", "variant", "transfer"))
    )
    figures = (number(row.get("chance"), 2), number(row.get("untrained"), 2))
    return (
        f"<tr>{what}<td><b>{number(row.get('value'), 3)}</b>{interval}</td>"
        f"<td>{figures[0]}</td><td>{figures[1]}</td>{how}</tr>"
    )
