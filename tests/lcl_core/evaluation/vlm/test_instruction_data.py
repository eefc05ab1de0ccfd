"""Conversations in LLaVA's layout, and conversations and questions derived from labels."""

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from lcl_core.common.errors import UserError
from lcl_core.evaluation.vlm.chat_format import Turn
from lcl_core.evaluation.vlm.instruction_data import (
    derived_instructions,
    parse_conversations,
    read_conversations,
)
from lcl_core.specs.evaluate import InstructionsSpec

FIELD = "dialogue.instructions"


def messages(*values, first="human"):
    speakers = ("human", "gpt") if first == "human" else ("gpt", "human")
    return [{"from": speakers[place % 2], "value": value} for place, value in enumerate(values)]


def source(folder, name, entries, *images):
    (folder / name).mkdir()
    for place, image in enumerate(images):
        file = folder / name / image
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (place, 0, 0)).save(file)
    (folder / f"{name}.json").write_text(json.dumps(entries))
    return InstructionsSpec(path=str(folder / f"{name}.json"), images=str(folder / name))


def test_several_turns_with_the_image_at_the_head(tmp_path):
    entries = [
        {"id": "1", "image": "coco/a.png", "conversations": messages("What?\n<image>", "A cat.", "Sure?", "Yes.")},
        {"id": "2", "conversations": messages("2 + 2?", "4", "and nobody answers this")},
        {
            "id": "3",
            "image": "coco/a.png",
            "conversations": messages("Hello!", "<image>\nColour?", "Grey", first="gpt"),
        },
    ]
    found = read_conversations([source(tmp_path, "mix", entries, "coco/a.png")], field=FIELD)
    assert [each.turns for each in found.conversations] == [
        (Turn("<image>\nWhat?", "A cat."), Turn("Sure?", "Yes.")),
        (Turn("2 + 2?", "4"),),
        (Turn("<image>\nColour?", "Grey"),),
    ]
    assert found.rows == [0, None, 0]
    assert [image.name for image in found.source.images] == ["0/coco/a.png"]


def test_several_files_keep_their_images_apart(tmp_path):
    talk = messages("<image>\nWhat?", "That.")
    sources = [
        source(tmp_path, "one", [{"id": 1, "image": "a.png", "conversations": talk}], "a.png"),
        source(
            tmp_path, "two",
            [{"id": 1, "image": name, "conversations": talk} for name in ("b.png", "a.png", "gone.png")],
            "b.png", "a.png",
        ),
    ]  # fmt: skip
    found = read_conversations(sources, field=FIELD)
    shades = [found.source.corpus.read_image(image.name).getpixel((0, 0)) for image in found.source.images]
    assert shades == [(0, 0, 0), (0, 0, 0), (1, 0, 0)]
    assert found.rows == [0, 1, 2], "without the one whose image is missing"
    before = found.source.corpus.content_hash()
    assert read_conversations(sources, field=FIELD).source.corpus.content_hash() == before
    Image.new("RGB", (9, 9)).save(tmp_path / "two" / "b.png")
    assert read_conversations(sources, field=FIELD).source.corpus.content_hash() != before


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"id": 7, "image": "a.png"}, "entry 0.conversations is not as expected .Field required"),
        (
            {"id": 7, "image": ["a.png", "a.png"], "conversations": messages("x", "y")},
            "entry 0.image is not as expected",
        ),
        ({"id": 7, "image": "a.png", "conversations": messages("x")}, "no question with an answer"),
        (
            {"id": 7, "image": "a.png", "conversations": messages("x", "y")[:1] * 2},
            "human and gpt are expected in turn",
        ),
        (7, "entry 0 is not"),
    ],
)
def test_what_is_wrong_with_an_entry_is_said(tmp_path, entry, words):
    with pytest.raises(UserError, match=words) as caught:
        read_conversations([source(tmp_path, "odd", [entry], "a.png")], field=FIELD)
    assert (caught.value.code, caught.value.file) == ("corpus_unreadable", str(tmp_path / "odd.json"))


def test_images_that_are_missing_or_outside_their_folder_are_named(tmp_path):
    entries = [{"id": 1, "image": "a.png", "conversations": messages("x", "y")}]
    one = source(tmp_path, "one", entries)
    with pytest.raises(UserError, match="none of the images") as caught:
        read_conversations([one], field=FIELD)
    assert caught.value.field == f"{FIELD}.0.images"
    with pytest.raises(UserError) as caught:
        read_conversations([InstructionsSpec(path=one.path, images=str(tmp_path / "nowhere"))], field=FIELD)
    assert caught.value.field == f"{FIELD}.0.images"
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    Path(tmp_path / "one" / "a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(UserError) as caught:
        read_conversations([one], field=FIELD)
    assert (caught.value.code, caught.value.field) == ("bad_path", f"{FIELD}.0.images")


def test_conversations_balance_yes_no_and_letters():
    own = {f"{kind}/{n}.png": kind for kind in ("birds", "bugs", "fish", "tools", "chairs") for n in range(6)}
    entries = derived_instructions(own, sorted(set(own.values())), seed=0)
    read = parse_conversations(json.dumps(entries).encode(), Path("instructions.json"))
    assert len(read) == 2 * len(own)
    answers = Counter(each.turns[0].answer for each in read)
    assert answers["Yes"] == answers["No"] == len(read) / 3
    for each in read:
        kind, (turn,) = own[each.image], each.turns
        if turn.answer in ("Yes", "No"):
            assert (f'"{kind}"' in turn.question) == (turn.answer == "Yes")
        else:
            assert f"\n{turn.answer}. {kind}\n" in turn.question
