"""Conversations in LLaVA's layout, read with the rules that its training has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lcl_core.common.errors import UserError
from lcl_core.evaluation.vlm.chat_format import Turn
from lcl_core.evaluation.vlm.instruction_data import read_conversations
from lcl_core.specs.evaluate import InstructionsSpec

FIELD = "dialogue.instructions"


def said(*values: str, first: str = "human") -> list[dict[str, str]]:
    speakers = ("human", "gpt") if first == "human" else ("gpt", "human")
    return [{"from": speakers[place % 2], "value": value} for place, value in enumerate(values)]


def source(folder: Path, name: str, entries: Any, *sample_images: str) -> InstructionsSpec:
    (folder / name).mkdir()
    for place, sample_image in enumerate(sample_images):
        file = folder / name / sample_image
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (place, 0, 0)).save(file)
    (folder / f"{name}.json").write_text(json.dumps(entries))
    return InstructionsSpec(path=str(folder / f"{name}.json"), images=str(folder / name))


def test_several_turns_with_the_image_at_the_head(tmp_path: Path) -> None:
    entries = [
        {"id": "1", "image": "coco/a.png", "conversations": said("What?\n<image>", "A cat.", "Sure?", "Yes.")},
        {"id": "2", "conversations": said("2 + 2?", "4", "and nobody answers this")},
        {"id": "3", "image": "coco/a.png", "conversations": said("Hello!", "<image>\nColour?", "Grey", first="gpt")},
    ]
    found = read_conversations([source(tmp_path, "mix", entries, "coco/a.png")], field=FIELD)
    assert [each.turns for each in found.conversations] == [
        (Turn("<image>\nWhat?", "A cat."), Turn("Sure?", "Yes.")),
        (Turn("2 + 2?", "4"),),
        (Turn("<image>\nColour?", "Grey"),),
    ]
    assert found.rows == [0, None, 0]
    assert [image.name for image in found.images] == ["0/coco/a.png"]


def test_several_files_keep_their_images_apart(tmp_path: Path) -> None:
    talk = said("<image>\nWhat?", "That.")
    sources = [
        source(tmp_path, "one", [{"id": 1, "image": "a.png", "conversations": talk}], "a.png"),
        source(
            tmp_path, "two",
            [{"id": 1, "image": name, "conversations": talk} for name in ("b.png", "a.png", "gone.png")],
            "b.png", "a.png",
        ),
    ]  # fmt: skip
    found = read_conversations(sources, field=FIELD)
    shades = [found.corpus.read_image(image.name).getpixel((0, 0)) for image in found.images]
    assert shades == [(0, 0, 0), (0, 0, 0), (1, 0, 0)]
    assert (found.rows, found.without_image) == ([0, 1, 2], 1)
    before = found.corpus.content_hash()
    assert read_conversations(sources, field=FIELD).corpus.content_hash() == before
    Image.new("RGB", (9, 9)).save(tmp_path / "two" / "b.png")
    assert read_conversations(sources, field=FIELD).corpus.content_hash() != before


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"id": 7, "image": "a.png"}, "entry 7 has no 'conversations'"),
        ({"id": 7, "image": ["a.png", "a.png"], "conversations": said("x", "y")}, "several images"),
        ({"id": 7, "image": "a.png", "conversations": said("x")}, "no question with an answer"),
        ({"id": 7, "image": "a.png", "conversations": said("x", "y")[:1] * 2}, "human and gpt are expected"),
    ],
)
def test_what_is_wrong_with_an_entry_is_said(tmp_path: Path, entry: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        read_conversations([source(tmp_path, "odd", [entry], "a.png")], field=FIELD)
    assert caught.value.file == str(tmp_path / "odd.json")


def test_a_folder_without_the_images_is_named(tmp_path: Path) -> None:
    one = source(tmp_path, "one", [{"id": 1, "image": "a.png", "conversations": said("x", "y")}])
    with pytest.raises(UserError, match="none of the images") as caught:
        read_conversations([one], field=FIELD)
    assert caught.value.field == f"{FIELD}.0.images"
    gone = InstructionsSpec(path=one.path, images=str(tmp_path / "nowhere"))
    with pytest.raises(UserError) as caught:
        read_conversations([gone], field=FIELD)
    assert caught.value.field == f"{FIELD}.0.images"
