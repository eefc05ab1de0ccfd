"""A folder of Markdown from the browser to a filled-in training form, with the clicks that it takes."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browser.axe import serious

pytestmark = pytest.mark.browser


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """Three pages with images in a folder below theirs; one image is missing."""
    images = tmp_path / "notes" / "pages" / "images"
    images.mkdir(parents=True)
    for name in ("red", "blue"):
        out = io.BytesIO()
        Image.new("RGB", (40, 40), name).save(out, "PNG")
        (images / f"{name}.png").write_bytes(out.getvalue())
    for name in ("red", "blue", "gone"):
        text = f"# {name}\n\nA page on {name} squares.\n\n![a {name} square](images/{name}.png)\n\n"
        more = "![a red square](images/red.png)\n\nIt ends here.\n" if name == "gone" else "It ends here.\n"
        (images.parent / f"{name}.md").write_text(text + more)
    return tmp_path / "notes"


def test_a_folder_becomes_a_dataset_to_train_on(visitor: Any, page_url: str, world: Any, notes: Path) -> None:
    page = visitor.open(f"{page_url}/?tab=data&new=upload")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a folder").click()
    chooser.value.set_files(str(notes))
    expect(page.locator("#corpus-status")).to_contain_text("5 files")
    page.get_by_label("Name of the dataset").fill("my notes")
    page.get_by_role("button", name="Check and convert").click()
    status = page.locator("#corpus-status")
    expect(status).to_contain_text("Queued")
    expect(page.get_by_label("Name of the dataset")).to_have_value("my-notes")
    runs = {run["kind"]: run["id"] for run in world.client.runs()["items"] if (run["name"] or "").endswith("my-notes")}
    for kind in ("validate", "convert"):
        world.work(runs[kind])
    expect(status).to_contain_text("3 records")
    expect(status).to_contain_text("gone.md:5: missing image")
    assert serious(page, "light") == []
    page.get_by_role("link", name="Look at it").click()
    expect(page.locator("#documents")).to_contain_text("A page on red squares.")
    page.go_back()
    page.get_by_role("link", name="Search it").click()
    form = page.locator("#new-run")
    expect(form.get_by_label("Dataset", exact=True)).to_have_value("my-notes")
    expect(form.get_by_role("textbox", name="Collection")).to_have_value(re.compile("my-notes-."))
    page.go_back()
    page.get_by_role("link", name="Train on it").click()
    expect(form.locator("#form-pretrain")).to_be_visible()  # instead of the form of an index
    expect(form.get_by_label("Dataset", exact=True)).to_have_value("my-notes")
    form.get_by_role("button", name="Start run").click()
    expect(page.locator("#run-head")).to_contain_text("my-notes")
    newest = world.client.runs(kind="pretrain")["items"][0]
    assert [(each["dataset"], each["view"]) for each in newest["spec"]["data"]["sources"]] == [
        ("my-notes", "interleaved")
    ]
    world.client.cancel(newest["id"])


@pytest.mark.extended
def test_a_folder_that_is_no_corpus_says_why(visitor: Any, page_url: str, world: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.bin").write_bytes(b"\0\1\2")
    page = visitor.open(f"{page_url}/?tab=data&new=upload")
    page.get_by_role("button", name="Check and convert").click()
    expect(page.locator("#corpus-status")).to_contain_text("Choose a folder or a zip first.")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a folder").click()
    chooser.value.set_files(str(tmp_path / "empty"))
    expect(page.locator("#corpus-status")).to_contain_text("1 file")
    page.get_by_role("button", name="Check and convert").click()
    expect(page.locator("#corpus-status")).to_contain_text("Queued")
    run = next(run for run in world.client.runs(kind="validate")["items"] if run["name"] == "check my-data")
    world.work(run["id"])
    expect(page.locator("#corpus-status")).to_contain_text("the format is not recognised")
