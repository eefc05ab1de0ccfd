"""Addresses of what the page shows: drawn HTML names the parameters of its view, and a request names those to show.

``address.js`` collects the parameters of the open tab, writes them into the address bar, and asks the tab for what the
address says when Back or Forward changes it. Each event of the page arrives with the address as its query string.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

import gradio as gr

from ui.html import esc

# Parameter -> the tab that it belongs to, where no ``tab`` is given; the first that an address has decides.
TAB_OF_PARAMETER = {
    "run": "runs", "study": "runs", "classes": "try", "encoder": "encoders",
    "dataset": "data", "collection": "search", "q": "search", "item": "search", "like": "search", "mode": "search",
}  # fmt: skip
# Parameters of filters, sliders and menus: a change of these alone makes no new entry of the browser's history.
OPTION_PARAMETERS = (
    *("where", "match", "kind", "colour", "at", "split", "source", "columns", "sort", "tag"),
    *("state", "of", "name", "with", "metric", "over"),
)
FIRST_TAB = "search"
# Characters of one parameter, encoded: the browser sends the address with each event; gateways refuse lines of 8 KB.
MAX_PARAMETER = 3000


def mark_view(html: str, title: str = "", **parameters: Any) -> str:
    """``html`` with the parameters of its address, unless empty or too long, and the document's ``title``."""
    filled = {name: str(value) for name, value in parameters.items() if value not in (None, "", [], {})}
    view = esc(json.dumps({name: text for name, text in filled.items() if fits_address(text)}, ensure_ascii=False))
    return f'<div class="lcl-view" data-view="{view}" data-title="{esc(title)}">{html}</div>'


def fits_address(text: str) -> bool:
    """Is the text short enough for a parameter of an address?"""
    return len(quote(text, safe="", errors="replace")) <= MAX_PARAMETER


def address(**parameters: str | None) -> str:
    """A link to a view of this page; parameters that are empty are left out."""
    return "?" + urlencode({name: value for name, value in parameters.items() if value}, quote_via=quote)


def read_address(request: gr.Request | None, tab: str) -> dict[str, str]:
    """Parameters of the address, if it is one of this tab; else none."""
    parameters = {} if request is None else dict(request.query_params)
    return parameters if linked_tab(parameters) == tab else {}


def linked_tab(parameters: Mapping[str, str]) -> str:
    """The tab of an address: ``?tab=map``, else that of its parameters: ``?run=ID`` opens Runs."""
    owner = next((tab for name, tab in TAB_OF_PARAMETER.items() if name in parameters), FIRST_TAB)
    return parameters.get("tab", owner)


def browser_settings() -> str:
    """The tables of this module as JavaScript, for ``address.js``."""
    tables = {"owners": TAB_OF_PARAMETER, "options": OPTION_PARAMETERS, "first": FIRST_TAB}
    return f"window.lclAddress = {json.dumps(tables)};"


def navigation_script(tab: str) -> str:
    """For ``gr.HTML(js_on_load=...)``: a select event when the browser's history leads to a view of the tab."""
    return f"window.addEventListener('lcl-navigate', (event) => event.detail === '{tab}' && trigger('select', {{}}));"
