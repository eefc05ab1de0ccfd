"""Order of encoders, collections and datasets in menus: by quality, never by age alone.

First what this browser used last, then pinned encoders, then the encoder that comes with the product unless an
evaluation on the same figure found a better one, then evaluated encoders by their main figure, then the others, newest
first. Encoders that are no better than untrained weights or hardly trained carry a badge, and come last unless pinned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from api.client import Client
from api.client.payloads import Json
from ui.figures import WORSE, is_worse, main_figures

PRODUCT_OWNER = "lcl"  # of the encoders and datasets that come with the product
SAMPLE_DATASET = "sample"
MIN_STEP_SHARE = 0.01  # of the longest training: with less, an encoder is hardly trained
MAX_RANKED = 40  # encoders whose figures are read; older ones follow in their order
HARDLY_TRAINED = "hardly trained"


@dataclass(frozen=True)
class RankedEncoder:
    """An encoder with the rows of its evaluations; ``badge`` says why it is no good, or is empty."""

    encoder: Json
    rows: list[dict[str, Any]]
    badge: str = ""

    @property
    def id(self) -> str:
        return str(self.encoder["id"])

    @property
    def measured(self) -> list[dict[str, Any]]:
        """Rows of evaluations of this service: figures of a model card were measured on other data."""
        return measured_rows(self.rows)

    @property
    def label(self) -> str:
        """Name and badge, for a menu."""
        return str(self.encoder.get("name") or self.id) + (f" · {self.badge}" if self.badge else "")

    @property
    def is_shipped(self) -> bool:
        return self.encoder.get("owner") == PRODUCT_OWNER


def rank_encoders(client: Client) -> list[RankedEncoder]:
    """All encoders, best first. Raises: ApiError."""
    encoders = client.encoders()
    most = max((_steps(each) for each in encoders), default=0)
    ranked = []
    for place, encoder in enumerate(encoders):
        rows = client.encoder_figures(encoder["id"]) if place < MAX_RANKED else []
        ranked.append(RankedEncoder(encoder, rows, quality_badge(encoder, rows, most)))
    compared = all(each.measured for each in ranked if each.is_shipped)
    return sorted(ranked, key=lambda each: _place(each, compared))  # stable: equals stay newest first


def quality_badge(encoder: Json, rows: Sequence[dict[str, Any]], most_steps: int) -> str:
    """Why the encoder is no good; empty where nothing is known against it."""
    main = main_figures(measured_rows(rows))
    if main and is_worse(main[0]):
        return WORSE
    return HARDLY_TRAINED if 0 < _steps(encoder) < MIN_STEP_SHARE * most_steps else ""


def measured_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of evaluations of this service, not of a model card."""
    return [row for row in rows if not row.get("source")]


def encoder_choices(client: Client, encoders: Sequence[RankedEncoder] | None = None) -> list[tuple[str, str]]:
    """(name with badge, id) of every encoder, best first; ``encoders``: if ranked already. Raises: ApiError."""
    return [(each.label, each.id) for each in (rank_encoders(client) if encoders is None else encoders)]


def collection_choices(client: Client, encoders: Sequence[RankedEncoder] | None = None) -> list[tuple[str, str]]:
    """(label, id), those of the best encoder first; ``encoders``: if ranked already. Raises: ApiError."""
    collections = client.collections()
    if len(collections) < 2:
        return [(_with_count(item), item["id"]) for item in collections]
    encoders = rank_encoders(client) if encoders is None else encoders
    ranked = {each.id: (place, each.badge) for place, each in enumerate(encoders)}
    places = [ranked.get(str(item.get("encoder_id")), (len(ranked), "")) for item in collections]
    ordered = sorted(zip(places, collections, strict=True), key=lambda pair: pair[0][0])
    return [(_with_count(item, badge), item["id"]) for (_, badge), item in ordered]


def dataset_choices(client: Client) -> list[tuple[str, str]]:
    """(name, name) of every dataset, the sample first. Raises: ApiError."""
    names = [row["name"] for row in client.datasets()]
    return [(name, name) for name in sorted(names, key=lambda name: name != SAMPLE_DATASET)]


def last_used(request: gr.Request | None, what: str) -> str | None:
    """Id of the ``what`` that was chosen last in this browser (``used_script``)."""
    return None if request is None else request.cookies.get(f"lcl-{what}")


def preferred_collection(
    choices: Sequence[tuple[str, str]], current: str | None, request: gr.Request | None
) -> str | None:
    """Id among ``collection_choices``: the current one, else the last used, else the first; None without any."""
    ids = [id for _, id in choices]
    return next((id for id in (current, last_used(request, "collection"), *ids) if id in ids), None)


def linked_collection(client: Client, name: str, request: gr.Request | None) -> str | None:
    """Id of the collection that an address names, by id or name; without a name the preferred one. Raises: ApiError."""
    if not name:
        return preferred_collection(collection_choices(client), None, request)
    return next((str(each["id"]) for each in client.collections() if name in (each["id"], each["name"])), None)


def used_script(what: str) -> str:
    """For an event with the chosen id as input: this browser remembers it."""
    attributes = "; path=/; max-age=31536000; samesite=strict"
    return f"(id) => {{ if (id) document.cookie = `lcl-{what}=${{encodeURIComponent(id)}}{attributes}`; }}"


def _place(ranked: RankedEncoder, compared: bool) -> tuple[int, float]:
    """Sort key. ``compared``: the encoder of the product was evaluated as the others were."""
    if ranked.encoder.get("pinned"):
        return -1, 0.0
    if ranked.badge:
        return 3, 0.0
    if ranked.is_shipped and not compared:
        return 0, 0.0
    main = main_figures(ranked.measured)
    if not main:
        return 2, 0.0
    value = float(main[0]["value"])
    return 1, value if main[0]["metric"].endswith("rank") else -value


def _steps(encoder: Json) -> int:
    steps = (encoder.get("info") or {}).get("steps")
    return steps if isinstance(steps, int) else 0


def _with_count(collection: Json, badge: str = "") -> str:
    images = collection.get("images")
    count = f"{images:,} images" if isinstance(images, int) else ""
    return " · ".join(filter(None, (str(collection.get("name") or collection["id"]), count, badge)))
