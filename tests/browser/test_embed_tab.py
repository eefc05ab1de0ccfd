"""Embed: the map of a collection, and vectors to take along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect

from api.client import ApiError

pytestmark = pytest.mark.browser


@pytest.mark.extended
def test_the_map_is_coloured_by_another_label(visitor: Any, page_url: str) -> None:
    page = visitor.open(f"{page_url}/?tab=embed")
    expect(page.get_by_role("application", name="coloured by group")).to_be_visible()
    page.get_by_label("Colour by").click()
    page.get_by_role("option", name="subgroup").click()
    expect(page.get_by_role("application", name="coloured by subgroup")).to_be_visible()
    page.wait_for_function("new URLSearchParams(location.search).get('colour') === 'subgroup'")


@pytest.mark.extended
def test_all_vectors_of_a_collection_are_downloaded(visitor: Any, page_url: str, world: Any) -> None:
    page = visitor.open(f"{page_url}/?tab=embed")
    with page.expect_download() as download:
        page.get_by_role("link", name=".json").click()
    rows = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    ids, vectors = world.client.vectors("drawings")
    assert [row["name"] for row in rows] == ids
    np.testing.assert_allclose([row["vector"] for row in rows], vectors)


@pytest.mark.extended
def test_an_opening_that_failed_is_tried_again(
    visitor: Any, page_url: str, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable() -> None:
        raise ApiError(0, "unreachable", "no answer")

    with monkeypatch.context() as patch:
        patch.setattr(world.client, "collections", unreachable)
        page = visitor.open(f"{page_url}/?tab=embed&collection=plain-drawings&arrange=tsne")
        problem = page.locator("#map").get_by_role("alert")
        expect(problem).to_contain_text("The service cannot be reached")
    problem.get_by_role("button", name="Try again").click()
    expect(page.locator("#map .lcl-map__facts")).to_contain_text("t-SNE")
