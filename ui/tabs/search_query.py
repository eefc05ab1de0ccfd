"""A search of the page: its query, the pages of hits so far, and filters by labels as the values of a menu."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from api.client import ApiError, Client, UserError
from api.client.payloads import parse_where, write_condition
from ui.addresses import fits_address, mark_view
from ui.common import TagChange, api_error_box, first_choice, unreachable_box
from ui.html import error_box, notice, toast
from ui.ranking import collection_choices
from ui.tabs.search_view import (
    INVITATION,
    NO_COLLECTION,
    NO_IMAGE,
    NO_TEXT_VECTORS,
    NOTHING_TO_MIX,
    TAGS,
    draw_detail,
    draw_results,
    label_choice,
    link_to,
)

MAX_HITS = 1000  # of one search
NEIGHBOUR_IMAGES, NEIGHBOUR_TEXTS = 8, 4  # in the details of an image
MAX_LABEL_VALUES = 300  # of a label; one with more, such as the file name, is not offered as a filter
RANGE_TYPES = {"number": "1990", "date": "2020-01-31"}  # types of labels that have ranges, with an example
TEXT_TO_IMAGES, IMAGE_TO_IMAGES, IMAGE_TO_TEXTS = "Text → images", "Image → images", "Image → texts"
BOTH = "Text + image"
TEXT_MODES = (TEXT_TO_IMAGES, BOTH)
MODES = [TEXT_TO_IMAGES, IMAGE_TO_IMAGES, IMAGE_TO_TEXTS, BOTH]
MODE_PARAMETERS = {TEXT_TO_IMAGES: "", IMAGE_TO_IMAGES: "images", IMAGE_TO_TEXTS: "texts", BOTH: "both"}
DEFAULT_COUNT, DEFAULT_WEIGHT = 24, 50
EMPTY_STATES = {TEXT_TO_IMAGES: INVITATION, IMAGE_TO_IMAGES: NO_IMAGE, IMAGE_TO_TEXTS: NO_IMAGE, BOTH: NOTHING_TO_MIX}

LabelFilter = dict[str, Any]  # {label: values, or a range or members of a set}: ``where`` of Client.search


@dataclass(frozen=True)
class PageQuery:
    """A search and its hits so far, for further pages."""

    collection: str | None
    about: str
    target: str
    k: int  # hits a page
    where: LabelFilter
    query: dict[str, Any] = field(repr=False)  # arguments of Client.search
    mode: str = TEXT_TO_IMAGES
    words: float = DEFAULT_WEIGHT  # how much they count, of BOTH
    offset: int = 0  # of the next page
    hits: tuple[dict[str, Any], ...] = field(default=(), repr=False)

    @property
    def link(self) -> str:
        """Address of this search; empty for one with an image, labels, long words, or texts as target."""
        text_only = self.query.keys() <= {"text", "hybrid"} and self.target == "images" and not self.where
        if not text_only or not fits_address(self.query["text"]):
            return ""
        more = {} if self._captions is None else {"captions": self._captions}
        return link_to(str(self.collection), q=self.query["text"], **more)

    @property
    def _captions(self) -> str | None:
        """Parameter of the address: words count in captions too, unless it says otherwise or they lead away."""
        away = self.mode == BOTH and self.words <= 0
        return "0" if "text" in self.query and not (away or self.query.get("hybrid")) else None

    @property
    def can_use_captions(self) -> bool:
        """Whether the words can be searched in captions, and are not yet: not as words that lead away."""
        counts = self.query.get("weights", {}).get("text", 1) > 0
        return "text" in self.query and self.target == "images" and counts and not self.query.get("hybrid")

    def mark(self, html: str) -> str:
        """``html`` with the address of this search. An uploaded image is no part of it."""
        return mark_view(
            html,
            f"«{self.query['text']}»" if "text" in self.query else "Similar to an image",
            q=self.query.get("text"),
            like=self.query.get("item"),
            mode=MODE_PARAMETERS[self.mode],
            captions=self._captions,
            words=f"{self.words:g}" if self.mode == BOTH and self.words != DEFAULT_WEIGHT else None,
            collection=self.collection,
            where=json.dumps(self.where, ensure_ascii=False) if self.where else None,
            k=self.k if self.k != DEFAULT_COUNT else None,
        )


class PageResult(NamedTuple):
    """HTML, the search, and whether there may be more hits."""

    html: str
    query: PageQuery | None = None
    more: bool = False


class FilterMenu(NamedTuple):
    """Values to choose of each label, conditions that can be typed (empty: none), and all labels of a collection."""

    values: dict[str, list[str]]
    example: str
    labels: list[str]

    @property
    def choices(self) -> list[tuple[str, str]]:
        """(words, value) of what can be chosen."""
        return [
            (f"{name}: {each}", label_choice(name, each)) for name, own in self.values.items() for each in sorted(own)
        ]

    def known(self, where: Sequence[str]) -> list[str]:
        """Those of the values of the menu that can be chosen, or are conditions on labels of the collection."""
        chosen = {value for _, value in self.choices}
        return [value for value in where if value in chosen or is_condition(value, self.labels)]


class SearchRunner:
    def __init__(self, client: Client) -> None:
        self.client = client

    def run(
        self,
        collection: str | None,
        about: str,
        target: str,
        k: int,
        where: LabelFilter | None = None,
        *,
        mode: str = TEXT_TO_IMAGES,
        words: float = DEFAULT_WEIGHT,
        **query: Any,
    ) -> PageResult:
        """First page of a search; default collection: that of the best encoder."""
        try:
            collection = collection or first_choice(collection_choices(self.client))
        except ApiError as error:
            return PageResult(unreachable_box(error))
        if collection is None:
            return PageResult(NO_COLLECTION)
        return self._first_page(PageQuery(collection, about, target, int(k), where or {}, query, mode, words))

    def filter(self, current: PageQuery, where: LabelFilter) -> PageResult:
        """The same search with other labels."""
        return self._first_page(replace(current, where=where, offset=0, hits=()))

    def details(self, collection: str, item: str, *, searches: bool = True) -> str:
        """Details of an image, or an error. ``searches``: as of ``draw_detail``."""
        try:
            record = self.client.item(collection, item)
            found = self.client.collection(collection)
            near = self.client.search(collection, item=item, k=NEIGHBOUR_IMAGES + 1)["hits"]
            texts = None
            if found["text_vectors"]:
                texts = self.client.search(collection, item=item, k=NEIGHBOUR_TEXTS, target="texts")["hits"]
        except ApiError as error:
            return error_box(error.message, "The image cannot be shown")
        labels = read_menu(found).values if searches else {}
        others = [hit for hit in near if hit["id"] != item][:NEIGHBOUR_IMAGES]
        drawn = draw_detail(collection, record, others, texts, labels, searches=searches)
        captions = record.get("captions") or [item]
        return mark_view(drawn, str(captions[0]), item=item, collection=collection)

    def change_tags(self, collection: str, change: TagChange) -> str:
        """What was changed, or why not all or nothing was, as HTML."""
        sent = [0]
        members: dict[str, Any] = {"remove" if change.remove else "add": {TAGS: [change.tag]}}
        try:
            changed = self.client.change_labels(
                collection, change.items, **members, on_progress=lambda done, _: sent.append(done)
            )
        except ApiError as error:
            some = f"The tags of only {sent[-1]:,} of {len(change.items):,} images were changed"
            return toast(error.message, some if sent[-1] else "The tags were not changed")
        return notice(change.describe(changed), "Tags")

    def menu(self, collection: str) -> FilterMenu:
        """What a search can be filtered by. Raises: ApiError."""
        return read_menu(self.client.collection(collection))

    def _first_page(self, current: PageQuery) -> PageResult:
        """Hits, or an error in their place."""
        try:
            return self.next_page(current)
        except ApiError as error:
            if error.code != "no_text_encoder":
                return PageResult(current.mark(api_error_box(error, "The search was refused")))
            if not current.can_use_captions:
                return PageResult(current.mark(NO_TEXT_VECTORS))
            words = replace(current, query=current.query | {"hybrid": True}, about=f"{current.about}, by captions too")
            return self._first_page(words)

    def next_page(self, current: PageQuery) -> PageResult:
        """Fetch the next page and draw it after the hits so far. Raises: ApiError."""
        start = time.perf_counter()
        query: dict[str, Any] = current.query | ({"where": current.where} if current.where else {})
        k = min(current.k, MAX_HITS - current.offset)
        answer = self.client.search(str(current.collection), target=current.target, k=k, offset=current.offset, **query)
        total_ms = 1000 * (time.perf_counter() - start)
        times = f"{answer['took_ms']:.0f} ms in the service · {total_ms:.0f} ms in all"
        shown = {hit["id"] for hit in current.hits}  # items added since can move a hit to the next page
        hits = (*current.hits, *(hit for hit in answer["hits"] if hit["id"] not in shown))
        shown_as = (current.about, current.target, times, current.link, answer.get("text_limit"))
        drawn = draw_results(str(current.collection), hits, *shown_as)
        offset = current.offset + k
        more = len(answer["hits"]) == k and offset < MAX_HITS
        return PageResult(current.mark(drawn), replace(current, offset=offset, hits=hits), more)


def read_menu(collection: Mapping[str, Any]) -> FilterMenu:
    """What a search in a collection, as the service describes it, can be filtered by."""
    types = collection["label_types"]
    ranges = [f"{label}>={RANGE_TYPES[types[label]]}" for label in sorted(types) if types[label] in RANGE_TYPES]
    values = filter_labels(collection["labels"], types)
    exclusions = [f"{label}!={own[0]}" for label, own in values.items() if own]
    return FilterMenu(values, " or ".join(ranges[:1] + exclusions[:1]), list(collection["labels"]))


def draw_empty(mode: str, collection: str | None = None, item: str | None = None) -> str:
    """What to do in a mode, with its address; ``item``: the image that awaits its words."""
    return mark_view(EMPTY_STATES[mode], mode=MODE_PARAMETERS[mode], collection=collection, like=item)


def filter_labels(labels: Mapping[str, Sequence[str]], types: Mapping[str, str] | None = None) -> dict[str, list[str]]:
    """{label: values} that a search can be filtered by: first those with few values, last split and source.

    Left out are labels with too many values, those with one, which selects everything unless it is a member of sets
    (``types``), and empty values.
    """
    offered = {
        name: values
        for name, values in labels.items()
        if (1 if (types or {}).get(name) == "set" else 2) <= len(values) <= MAX_LABEL_VALUES
    }
    order = sorted(offered, key=lambda name: (name in ("split", "source"), len(offered[name])))
    return {name: [value for value in offered[name] if value] for name in order}


def filter_choices(parameter: str) -> list[str]:
    """``where`` of an address as values of the menu; none where it is no filter."""
    choices: list[str] = []
    try:
        for label, condition in json.loads(parameter or "{}").items():
            values = condition
            if isinstance(condition, dict):
                choices += write_condition(label, condition)
                values = condition.get("any", ())
            choices += [label_choice(label, str(value)) for value in values]
    except (ValueError, AttributeError, TypeError):
        return []
    return choices


def parse_label_filter(choices: Sequence[str] | None) -> LabelFilter:
    """The service's filter from values of the menu and texts such as ``year>=1990``. Raises: UserError."""
    pairs = {choice: pair for choice in choices or () if (pair := _chosen_pair(choice)) is not None}
    return parse_where([choice for choice in choices or () if choice not in pairs], pairs.values())


def is_condition(choice: str, labels: Sequence[str]) -> bool:
    """Whether a value of the menu is a text of ``parse_where`` about one of these labels."""
    try:
        return _chosen_pair(choice) is None and parse_where([choice]).keys() <= set(labels)
    except UserError:
        return False


def _chosen_pair(choice: str) -> tuple[str, str] | None:
    """Label and value of ``label_choice``; None: a text that was typed."""
    try:
        read = json.loads(choice)
    except ValueError:
        return None
    is_pair = isinstance(read, list) and len(read) == 2 and all(isinstance(part, str) for part in read)
    return (read[0], read[1]) if is_pair else None
