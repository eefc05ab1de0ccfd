"""Two encoders side by side: the figures that both have, and what both find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from api.client import ApiError, Client
from api.client.payloads import Json
from ui.addresses import address, mark_view
from ui.common import api_error_box, unreachable_box
from ui.figures import interval_text, metric_text
from ui.html import error_box, esc, heading, html_table, item_url, pick_form
from ui.ranking import SAMPLE_DATASET

FIGURE_KEY = ("task", "split", "variant", "transfer", "metric")
NO_TEXTS = error_box("This encoder reads images alone: choose an image that the other one finds.", "No search by words")
HITS_PER_SIDE = 12


def no_collection(missing: Sequence[Json], dataset: str) -> str:
    """Names the encoders without a collection of the dataset, and the command that makes one."""
    commands = "".join(
        f"<code>lcl submit index --set encoder={esc(each['id'])} --set dataset={esc(dataset)} "
        f"--set collection={esc(dataset)}-{esc(each['name'])}</code>"
        for each in missing
    )
    names = " and ".join(f"<b>{esc(each['name'])}</b>" for each in missing)
    return (
        '<div class="lcl-empty" role="status"><strong>A collection is missing</strong>'
        f"<p>Both encoders need a collection of the same dataset, and {names} has none of {esc(dataset)}. "
        "An index run makes it: in the Runs tab, “New run”, kind Index; or in a terminal:</p>"
        f'<p class="lcl-commands">{commands}</p></div>'
    )


def draw_sides(encoders: Sequence[Json], collections: Sequence[str], answers: Sequence[Any], about: str) -> str:
    """Hits of both encoders, or an error as HTML, each with its rank on the other side."""
    ranks = [
        {hit["id"]: rank for rank, hit in enumerate(hits, start=1)} if not isinstance(hits, str) else {}
        for hits in answers
    ]
    shared = len(ranks[0].keys() & ranks[1].keys())
    most = max(map(len, ranks))
    columns = "".join(
        _side(encoders[side], collections[side], answers[side], ranks[1 - side], encoders[1 - side]["name"])
        for side in (0, 1)
    )
    return (
        f'<section class="lcl-results" aria-label="Results of both"><p class="lcl-results__head" role="status">'
        f"<b>{shared} of {most}</b> found by both for {esc(about)}</p>"
        f'<div class="lcl-sides">{columns}</div></section>'
    )


def draw_figures(encoders: Sequence[Json], rows: Sequence[Json], figures: Sequence[Sequence[Json]]) -> str:
    """A row for each compared metric: values and difference, with intervals; ``figures``: all of each encoder."""
    names = [esc(each["name"]) for each in encoders]
    if not rows:
        links = " ".join(
            f'<a href="{esc(address(tab="runs", new="evaluate", on=each["id"]))}">Evaluate {name}</a>'
            for each, name in zip(encoders, names, strict=True)
        )
        return (
            '<div class="lcl-empty" role="status"><strong>Not evaluated on the same data</strong>'
            f"<p>Evaluate both with the same task, split and dataset: {links}</p></div>"
        )
    known = [{(row.get("run_id"), *(row.get(name) for name in FIGURE_KEY)): row for row in side} for side in figures]
    columns = ("figure", "of", *(encoder["name"] for encoder in encoders), "difference", "p", "chance")
    body = "".join(_figure_row(row, known) for row in rows)
    return html_table("Figures of both", columns, body, "compare") + (
        f'<p class="lcl-note">Small: 95 % intervals, of each value over the images, and of the difference '
        f"({names[1]} minus {names[0]}) over the same images for both. p: sign flips, two-sided, of this row alone. "
        "Bold: the better one, where the interval of the difference does not hold 0.</p>"
    )


def _side(encoder: Json, collection: str, hits: Any, others: Mapping[str, int], other: str) -> str:
    if isinstance(hits, str):
        inside = hits
    else:
        cards = "".join(_card(collection, hit, rank, others.get(hit["id"]), other) for rank, hit in enumerate(hits, 1))
        inside = f'<ol class="lcl-grid lcl-grid--small">{cards}</ol>'
    return f'<section aria-label="{esc(encoder["name"])}"><h3>{esc(encoder["name"])}</h3>{inside}</section>'


def _card(collection: str, hit: Json, rank: int, other_rank: int | None, other: str) -> str:
    words = hit.get("caption") or hit["id"]
    shared = "" if other_rank is None else f'<em class="lcl-both">both · {other_rank}. there</em>'
    also = "" if other_rank is None else f", place {other_rank} of {other}"
    name = f"{words}, place {rank}{also}. Search with both for similar images"
    return (
        f'<li><button type="button" class="lcl-card{"" if other_rank is None else " lcl-card--both"}" '
        f'data-pick="item:{esc(hit["id"])}" title="Search with both for similar images" aria-label="{esc(name)}">'
        f'<img src="{esc(item_url(collection, hit["id"]))}" alt="" loading="lazy" decoding="async">'
        f'<span class="lcl-card__words">{rank}. {esc(words)}</span>{shared}</button></li>'
    )


def _figure_row(row: Json, known: Sequence[Mapping[Any, Json]]) -> str:
    key = tuple(row.get(name) for name in FIGURE_KEY)
    bounds: Sequence[float] | None = row.get("interval")
    higher, lower = ("left", "right") if row["metric"].endswith("rank") else ("right", "left")  # lower ranks are better
    better = None if bounds is None else higher if bounds[0] > 0 else lower if bounds[1] < 0 else None
    cells = []
    for side, rows in zip(("left", "right"), known, strict=True):
        figure = rows.get((row.get(f"{side}_run"), *key), {})
        value = metric_text(row["metric"], row.get(side))
        strong = f"<b>{value}</b>" if side == better else value
        cells.append(f"<td>{strong}{_interval(figure)}</td>")
    p = row.get("p")
    p_text = "" if p is None else "&lt; .001" if p < 0.001 else f"{p:.3f}"
    words = " · ".join(esc(row[key]) for key in ("task", "transfer") if row.get(key))
    difference = ("+" if (row.get("difference") or 0) > 0 else "") + metric_text(row["metric"], row.get("difference"))
    reason = f"<small>{esc(row['reason'])}</small>" if row.get("reason") else ""
    return (
        f'<tr><th scope="row">{esc(row["metric"])}</th><td>{words}<small>{esc(row.get("variant") or "")} · '
        f"{esc(row.get('split') or '')}</small></td>{''.join(cells)}"
        f"<td>{difference}{_interval(row)}{reason}</td>"
        f"<td>{p_text}</td><td>{metric_text(row['metric'], row.get('chance'))}</td></tr>"
    )


def _interval(row: Json) -> str:
    return f"<small>{interval_text(row)}</small>" if row.get("interval") else ""


def draw_comparison(client: Client, left: Json, right: Json, query: Mapping[str, str]) -> str:
    """The figures that both encoders have, and what both find for words (``q``) or an image (``item``), if any."""
    try:
        comparison = client.compare_encoders(left["id"], right["id"])
        rows = [client.encoder_figures(each["id"]) for each in (left, right)]
        figures = draw_figures([comparison["left"], comparison["right"]], comparison["rows"], rows)
    except ApiError as error:
        figures = error_box(error.message, "The figures cannot be shown")
    about = "What both were evaluated on, from their newest two evaluations with equal settings."
    title = f"{left['name']} and {right['name']}"
    inside = (
        f'<input name="q" maxlength="1000" required autocomplete="off" value="{esc(query.get("q", ""))}" '
        'placeholder="What should both look for?" aria-label="Words"><button type="submit">Search with both</button>'
    )
    found = (
        heading(title, about) + figures + pick_form("ask", "lcl-ask", inside) + _search_both(client, left, right, query)
    )
    return mark_view(
        found, title, encoder=left["id"], **{"with": right["id"]}, q=query.get("q"), item=query.get("item")
    )


def _search_both(client: Client, left: Json, right: Json, query: Mapping[str, str]) -> str:
    """Hits of both, or what is missing; empty without a query."""
    asked: dict[str, Any] = (
        {"text": query["q"]} if query.get("q") else {"item": query["item"]} if query.get("item") else {}
    )
    if not asked:
        return ""
    try:
        own = [_collections_of(each, client.collections()) for each in (left, right)]
    except ApiError as error:
        return unreachable_box(error)
    dataset = next((name for name in own[0] if name in own[1]), None)
    if dataset is None:
        name = next(iter([*own[0], *own[1]]), SAMPLE_DATASET)
        return no_collection([each for each, known in zip((left, right), own, strict=True) if name not in known], name)
    collections, answers = [known[dataset] for known in own], list[Any]()
    for collection in collections:
        try:
            answers.append(client.search(collection, k=HITS_PER_SIDE, **asked)["hits"])
        except ApiError as error:
            no_texts = error.code == "no_text_encoder"
            answers.append(NO_TEXTS if no_texts else api_error_box(error, "The search was refused"))
    about = f"“{asked['text']}”" if "text" in asked else "this image"
    return draw_sides((left, right), collections, answers, about)


def _collections_of(encoder: Json, collections: Sequence[Json]) -> dict[str, str]:
    """{dataset: id of its newest collection by this encoder}."""
    own = [each for each in collections if each["encoder_id"] == encoder["id"] and each["dataset"]]
    return {each["dataset"]: each["id"] for each in reversed(own)}
