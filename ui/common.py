"""What the tabs share: choices for pickers, uploads as bytes, and the manner in which events are declared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import gradio as gr
from PIL import Image

from api.client import Client

# Events are the page's own business: not offered as an API, and cheap ones skip the queue.
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
BUSY: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}


class Place(Protocol):
    """One tab. ``build`` makes its components inside the open gr.Tab; ``wire`` adds their events afterwards."""

    title: str

    def __init__(self, client: Client) -> None: ...

    def build(self) -> None: ...

    def wire(self, page: gr.Blocks, tab: gr.Tab) -> None: ...


def choose(choices: Sequence[tuple[str, str]], current: str | None) -> Any:
    """New choices for a dropdown; the current one stays while it exists, else the first is taken."""
    values = [value for _, value in choices]
    value = current if current in values else newest(choices)
    return gr.Dropdown(choices=list(choices), value=value, interactive=bool(values))


def collection_choices(client: Client) -> list[tuple[str, str]]:
    """(words, id) of every collection. Raises: ApiError."""
    return [(_with_count(item), item["id"]) for item in client.collections()]


def encoder_choices(client: Client) -> list[tuple[str, str]]:
    """(name, id) of every encoder. Raises: ApiError."""
    return [(item.get("name") or item["id"], item["id"]) for item in client.encoders()]


def newest(choices: Sequence[tuple[str, str]]) -> str | None:
    """What a visitor gets who is quicker than a picker's first answer."""
    return choices[0][1] if choices else None


def picture_input(label: str, height: int) -> gr.Image:
    """An upload that keeps the bytes as they are, and says in words when they are no picture.

    Update its value only, never its properties: those make a new component, without the words.
    """
    component = gr.Image(
        label=label,
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        height=height,
        elem_classes="lcl-picture",
    )
    plain = component.preprocess

    def preprocess(payload: Any) -> Any:
        try:
            return plain(payload)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            words = "This file is not a picture that can be read. Choose a PNG, JPEG, WebP or GIF."
            raise gr.Error(words, title="No picture", print_exception=False) from error

    component.preprocess = preprocess  # type: ignore[method-assign]
    return component


def read_upload(path: str) -> bytes:
    """The bytes of a file that the browser uploaded."""
    return Path(path).read_bytes()


def _with_count(collection: dict[str, Any]) -> str:
    images = collection.get("images")
    name = collection.get("name") or collection["id"]
    return f"{name} · {images:,} pictures" if isinstance(images, int) else str(name)
