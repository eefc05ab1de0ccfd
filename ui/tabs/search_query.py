"""A search of the page: its address, its hits, the details of an image, and filters as the values of a menu."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from api.client import ApiError, Client, UserError
from api.client.payloads import parse_where, write_condition
from ui.addresses import address, fits_address, mark_view
from ui.common import TagChange, api_error_box, read_upload
from ui.html import error_box, notice, toast
from ui.tabs.search_view import TAGS, draw_browsing, draw_detail, draw_results

PAGE_HITS, MAX_HITS = 24, 1000  # of one page, of one search
NEIGHBOUR_IMAGES, NEIGHBOUR_TEXTS = 8, 4  # in the details of an image
MAX_LABEL_VALUES = 300  # of a label; one with more, such as the file name, is not offered as a filter
DEFAULT_MATCH = "both"
MATCHES = [("Looks and captions", "both"), ("Looks", "looks"), ("Captions", "captions")]
LabelFilter = dict[str, Any]  # {label: values, or a range or members of a set}: ``where`` of Client.search


@dataclass(frozen=True)
class PageQuery:
    """A search; without words and images the collection is looked through.

    Attributes:
        like: id of an image of the collection, ``image``: path of an uploaded one, which is in no address.
        where: filter as the values of the menu.
    """

    collection: str
    words: str = ""
    like: str = ""
    image: str = ""
    where: tuple[str, ...] = ()
    match: str = DEFAULT_MATCH
    texts: bool = False
    name: str = field(default="", compare=False)  # of the collection, for addresses

    @classmethod
    def of_address(cls, collection: str, parameters: Mapping[str, str], image: str) -> PageQuery:
        """``image``: uploaded before, for an address that has one."""
        match = parameters.get("match", DEFAULT_MATCH)
        return cls(
            collection,
            parameters.get("q", "").strip(),
            parameters.get("like", ""),
            image if "image" in parameters else "",
            tuple(filter_choices(parameters.get("where", ""))),
            match if match in [value for _, value in MATCHES] else DEFAULT_MATCH,
            parameters.get("mode") == "texts",
        )

    @property
    def is_empty(self) -> bool:
        return not (self.words or self.like or self.image)

    @property
    def parameters(self) -> dict[str, str]:
        """Of its address. Raises: UserError, for a filter that cannot be read."""
        where = parse_label_filter(self.where)
        return {
            "q": self.words if fits_address(self.words) else "",
            "like": self.like,
            "image": "1" if self.image else "",
            "where": json.dumps(where, ensure_ascii=False) if where else "",
            "match": "" if self.match == DEFAULT_MATCH else self.match,
            "mode": "texts" if self.texts else "",
            "collection": self.name or self.collection,
        }

    def link(self, **others: str) -> str:
        return address(**{**self.parameters, **others})

    def narrowed(self, label: str, value: str) -> PageQuery:
        return replace(self, where=tuple(dict.fromkeys((*self.where, label_choice(label, value)))))

    def request(self) -> dict[str, Any]:
        """Arguments of ``Client.search``. Raises: ApiError, UserError."""
        query: dict[str, Any] = {"text": self.words} if self.words else {}
        seen: dict[str, Any] = {"item": self.like} if self.like else {}
        if self.image:
            seen = {"image": read_upload(self.image)}
        target = "texts" if self.texts and seen else "images"
        match = self.match if target == "images" and (self.words or self.match != "captions") else DEFAULT_MATCH
        return {**query, **seen, "target": target, "match": match, "where": parse_label_filter(self.where)}


@dataclass(frozen=True)
class ShownSearch:
    """A search on show: its answer, and all hits so far."""

    query: PageQuery
    html: str
    answer: Mapping[str, Any]
    hits: tuple[dict[str, Any], ...] = ()
    file: str = ""  # of the image in the box
    more: bool = False


class SearchRunner:
    def __init__(self, client: Client) -> None:
        self.client = client

    def run(self, query: PageQuery, before: ShownSearch | None = None) -> ShownSearch:
        """The hits, or an error in their place.

        Args:
            before: whose next page is fetched after its hits. Raises: ApiError.
        """
        hits = () if before is None else before.hits
        try:
            if query.is_empty:
                found = self.client.collection(query.collection)
                query = replace(query, name=found["name"])
                drawn = draw_browsing(query, found, self.client.items(query.collection, 0, PAGE_HITS))
                return ShownSearch(query, mark_view(drawn, **query.parameters), {})
            k = min(PAGE_HITS, MAX_HITS - len(hits))
            answer = self.client.search(query.collection, k=k, offset=len(hits), **query.request())
        except ApiError as error:
            if before is not None:
                raise
            return ShownSearch(query, api_error_box(error, "The search was refused"), {})
        except UserError as error:
            return ShownSearch(query, error_box(error.message, "The filter cannot be read"), {})
        query = replace(query, name=answer["collection"])
        shown = {hit["id"] for hit in hits}  # items added since can move a hit to the next page
        hits = (*hits, *(hit for hit in answer["hits"] if hit["id"] not in shown))
        html = mark_view(draw_results(query, hits, answer), query.words or "Similar to an image", **query.parameters)
        more = len(answer["hits"]) == k and len(hits) < MAX_HITS
        return ShownSearch(query, html, answer, hits, "" if before is None else before.file, more)

    def details(self, collection: str, item: str, *, searches: bool = True, shown: ShownSearch | None = None) -> str:
        """Details of an image, or an error. ``searches``, ``shown``: as of ``draw_detail``."""
        try:
            record = self.client.item(collection, item)
            near = self.client.search(collection, item=item, k=NEIGHBOUR_IMAGES + 1)["hits"]
            found = self.client.collection(collection)
            texts = []
            if found["text_vectors"]:
                texts = self.client.search(collection, item=item, k=NEIGHBOUR_TEXTS, target="texts")["hits"]
        except ApiError as error:
            return error_box(error.message, "The image cannot be shown")
        query = PageQuery(collection) if shown is None or shown.query.collection != collection else shown.query
        query = replace(query, name=found["name"])
        hit = next((hit for hit in (shown.hits if shown else ()) if hit["id"] == item), {})
        others = [each for each in near if each["id"] != item][:NEIGHBOUR_IMAGES]
        labels = filter_labels(found) if searches else {}
        drawn = draw_detail(query, {**hit, **record}, others, texts, labels, searches=searches)
        return mark_view(drawn, str((record.get("captions") or [item])[0]), item=item, collection=found["name"])

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

    def menu(self, collection: str) -> list[tuple[str, str]]:
        """(words, value) of the filters of a collection. Raises: ApiError."""
        return [
            (f"{label}: {value} · {count:,}", label_choice(label, value))
            for label, counts in filter_labels(self.client.collection(collection)).items()
            for value, count in sorted(counts.items())
        ]


def filter_labels(collection: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """{label: {value: images}} that a search can be filtered by: first those with few values, last split and source.

    Left out are labels with too many values, those with one, which selects everything unless it is a member of sets,
    and empty values.
    """
    labels, types = collection["labels"], collection["label_types"]
    offered = [
        name
        for name, values in labels.items()
        if (1 if types.get(name) == "set" else 2) <= len(values) <= MAX_LABEL_VALUES
    ]
    order = sorted(offered, key=lambda name: (name in ("split", "source"), len(labels[name])))
    counts = {name: zip(labels[name], collection["label_images"][name], strict=True) for name in order}
    return {name: {value: count for value, count in counts[name] if value} for name in order}


def label_choice(label: str, value: str) -> str:
    """A label and its value as one value of the menu of filters."""
    return json.dumps([label, value], ensure_ascii=False)


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


def parse_label_filter(choices: Sequence[str]) -> LabelFilter:
    """The service's filter from values of the menu and texts such as ``year>=1990``. Raises: UserError."""
    pairs = {choice: pair for choice in choices if (pair := _chosen_pair(choice)) is not None}
    return parse_where([choice for choice in choices if choice not in pairs], pairs.values())


def _chosen_pair(choice: str) -> tuple[str, str] | None:
    """Label and value of ``label_choice``, or of the words of a choice that were typed; None: a condition."""
    try:
        read = json.loads(choice)
    except ValueError:
        label, typed, value = choice.partition(": ")
        return (label, value.partition(" · ")[0]) if typed else None
    is_pair = isinstance(read, list) and len(read) == 2 and all(isinstance(part, str) for part in read)
    return (read[0], read[1]) if is_pair else None
