"""HTML of search results: images, texts, and details of one image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from ui.addresses import address, fits_address
from ui.common import draw_tag_form
from ui.html import duration, empty_state, error_box, esc, item_url, progress_bar, status_line

Json = Mapping[str, Any]
TAGS = "tags"  # the label that the page's tags are members of
NO_COLLECTION = empty_state(
    "No collection yet",
    "Submit an index run in the Runs tab: it embeds a dataset with an encoder, and its images can be searched here.",
)
# Three ways to begin: (what, what happens, address).
DOORS = (
    ("Try search", "Look for a red apple among the drawings that come with LCL.", address(q="red apple")),
    (
        "Train on the sample",
        "Pre-train an encoder on the sample corpus: minutes on two CPU cores.",
        address(tab="runs", new="pretrain"),
    ),
    (
        "Use my corpus",
        "Drop a folder or a zip: it is checked, converted, and ready to train on.",
        address(tab="data", new="upload"),
    ),
)


# Kind of the event, mode in the address, words.
DETAIL_ACTIONS = (("near", "images", "Neighbours"), ("texts", "texts", "Similar texts"), ("mix", "both", "Add words …"))


def draw_doors(searchable: bool) -> str:
    """Ways to begin; without a collection there is nothing to search."""
    doors = DOORS if searchable else DOORS[1:]
    cards = "".join(
        f'<li><a href="{esc(link)}"><b>{esc(title)}</b><span>{esc(hint)}</span></a></li>' for title, hint, link in doors
    )
    return f'<ul class="lcl-doors" aria-label="Ways to begin">{cards}</ul>'


def draw_preparation(run: Json) -> str:
    """Progress of the index run that makes the first collection."""
    progress = run.get("progress") or {}
    step, total, left = progress.get("step"), progress.get("total_steps"), progress.get("seconds_left")
    share = step / total if step and total else None
    words = (
        f"{step:,} of {total:,} images" if step and total else "Waiting for a worker" if not progress else "Starting"
    )
    if left is not None:
        words += f" · {duration(left)} left"
    name = (run.get("spec") or {}).get("collection") or "the first collection"
    return (
        f'<div class="lcl-empty" role="status"><strong>Preparing {esc(name)}</strong>'
        f"<p>An index run embeds its images. Search opens here by itself.</p>"
        f'<div class="lcl-preparation">{progress_bar(share, "images embedded")}<p>{esc(words)}</p></div></div>'
        f"{draw_doors(searchable=False)}"
    )


NO_COLLECTION += draw_doors(searchable=False)
INVITATION = empty_state(
    "What are you looking for?", "Type a few words, pick an example, or search with an image."
) + draw_doors(searchable=True)
# first content of the page: the invitation appears when the collections are known, by OPENED_SCRIPT
OPENING = (
    f'<div class="lcl-opening">{empty_state("Opening", "The page asks the service for its collections.")}</div>'
    f'<div class="lcl-opened">{INVITATION}</div>'
)
OPENED_SCRIPT = "() => document.body.classList.add('lcl-is-open')"
WHERE = 5  # among the values of a search
# before and after each search (page.js)
BEGIN_SCRIPT = f"(turn, number, ...query) => [turn, window.lclSearch.begin(query[{WHERE}]), ...query]"
# an event of its own, so that a change that is none takes no turn
REFILTER_SCRIPT = "(where, times) => window.lclSearch.asks(where) ? times : times + 1"
END_SCRIPT = "() => window.lclSearch.end()"
CANCEL_SCRIPT = "window.addEventListener('lcl-cancel', (event) => trigger('select', { number: event.detail }));"
FOCUS_SCRIPT = """() => requestAnimationFrame(() => setTimeout(() => (
  document.querySelector('#search-detail h2') ??
  document.querySelector('#search-results [aria-current]') ??
  document.querySelector('#search-results .lcl-results__head') ??
  document.querySelector('.lcl-query textarea, .lcl-query input'))?.focus(), 30))"""
NO_WORDS = empty_state("Type a few words first", "For example “red apple”, or pick one of the examples.")
NO_IMAGE = empty_state(
    "Which image?",
    "Drop one above, paste it, or choose it from your files. One is kept for a day: choose an older one again.",
)
NOTHING_TO_MIX = empty_state(
    "An image, and words about it",
    "Drop an image and say what should be different: “red”, “in winter”. The slider says how much the words count.",
)
NO_TEXT_VECTORS = error_box(
    "The encoder of this collection reads images alone. Search for images, with an image or with words that captions "
    "have; captions cannot be searched by an image, and words cannot lead away from images.",
    "The search was refused",
)
NOTHING_FOUND = empty_state("Nothing found", "The collection holds nothing that fits. Try other words or fewer labels.")


# Beside the results: a line, skeletons while a search is under way, and what to do without an answer (page.js).
SEARCH_STATUS = (
    f"{status_line('')}"
    f'<div class="lcl-grid lcl-skeletons" aria-hidden="true">{"<i></i>" * 12}</div>'
    '<div class="lcl-problem" role="alert" hidden><strong>No answer yet</strong><p>The service has not answered for '
    '20 seconds. It may be busy or stopped. <button type="button" data-retry>Retry</button></p></div>'
)


def draw_results(
    collection: str,
    hits: Sequence[Json],
    about: str,
    target: str,
    times: str,
    link: str = "",
    text_limit: int | None = None,
) -> str:
    """The hits and a line about them; ``text_limit``: tokens that the encoder read of a text too long for it."""
    if not hits:
        return NOTHING_FOUND
    what = "texts" if target == "texts" else "images"
    if target == "texts":
        inside = draw_texts(collection, hits)
    else:
        inside = f'<ol class="lcl-grid">{"".join(_image_card(collection, hit) for hit in hits)}</ol>'
    cut = status_line(f"The encoder reads {text_limit} tokens of a text; the rest is cut.") if text_limit else ""
    link_html = f'<a href="{esc(link)}">Link</a>' if link else ""
    form = draw_tag_form(collection, [hit["id"] for hit in hits], hint=f"Tag these {len(hits)} images …")
    return (
        '<section class="lcl-results" aria-label="Search results">'
        f'<p class="lcl-results__head" role="status" tabindex="-1"><em class="lcl-about"><b>{len(hits)} {what}</b> '
        f"closest to {esc(about)}</em><span>{times}</span>{link_html}</p>{cut}"
        f"{inside}{form if target != 'texts' else ''}</section>"
    )


def draw_texts(collection: str, hits: Sequence[Json], *, searches: bool = True) -> str:
    """A ranked list of texts. ``searches``: as of ``draw_detail``."""
    rows = "".join(_text_row(collection, hit["text"], hit["score"], searches) for hit in hits)
    return f'<ol class="lcl-texts">{rows}</ol>'


def draw_detail(
    collection: str,
    item: Json,
    near: Sequence[Json],
    texts: Sequence[Json] | None,
    pickable: Mapping[str, Sequence[str]],
    *,
    searches: bool = True,
) -> str:
    """One image with its captions and labels, and the nearest images and texts.

    Args:
        texts: None: captions have no vectors, so that there is no search for similar ones.
        pickable: {label: values} that a search can be filtered by.
        searches: what leads to a search is a button with an event, else a link to the Search tab.
    """
    captions = [str(caption) for caption in item.get("captions", [])]
    title, more = (captions[0], captions[1:]) if captions else (str(item["id"]), [])
    pick = f"{collection}:{item['id']}"
    labels = {**item.get("labels", {}), **{name: item[name] for name in ("split", "source") if item.get(name)}}
    buttons = "".join(
        f'<button type="button" data-pick="{kind}:{esc(pick)}">{words}</button>'
        if searches
        else f'<a class="lcl-way" href="{esc(link_to(collection, like=item["id"], mode=mode))}">{words}</a>'
        for kind, mode, words in DETAIL_ACTIONS
        if kind != "texts" or texts is not None
    )
    others = "".join(f"<li>{esc(caption)}</li>" for caption in more)
    around = "".join(_thumbnail(collection, hit) for hit in near)
    return (
        f'<section class="lcl-detail" data-key="{esc(pick)}" aria-label="Chosen image">'
        f'<header><h2 tabindex="-1">{esc(title)}</h2>'
        '<button type="button" data-pick="close:" aria-label="Close" title="Close (Escape)">✕</button></header>'
        f'<img class="lcl-detail__image" src="{esc(item_url(collection, item["id"]))}" alt="{esc(title)}">'
        f'<p class="lcl-detail__ways">{buttons}<a href="{esc(link_to(collection, item=item["id"]))}">Link</a></p>'
        + (f'<h3>Also called</h3><ul class="lcl-detail__lines">{others}</ul>' if others else "")
        + (f'<h3>Similar images</h3><ul class="lcl-samples">{around}</ul>' if around else "")
        + (f"<h3>Similar captions</h3>{draw_texts(collection, texts, searches=searches)}" if texts else "")
        + _labels(collection, labels, pickable)
        + draw_tag_form(collection, [item["id"]])
        + "</section>"
    )


def link_to(collection: str, **parameters: str) -> str:
    """Address of this page with a search (``q``) or one image (``item``)."""
    query = "".join(f"&{name}={quote(value, safe='')}" for name, value in parameters.items())
    return f"?collection={quote(collection, safe='')}{query}"


def label_choice(label: str, value: str) -> str:
    """A label and its value as one value of the menu of filters."""
    return json.dumps([label, value], ensure_ascii=False)


def _text_row(collection: str, words: str, score: float, searches: bool) -> str:
    name = f'aria-label="{esc(words)}, score {score:.2f}. Find its images"'
    inside = f"<span>{esc(words)}</span>{_score(score)}"
    if not searches:
        link = f'href="{esc(link_to(collection, q=words))}" {name}' if fits_address(words) else ""
        return f"<li><a {link}>{inside}</a></li>"
    return f'<li><button type="button" data-pick="text:{esc(collection)}:{esc(words)}" {name}>{inside}</button></li>'


def _image_card(collection: str, hit: Json) -> str:
    words = hit.get("caption") or hit["id"]
    source, key = esc(item_url(collection, hit["id"])), esc(f"{collection}:{hit['id']}")
    return (
        f'<li><button type="button" class="lcl-card" data-pick="image:{key}" data-key="{key}" '
        f'title="Look at it" aria-label="{esc(words)}, score {hit["score"]:.2f}. Look at it">'
        f'<img src="{source}" alt="" loading="lazy" decoding="async">'
        f'<span class="lcl-card__words">{esc(words)}</span>{_score(hit["score"])}</button></li>'
    )


def _thumbnail(collection: str, hit: Json) -> str:
    words, key = hit.get("caption") or hit["id"], esc(f"{collection}:{hit['id']}")
    return (
        f'<li><button type="button" data-pick="image:{key}" data-key="{key}" title="{esc(words)}" '
        f'aria-label="{esc(words)}, score {hit["score"]:.2f}. Look at it">'
        f'<img src="{esc(item_url(collection, hit["id"]))}" alt="" loading="lazy"></button></li>'
    )


def _labels(collection: str, labels: Json, pickable: Mapping[str, Sequence[str]]) -> str:
    """Labels; values that a search can be filtered by, of a set each member, are buttons."""
    chips = "".join(
        f'<li><button type="button" data-pick="label:{esc(collection)}:{esc(label_choice(name, value))}" '
        f'title="Only such images" aria-label="Only images with {esc(name)} {esc(value)}">{_label(name, value)}'
        "</button></li>"
        if value in pickable.get(name, ())
        else f"<li><span>{_label(name, value)}</span></li>"
        for name, written in labels.items()
        for value in _label_values(str(written), pickable.get(name, ()))
    )
    return f'<ul class="lcl-labels">{chips}</ul>' if chips else ""


def _label_values(written: str, known: Sequence[str]) -> list[str]:
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


def _label(name: str, value: Any) -> str:
    return f"<i>{esc(name)}</i> {esc(value)}"


def _score(score: float) -> str:
    """Cosine similarity as a bar (negative: empty) and a number."""
    width = round(100 * min(1.0, max(0.0, score)))
    return f'<span class="lcl-score"><i><b style="width:{width}%"></b></i><span>{score:.3f}</span></span>'
