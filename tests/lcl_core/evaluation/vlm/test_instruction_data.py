"""Conversations in LLaVA's layout, and conversations and questions derived from labels."""

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from lcl_core.common.errors import UserError
from lcl_core.evaluation.tasks.base import EvalImage
from lcl_core.evaluation.vlm.chat_format import Turn
from lcl_core.evaluation.vlm.instruction_data import (
    derived_choices,
    derived_instructions,
    derived_pope,
    label_distractors,
    parse_conversations,
    read_conversations,
)
from lcl_core.specs.evaluate import InstructionsSpec

FIELD = "dialogue.instructions"
# Four kinds of animals and two of things; birds are the most frequent.
KINDS = {"birds": 9, "bugs": 6, "fish": 5, "mammals": 4, "tools": 3, "chairs": 2}
THINGS = ("tools", "chairs")


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
    assert (found.rows, found.without_image) == ([0, 1, 2], 1)
    before = found.source.corpus.content_hash()
    assert read_conversations(sources, field=FIELD).source.corpus.content_hash() == before
    Image.new("RGB", (9, 9)).save(tmp_path / "two" / "b.png")
    assert read_conversations(sources, field=FIELD).source.corpus.content_hash() != before


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"id": 7, "image": "a.png"}, "entry 7 has no 'conversations'"),
        ({"id": 7, "image": ["a.png", "a.png"], "conversations": messages("x", "y")}, "several images"),
        ({"id": 7, "image": "a.png", "conversations": messages("x")}, "no question with an answer"),
        ({"id": 7, "image": "a.png", "conversations": messages("x", "y")[:1] * 2}, "human and gpt are expected"),
        (7, "list of objects"),
    ],
)
def test_what_is_wrong_with_an_entry_is_said(tmp_path, entry, words):
    with pytest.raises(UserError, match=words) as caught:
        read_conversations([source(tmp_path, "odd", [entry], "a.png")], field=FIELD)
    assert (caught.value.code, caught.value.file) == ("instructions_unreadable", str(tmp_path / "odd.json"))


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


def drawings():
    return [
        EvalImage(f"{kind}/{n}.png", (kind,), {"kind": kind, "realm": "things" if kind in THINGS else "animals"})
        for kind, count in KINDS.items()
        for n in range(count)
    ] + [EvalImage("unknown.png", (), {"realm": "animals"})]


def test_wrong_answers_are_drawn_as_pope_draws_them():
    known = label_distractors("kind", drawings())
    assert known.counts == KINDS
    assert known.alike["chairs"][0] == "tools"
    assert set(known.alike["bugs"][:3]) == {"birds", "fish", "mammals"}
    labelled = [image for image in drawings() if "kind" in image.labels]
    questions = derived_pope(labelled, known, seed=0)
    kinds = {question.id: question.text.split('"')[1] for question in questions}
    for split in ("random", "popular", "adversarial"):
        own = [question for question in questions if question.split == split]
        assert Counter(each.truth for each in own) == {"yes": len(labelled), "no": len(labelled)}
        assert all((kinds[each.id] == each.image.split("/")[0]) == (each.truth == "yes") for each in own)
    wrong = [question for question in questions if question.truth == "no"]
    popular = {kinds[each.id] for each in wrong if each.split == "popular"}
    assert popular <= {"birds", "bugs", "fish", "mammals"}  # the three most frequent, the own one left out
    alike = {kinds[each.id] for each in wrong if each.split == "adversarial" and each.image.startswith("mammals")}
    assert alike <= {"birds", "bugs", "fish"}
    assert derived_pope(labelled, known, seed=0) == questions != derived_pope(labelled, known, seed=1)


def test_choices_have_the_truth_among_four_options_and_fewer_where_there_are_fewer():
    known = label_distractors("kind", drawings())
    questions = derived_choices([image for image in drawings() if "kind" in image.labels], known, 0)
    for question in questions:
        assert question.options[question.truth] == question.image.split("/")[0]
        assert len(set(question.options.values())) == 4
    assert {question.truth for question in questions} == set("ABCD")
    two = [EvalImage(f"{n}.png", (), {"kind": "ab"[n % 2]}) for n in range(6)]
    assert set(derived_choices(two, label_distractors("kind", two), 0)[0].options.values()) == {"a", "b"}


def test_conversations_balance_yes_no_and_letters():
    train = drawings()
    entries = derived_instructions(train, label_distractors("kind", train), per_image=3, seed=0)
    read = parse_conversations(entries, Path("instructions.json"))
    assert len(read) == 3 * (len(train) - 1)
    answers = Counter(each.turns[0].answer for each in read)
    assert answers["Yes"] == answers["No"] == len(train) - 1
    for each in read:
        own, (turn,) = str(each.image).split("/")[0], each.turns
        if turn.answer in ("Yes", "No"):
            assert (f'"{own}"' in turn.question) == (turn.answer == "Yes")
        else:
            assert f"\n{turn.answer}. {own}\n" in turn.question
