"""Runs and studies as one table: found, filtered, sorted, with the columns that a reader chooses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from api.client.payloads import Json, run_subject
from lcl_core.specs.parsing import KIND_LABELS, MAIN_FIELDS
from ui.addresses import address
from ui.charts import metric_value
from ui.common import ListPage
from ui.figures import main_figures, metric_text, number
from ui.html import (
    ACTIVE_STATES,
    STATE_LABELS,
    ago,
    badge,
    duration,
    empty_state,
    esc,
    parse_time,
    plural,
)
from ui.spec_fields import get_at, spec_differences

MAX_RUNS = 100  # in the table
MAX_NAME = 100  # characters of a run's name
MAX_FIELDS = 30  # of the specs, offered as columns
COLUMNS = {
    "state": "State",
    "data": "Data",
    "steps": "Steps",
    "optimizer.lr": "Learning rate",
    "metric": "Result",
    "created": "Submitted",
    "kind": "Kind",
    "duration": "Duration",
    "owner": "Owner",
    "tags": "Tags",
    "notes": "Notes",
}
FIRST_COLUMNS = tuple(COLUMNS)[:6]
PLAIN_COLUMNS = ("state", "data", "metric", "created", "kind", "tags", "notes")  # understood without their titles
FILTERS = ("kind", "state", "tag", "of")
PASSING_STATES = ("pausing", "cancelling")  # for some seconds
NEW_RUNS = {"pretrain": "Pre-train", "evaluate": "Evaluate", "index": "Index", "study": "Study"}
NO_RUNS = empty_state("No runs yet", "The sample preset learns on two CPU cores in minutes.").replace(
    "</p>", f' <a href="{address(tab="runs", new="pretrain")}">Start it</a>.</p>'
)
NO_MATCHING_RUNS = empty_state("No run matches", "No run has this name and passes the filter.")


@dataclass(frozen=True)
class RunListing:
    """How the runs are listed.

    Args:
        sort: a column, or ``name``; with ``-`` before it the greatest first.
        columns: those after the name: of ``COLUMNS``, or dotted fields of the specs.
        kind, state, tag, of: only runs with this one, ``of``: a study; empty: all.
        name: only runs whose name contains this; empty: all.
        checked: ids of runs that are chosen in the table.
        page: which runs, in the order of their submission.
    """

    sort: str = "-created"
    columns: tuple[str, ...] = FIRST_COLUMNS
    kind: str = ""
    state: str = ""
    tag: str = ""
    of: str = ""
    name: str = ""
    checked: frozenset[str] = frozenset()
    page: ListPage = field(default_factory=ListPage)

    def changed(self, action: str, value: str) -> RunListing:
        """The listing after a click on ``sort:``, ``column:``, a filter or ``check:``, which a second click turns back,
        or on ``page:``.

        ``check:`` without an id: no run is chosen any more.
        """
        if action == "page":
            return replace(self, page=self.page.turned(value))
        if action == "check":
            return replace(self, checked=self.checked ^ {value} if value else frozenset())
        if action == "column":
            shown = value in self.columns
            return replace(
                self, columns=tuple(each for each in self.columns if each != value) + ((value,) * (not shown))
            )
        if action == "sort":
            other = value.removeprefix("-") if value.startswith("-") else f"-{value}"
            return replace(self, sort=other if self.sort == value else value)
        if action not in FILTERS:
            return self
        changed: dict[str, Any] = {action: "" if getattr(self, action) == value else value, "page": ListPage()}
        return replace(self, **changed)

    def fetched(self, page: ListPage, runs: Iterable[Json], next_cursor: str | None) -> RunListing:
        """The listing now that the ``runs`` of a page have been fetched: what is not on show is not chosen either."""
        checked = self.checked & {run["id"] for run in runs}
        return replace(self, checked=checked, page=self.page.fetched(page, next_cursor))

    @property
    def query(self) -> dict[str, Any]:
        """Of ``Client.runs``."""
        filters = {"kind": self.kind, "state": self.state, "tag": self.tag, "study": self.of, "name": self.name}
        return {name: value or None for name, value in filters.items()} | {
            "cursor": self.page.cursor,
            "limit": MAX_RUNS,
        }

    @property
    def filtered(self) -> bool:
        """Does the listing exclude any runs?"""
        return any((self.kind, self.state, self.tag, self.of, self.name))

    @property
    def address(self) -> dict[str, str]:
        """Parameters of the page's address; those of the first listing are left out."""
        first = RunListing()
        columns = "" if self.columns == first.columns else ",".join(self.columns)
        filters = {name: value for name in (*FILTERS, "name") if (value := getattr(self, name))}
        return {"sort": "" if self.sort == first.sort else self.sort, "columns": columns, **filters}


def linked_listing(parameters: Mapping[str, str]) -> RunListing:
    """The listing of an address; what it does not know is left out."""
    first, state, kind = RunListing(), parameters.get("state", ""), parameters.get("kind", "")
    columns = tuple(filter(None, parameters.get("columns", "").split(",")[:MAX_FIELDS])) or first.columns
    sort = parameters.get("sort", "")
    return RunListing(
        sort if sort.removeprefix("-") in ("name", *COLUMNS, *columns) else first.sort,
        columns,
        kind if kind in KIND_LABELS else "",
        state if state in STATE_LABELS else "",
        parameters.get("tag", ""),
        parameters.get("of", ""),
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


def _dataset(run: Json) -> str:
    spec = run.get("spec") or {}
    return str(get_at(spec, "data.sources.*.dataset") or spec.get("dataset") or "")


def draw_tags(run: Json) -> str:
    """The tags of a run; empty without one."""
    tags = "".join(f"<span>{esc(tag)}</span>" for tag in run.get("tags") or ())
    return f'<div class="lcl-tags">{tags}</div>' if tags else ""


def _value(run: Json, column: str) -> Any:
    """By which a column sorts; None comes last."""
    spec = run.get("spec") or {}
    match column:
        case "name":
            return _name(run).lower()
        case "metric":
            return final_metric(run)  # by name first: a loss and a recall are not comparable
        case "data":
            return _dataset(run) or None
        case "duration":
            return run_seconds(run)
        case "created" | "owner" | "notes" | "state" | "kind" | "tags":
            value = run.get(f"{column}_at" if column == "created" else column)
            return (" ".join(value) if isinstance(value, list) else value) or None
    value = get_at(spec, column)
    return value if value is None or isinstance(value, int | float) else spec_text(value)


def _cell(run: Json, column: str) -> str:
    value = _value(run, column)
    match column:
        case "state":
            return badge(run["state"])
        case "metric":
            return f"<b>{metric_text(*value)}</b> <small>{esc(value[0])}</small>" if value else ""
        case "created":
            return f'<span title="{esc(value or "")}">{ago(value)}</span>'
        case "duration":
            return duration(value)
        case "kind":
            return esc(KIND_LABELS.get(run["kind"], run["kind"]))
        case "tags":
            return draw_tags(run)
        case "notes":
            return f"<small>{esc(' '.join(str(value or '').split()))}</small>"
    if value is None or isinstance(value, str | bool):
        return esc(value or "")
    return number(value)


def sort_runs(runs: Sequence[Json], sort: str) -> list[Json]:
    """Stable: equal ones stay newest first; numbers before text, and those without a value last."""
    column, descending = sort.removeprefix("-"), sort.startswith("-")
    values = {run["id"]: _value(run, column) for run in runs}
    numbers = [run for run in runs if isinstance(values[run["id"]], int | float)]
    others = [run for run in runs if values[run["id"]] is not None and run not in numbers]
    ordered = [sorted(each, key=lambda run: values[run["id"]], reverse=descending) for each in (numbers, others)]
    return [*ordered[0], *ordered[1], *(run for run in runs if values[run["id"]] is None)]


def column_titles(runs: Sequence[Json]) -> dict[str, str]:
    """Columns to choose from, with their titles: the common ones, and the fields in which trainings differ."""
    trainings = [run.get("spec") or {} for run in runs if run["kind"] == "pretrain"]
    fields = [path for path, _ in spec_differences(trainings) if path not in ("preset", "data.sources")][:MAX_FIELDS]
    known = {**MAIN_FIELDS["pretrain"]}
    return COLUMNS | {path: known.get(path, path) for path in fields if path not in COLUMNS}


def draw_menus(runs: Sequence[Json], studies: Sequence[Json], listing: RunListing) -> str:
    """Filter, Columns and New run."""
    tags = sorted({tag for run in runs for tag in run.get("tags") or ()} | ({listing.tag} if listing.tag else set()))
    groups = {
        "kind": ("Kind", KIND_LABELS),
        "state": ("State", {key: words for key, words in STATE_LABELS.items() if key not in PASSING_STATES}),
        "tag": ("Tag", dict(zip(tags, tags, strict=True))),
        "of": ("Study", {study["id"]: study["name"] or study["id"] for study in studies}),
    }
    chosen = [words[value] for name, (_, words) in groups.items() if (value := getattr(listing, name)) in words]
    filters = "".join(
        draw_group(name, title, words, (getattr(listing, name),)) for name, (title, words) in groups.items()
    )
    links = "".join(f'<a href="{address(tab="runs", new=kind)}">{words}</a>' for kind, words in NEW_RUNS.items())
    return (
        draw_menu("Filter" + (f": {', '.join(chosen)}" if chosen else ""), filters)
        + draw_menu("Columns", draw_group("column", "Columns", column_titles(runs), listing.columns))
        + draw_menu("New run", links, "lcl-new")
    )


def draw_group(pick: str, title: str, words: Mapping[str, str], chosen: Sequence[str]) -> str:
    """Choices of a menu, each with the event ``PICK:VALUE``; empty without one."""
    if not words:
        return ""
    buttons = "".join(
        f'<button type="button" data-pick="{esc(f"{pick}:{value}")}" aria-pressed="{str(value in chosen).lower()}">'
        f"{esc(word)}</button>"
        for value, word in words.items()
    )
    return f'<div role="group" aria-label="{esc(title)}"><b>{esc(title)}</b>{buttons}</div>'


def draw_menu(words: str, inside: str, style: str = "") -> str:
    """A button that unfolds a menu."""
    summary = f"<summary>{esc(words)}</summary>"
    return f'<details class="lcl-run__menu lcl-menu--words {style}">{summary}<div>{inside}</div></details>'


def draw_run_table(runs: Sequence[Json], studies: Sequence[Json], selected: str | None, listing: RunListing) -> str:
    """A row for each run; the titles of the columns sort. Without a filter the runs of a study are one row."""
    if not runs and not studies:
        return NO_MATCHING_RUNS if listing.filtered else NO_RUNS
    titles = column_titles(runs)
    heads = {"name": "Name"} | {column: titles.get(column, column) for column in listing.columns}
    if listing.filtered or listing.sort != RunListing().sort:
        rows = [_run_row(run, selected, heads, listing) for run in sort_runs(runs, listing.sort)]
    else:
        here = {run.get("study_id") for run in runs}
        oldest = min((str(run.get("created_at")) for run in runs), default="") if listing.page.next_cursor else ""
        newest = not listing.page.cursors
        dated = [
            (str(run.get("created_at")), _run_row(run, selected, heads, listing))
            for run in runs
            if not run.get("study_id")
        ]
        dated += [
            (str(study["created_at"]), _study_row(study, selected, heads))
            for study in studies
            if study["id"] in here or (newest and str(study["created_at"]) >= oldest)
        ]
        rows = [row for _, row in sorted(dated, key=lambda each: each[0], reverse=True)]
    head = "".join(_sort_head(column, title, listing.sort) for column, title in heads.items())
    return (
        '<div class="lcl-table lcl-table--runs" tabindex="0" role="region" aria-label="Runs"><table>'
        f'<thead><tr><td class="lcl-check"></td>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _sort_head(name: str, title: str, sort: str) -> str:
    ways = {name: ("ascending", "▴"), f"-{name}": ("descending", "▾")}
    order, mark = ways.get(sort, ("none", ""))
    pick = sort if sort in ways else f"-{name}" if name in ("created", "duration") else name
    return (
        f'<th scope="col" aria-sort="{order}"><button type="button" data-pick="sort:{esc(pick)}">'
        f'{esc(title)}<i aria-hidden="true">{mark}</i></button></th>'
    )


def _run_row(run: Json, selected: str | None, heads: Mapping[str, str], listing: RunListing) -> str:
    checked, name = str(run["id"] in listing.checked).lower(), esc(_name(run))
    check = (
        f'<button type="button" role="checkbox" aria-checked="{checked}" data-pick="check:{esc(run["id"])}" '
        f'aria-label="Choose {name}"></button>'
    )
    cells = {column: _cell(run, column) for column in listing.columns}
    return _row(f"run:{run['id']}", name, cells, heads, current=run["id"] == selected, check=check)


def _study_row(study: Json, selected: str | None, heads: Mapping[str, str]) -> str:
    done, total = study["counts"].get("succeeded", 0), sum(study["counts"].values())
    name = f"▸ {esc(study['name'] or 'Study')} <small>{done} of {plural(total, 'cell')}</small>"
    cells = {"state": badge(study["state"]), "kind": "Study", "created": ago(study["created_at"])}
    return _row(f"study:{study['id']}", name, cells, heads, current=study["id"] == selected)


def _row(
    pick: str, name: str, cells: Mapping[str, str], heads: Mapping[str, str], *, current: bool, check: str = ""
) -> str:
    """``pick``: the event of a click on the name; ``name``, ``cells`` by column and ``check`` are HTML.

    A narrow screen shows the cells below the name, with the titles of those that do not speak for themselves.
    """
    mark, drawn = ' aria-current="true"' * current, ""
    for column, title in list(heads.items())[1:]:
        titled = "" if column in PLAIN_COLUMNS else f' data-title="{esc(title)}"'
        drawn += f"<td{titled}>{cells.get(column, '')}</td>"
    button = f'<button type="button" data-pick="{esc(pick)}"{mark}>{name}</button>'
    return f'<tr{mark}><td class="lcl-check">{check}</td><th scope="row">{button}</th>{drawn}</tr>'


def spec_text(value: Any) -> str:
    """A value of a spec in a table: a text without quotes; a dash: not set."""
    return "–" if value is None else json.dumps(value, ensure_ascii=False).strip('"')


def parse_tags(text: str) -> list[str]:
    """Words separated by blanks or commas, each once."""
    return sorted({tag for tag in re.split(r"[\s,]+", text) if tag})
