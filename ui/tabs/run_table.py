"""Runs as a table: sorted by a field, filtered by a tag; and the fields in which the specs of some differ."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from api.client.payloads import Json, run_subject
from lcl_core.specs.parsing import KIND_LABELS
from ui.charts import metric_value
from ui.common import ListPage
from ui.figures import main_figures, metric_text
from ui.html import (
    ACTIVE_STATES,
    STATE_LABELS,
    ago,
    badge,
    duration,
    esc,
    heading,
    html_table,
    parse_time,
    status_line,
)
from ui.spec_fields import spec_differences

TABLE = "table"
MAX_TABLE_RUNS = 100
NOTE_CHARACTERS = 80  # of the notes in a row
MAX_NAME = 100  # characters of a run's name


@dataclass(frozen=True)
class RunListing:
    """How the runs are listed.

    Args:
        layout: ``table``, or empty for the list beside the selected run.
        sort: a key of ``COLUMNS``; with ``-`` before it the greatest first.
        tag, state: only runs with this one; empty: all.
        name: only runs whose name contains this; empty: all.
        checked: ids of runs that are chosen in the table.
        page: which runs, in the order of their submission.
    """

    layout: str = ""
    sort: str = "-created"
    tag: str = ""
    state: str = ""
    name: str = ""
    checked: frozenset[str] = frozenset()
    page: ListPage = field(default_factory=ListPage)

    def changed(self, action: str, value: str) -> RunListing:
        """The listing after a click on ``layout:``, ``sort:``, ``tag:`` or ``check:``, which a second click turns back,
        or on ``state:`` or ``page:``; or after ``name:`` with what was typed.

        ``check:`` without an id: no run is chosen any more.
        """
        if action == "page":
            return replace(self, page=self.page.turned(value))
        if action in ("layout", "state", "name"):
            changed: dict[str, Any] = {action: value, "page": ListPage()}
            return replace(self, **changed)
        if action == "tag":
            return replace(self, tag="" if value == self.tag else value, page=ListPage())
        if action == "check":
            return replace(self, checked=self.checked ^ {value} if value else frozenset())
        other = value.removeprefix("-") if value.startswith("-") else f"-{value}"
        return replace(self, sort=other if self.sort == value else value)

    def fetched(self, page: ListPage, runs: Iterable[Json], next_cursor: str | None) -> RunListing:
        """The listing now that the ``runs`` of a page have been fetched: what is not on show is not chosen either."""
        checked = self.checked & {run["id"] for run in runs}
        return replace(self, checked=checked, page=self.page.fetched(page, next_cursor))

    @property
    def limit(self) -> int:
        """Runs that are asked for."""
        return MAX_TABLE_RUNS if self.layout == TABLE else 50

    @property
    def filtered(self) -> bool:
        """Does the listing exclude any runs?"""
        return bool(self.tag or self.state or self.name)

    @property
    def address(self) -> dict[str, str]:
        """Parameters of the page's address; those of the first listing are left out."""
        sort = "" if self.sort == RunListing().sort or self.layout != TABLE else self.sort
        filters = {name: value for name in ("state", "name") if (value := getattr(self, name))}
        return {"layout": self.layout, "sort": sort, "tag": self.tag, **filters}


def linked_listing(parameters: Mapping[str, str]) -> RunListing:
    """The listing of an address; what it does not know is left out."""
    sort, layout, state = (parameters.get(name, "") for name in ("sort", "layout", "state"))
    known = sort.removeprefix("-") in COLUMNS
    return RunListing(
        layout if layout == TABLE else "",
        sort if known else RunListing().sort,
        parameters.get("tag", ""),
        state if state in STATE_LABELS else "",
        parameters.get("name", "")[:MAX_NAME],
    )


def run_seconds(run: Json) -> float | None:
    """From the start of the first attempt to the end, or until now; None: it has not begun."""
    start, end = parse_time(run.get("started_at")), parse_time(run.get("finished_at"))
    if start is None or (end is None and run["state"] not in ACTIVE_STATES):
        return None
    return ((end or datetime.now(UTC)) - start).total_seconds()


def final_metric(run: Json) -> tuple[str, float] | None:
    """(name, value) of what a run is judged by: a training's last loss, the main metric of an evaluation."""
    if run["kind"] == "pretrain":
        result = run.get("result") or {}
        value = metric_value(result.get("final") or run.get("progress") or {}, "loss")
        return None if value is None else ("loss", value)
    rows = main_figures((run.get("result") or {}).get("rows") or [])
    return (str(rows[0]["metric"]), float(rows[0]["value"])) if rows else None


def _name(run: Json) -> str:
    return str(run.get("name") or run_subject(run) or KIND_LABELS.get(run["kind"], run["kind"]))


# title and sort key of each column; rows without a value come last
COLUMNS: dict[str, tuple[str, Callable[[Json], Any]]] = {
    "name": ("Run", lambda run: _name(run).lower()),
    "kind": ("Kind", lambda run: KIND_LABELS.get(run["kind"], run["kind"])),
    "state": ("State", lambda run: STATE_LABELS.get(run["state"], run["state"])),
    "created": ("Submitted", lambda run: run.get("created_at") or None),
    "duration": ("Duration", run_seconds),
    "metric": ("Final loss or metric", final_metric),  # by name first: a loss and a recall are not comparable
}


def sort_runs(runs: Sequence[Json], sort: str) -> list[Json]:
    """Stable: equal ones stay newest first."""
    key, descending = COLUMNS[sort.removeprefix("-")][1], sort.startswith("-")
    valued = [run for run in runs if key(run) is not None]
    return sorted(valued, key=key, reverse=descending) + [run for run in runs if key(run) is None]


def draw_listing_controls(runs: Sequence[Json], listing: RunListing) -> str:
    """The switch between list and table, the states, and the tags of the listed runs."""
    layouts = _radio_buttons("layout", listing.layout, {"": "List", TABLE: "Table"})
    passing = {"pausing", "cancelling"} - {listing.state}  # for some seconds
    words = {state: words for state, words in STATE_LABELS.items() if state not in passing}
    states = _radio_buttons("state", listing.state, {"": "All", **words})
    tags = sorted({tag for run in runs for tag in run.get("tags") or ()} | ({listing.tag} if listing.tag else set()))
    chips = "".join(tag_button(tag, pressed=tag == listing.tag) for tag in tags)
    filters = f'<div class="lcl-tags" role="group" aria-label="Filter by tag">{chips}</div>' if chips else ""
    return (
        f'<div class="lcl-listing"><div role="radiogroup" aria-label="Layout">{layouts}</div>'
        f'<div class="lcl-states" role="radiogroup" aria-label="Filter by state">{states}</div>{filters}</div>'
    )


def _radio_buttons(action: str, current: str, choices: Mapping[str, str]) -> str:
    """One of some values, by their words; a click is an event ``ACTION:VALUE``."""
    return "".join(
        f'<button type="button" role="radio" data-pick="{action}:{value}" '
        f'aria-checked="{str(value == current).lower()}">{words}</button>'
        for value, words in choices.items()
    )


def tag_button(tag: str, *, pressed: bool = False) -> str:
    """A tag; a click filters by it."""
    return f'<button type="button" data-pick="tag:{esc(tag)}" aria-pressed="{str(pressed).lower()}">{esc(tag)}</button>'


def draw_run_table(runs: Sequence[Json], selected: str | None, listing: RunListing) -> str:
    """A row for each run; the titles of the columns sort."""
    table = html_table(
        "Runs",
        ("check", *COLUMNS, "Tags", "Notes"),
        "".join(_row(run, selected, checked=run["id"] in listing.checked) for run in sort_runs(runs, listing.sort)),
        "runs",
    ).replace('<th scope="col">check</th>', '<td class="lcl-check"></td>', 1)
    for name, (title, _) in COLUMNS.items():
        table = table.replace(f'<th scope="col">{name}</th>', _sort_head(name, title, listing.sort), 1)
    return table


def _sort_head(name: str, title: str, sort: str) -> str:
    ways = {name: ("ascending", "▴"), f"-{name}": ("descending", "▾")}
    order, mark = ways.get(sort, ("none", ""))
    first = f"-{name}" if name in ("created", "duration") else name
    pick = sort if sort in ways else first
    return (
        f'<th scope="col" aria-sort="{order}"><button type="button" data-pick="sort:{pick}">{esc(title)}'
        f'<i aria-hidden="true">{mark}</i></button></th>'
    )


def _row(run: Json, selected: str | None, *, checked: bool) -> str:
    current = ' aria-current="true"' if run["id"] == selected else ""
    metric = final_metric(run)
    value = f"<b>{metric_text(*metric)}</b> <small>{esc(metric[0])}</small>" if metric else ""
    tags = "".join(tag_button(tag) for tag in run.get("tags") or ())
    notes = " ".join(str(run.get("notes") or "").split())
    short = notes if len(notes) <= NOTE_CHARACTERS else f"{notes[: NOTE_CHARACTERS - 1]}…"
    check = (
        f'<td class="lcl-check"><button type="button" role="checkbox" aria-checked="{str(checked).lower()}" '
        f'data-pick="check:{esc(run["id"])}" aria-label="Choose {esc(_name(run))}"></button></td>'
    )
    return (
        f'<tr{current}>{check}<th scope="row"><button type="button" data-pick="{esc(run["id"])}"{current}>'
        f"{esc(_name(run))}</button></th>"
        f"<td>{esc(KIND_LABELS.get(run['kind'], run['kind']))}</td><td>{badge(run['state'])}</td>"
        f'<td title="{esc(run.get("created_at") or "")}">{ago(run.get("created_at"))}</td>'
        f'<td>{duration(run_seconds(run))}</td><td>{value}</td><td><div class="lcl-tags">{tags}</div></td>'
        f"<td><small>{esc(short)}</small></td></tr>"
    )


def draw_spec_differences(runs: Sequence[Json], labels: Sequence[str]) -> str:
    """The fields in which the specs of runs differ, a column each run; nothing for a single run."""
    if len(runs) < 2:
        return ""
    rows = spec_differences([run.get("spec") or {} for run in runs])
    if not rows:
        return status_line("The specs of these runs are the same.")
    body = "".join(
        f'<tr><th scope="row"><code>{esc(field)}</code></th>'
        + "".join(f"<td>{_spec_value(value)}</td>" for value in values)
        + "</tr>"
        for field, values in rows
    )
    return heading("Differences of their specs") + html_table("Differences of specs", ("Field", *labels), body, "specs")


def _spec_value(value: Any) -> str:
    return (
        '<small title="not set">–</small>' if value is None else esc(json.dumps(value, ensure_ascii=False).strip('"'))
    )


def parse_tags(text: str) -> list[str]:
    """Words separated by blanks or commas, each once."""
    return sorted({tag for tag in re.split(r"[\s,]+", text) if tag})
