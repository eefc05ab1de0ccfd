"""Choices of menus: encoders and collections by quality, as the service orders them, never by age alone.

What this browser used last is chosen first.
"""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from api.client import Client
from api.client.payloads import Json

SAMPLE_DATASET = "sample"


def rank_encoders(client: Client) -> list[Json]:
    """All encoders, best first, with their main ``figures`` and ``badge``. Raises: ApiError."""
    return client.encoders(order="quality")


def encoder_choices(client: Client, encoders: Sequence[Json] | None = None) -> list[tuple[str, str]]:
    """(name with badge, id) of every encoder, best first; ``encoders``: if ranked already. Raises: ApiError."""
    found = rank_encoders(client) if encoders is None else encoders
    return [(" · ".join(filter(None, (each["name"], each.get("badge")))), str(each["id"])) for each in found]


def collection_choices(client: Client, encoders: Sequence[Json] | None = None) -> list[tuple[str, str]]:
    """(label, id), those of the best encoder first; ``encoders``: if ranked already. Raises: ApiError."""
    collections = client.collections()
    if len(collections) < 2:
        return [(_with_count(item), item["id"]) for item in collections]
    encoders = rank_encoders(client) if encoders is None else encoders
    ranked = {each["id"]: (place, each.get("badge") or "") for place, each in enumerate(encoders)}
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


def _with_count(collection: Json, badge: str = "") -> str:
    images = collection.get("images")
    count = f"{images:,} images" if isinstance(images, int) else ""
    return " · ".join(filter(None, (str(collection.get("name") or collection["id"]), count, badge)))
