"""Conversations in LLaVA's layout, and conversations and questions derived from labels."""

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from lcl_core.common.errors import UserError
from lcl_core.evaluation.tasks.dialogue import derived_instructions, read_conversations
from lcl_core.evaluation.vlm.language_model import Turn
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
    found = read_conversations(source(tmp_path, "mix", entries, "coco/a.png"), field=FIELD)
    assert found.turns == [
        [Turn("<image>\nWhat?", "A cat."), Turn("Sure?", "Yes.")],
        [Turn("2 + 2?", "4")],
        [Turn("<image>\nColour?", "Grey")],
    ]
    assert found.rows == [0, None, 0]
    assert [image.name for image in found.source.images] == ["coco/a.png"]


def test_images_that_are_missing_are_left_out_and_changed_ones_are_noticed(tmp_path):
    talk = messages("<image>\nWhat?", "That.")
    entries = [{"id": 1, "image": name, "conversations": talk} for name in ("b.png", "a.png", "gone.png")]
    given = source(tmp_path, "two", entries, "b.png", "a.png")
    found = read_conversations(given, field=FIELD)
    shades = [found.source.corpus.read_image(image.name).getpixel((0, 0)) for image in found.source.images]
    assert (shades, found.rows) == ([(0, 0, 0), (1, 0, 0)], [0, 1])
    before = found.source.corpus.content_hash()
    assert read_conversations(given, field=FIELD).source.corpus.content_hash() == before
    Image.new("RGB", (9, 9)).save(tmp_path / "two" / "b.png")
    assert read_conversations(given, field=FIELD).source.corpus.content_hash() != before


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
        read_conversations(source(tmp_path, "odd", [entry], "a.png"), field=FIELD)
    assert (caught.value.code, caught.value.file) == ("corpus_unreadable", str(tmp_path / "odd.json"))


def test_a_folder_without_the_images_is_named_and_links_out_of_it_are_refused(tmp_path):
    entries = [{"id": 1, "image": "a.png", "conversations": messages("x", "y")}]
    one = source(tmp_path, "one", entries)
    for images, words in ((one.images, "none of the images"), (str(tmp_path / "nowhere"), "no such folder")):
        with pytest.raises(UserError, match=words) as caught:
            read_conversations(InstructionsSpec(path=one.path, images=images), field=FIELD)
        assert caught.value.field == f"{FIELD}.images"
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    Path(tmp_path / "one" / "a.png").symlink_to(tmp_path / "secret.png")
    linked = read_conversations(one, field=FIELD)
    with pytest.raises(UserError) as caught:
        linked.source.corpus.read_image("a.png")
    assert caught.value.code == "bad_path"


def test_derived_conversations_have_a_yes_and_a_no_of_each_image():
    own = {f"{kind}/{n}.png": kind for kind in ("birds", "bugs", "fish") for n in range(6)}
    entries = derived_instructions(own, sorted(set(own.values())), seed=0)
    answers = Counter(entry["conversations"][1]["value"] for entry in entries)
    assert answers == {"Yes": len(own), "No": len(own)}
    for entry in entries:
        question, answer = (message["value"] for message in entry["conversations"])
        assert (f'"{own[entry["image"]]}"' in question) == (answer == "Yes")
