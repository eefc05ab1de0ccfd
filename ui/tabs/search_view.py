"""HTML of search results: images, texts, and details of one image."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ui.addresses import address, fits_address
from ui.common import draw_tag_form
from ui.html import duration, empty_state, esc, item_url, parse_time, progress_bar, status_line

if TYPE_CHECKING:
    from ui.tabs.search_query import PageQuery

Json = Mapping[str, Any]
TAGS = "tags"  # the label that the page's tags are members of
PATIENCE_SECONDS = 20  # after which a run is said to have no worker
EXAMPLES = ("a red fish", "a house")
_ADD_DATA = f'<p><a href="{esc(address(tab="data", new="upload"))}">Add my data</a></p>'
NO_COLLECTION = (
    empty_state("No collection yet", "An index run embeds a dataset, whose images can then be searched here.")
    + _ADD_DATA
)
# before and after each search (page.js)
BEGIN_SCRIPT = "(turn, number, ...query) => [turn, window.lclSearch.begin(), ...query]"
END_SCRIPT = "() => window.lclSearch.end()"
LABEL_SCRIPT = """() => {  // what Gradio's field lacks for screen readers
  const box = document.querySelector('#search-box');
  const label = () => {
    box.querySelector('textarea')?.setAttribute('aria-label', 'Words or an image');
    box.querySelector('.submit-button')?.removeAttribute('aria-label');
    box.querySelector('.thumbnail-wrapper')?.parentElement.setAttribute('role', 'list');
  };
  new MutationObserver(label).observe(box, { childList: true, subtree: true });
  label();
}"""
FOCUS_SCRIPT = """() => requestAnimationFrame(() => setTimeout(() => (
  document.querySelector('#search-detail h2') ??
  document.querySelector('#search-results [aria-current]') ??
  document.querySelector('#search-results .lcl-results__head'))?.focus({preventScroll: true}), 30))"""
# Beside the results: a line, and skeletons while a search is under way (page.js).
SEARCH_STATUS = f'{status_line("")}<div class="lcl-grid lcl-skeletons" aria-hidden="true">{"<i></i>" * 12}</div>'


def draw_preparation(run: Json) -> str:
    """Progress of the index run that makes the first collection."""
    progress = run.get("progress") or {}
    step, total, left = progress.get("step"), progress.get("total_steps"), progress.get("seconds_left")
    words = "Starting" if progress else "Waiting for a worker"
    if step and total:
        words = f"{step:,} of {total:,} images"
    if left is not None:
        words += f" · {duration(left)} left"
    shown, created = esc(words), parse_time(run.get("created_at"))
    alone = (run.get("obstacle") or {}).get("code") == "no_worker"
    if alone and created and (datetime.now(UTC) - created).total_seconds() > PATIENCE_SECONDS:
        shown = "No worker has answered. Start one with <code>make up</code>."
    name = (run.get("spec") or {}).get("collection") or "the first collection"
    bar = progress_bar(step / total if step and total else None, "images embedded")
    return (
        f'<div class="lcl-empty" role="status"><strong>Preparing {esc(name)}</strong>'
        "<p>An index run embeds its images. Search opens here by itself.</p>"
        f'<div class="lcl-preparation">{bar}<p>{shown}</p></div>{_ADD_DATA}</div>'
    )


def draw_browsing(query: PageQuery, collection: Json, items: Sequence[Json]) -> str:
    """The first images of a collection, and what can be asked."""
    tries = " or ".join(f'<a href="{esc(query.link(q=words))}">{words}</a>' for words in EXAMPLES)
    head = f"<b>{collection['images']:,} images</b>. Try {tries}."
    if query.where:
        head += " The filter counts once there are words or an image."
    cards = "".join(_image_card(query, item) for item in items)
    return _section(head, f'<ol class="lcl-grid">{cards}</ol>')


def draw_results(query: PageQuery, hits: Sequence[Json], answer: Json) -> str:
    """The hits and a line about them."""
    about = [*(["this image"] if query.like else ["your image"] if query.image else [])]
    about += [f"“{query.words}”"] if query.words else []
    joined = " and ".join(about)
    if not hits:
        reset = f' <a href="{esc(query.link(where=""))}">Remove the filter</a>' if query.where else ""
        where = f" passes the filter {_condition_list(query.where)}." if query.where else f" fits {joined}."
        return _section(esc(f"No image{where}") + reset, "")
    what = "texts" if query.texts and (query.like or query.image) else "images"
    read_as, limit = answer.get("read_as"), answer.get("text_limit")
    head = f"<b>{len(hits):,} of {answer['total']:,} {what}</b> for {esc(joined)}"
    if read_as and read_as != query.words:
        head += f", read as {esc(read_as)}"
    notes = [f"“{word}” is not understood; use Filter." for word in answer.get("not_understood", ())]
    notes += [f"The encoder reads {limit} tokens of a text; the rest is cut."] if limit else []
    inside = "".join(map(status_line, notes))
    if what == "texts":
        return _section(head, inside + _draw_texts(query, hits))
    cards = "".join(_image_card(query, hit) for hit in hits)
    form = draw_tag_form(query.collection, [hit["id"] for hit in hits], hint=f"Tag these {len(hits)} images …")
    return _section(head, f'{inside}<ol class="lcl-grid">{cards}</ol>{form}', words=query.words or joined)


def draw_detail(
    query: PageQuery,
    item: Json,
    near: Sequence[Json],
    texts: Sequence[Json],
    pickable: Mapping[str, Mapping[str, int]],
    *,
    searches: bool = True,
) -> str:
    """One image with its captions and labels, and the nearest images and texts.

    Args:
        query: whose other hits stay beside it.
        item: its record, of a hit with ranks and score.
        pickable: {label: values} that a search can be filtered by.
        searches: in the Search tab, where other images and no image are addresses; else they are events.
    """
    collection = query.collection
    captions = [str(caption) for caption in item.get("captions", [])]
    title, more = (captions[0], captions[1:]) if captions else (str(item["id"]), [])
    pick, key = f"{collection}:{item['id']}", {"collection": query.name or collection}
    close = 'aria-label="Close" title="Close (Escape)" data-close>✕'
    close = f'<a href="{esc(query.link())}" {close}</a>' if searches else (
        f'<button type="button" data-pick="close:" {close}</button>'
    )  # fmt: skip
    ways = [("More like this", address(**key, like=item["id"]))]
    ways += [("Similar texts", address(**key, like=item["id"], mode="texts"))] if texts else []
    ways += [("Open on map", address(tab="map", **key, item=item["id"]))] if searches else []
    links = "".join(f'<a class="lcl-way" href="{esc(link)}">{words}</a>' for words, link in ways)
    why = _why(item)
    if "score" in item:
        why += f" Cosine {item['score']:.3f}."
    others = "".join(f"<li>{esc(caption)}</li>" for caption in more)
    around = "".join(f"<li>{_thumbnail(query, hit, searches)}</li>" for hit in near)
    labels = {**item.get("labels", {}), **{name: item[name] for name in ("split", "source") if item.get(name)}}
    return (
        f'<section class="lcl-detail" data-key="{esc(pick)}" aria-label="Chosen image">'
        f'<header><h2 tabindex="-1">{esc(title)}</h2>{close}</header>'
        f'<img class="lcl-detail__image" src="{esc(item_url(collection, item["id"]))}" alt="{esc(title)}">'
        f'<p class="lcl-detail__ways">{links}</p>'
        + (f'<p class="lcl-note">{esc(why)}</p>' if why else "")
        + (f'<h3>Also called</h3><ul class="lcl-detail__lines">{others}</ul>' if others else "")
        + (f'<h3>Similar images</h3><ul class="lcl-samples">{around}</ul>' if around else "")
        + (f"<h3>Similar captions</h3>{_draw_texts(query, texts)}" if texts else "")
        + _draw_labels(query, labels, pickable)
        + draw_tag_form(collection, [item["id"]])
        + "</section>"
    )


def _section(head: str, inside: str, words: str = "") -> str:
    """``words``: of a search, whose form is folded on a narrow screen."""
    edit = '<button type="button" class="lcl-edit" data-edit aria-label="Change the search">✎</button>' if words else ""
    summary = f'<p class="lcl-results__query"><b>{esc(words)}</b>{edit}</p>' if words else ""
    return (
        f'<section class="lcl-results" aria-label="Search results">{summary}'
        f'<p class="lcl-results__head" role="status" tabindex="-1">{head}</p>{inside}</section>'
    )


def _condition_list(where: Sequence[str]) -> str:
    return ", ".join(": ".join(json.loads(each)) if each.startswith("[") else each for each in where)


def _draw_texts(query: PageQuery, hits: Sequence[Json]) -> str:
    """A ranked list of texts that lead to their images."""
    rows = []
    for text in (str(hit["text"]) for hit in hits):
        href = f'href="{esc(address(q=text, collection=query.name))}"' if fits_address(text) else ""
        rows.append(f"<li><a {href}>{esc(text)}</a></li>")
    return f'<ol class="lcl-texts">{"".join(rows)}</ol>'


def _image_card(query: PageQuery, hit: Json) -> str:
    source, link = item_url(query.collection, hit["id"]), query.link(item=hit["id"])
    return (
        f'<li><a class="lcl-card" href="{esc(link)}" title="{esc(_why(hit) or "Look at it")}">'
        f'<img src="{esc(source)}" alt="" loading="lazy" decoding="async">'
        f'<span class="lcl-card__words">{_caption(hit)}</span></a></li>'
    )


def _thumbnail(query: PageQuery, hit: Json, searches: bool) -> str:
    words, key = esc(hit.get("caption") or hit["id"]), esc(f"{query.collection}:{hit['id']}")
    image = f'<img src="{esc(item_url(query.collection, hit["id"]))}" alt="{words}" title="{words}" loading="lazy">'
    if searches:
        return f'<a href="{esc(query.link(item=hit["id"]))}">{image}</a>'
    return f'<button type="button" data-pick="image:{key}" data-key="{key}">{image}</button>'


def _caption(hit: Json) -> str:
    """The first caption and, bold, the words that were found in this or another one."""
    caption, found = str(hit.get("caption") or hit["id"]), list(hit.get("found", ()))
    if not found:
        return esc(caption)
    stems = "|".join(re.escape(re.sub(r"(?<=\w\w\w)(es|s|ing|ed)$", "", word)) for word in found)
    word = re.compile(rf"(\b(?:{stems})(?:s|es|ed|ing)?\b)", re.IGNORECASE)
    parts = word.split(caption)
    drawn = "".join(f"<b>{esc(part)}</b>" if at % 2 else esc(part) for at, part in enumerate(parts))
    others = [each for each in found if not any(each.casefold()[:3] == part.casefold()[:3] for part in parts[1::2])]
    return drawn + "".join(f" · <b>{esc(each)}</b>" for each in others)


def _why(hit: Json) -> str:
    """Ranks of a hit: why it is where it is."""
    why = f"Looks: {_ordinal(hit['rank_looks'])}." if hit.get("rank_looks") else ""
    if hit.get("rank_captions"):
        why += f" Caption: {_ordinal(hit['rank_captions'])} ({', '.join(hit['found'])})."
    return why.strip()


def _ordinal(rank: int) -> str:
    ending = "th" if rank % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{rank:,}{ending}"


def _draw_labels(query: PageQuery, labels: Json, pickable: Mapping[str, Mapping[str, int]]) -> str:
    """Labels; values that a search can be filtered by, of a set each member, are links."""
    chips = []
    for name, written in labels.items():
        known = pickable.get(name, {})
        for value in _label_values(str(written), known):
            words = f"<i>{esc(name)}</i> {esc(value)}"
            if value in known and not query.is_empty:
                link = esc(query.narrowed(name, value).link())
                words = f'<a href="{link}" aria-label="Only images with {esc(name)} {esc(value)}">{words}</a>'
            else:
                words = f"<span>{words}</span>"
            chips.append(f"<li>{words}</li>")
    return f'<ul class="lcl-labels">{"".join(chips)}</ul>' if chips else ""


def _label_values(written: str, known: Mapping[str, int]) -> list[str]:
    """The value, or the members of a set: those of a JSON list of texts, or known texts between semicolons."""
    if written in known:
        return [written]
    try:
        listed = json.loads(written) if written.startswith("[") else None
    except ValueError:
        listed = None
    if isinstance(listed, list) and listed and all(isinstance(member, str) for member in listed):
        return listed
    members = [member.strip() for member in written.split(";")]
    return [member for member in members if member in known] or [written]
