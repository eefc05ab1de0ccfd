"""Searches as the page makes them: asked, asked for more, and one picture looked at. Knows no component."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from api.client import ApiError, Client
from ui.common import collection_choices, newest, refused
from ui.html import problem
from ui.tabs.search_view import NO_COLLECTION, draw_detail, draw_found, link_to

MOST = 1000  # shown of one search
AROUND, TEXTS_OF_IT = 8, 4  # shown beside a picture
VALUES = 300  # of a label; one with more (the name of each picture, say) is no help in a picker

Where = dict[str, list[str]]


@dataclass(frozen=True)
class Asked:
    """A search as it was made and what it has found so far, so that more of it can be asked for."""

    collection: str | None
    about: str
    target: str
    k: int  # hits a page
    where: Where
    query: dict[str, Any] = field(repr=False)  # what goes to the service
    offset: int = 0  # where the next page begins
    hits: tuple[dict[str, Any], ...] = field(default=(), repr=False)

    @property
    def link(self) -> str:
        """An address that makes this search, for what fits into one."""
        words_alone = self.query.keys() == {"text"} and self.target == "images" and not self.where
        return link_to(str(self.collection), q=self.query["text"]) if words_alone else ""


class Found(NamedTuple):
    """HTML, what was asked, and whether there may be more of it."""

    drawn: str
    asked: Asked | None = None
    more: bool = False


class Searches:
    def __init__(self, client: Client) -> None:
        self.client = client

    def ask(
        self, collection: str | None, about: str, target: str, k: int, where: Where | None = None, **query: Any
    ) -> Found:
        """One call to the service; without a collection, of the newest."""
        try:
            collection = collection or newest(collection_choices(self.client))
        except ApiError as error:
            return Found(problem(error.message, "The service cannot be reached"))
        if collection is None:
            return Found(NO_COLLECTION)
        return self._ask(Asked(collection, about, target, int(k), where or {}, query))

    def more(self, asked: Asked) -> Found:
        """As many again, below those that are there."""
        return self._ask(asked)

    def only(self, asked: Asked, where: Where) -> Found:
        """The same search among other pictures."""
        return self._ask(replace(asked, where=where, offset=0, hits=()))

    def look(self, collection: str, item: str) -> str:
        """A picture large, with what is near it; or why it cannot be shown."""
        try:
            record, labels = self.client.item(collection, item), self.pickable(collection)
            near = self.client.search(collection, item=item, k=AROUND + 1)["hits"]
            texts = self.client.search(collection, item=item, k=TEXTS_OF_IT, target="texts")["hits"]
        except ApiError as error:
            return problem(error.message, "The picture cannot be shown")
        return draw_detail(collection, record, [hit for hit in near if hit["id"] != item][:AROUND], texts, labels)

    def pickable(self, collection: str) -> Where:
        """{label: values} that pictures can be chosen by. Raises: ApiError."""
        labels = self.client.collection(collection)["labels"]
        return {name: values for name, values in labels.items() if len(values) <= VALUES}

    def _ask(self, asked: Asked) -> Found:
        """The next page of a search, below those that are there."""
        start = time.perf_counter()
        query: dict[str, Any] = asked.query | ({"where": asked.where} if asked.where else {})
        k = min(asked.k, MOST - asked.offset)
        try:
            answer = self.client.search(str(asked.collection), target=asked.target, k=k, offset=asked.offset, **query)
        except ApiError as error:
            return Found(refused(error, "The search was refused"))
        total_ms = 1000 * (time.perf_counter() - start)
        times = f"{answer['took_ms']:.0f} ms in the service · {total_ms:.0f} ms in all"
        shown = {hit["id"] for hit in asked.hits}  # pictures that came in meanwhile push some onto the next page
        hits = (*asked.hits, *(hit for hit in answer["hits"] if hit["id"] not in shown))
        drawn = draw_found(str(asked.collection), hits, asked.about, asked.target, times, asked.link)
        offset = asked.offset + k
        return Found(drawn, replace(asked, offset=offset, hits=hits), len(answer["hits"]) == k and offset < MOST)


def where_of(choices: Sequence[str] | None) -> Where:
    """From what was picked (``search_view.label_choice``) to the service's filter: of every label one of its values."""
    found: Where = {}
    for choice in choices or ():
        label, value = json.loads(choice)
        found.setdefault(label, []).append(value)
    return found
