"""Encoders tab: a card for each encoder with its properties and metrics, and one encoder with all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import gradio as gr

from api.client import ApiError, Client
from ui.addresses import mark_view, read_address
from ui.common import SILENT_EVENT, PageSelection, html_pane, unreachable_box
from ui.html import PICK_SCRIPT, ago, definition_list, empty_state, error_box, esc, heading, number
from ui.tabs.run_view import draw_metrics

SHOWN = 4
WORSE = ' class="lcl-worse"'
# export formats of LCL encoders -> labels; other encoders are exported as they are
EXPORTS = {"lcl": "lcl", "huggingface": "transformers", "timm": "timm", "onnx": "ONNX"}
BACK = '<p class="lcl-back"><button type="button" data-pick="all:">‹ All encoders</button></p>'
EMPTY = empty_state("No encoder yet", "Submit a pre-training run in the Runs tab; its encoder is listed here.")


class EncodersTab:
    title = "Encoders"

    def __init__(self, client: Client) -> None:
        self.client = client

    def build(self) -> None:
        self.selection = gr.State(PageSelection[str | None](None))
        html_pane(heading("Encoders", "Every encoder that a run made or that was imported."))
        self.cards = html_pane(js_on_load=PICK_SCRIPT, elem_id="encoders")

    def wire(self, page: gr.Blocks, tab: gr.Tab, navigation: gr.HTML) -> None:
        for event in (tab.select, navigation.select):
            event(self.open_address, self.selection, self.cards, **SILENT_EVENT)
        self.cards.select(self.select, self.selection, self.cards, **SILENT_EVENT)

    def open_address(self, selection: PageSelection[str | None], request: gr.Request) -> str:
        """The encoder of ``?encoder=ID``, else all; on an address of another tab what was shown."""
        if address := read_address(request, "encoders"):
            selection.current = address.get("encoder")
        return self.refresh(selection.current)

    def select(self, selection: PageSelection[str | None], event: gr.EventData) -> str:
        """A card was opened, or the one encoder was closed."""
        selection.current = str(event.pick).partition(":")[2] or None
        return self.refresh(selection.current)

    def refresh(self, chosen: str | None = None) -> str:
        """All encoders, or one with all of its figures."""
        try:
            encoders = [self.client.encoder(chosen)] if chosen else self.client.encoders()
            cards = [
                draw_encoder(item, self.client.encoder_figures(item["id"]), alone=bool(chosen)) for item in encoders
            ]
        except ApiError as error:
            return (
                f"{BACK}{error_box(error.message, 'This encoder cannot be shown')}"
                if chosen
                else unreachable_box(error)
            )
        if chosen:
            encoder = encoders[0]
            return mark_view(BACK + cards[0], encoder.get("name") or encoder["id"], encoder=encoder["id"])
        return f'<div class="lcl-encoders">{"".join(cards)}</div>' if cards else EMPTY


def draw_encoder(encoder: dict[str, Any], rows: Sequence[dict[str, Any]], *, alone: bool = False) -> str:
    """Name, sizes and main metrics of an encoder; missing properties are left out.

    Args:
        alone: with all metrics as a table.
    """
    about = {**(encoder.get("info") or {}), **encoder}
    size = about.get("image_size")
    listed = [
        ("Parameters", number(about.get("parameters"))),
        ("Images", f"{size} × {size} px" if size else ""),
        ("Vector", f"{about['embed_dim']} numbers" if about.get("embed_dim") else ""),
        ("Images seen", number(about.get("images_seen"))),
        ("Hash", str(about.get("hash") or "")[:12]),
        ("Made", ago(about.get("created_at"))),
    ]
    figures = "".join(_figure(row) for row in main_figures(rows))
    below = f'<ul class="lcl-figures">{figures}</ul>' if figures else '<p class="lcl-note">Not evaluated yet.</p>'
    if alone and rows:
        below = draw_metrics(rows)
    name = esc(encoder.get("name") or encoder["id"])
    title = name if alone else f'<button type="button" data-pick="encoder:{esc(encoder["id"])}">{name}</button>'
    return (
        f'<article class="lcl-encoder"><header><h3>{title}</h3><code>{esc(encoder["id"])}</code></header>'
        f"{definition_list(listed)}{below}{draw_exports(encoder['id'], str(about.get('kind', 'lcl')))}</article>"
    )


def draw_exports(encoder: str, kind: str) -> str:
    """Links to tar files of the encoder in each format."""
    address = f"encoder/{quote(encoder, safe='')}"
    formats = EXPORTS if kind == "lcl" else {"lcl": "as it is"}
    links = "".join(f'<a href="{address}/{name}.tar" download>{words}</a>' for name, words in formats.items())
    return f'<div class="lcl-links lcl-exports"><span>Export</span>{links}</div>'


def main_figures(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """First variant of each task, split, transfer and metric, not the best; accuracies and recalls at 5 first.

    Args:
        rows: newest evaluation first, of each the variants in the order of its task.
    """
    first: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        first.setdefault((row["task"], row["split"], row.get("transfer"), row["metric"]), row)
    leading = ("@5", "accuracy", "acc@1")
    ranked = sorted(first.values(), key=lambda row: (not row["metric"].endswith(leading), row["task"]))
    return ranked[:SHOWN]


def _figure(row: dict[str, Any]) -> str:
    """A metric beside chance and untrained weights; one that is no better than untrained weights says so."""
    value, untrained = row["value"], row.get("untrained")
    notes = [f"{value / row['chance']:.0f} × chance"] if row.get("chance") else []
    learnt = untrained is None or (value < untrained if row["metric"].endswith("rank") else value > untrained)
    if untrained is not None:
        notes.append(f"{'' if learnt else 'no better than '}untrained {number(untrained, 3)}")
    return (
        f"<li{'' if learnt else WORSE}><span>{esc(row['metric'])}<em>{esc(row['split'])}</em></span>"
        f"<b>{number(value, 3)}</b><small>{' · '.join(notes)}</small></li>"
    )
