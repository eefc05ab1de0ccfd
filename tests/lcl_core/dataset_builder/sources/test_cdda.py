"""Things of a game: texts that are inherited, sprites that are cut from sheets."""

from __future__ import annotations

import gzip
import io
import json
from typing import Any

import pytest
from PIL import Image

from lcl_core.dataset_builder.documents import hash_fraction
from lcl_core.dataset_builder.sources.cdda import HELD_OUT, SETS, SOURCE

ROOT = "usr/share/games/cataclysm-dda"
COLOURS = ["red", "green", "blue", "cyan", "magenta", "yellow"]
SEEN, UNSEEN = (
    next(name for name in map("thing {}".format, range(99)) if (hash_fraction(f"cdda:{name}") < HELD_OUT) is unseen)
    for unseen in (False, True)
)
TEXT = "It is <color_red>old</color> and made of wood. Nobody wants it."


def sheet(colours: list[str]) -> bytes:
    """Cells of 8 x 8, three a row: a smaller square in each."""
    image = Image.new("RGBA", (24, 8 * -(-len(colours) // 3)))
    for number, colour in enumerate(colours):
        left, top = number % 3 * 8, number // 3 * 8
        image.paste(colour, (left + 2, top + 2, left + 6, top + 8))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def thing(id: str | list[str], **more: Any) -> dict[str, Any]:
    return {"type": "TOOL", "id": id, "name": {"str": SEEN}, "description": TEXT, **more}


def build(kit: Any, things: list[dict[str, Any]], tiles: list[dict[str, Any]], **more: Any) -> Any:
    """All four teams have the same tiles, in sheets of their own colours."""
    files: dict[str, bytes | str] = {
        f"{ROOT}/json/things.json": json.dumps(things),
        f"{ROOT}/json/a/one.json.gz": gzip.compress(json.dumps(more.get("one", {})).encode()),
    }
    for number, team in enumerate(SETS):
        config = {
            "tile_info": [{"width": 8, "height": 8}],
            "tiles-new": [{"file": "absent.png", "tiles": []}, {"file": "sheet.png", "tiles": tiles}],
        }
        files[f"{ROOT}/gfx/{team}/tile_config.json"] = json.dumps(config)
        files[f"{ROOT}/gfx/{team}/sheet.png"] = sheet(COLOURS[number:] + COLOURS[:number])
    return SOURCE.build(kit.source_files(SOURCE, {"cataclysm-dda-data": files}))


def reported(built: Any, team: str = "BrownLikeBears") -> dict[str, Any]:
    return {pair.image.rpartition("/")[2].removesuffix(".webp"): pair for pair in built.pairs if pair.vendor == team}


def test_a_team_and_a_tenth_of_the_names_are_held_out(kit: Any) -> None:
    things = [thing("a"), thing("b", name=UNSEEN), {"type": "recipe", "id": "a"}, thing("c")]
    built = build(kit, things, [{"id": id, "fg": place} for place, id in enumerate("abc")])
    splits = {(pair.vendor, pair.labels["concept"]): pair.split for pair in built.pairs}
    assert splits[("MshockXotto+", SEEN)] == "train"
    assert splits[("MshockXotto+", UNSEEN)] == "test_concept"
    assert splits[("Cuteclysm", SEEN)] == "test_vendor"
    assert splits[("Cuteclysm", UNSEEN)] == "test_both"
    pair = reported(built)["a"]
    assert pair.captions == (f"{SEEN}. It is old and made of wood.", SEEN)
    assert pair.long == f"{SEEN}. It is old and made of wood. Nobody wants it."
    assert pair.labels == {"concept": SEEN, "category": "tool"}
    assert {placed.image for document in built.documents for placed in document.images} == {
        f"cdda/{team}/{id}.webp" for team in ("UltimateCataclysm", "MshockXotto", "BrownLikeBears") for id in "ac"
    }


def test_texts_are_inherited_and_files_may_be_compressed(kit: Any) -> None:
    parent = {"type": "TOOL", "abstract": "base", "description": TEXT}
    child = {"type": "TOOL", "id": "child", "copy-from": "base", "name": {"str_sp": "Child"}}
    loop = {"type": "TOOL", "id": "loop", "copy-from": "pool"}
    pool = {"type": "TOOL", "id": "pool", "copy-from": "loop"}
    tiles = [{"id": id, "fg": place} for place, id in enumerate(("child", "loop", "pool"))]
    (pair,) = reported(build(kit, [child, loop, pool], tiles, one=parent)).values()
    assert pair.captions[1] == "Child"


def test_what_a_thing_is_does_not_depend_on_which_file_comes_first(kit: Any) -> None:
    """A recipe or a group of items may have the id of a thing."""
    other = {"type": "item_group", "id": "bread", "name": "Group", "description": "A group of several things."}
    (pair,) = reported(build(kit, [other, thing("bread", type="COMESTIBLE")], [{"id": "bread", "fg": 0}])).values()
    assert (pair.captions[1], pair.labels["category"]) == (SEEN, "food and drink")


@pytest.mark.parametrize(
    "change",
    [
        {"description": "Too short."},
        {"description": "It is covered in blood and old."},
        {"name": "low-grade methamphetamine"},
        {"type": "recipe"},
        {"name": ""},
    ],
)
def test_what_is_no_thing_or_no_text_for_this_is_left_out(kit: Any, change: dict[str, Any]) -> None:
    assert build(kit, [thing("a", **change)], [{"id": "a", "fg": 0}]).pairs == []


def test_a_drawing_counts_once_and_lies_over_its_ground(kit: Any) -> None:
    things = [thing(id) for id in ("a", "b", "c", "d", "e", "f")]
    tiles = [
        {"id": ["a", "b"], "fg": [{"weight": 1, "sprite": [0, 1]}, 2]},
        {"id": "c", "fg": 0},
        {"id": "d", "fg": 1, "bg": 2},
        {"id": "e", "bg": 1},
        {"id": "f", "fg": 99},
    ]
    pairs = reported(build(kit, things, tiles), "UltimateCataclysm")
    assert set(pairs) == {"a", "d"}
    image = Image.open(kit.images / pairs["d"].image).convert("RGB")
    assert image.size == (8, 8)
    assert (image.getpixel((4, 4)), image.getpixel((0, 0))) == ((0, 128, 0), (255, 255, 255))
