"""Embed tab: 2-D map of a collection, and vectors of uploaded images as a file."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder

from api.client import ApiError, Client
from ui.addresses import mark_view, read_address
from ui.charts import scatter_map, vector_strip
from ui.common import (
    BUSY_EVENT,
    SILENT_EVENT,
    first_choice,
    html_pane,
    read_upload,
    unreachable_box,
    update_dropdown,
)
from ui.file_routes import FORMATS
from ui.html import empty_state, error_box, esc, heading, html_table
from ui.ranking import collection_choices, encoder_choices, last_used, used_script

NO_COLLECTION = empty_state("No collection yet", "Submit an index run in the Runs tab to see its images on a plane.")
NO_ENCODER = empty_state("No encoder yet", "Submit a pre-training run in the Runs tab; its encoder embeds here.")
NO_IMAGES = empty_state("Choose images first", "Drop them into the field, or pick them from your files.")
WAITING = empty_state("Vectors appear here", "Choose images and press “Embed”.")
PREFERRED = ("group", "category", "subgroup")  # labels with few values
MAX_FILES = 64
BATCH = 16


class EmbedTab:
    title = "Embed"

    def __init__(self, client: Client) -> None:
        self.client = client

    def build(self) -> None:
        self.points = gr.State([])
        with gr.Column(elem_classes="lcl-panel"):
            html_pane(
                heading("Map of a collection", "Its vectors seen along their two principal axes: near means alike."),
            )
            with gr.Row(elem_classes="lcl-toolbar"):
                self.collection = gr.Dropdown(label="Collection", scale=2, min_width=200)
                self.label = gr.Dropdown(label="Colour by", scale=1, min_width=140)
                self.links = html_pane(elem_classes="lcl-links")
            self.map = html_pane(elem_id="map")
        with gr.Column(elem_classes="lcl-panel"):
            html_pane(
                heading("Vectors of your images", "Embed them with an encoder and take the numbers along."),
            )
            with gr.Row(equal_height=False):
                with gr.Column(scale=4, min_width=280):
                    self.encoder = gr.Dropdown(label="Encoder")
                    self.images = gr.File(
                        label="Images", file_count="multiple", file_types=["image"], height=170, type="filepath"
                    )
                    self.format = gr.Radio(list(FORMATS), value="npy", label="File format")
                    self.go = gr.Button("Embed", variant="primary")
                with gr.Column(scale=6, min_width=280):
                    self.vectors = html_pane(WAITING, elem_id="vectors")
                    self.download = gr.DownloadButton("Download", visible=False, elem_id="download-vectors")

    def wire(self, page: gr.Blocks, tab: gr.Tab, navigation: gr.HTML) -> None:
        drawn = [self.points, self.label, self.links, self.map]
        pickers = [self.collection, self.encoder]
        tab.select(self.refresh, pickers, [*pickers, self.map], **SILENT_EVENT).then(
            self.open_address, None, [self.collection, *drawn], **SILENT_EVENT
        )
        navigation.select(self.open_address, None, [self.collection, *drawn], **SILENT_EVENT)
        for picker, what in ((self.collection, "collection"), (self.encoder, "encoder")):
            picker.input(None, picker, js=used_script(what))
        self.collection.change(self.load_map, [self.collection, self.label], drawn, **BUSY_EVENT)
        self.label.input(self.draw_map, [self.collection, self.points, self.label], self.map, **SILENT_EVENT)
        inputs = [self.encoder, self.images, self.format]
        self.go.click(self.embed, inputs, [self.vectors, self.download], **BUSY_EVENT)
        self.format.input(self.embed_again, inputs, [self.vectors, self.download], **BUSY_EVENT)

    def refresh(
        self,
        collection: str | None,
        encoder: str | None,
        request: gr.Request | None = None,
    ) -> tuple[Any, Any, Any]:
        """Update collections and encoders; a changed collection draws its map."""
        try:
            collections, encoders = collection_choices(self.client), encoder_choices(self.client)
        except ApiError as error:
            return gr.skip(), gr.skip(), unreachable_box(error)
        shown = gr.skip() if collections else NO_COLLECTION
        collection, encoder = collection or last_used(request, "collection"), encoder or last_used(request, "encoder")
        return update_dropdown(collections, collection), update_dropdown(encoders, encoder), shown

    def open_address(self, request: gr.Request) -> tuple[Any, ...]:
        """The collection of the address and its map."""
        address = read_address(request, "embed")
        if not (collection := address.get("collection")):
            return (gr.skip(),) * 5
        return collection, *self.load_map(collection, address.get("colour"))

    def load_map(self, collection: str | None, label: str | None) -> tuple[Any, ...]:
        """Fetch and draw the map of a collection."""
        if not collection:
            return [], update_dropdown([], None), "", NO_COLLECTION
        try:
            points = self.client.collection_map(collection)["points"]
        except ApiError as error:
            return [], gr.skip(), "", error_box(error.message, "The map cannot be shown")
        labels = sorted({name for point in points for name in point["labels"]})
        chosen = label if label in labels else next((name for name in PREFERRED if name in labels), None)
        picker = update_dropdown([(name, name) for name in labels], chosen)
        return points, picker, _links(collection), self.draw_map(collection, points, chosen or next(iter(labels), None))

    def draw_map(self, collection: str, points: Sequence[dict[str, Any]], label: str | None) -> str:
        if not points:
            return NO_COLLECTION
        return mark_view(scatter_map(collection, points, label), collection=collection, colour=label)

    def embed_again(self, encoder: str | None, paths: list[str] | None, kind: str) -> tuple[Any, Any]:
        """Another format, if there are files."""
        return self.embed(encoder, paths, kind) if paths else (gr.skip(), gr.skip())

    def embed(self, encoder: str | None, paths: list[str] | None, kind: str) -> tuple[Any, Any]:
        """Table of the vectors, and the file to download."""
        hidden = gr.DownloadButton(visible=False)
        if not paths:
            return NO_IMAGES, hidden
        if len(paths) > MAX_FILES:
            return error_box(f"Choose at most {MAX_FILES} images here; an index run embeds whole datasets."), hidden
        try:
            encoder = encoder or first_choice(encoder_choices(self.client))
            if encoder is None:
                return NO_ENCODER, hidden
            vectors = self._vectors(encoder, paths)
        except ApiError as error:
            return error_box(error.message, "The images were refused"), hidden
        names = [Path(path).name for path in paths]
        write, _ = FORMATS[kind]
        # in Gradio's folder, so that it makes no copy; deleted with the session
        file = Path(get_upload_folder()) / secrets.token_hex(16) / f"vectors.{kind}"
        file.parent.mkdir(mode=0o700, parents=True)
        file.write_bytes(write(names, vectors))
        return draw_vectors(names, vectors), gr.DownloadButton(f"Download {file.name}", value=str(file), visible=True)

    def _vectors(self, encoder: str, paths: Sequence[str]) -> list[list[float]]:
        """Embed in batches. Raises: ApiError that names the file."""
        rows: list[list[float]] = []
        for start in range(0, len(paths), BATCH):
            batch = paths[start : start + BATCH]
            try:
                rows += self.client.embed_images(encoder, [read_upload(path) for path in batch])
            except ApiError as error:
                raise _naming_file(error, batch) from error
        return rows


def _naming_file(error: ApiError, paths: Sequence[str]) -> ApiError:
    """Reindexs ``input.3`` in the error by the name of the file."""
    index = (error.field or "").removeprefix("input.")
    if not index.isdigit() or int(index) >= len(paths):
        return error
    words = error.message.removeprefix(f"{error.field}: ")
    return ApiError(error.status, error.code, f"{Path(paths[int(index)]).name}: {words}", error.field)


def draw_vectors(names: Sequence[str], vectors: Sequence[Sequence[float]]) -> str:
    """One row for each image: name, vector as bars, and the closest of the others."""
    matrix = np.asarray(vectors, dtype=np.float32)
    near = matrix @ matrix.T
    np.fill_diagonal(near, -np.inf)
    rows = []
    for i, (name, vector) in enumerate(zip(names, vectors, strict=True)):
        best = int(near[i].argmax())
        closest = f"{names[best]} ({near[i, best]:.2f})" if len(names) > 1 else ""
        rows.append(f"<tr><td>{esc(name)}</td><td>{vector_strip(vector)}</td><td>{esc(closest)}</td></tr>")
    size = f'<p class="lcl-note" role="status">{len(names)} × {matrix.shape[1]} numbers, of length 1</p>'
    return size + html_table("Vectors", ("Image", "Vector", "Closest of the others"), "".join(rows))


def _links(collection: str) -> str:
    links = "".join(f'<a href="vectors/{esc(collection)}.{kind}" download>.{kind}</a>' for kind in FORMATS)
    return f"<span>All vectors</span>{links}"
