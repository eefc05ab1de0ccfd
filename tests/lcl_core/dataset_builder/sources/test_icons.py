"""Icons: names without styles, categories, splits by team and by concept, colours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lcl_core.data.records import name_words
from lcl_core.dataset_builder.sources.icons import COLOURS, MAX_STYLES, SETS, SOURCE, read_icons
from tests.lcl_core.dataset_builder.sources import packages

BODY = '<rect width="9" height="16" fill="currentColor"/>'


def write_set(folder: Path, icons: dict[str, Any], categories: dict[str, list[str]] | None = None) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "icons.json").write_text(json.dumps({"icons": icons, "width": 16, "height": 16}))
    if categories is not None:
        (folder / "metadata.json").write_text(json.dumps({"categories": categories}))


def test_a_style_is_no_part_of_a_name(tmp_path: Path) -> None:
    keys = ("umbrella", "umbrella-bold", "umbrella-line-duotone", "cloud-off", "maple-leaf-15", "bolt-round-outline")
    write_set(tmp_path, {key: {"body": BODY} for key in keys})
    assert [icon.name for icon in read_icons(tmp_path, "set")] == [
        *["umbrella"] * 3, "cloud off", "maple leaf", "bolt",
    ]  # fmt: skip


def test_hidden_icons_and_names_without_words_are_left_out(tmp_path: Path) -> None:
    write_set(tmp_path, {"tree": {"body": BODY, "hidden": True}, "a-z": {"body": BODY}, "4k": {"body": BODY}})
    assert list(read_icons(tmp_path, "set")) == []


def test_of_many_styles_only_some_are_taken(tmp_path: Path) -> None:
    write_set(tmp_path, {f"tree-{number}": {"body": BODY} for number in range(MAX_STYLES + 3)})
    assert [icon.key for icon in read_icons(tmp_path, "set")] == [f"tree-{number}" for number in range(MAX_STYLES)]


def test_a_category_is_the_first_that_names_the_icon(tmp_path: Path) -> None:
    write_set(tmp_path, {"oak": {"body": BODY}, "sun": {"body": BODY}}, {"Plants": ["oak"], "Wood": ["oak", "absent"]})
    assert [(icon.name, icon.category) for icon in read_icons(tmp_path, "set")] == [("oak", "plants"), ("sun", "")]


def test_an_open_colour_tells_nothing_of_the_name(tmp_path: Path) -> None:
    """Else a model reads the name off the colour: icons of one name have several, by set and by style."""
    styles = [f"tree-{number}" for number in range(MAX_STYLES)]
    write_set(tmp_path, {key: {"body": BODY} for key in styles})
    colours = {
        (team, icon.key): icon.svg.split('color="')[1].split('"')[0]
        for team in ("one", "two")
        for icon in read_icons(tmp_path, team)
    }
    assert set(colours.values()) <= set(COLOURS)
    assert len({colours["one", style] for style in styles}) > 1
    assert any(colours["one", style] != colours["two", style] for style in styles)
    again = [icon.svg for icon in read_icons(tmp_path, "one")]
    assert [svg.split('color="')[1].split('"')[0] for svg in again] == [colours["one", style] for style in styles]


def test_teams_and_concepts_are_held_out(kit: Any) -> None:
    pytest.importorskip("resvg_py")
    built = SOURCE.build(kit.source_files(SOURCE, packages.ICONS))
    splits = {(pair.vendor, pair.captions[0]): pair.split for pair in built.pairs}
    first, second = packages.SEEN_ICONS
    assert splits == {
        ("game-icons", first): "train",
        ("game-icons", second): "train",
        ("game-icons", packages.UNSEEN_ICON): "test_concept",
        ("guidance", first): "val",
    }
    pair = built.pairs[0]
    assert pair.captions == (first, f"{first}: tools")
    assert (pair.name, pair.keywords) == (first, name_words(first))
    assert pair.labels == {"concept": first, "category": "tools"}
    assert pair.licence == "CC-BY-3.0"
    with Image.open(kit.images / pair.image) as image:
        assert image.size == (64, 64)
        assert max(image.convert("RGB").getpixel((8, 32))) < 200, "the drawing is dark, its ground white"
        assert min(image.convert("RGB").getpixel((60, 32))) > 240
    (document,) = built.documents
    assert document.sentences[0] == "tools."
    assert set(document.sentences[1:]) == {first, second}


def test_no_team_that_tests_is_among_them() -> None:
    names = {each.name for each in SETS}
    assert len(names) == len(SETS) >= 30
    assert not [name for name in names if name.startswith(("openmoji", "fluent", "streamline"))]
    assert {each.name for each in SETS if each.role == "val"} == {"guidance", "covid"}, "both by Streamline"
