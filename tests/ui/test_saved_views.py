"""The menu of saved views against a service that answers from memory."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from api.client import ApiError
from ui.saved_views import SavedViewsMenu

TITLES = {"search": "Search", "runs": "Runs"}
VIEW = {"id": "view_1", "name": "<red>", "address": '?q="red"', "owner": "ada", "created_at": "2026-01-01T10:00:00Z"}
OTHER = {**VIEW, "id": "view_2", "name": "runs", "address": "?run=run_1", "owner": "bob"}


def picked(value: str) -> Any:
    return type("Event", (), {"pick": value})()


def menu(service: Any, role: str = "submitter", **answers: Any) -> SavedViewsMenu:
    key = {"owner": "ada", "role": role}
    return SavedViewsMenu(service(**({"own_key": key, "views": [VIEW, OTHER]} | answers)), TITLES)


def test_views_are_links_with_their_tab_and_owner(service: Any) -> None:
    drawn = menu(service).draw()
    assert re.search(r'<a href="\?q=&quot;red&quot;" title="saved [^"]+">&lt;red&gt;</a><small>Search · ada', drawn)
    assert re.search(r'<a href="\?run=run_1" title="saved [^"]+ ago">runs</a><small>Runs · bob</small>', drawn)


@pytest.mark.parametrize(
    ("role", "deletable", "saves"),
    [("viewer", 0, False), ("submitter", 1, True), ("admin", 2, True), ("of a later version", 0, False)],
)
def test_each_role_sees_what_it_may_do(service: Any, role: str, deletable: int, saves: bool) -> None:
    drawn = menu(service, role).draw()
    assert drawn.count('data-pick="ask:') == deletable
    assert ("lcl-save-view" in drawn) == saves


def test_a_form_saves_the_address(service: Any) -> None:
    client = service(own_key={"owner": "ada", "role": "submitter"}, views=[], save_view=VIEW)
    drawn = SavedViewsMenu(client, TITLES).change(
        picked('save:{"text": "red: <1>", "button": "", "address": "?q=red"}')
    )
    assert ("save_view", ("red: <1>", "?q=red"), {"replace": False}) in client.calls
    assert "Saved as red: &lt;1&gt;." in drawn


def test_a_name_that_is_taken_asks_before_it_is_replaced(service: Any) -> None:
    taken = ApiError(409, "view_exists", "ada has saved a view 'red'")
    client = service(own_key={"owner": "ada", "role": "submitter"}, views=[VIEW], save_view=taken)
    drawn = SavedViewsMenu(client, TITLES)
    value = json.dumps({"text": "red", "address": "?q=red"})
    asked = drawn.change(picked(f"save:{value}"))
    assert "Replace red?" in asked
    assert 'value="red"' in asked, "the name is still in the form"
    client.answers["save_view"] = VIEW
    drawn.change(picked(f"replace:{value}"))
    assert ("save_view", ("red", "?q=red"), {"replace": True}) in client.calls


def test_a_view_is_deleted_after_a_question(service: Any) -> None:
    client = service(own_key={"owner": "ada", "role": "submitter"}, views=[VIEW], delete_view=None)
    drawn = SavedViewsMenu(client, TITLES)
    assert "Delete a:b?" in drawn.change(picked("ask:view_1:a:b"))
    assert not [call for call in client.calls if call[0] == "delete_view"]
    drawn.change(picked("delete:view_1"))
    assert ("delete_view", ("view_1",), {}) in client.calls


def test_a_refusal_and_a_service_that_is_away_are_said(service: Any, away: Exception) -> None:
    refused = ApiError(403, "forbidden", "view 'red' is bob's")
    assert "view &#x27;red&#x27; is bob&#x27;s" in menu(service, delete_view=refused).change(picked("delete:view_2"))
    assert "cannot be shown" in menu(service, views=away).draw()


@pytest.mark.parametrize("pick", ["", "save:", "save:[]", "save:{}", 'save:{"text": 1}', "ask:", "nonsense:x"])
def test_what_no_page_sends_is_answered(service: Any, pick: str) -> None:
    refused = ApiError(422, "bad_request", "name: at least one character", field="name")
    assert "Saved views" in menu(service, save_view=refused).change(picked(pick))
