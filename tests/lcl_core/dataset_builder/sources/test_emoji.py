"""Emoji: teams and concepts held out, drawings found by code points, by names and by other names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lcl_core.dataset_builder.sources.emoji import SETS, SOURCE, name_slugs, read_drawings, strip_variant
from tests.lcl_core.dataset_builder.sources import packages


def test_teams_and_concepts_are_held_out(kit: Any) -> None:
    pytest.importorskip("resvg_py")
    built = SOURCE.build(kit.source_files(SOURCE, packages.EMOJI))
    splits = {(pair.vendor, pair.labels["concept"]): pair.split for pair in built.pairs}
    seen, unseen = packages.SEEN, packages.UNSEEN[0]
    assert splits == {
        ("twemoji", seen[0]): "train",
        ("twemoji", seen[1]): "train",
        ("twemoji", unseen): "test_concept",
        ("streamline", seen[0]): "val",
        ("streamline", seen[1]): "val",
        ("openmoji", seen[0]): "test_vendor",
        ("openmoji", unseen): "test_both",
    }
    first = built.pairs[0]
    assert (first.image, first.licence) == ("emoji/twemoji/1f600.webp", "CC-BY-4.0")
    assert first.captions == (seen[0], f"{seen[0]}: shiny"), "a keyword that is in the name says nothing"
    assert (first.name, first.keywords) == (seen[0], ("shiny", seen[0])), "alone it does"
    assert first.labels == {"concept": seen[0], "group": "objects", "subgroup": "tool-and-toy"}
    assert (kit.images / first.image).is_file()
    (document,) = built.documents
    assert document.sentences[0] == "tool, and, toy."
    assert {placed.image for placed in document.images} == {f"emoji/twemoji/1f60{number}.webp" for number in (0, 1)}


def test_only_the_teams_whose_terms_were_asked_for_are_taken(kit: Any) -> None:
    pytest.importorskip("resvg_py")
    built = SOURCE.build(kit.source_files(SOURCE, packages.EMOJI, "permissive"))
    assert {pair.vendor for pair in built.pairs} == {"twemoji", "streamline"}


def test_drawings_are_found_by_code_points_names_and_other_names(tmp_path: Path) -> None:
    slugs = name_slugs([("Flag: Åland Islands", "1F1E6-1F1FD"), ("red apple", "1F34E"), ("Man’s shoe", "1F45E")])
    icons = {
        "icons": {
            "flag-for-aland-islands": {"body": "f"},
            "apple": {"body": "a", "width": 20},
            "by-code": {"body": "c"},
        },
        "aliases": {"red-apple": {"parent": "apple"}, "unknown": {"parent": "apple"}},
        "height": 12,
    }
    (tmp_path / "icons.json").write_text(json.dumps(icons))
    (tmp_path / "chars.json").write_text(json.dumps({"2764-fe0f": "by-code", "1f999": "absent"}))
    found = read_drawings(SETS[0], tmp_path, slugs)
    assert set(found) == {"2764", "1f1e6-1f1fd", "1f34e"}
    assert 'viewBox="0 0 20 12" width="20" height="12" color="black">a</svg>' in str(found["1f34e"])


def test_of_two_files_of_one_emoji_the_plainly_named_is_taken(tmp_path: Path) -> None:
    fluent = next(each for each in SETS if each.name == "fluent-3d")
    (tmp_path / "assets").mkdir()
    for name in ("26a7-fe0f", "26a7", "1f441-fe0f-200d-1f5e8"):
        (tmp_path / "assets" / f"{name}.webp").touch()
    found = read_drawings(fluent, tmp_path, {})
    assert found["26a7"] == tmp_path / "assets" / "26a7.webp"
    assert found["1f441-200d-1f5e8"] == tmp_path / "assets" / "1f441-fe0f-200d-1f5e8.webp"
    assert strip_variant("1F441-FE0F-200D") == "1f441-200d"
