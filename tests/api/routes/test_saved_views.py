"""Saved views over REST: named addresses of the page, one for each name, their owner's to change."""

from __future__ import annotations

from typing import Any

import pytest

import api.routes.saved_views
from api.client import ApiError, Client

RED = "?collection=sample-drawings&q=red"


@pytest.fixture
def ada(live_service: Any) -> Client:
    """Somebody else who submits, and is no admin."""
    return Client(live_service.url, live_service.admin.create_key("ada", "submitter")["key"], attempts=1)


def test_a_view_is_seen_by_all_until_its_owner_deletes_it(live_service: Any, ada: Client) -> None:
    saved = ada.save_view("red drawings", RED)
    assert (saved["name"], saved["address"], saved["owner"]) == ("red drawings", RED, "ada")
    later = ada.save_view("Blue", "?")
    with live_service.http("viewer") as viewer:
        assert viewer.get("/v1/views").json()["items"] == [later, saved], "by name, whatever its case"
    for view in (saved, later):
        ada.delete_view(view["id"])
    assert ada.views() == []
    with pytest.raises(ApiError) as caught:
        ada.delete_view(saved["id"])
    assert caught.value.code == "unknown_view"


def test_a_name_is_taken_until_it_is_replaced_on_purpose(ada: Client) -> None:
    saved = ada.save_view("mine", RED)
    with pytest.raises(ApiError) as caught:
        ada.save_view("mine", "?q=blue")
    assert (caught.value.status, caught.value.code, caught.value.field) == (409, "view_exists", "name")
    replaced = ada.save_view("mine", "?q=blue", replace=True)
    assert (replaced["id"], replaced["address"]) == (saved["id"], "?q=blue")
    assert ada.views() == [replaced]
    ada.delete_view(saved["id"])


def test_others_change_nothing_and_admins_do(live_service: Any, ada: Client) -> None:
    saved = live_service.admin.save_view("theirs", RED)
    for call in (lambda: ada.save_view("theirs", "?", replace=True), lambda: ada.delete_view(saved["id"])):
        with pytest.raises(ApiError) as caught:
            call()
        assert caught.value.status == 403
    hers = ada.save_view("hers", RED)
    for view in (saved, hers):
        live_service.admin.delete_view(view["id"])
    assert ada.views() == []


@pytest.mark.parametrize(
    "address", ["", "q=red", "https://example.org/", "//example.org", "?q=r\n", "?q=a b", "?q=é", "?" + "a" * 2000]
)
def test_an_address_is_a_query_string_of_the_page(ada: Client, address: str) -> None:
    with pytest.raises(ApiError) as caught:
        ada.save_view("elsewhere", address)
    assert (caught.value.status, caught.value.field) == (422, "address")
    assert "starts with ?" in caught.value.message or "2000" in caught.value.message
    assert ada.views() == []


@pytest.mark.parametrize("address", ["?token=secret&q=red", "?q=red&t%6fken=secret", "?token"])
def test_the_token_of_the_page_is_not_shown_to_all(ada: Client, address: str) -> None:
    with pytest.raises(ApiError, match="without it") as caught:
        ada.save_view("mine", address)
    assert (caught.value.status, caught.value.field) == (422, "address")
    assert "secret" not in caught.value.message
    assert ada.views() == []


@pytest.mark.parametrize("name", ["", "two\nlines", "a" * 101])
def test_a_name_is_one_line(ada: Client, name: str) -> None:
    with pytest.raises(ApiError) as caught:
        ada.save_view(name, RED)
    assert (caught.value.status, caught.value.field) == (422, "name")


def test_an_owner_saves_only_so_many(ada: Client, live_service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.routes.saved_views, "MAX_PER_OWNER", 1)
    saved = ada.save_view("first", RED)
    with pytest.raises(ApiError) as caught:
        ada.save_view("second", RED)
    assert caught.value.code == "too_many_views"
    assert ada.save_view("first", "?", replace=True)["id"] == saved["id"]
    ada.delete_view(saved["id"])
