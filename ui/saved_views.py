"""Saved views: a menu beside the title with named addresses of the page, and a form that names the present one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import gradio as gr

from api.client import ApiError, Client
from api.client.payloads import may
from ui.addresses import linked_tab
from ui.common import BUSY_EVENT, FOCUS_QUESTION_SCRIPT, html_pane
from ui.html import PICK_SCRIPT, ago, error_box, esc, pick_form, question_box, status_line

# page.js shows and hides the panel
BUTTON = """<button type="button" class="lcl-guide" data-lcl-views aria-expanded="false" aria-controls="views-panel">
Views</button>"""


class SavedViewsMenu:
    """The button, and the panel that it opens.

    Args:
        titles: of the tabs, by the name that addresses have.
    """

    def __init__(self, client: Client, titles: Mapping[str, str]) -> None:
        self._client, self._titles = client, titles

    def build(self) -> None:
        html_pane(BUTTON, elem_id="views")
        self.panel = html_pane(_refresh_button(), js_on_load=PICK_SCRIPT, elem_id="views-panel")

    def wire(self) -> None:
        self.panel.select(self.change, None, self.panel, **BUSY_EVENT).then(None, js=FOCUS_QUESTION_SCRIPT)

    def change(self, event: gr.EventData) -> str:
        """Do what was picked, and draw the panel with its outcome."""
        verb, _, value = str(event.pick).partition(":")
        message, name = "", ""
        try:
            if verb in ("save", "replace"):
                view = _parse_view(value)
                name = view["name"]
                self._client.save_view(name, view["address"], replace=verb == "replace")
                message, name = status_line(f"Saved as {name}."), ""
            elif verb == "ask":
                message = _question_of_deletion(*value.split(":", 1))
            elif verb == "delete":
                self._client.delete_view(value)
        except ApiError as error:
            message = _question_of_replacement(value) if error.code == "view_exists" else error_box(error.message)
        return self.draw(message, name)

    def draw(self, message: str = "", name: str = "") -> str:
        """The panel.

        Args:
            message: HTML above the list.
            name: in the form.
        """
        try:
            key = self._client.own_key()
            items = "".join(self._item(view, key) for view in self._client.views())
        except ApiError as error:
            return _refresh_button() + error_box(error.message, "Saved views cannot be shown")
        listed = f"<ul>{items}</ul>" if items else '<p class="lcl-note">No view is saved yet.</p>'
        form = _form(name) if may(key["role"], "submitter") else ""
        return f"{_refresh_button()}<strong>Saved views</strong>{message}{listed}{form}"

    def _item(self, view: Mapping[str, Any], key: Mapping[str, Any]) -> str:
        """A line of the list: the link, tab and owner, and a button for who may delete the view."""
        tab = self._titles.get(linked_tab(dict(parse_qsl(view["address"][1:]))), "")
        name = esc(view["name"])
        delete = ""
        if may(key["role"], "submitter" if key["owner"] == view["owner"] else "admin"):
            pick = esc(f"ask:{view['id']}:{view['name']}")
            delete = f'<button type="button" data-pick="{pick}" aria-label="Delete view {name}">×</button>'
        details = " · ".join(esc(part) for part in (tab, view["owner"]) if part)
        link = f'<a href="{esc(view["address"])}" title="saved {ago(view["created_at"])}">{name}</a>'
        return f"<li>{link}<small>{details}</small>{delete}</li>"


def _form(name: str) -> str:
    """The form that saves the address."""
    inside = (
        "<label>Save what is shown as"
        f'<input type="text" maxlength="100" required autocomplete="off" value="{esc(name)}"></label>'
        "<button>Save</button>"
    )
    return pick_form("save", "lcl-save-view", inside)


def _refresh_button() -> str:
    """Pressed by page.js when the panel opens."""
    return '<button type="button" hidden data-pick="refresh:"></button>'


def _parse_view(value: str) -> dict[str, str]:
    """Name and address of the form. What is no view is refused by the service."""
    try:
        view = json.loads(value)
        return {"name": str(view["text"]), "address": str(view["address"])}
    except (ValueError, TypeError, KeyError):
        return {"name": "", "address": ""}


def _question_of_replacement(value: str) -> str:
    """``value``: the view of the form, which the answer sends again."""
    name = _parse_view(value)["name"]
    consequence = "A view has this name already. It would lead to what is shown now."
    return question_box(f"Replace {name}?", consequence, (f"replace:{value}", "Replace"), ("refresh:", "Keep it"))


def _question_of_deletion(view_id: str, name: str = "") -> str:
    """The view is everybody's, so that its deletion is asked about."""
    consequence = "It is removed for everybody who uses this service; what it shows stays."
    return question_box(f"Delete {name}?", consequence, (f"delete:{view_id}", "Delete"), ("refresh:", "Keep it"))
