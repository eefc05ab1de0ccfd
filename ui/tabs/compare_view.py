"""How two encoders are drawn beside each other: what both find for one query, and their figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ui.html import empty_state, esc, item_url

Json = Mapping[str, Any]
QUESTION = ("task", "split", "variant", "transfer", "metric")
TOO_FEW = empty_state(
    "Two encoders are needed",
    "Train another one in the Runs tab (other data, another method, another seed), or import one with "
    "“lcl encoders import”; then both answer the same query here, side by side.",
)
SAME = empty_state("The same encoder twice", "Choose another one on one of the sides.")
INVITATION = empty_state("Ask both", "Type a few words, pick an example, or choose a picture: both encoders answer.")


def no_collection(missing: Sequence[Json], dataset: str) -> str:
    """Says which encoder has no collection of the dataset, and how one is made."""
    commands = "".join(
        f"<code>lcl submit index --set encoder={esc(each['id'])} --set dataset={esc(dataset)} "
        f"--set collection={esc(dataset)}-{esc(each['name'])}</code>"
        for each in missing
    )
    names = " and ".join(f"<b>{esc(each['name'])}</b>" for each in missing)
    return (
        '<div class="lcl-empty" role="status"><strong>A collection is missing</strong>'
        f"<p>Both are asked in collections of the same dataset, and {names} has none of {esc(dataset)}. "
        "An index run makes it: in the Runs tab, “New run”, kind Index; or in a terminal:</p>"
        f'<p class="lcl-commands">{commands}</p></div>'
    )


def draw_sides(encoders: Sequence[Json], collections: Sequence[str], answers: Sequence[Any], about: str) -> str:
    """Both encoders' hits, with the place that each has on the other side.

    Args:
        answers: of each side its hits, or why there are none as HTML.
    """
    places = [
        {hit["id"]: place for place, hit in enumerate(hits, start=1)} if not isinstance(hits, str) else {}
        for hits in answers
    ]
    shared = len(places[0].keys() & places[1].keys())
    most = max(map(len, places))
    columns = "".join(
        _side(encoders[at], collections[at], answers[at], places[1 - at], encoders[1 - at]["name"]) for at in (0, 1)
    )
    return (
        f'<section class="lcl-results" aria-label="Results of both"><p class="lcl-results__head" role="status">'
        f"<b>{shared} of {most}</b> found by both for {esc(about)}</p>"
        f'<div class="lcl-sides">{columns}</div></section>'
    )


def draw_figures(encoders: Sequence[Json], rows: Sequence[Json], figures: Sequence[Sequence[Json]]) -> str:
    """One row a figure that both have: each value with its interval, and their difference with its own.

    Args:
        rows: as the service compares them.
        figures: of each encoder all rows of its evaluations, for their intervals.
    """
    names = [esc(each["name"]) for each in encoders]
    if not rows:
        return empty_state(
            "No figures in common",
            "Examine both with the same evaluate run (Runs tab, kind Evaluate): same task, split and dataset.",
        )
    known = [{(row.get("run_id"), *(row.get(key) for key in QUESTION)): row for row in side} for side in figures]
    header = "".join(f'<th scope="col">{word}</th>' for word in ("figure", "of", *names, "difference", "p", "chance"))
    body = "".join(_figure_row(row, known) for row in rows)
    return (
        '<div class="lcl-table lcl-table--compare" tabindex="0" role="region" aria-label="Figures of both"><table>'
        f"<thead><tr>{header}</tr></thead><tbody>{body}</tbody></table></div>"
        f'<p class="lcl-note">In brackets 95 % intervals: of each value over the pictures, and of the difference '
        f"({names[1]} minus {names[0]}) over the same pictures for both. p: sign flips, two-sided, of this row alone. "
        "Bold: the better one, where the interval of the difference does not hold 0.</p>"
    )


def _side(encoder: Json, collection: str, hits: Any, others: Mapping[str, int], other: str) -> str:
    inside = hits if isinstance(hits, str) else _cards(collection, hits, others, other)
    return f'<section aria-label="{esc(encoder["name"])}"><h3>{esc(encoder["name"])}</h3>{inside}</section>'


def _cards(collection: str, hits: Sequence[Json], others: Mapping[str, int], other: str) -> str:
    cards = "".join(_card(collection, hit, place, others.get(hit["id"]), other) for place, hit in enumerate(hits, 1))
    return f'<ol class="lcl-grid lcl-grid--small">{cards}</ol>'


def _card(collection: str, hit: Json, place: int, there: int | None, other: str) -> str:
    words = hit.get("caption") or hit["id"]
    shared = "" if there is None else f'<em class="lcl-both">both · {there}. there</em>'
    also = "" if there is None else f", place {there} of {other}"
    name = f"{words}, place {place}{also}. Ask both with this picture"
    return (
        f'<li><button type="button" class="lcl-card{"" if there is None else " lcl-card--both"}" '
        f'data-pick="item:{esc(hit["id"])}" title="Ask both with this picture" aria-label="{esc(name)}">'
        f'<img src="{esc(item_url(collection, hit["id"]))}" alt="" loading="lazy" decoding="async">'
        f'<span class="lcl-card__words">{place}. {esc(words)}</span>{shared}</button></li>'
    )


def _figure_row(row: Json, known: Sequence[Mapping[Any, Json]]) -> str:
    question = tuple(row.get(key) for key in QUESTION)
    bounds: Sequence[float] | None = row.get("interval")
    more, less = ("left", "right") if row["metric"].endswith("rank") else ("right", "left")  # a low rank is a good one
    better = None if bounds is None else more if bounds[0] > 0 else less if bounds[1] < 0 else None
    cells = []
    for side, rows in zip(("left", "right"), known, strict=True):
        found = rows.get((row.get(f"{side}_run"), *question), {})
        value = _value(row.get(side))
        strong = f"<b>{value}</b>" if side == better else value
        cells.append(f"<td>{strong}{_interval(found.get('interval'))}</td>")
    p = row.get("p")
    chances = "" if p is None else "&lt; .001" if p < 0.001 else f"{p:.3f}"
    words = " · ".join(esc(row[key]) for key in ("task", "transfer") if row.get(key))
    return (
        f'<tr><th scope="row">{esc(row["metric"])}</th><td>{words}<small>{esc(row.get("variant") or "")} · '
        f"{esc(row.get('split') or '')}</small></td>{''.join(cells)}"
        f"<td>{_signed(row.get('difference'))}{_interval(bounds)}</td>"
        f"<td>{chances}</td><td>{_value(row.get('chance'))}</td></tr>"
    )


def _interval(bounds: Sequence[float] | None) -> str:
    return f"<small>[{_value(bounds[0])}, {_value(bounds[1])}]</small>" if bounds else ""


def _value(value: float | None) -> str:
    """Shares with three digits, ranks with one."""
    if value is None:
        return ""
    return (f"{value:.3f}" if abs(value) < 2 else f"{value:.1f}").replace("-", "−")


def _signed(value: float | None) -> str:
    return "" if value is None else ("+" if value > 0 else "") + _value(value)
