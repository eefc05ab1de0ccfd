"""Exams: whole documents are held out, and nothing of them stays in training."""

import io
import json
import random
import re

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import RunDir
from lcl_core.data import open_corpus
from lcl_core.data.conversion import convert_run
from lcl_core.data.hold_out import near_images, plan_exam, split_off_exam
from lcl_core.data.records import (
    BadItem,
    CaptionedImage,
    ImageSegment,
    Record,
    RecordImage,
    SequenceDocument,
    TextSegment,
)

PAGES = 40


def figure(seed, width=200, height=150):
    """Shapes that no other seed has."""
    draw = random.Random(seed)
    image = Image.new("RGB", (width, height), "white")
    canvas = ImageDraw.Draw(image)
    for _ in range(9):
        box = sorted(draw.sample(range(width), 2)), sorted(draw.sample(range(height), 2))
        colour = tuple(draw.randrange(200) for _ in range(3))
        shape = canvas.ellipse if draw.random() < 0.5 else canvas.rectangle
        shape((box[0][0], box[1][0], box[0][1], box[1][1]), fill=colour)
    return image


def encode(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def altered(image):
    """Copies that are the same image to a reader."""
    width, height = image.size
    return {
        "encoded": Image.open(io.BytesIO(encode(image, "JPEG", quality=40))),
        "recoloured": Image.merge("RGB", image.split()[::-1]),
        "inverted": ImageOps.invert(image),
        "cropped": image.crop((int(width * 0.06), int(height * 0.03), int(width * 0.97), int(height * 0.96))),
        "small": image.resize((width // 2, height // 2)),
    }


def page(number, images, *texts):
    """A page: the texts, then each image with a passage after it."""
    names = [f"{number}-{place}.png" for place in range(len(images))]
    parts = [TextSegment(text) for text in texts]
    for name in names:
        parts += [ImageSegment(name), TextSegment(f"passage of {name} that nobody else has on a page")]
    loads = tuple(RecordImage(name, lambda data=encode(image): data) for name, image in zip(names, images, strict=True))
    return Record(f"p{number}.html", SequenceDocument(tuple(parts)), loads, extra={"page": f"p{number}.html"})


@pytest.fixture(scope="module")
def pages():
    return [page(n, [figure(2 * n), figure(2 * n + 1)], f"this is what only page {n} says") for n in range(PAGES)]


def sides(plan):
    return {int(name[1:-5]): split for name, split in plan["splits"].items()}


def apply(plan, items, tmp_path):
    (tmp_path / "exam.json").write_text(json.dumps(plan))
    return list(split_off_exam(tmp_path / "exam.json", items))


def test_altered_copies_are_found_and_other_figures_are_not():
    originals = [figure(seed) for seed in range(60)]
    copies = [copy for image in originals[:20] for copy in altered(image).values()]
    grey = [np.asarray(image.convert("L").resize((96, 96))) for image in (*originals, *copies)]
    found = {tuple(sorted(pair[:2])) for pair in near_images(np.stack(grey))}
    assert sum((number // 5, 60 + number) in found for number in range(100)) >= 97
    assert not [pair for pair in found if pair[1] < 60]


def test_whole_pages_are_held_out_and_the_rest_trains(pages, tmp_path):
    plan = plan_exam(pages, 0.2)
    assert 14 <= plan["report"]["test"] <= 17
    assert 6 <= plan["report"]["val"] <= 9
    out = apply(plan, pages, tmp_path)
    exam = [record for record in out if isinstance(record.body, CaptionedImage)]
    trained = [record for record in out if isinstance(record.body, SequenceDocument)]
    assert {record.split for record in exam} == {"test", "val"}
    assert {record.split for record in trained} == {"train"}
    assert {record.extra["page"] for record in exam}.isdisjoint(record.id for record in trained)
    assert len(exam) == 2 * (PAGES - len(trained))
    first = exam[0]
    assert first.body.captions == (f"passage of {first.body.image} that nobody else has on a page",)
    assert [image.name for image in first.images] == [first.body.image]
    assert plan_exam(pages, 0.2) == plan


def test_pages_that_share_an_image_or_their_texts_are_on_one_side(pages):
    copies = [list(altered(figure(2 * n)).values())[n % 5] for n in range(15)]
    pairs = [(pages[n], page(n + 20, [copies[n], figure(900 + n)])) for n in range(15)]
    for n in range(15, 20):
        texts = [f"sentence {part} of {n} is on two pages alone" for part in range(4)]
        pairs.append((page(n, [figure(2 * n)], *texts), page(n + 20, [figure(950 + n)], *texts)))
    chosen = sides(plan_exam([record for pair in pairs for record in pair], 0.3))
    assert {chosen.get(n) == chosen.get(n + 20) for n in range(20)} == {True}
    assert set(chosen.values()) == {"test", "val"}


def test_what_both_sides_share_nevertheless_leaves_the_exam(pages, tmp_path):
    """A logo on all pages joins none of them, nor does a passage that most of them have."""
    logo, notice = figure(5000), "all rights of this manual are reserved by its authors"
    marked = []
    for number in range(PAGES):
        record = page(number, [figure(2 * number), logo])
        parts = (*record.body.segments[:-1], TextSegment(notice))
        marked.append(Record(record.id, SequenceDocument(parts), record.images, extra=record.extra))
    plan = plan_exam(marked, 0.3)
    out = apply(plan, marked, tmp_path)
    exam = [record for record in out if isinstance(record, Record) and record.split != "train"]
    assert len(exam) == len(plan["splits"]) > 10
    assert {record.body.image.endswith("-0.png") for record in exam} == {True}
    assert sum(isinstance(item, BadItem) for item in out) == len(exam)


def test_chunks_of_a_page_stay_together_where_there_are_many_pages():
    """Of few pages each document stands for itself, or there would be no exam."""

    def chunks(number):
        made = [page(10 * number + part, [figure(10 * number + part)]) for part in range(3)]
        return [Record(each.id, each.body, each.images, extra={"page": f"manual {number}"}) for each in made]

    for manuals in (30, 4):
        chosen = plan_exam([chunk for number in range(manuals) for chunk in chunks(number)], 0.3)["splits"]
        by_manual = [{chosen.get(f"p{10 * number + part}.html") for part in range(3)} for number in range(manuals)]
        assert (max(map(len, by_manual)) > 1) == (manuals < 20)


def test_too_few_files_are_refused(pages):
    with pytest.raises(UserError, match="too few for test") as caught:
        plan_exam(pages[:1], 0.1)
    assert (caught.value.code, caught.value.field) == ("no_data", "hold_out")


def test_a_conversion_registers_the_exam_as_captioned_images(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    for number in range(PAGES):
        figure(number).save(site / f"{number}.png")
        text = (
            f"<p>Page {number} begins like this.</p><img src={number}.png alt='shapes of {number}'><p>It ends here.</p>"
        )
        (site / f"{number}.html").write_text(f"<html><body>{text}</body></html>")
    run_dir = RunDir(tmp_path / "run")
    run_dir.path.mkdir()
    spec = {"path": str(site), "format": "web", "name": "made", "hold_out": 0.2}
    run_dir.prepare({"run_id": "run_1", "kind": "convert", "spec": spec, "datasets": {}, "items": None})
    result = convert_run(run_dir)
    made = open_corpus(run_dir.artifacts / "dataset")
    counts = {split: len(made.pairs(split)) for split in ("test", "val")}
    assert counts == {split: result["hold_out"][split] for split in counts}
    assert counts["test"] in (8, 9)
    assert len(made.documents) == PAGES - sum(counts.values())
    (caption,) = made.pairs("test")[0].captions
    assert re.fullmatch(r"Page (\d+) begins like this\. shapes of \1", caption)
