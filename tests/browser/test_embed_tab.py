"""Embed: the map of a collection, and vectors to take along."""

from __future__ import annotations

import io
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


def test_vectors_of_own_images_are_shown_and_downloaded(visitor: Any, page_url: str, world: Any, png: bytes) -> None:
    page = visitor.open(f"{page_url}/?tab=embed")
    page.get_by_text("Vectors appear here").wait_for()
    names = ("one.png", "two.png")
    files: Any = [{"name": name, "mimeType": "image/png", "buffer": png} for name in names]
    page.locator("#tab-embed input[type=file]").set_input_files(files)
    expect(page.locator("#tab-embed").get_by_text("two", exact=True)).to_be_visible()
    page.get_by_role("button", name="Embed", exact=True).click()
    expect(page.locator("#vectors")).to_contain_text("2 × 24 numbers")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download vectors.npy").click()
    got = np.load(io.BytesIO(Path(download.value.path()).read_bytes()), allow_pickle=False)
    np.testing.assert_allclose(got, world.client.embed_images("tiny", [png, png]), atol=1e-5)
    page.get_by_role("radio", name="csv").locator("..").click()
    expect(page.get_by_role("button", name="Download vectors.csv")).to_be_visible()


@pytest.mark.extended
def test_a_bad_image_is_named(visitor: Any, page_url: str, png: bytes) -> None:
    page = visitor.open(f"{page_url}/?tab=embed")
    page.get_by_text("Vectors appear here").wait_for()
    files: Any = [
        {"name": "good.png", "mimeType": "image/png", "buffer": png},
        {"name": "broken.png", "mimeType": "image/png", "buffer": b"nothing"},
    ]
    page.locator("#tab-embed input[type=file]").set_input_files(files)
    expect(page.locator("#tab-embed").get_by_text("broken")).to_be_visible()
    page.get_by_role("button", name="Embed", exact=True).click()
    expect(page.locator("#vectors").get_by_role("alert")).to_contain_text("broken.png")


@pytest.mark.extended
def test_an_opening_that_failed_is_tried_again(
    visitor: Any, page_url: str, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable() -> None:
        raise ApiError(0, "unreachable", "no answer")

    with monkeypatch.context() as patch:
        patch.setattr(world.client, "encoders", unreachable)
        page = visitor.open(f"{page_url}/?tab=embed&collection=plain-drawings&arrange=tsne")
        problem = page.locator("#map").get_by_role("alert")
        expect(problem).to_contain_text("The service cannot be reached")
    problem.get_by_role("button", name="Try again").click()
    expect(page.locator("#map .lcl-map__facts")).to_contain_text("t-SNE")
    expect(page.locator("#tab-embed").get_by_label("Encoder")).to_have_value("tiny")
