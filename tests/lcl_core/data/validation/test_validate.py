"""What an examination counts, and what it lists."""

import json
import multiprocessing
from typing import Any

import pytest

from lcl_core.common.errors import UserError
from lcl_core.data.corpus.open import count_items
from lcl_core.data.records import (
    BadItem,
    CaptionedImage,
    ImageMatch,
    ImageSegment,
    MatchedDocument,
    Record,
    RecordImage,
    SequenceDocument,
    TextSegment,
)
from lcl_core.data.validation.report import Report
from lcl_core.data.validation.validate import validate
from lcl_core.parts import Section


class ListSource:
    """Records in memory as a source of one section."""

    def __init__(self, items):
        self._items = items

    def sections(self):
        return [Section("")]

    def read_section(self, key, start=0):
        return iter(self._items[start:])

    def count_section(self, key):
        return len(self._items)


def record(body, sample_images, id="a:1", **more):
    loaded = tuple(RecordImage(name, lambda data=data: data) for name, data in sample_images.items())
    return Record(id, body, loaded, **more)


def listed(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def sample_image(kit, number, side=8):
    return kit.png((number, 0, 0), (side, side))


def test_a_clean_corpus_is_counted_and_nothing_is_listed(kit, tmp_path):
    corpus = kit.corpus(
        [kit.document(["one two", "three"], kit.image("red.png", 0, 0.3), kit.image("green.png", 1, 0.5))],
        [kit.pair("blue.png", "a b", split="val", source="made")],
    )
    report = validate(corpus, quarantine=tmp_path / "q.jsonl")
    assert (report.documents, report.images, report.distinct_images) == (2, 3, 3)
    assert report.kinds == {"matched": 1, "pair": 1}
    assert (report.tokens, report.length_unit) == (5, "words")
    assert report.reasons == {}
    assert [(group.split, group.source, group.images) for group in report.groups] == [
        ("train", "", 2),
        ("val", "made", 1),
    ]
    assert report.histograms["images_per_document"].counts[1:3] == [1, 1]
    assert report.histograms["similarity"].count == 2
    assert report.histograms["similarity"].total / report.histograms["similarity"].count == pytest.approx(0.4)
    assert report.image_formats == {"PNG": 3}
    assert listed(tmp_path / "q.jsonl") == []


def test_a_sequence_is_counted_by_its_segments(kit, tmp_path):
    segments = [{"text": "one two"}, {"image": "red.png"}, {"text": "three"}, {"image": "absent.png"}]
    rows = [{**kit.document([]), "segments": each} for each in (segments, [{"film": "x"}])]
    report = validate(kit.corpus(rows), quarantine=tmp_path / "q.jsonl")
    assert (report.documents, report.images, report.tokens, report.kinds) == (1, 2, 3, {"sequence": 1})
    assert [(row["line"], row["reason"]) for row in listed(tmp_path / "q.jsonl")] == [
        (1, "missing image"),
        (2, "bad document"),
    ]


def test_tokens_are_counted_by_a_tokenizer(kit, tokenizer):
    corpus = kit.corpus(pairs=[kit.pair("red.png", "a red square")])
    report = validate(corpus, tokenizer=tokenizer)
    assert (report.tokens, report.length_unit) == (len(tokenizer.encode("a red square")), "tokens")


def test_every_problem_is_listed_with_file_line_and_reason(kit, tmp_path):
    kit.write("images/tiny.png", kit.png(size=(20, 3)))
    kit.write("images/broken.png", b"no image")
    corpus = kit.corpus(
        [
            kit.document(["x"], kit.image("absent.png", 0), kit.image("red.png", 0)),
            kit.document(["y"], kit.image("broken.png", 0)),
            kit.document(["z"], kit.image("red.png", 0, 0.1)),
            kit.document(["w"], kit.image("red.png", 7)),
            kit.document([" ", ""]),
            kit.document(["v"], kit.image("tiny.png", 0), kit.image("green.png", 0)),
            {"text_list": 3, "image_info": []},
            kit.document(["u"], kit.image("../up.png", 0), kit.image("blue.png", 0)),
        ],
        [kit.pair("blue.png")],
    )
    report = validate(corpus, quarantine=tmp_path / "q.jsonl")
    found = [(row["file"], row["line"], row["reason"]) for row in listed(tmp_path / "q.jsonl")]
    assert found == [
        ("interleaved.jsonl", 1, "missing image"),
        ("interleaved.jsonl", 2, "unreadable image"),
        ("interleaved.jsonl", 2, "no usable image"),
        ("interleaved.jsonl", 3, "no usable image"),
        ("interleaved.jsonl", 4, "bad image reference"),
        ("interleaved.jsonl", 4, "no usable image"),
        ("interleaved.jsonl", 5, "empty document"),
        ("interleaved.jsonl", 6, "image too small"),
        ("interleaved.jsonl", 7, "bad document"),
        ("interleaved.jsonl", 8, "bad image reference"),
        ("pairs.jsonl", 1, "no text"),
    ]
    assert sum(report.reasons.values()) == report.quarantined == 11
    assert report.first[0].id == "interleaved.jsonl:1#absent.png"
    assert "20 x 3 pixels" in listed(tmp_path / "q.jsonl")[7]["detail"]


def test_held_out_documents_are_examined(kit, tmp_path):
    for name in ("train", "val", "test_vendor"):
        kit.write(f"interleaved/{name}.jsonl", [kit.document([name], kit.image("red.png", 0))])
    with kit.write("interleaved/val/other.jsonl", "{\n").open("a") as file:
        file.write(json.dumps(kit.document(["x"], kit.image("absent.png", 0))) + "\n")
    corpus = kit.corpus(pairs=[kit.pair("blue.png", "a")])
    report = validate(corpus, quarantine=tmp_path / "q.jsonl")
    assert (report.documents, count_items(corpus)) == (5, 6)
    assert [(row["file"], row["line"], row["reason"]) for row in listed(tmp_path / "q.jsonl")] == [
        ("interleaved/val/other.jsonl", 1, "bad line"),
        ("interleaved/val/other.jsonl", 2, "missing image"),
        ("interleaved/val/other.jsonl", 2, "no usable image"),
    ]
    splits = {group.split: group.documents for group in report.groups if group.documents}
    assert splits == {"train": 2, "val": 2, "test_vendor": 1}


def test_every_bad_line_of_captioned_images_is_listed(kit, tmp_path):
    corpus = kit.corpus(pairs=[{"image": 3}, kit.pair("red.png", "x"), {"image": "a.png", "captions": "no list"}])
    report = validate(corpus, quarantine=tmp_path / "q.jsonl")
    assert [row["line"] for row in listed(tmp_path / "q.jsonl")] == [1, 3]
    assert report.documents == 1


def test_copies_are_found_by_content_but_a_name_used_twice_is_none(kit, tmp_path):
    kit.write("images/copy.png", kit.png((255, 0, 0)))
    kit.write("images/tail.png", kit.png((255, 0, 0)) + b"\0")
    corpus = kit.corpus(
        pairs=[kit.pair(name, f"caption {place}") for place, name in enumerate(
            ["red.png", "red.png", "copy.png", "tail.png", "copy.png"]
        )] + [kit.pair("red.png", "caption 0")]
    )  # fmt: skip
    report = validate(corpus, quarantine=tmp_path / "q.jsonl")
    assert report.distinct_images == 2
    assert report.reasons == {"duplicate image": 1, "duplicate document": 1}
    assert [(row["line"], row["reason"]) for row in listed(tmp_path / "q.jsonl")] == [
        (3, "duplicate image"),
        (6, "duplicate document"),
    ]


def test_records_of_a_reader_are_examined_as_they_come(kit, tmp_path):
    def refuse():
        raise UserError("gone", code="file_missing", file="gone.png")

    def break_off():
        raise OSError(5, "Input/output error")

    segments = (TextSegment("look"), ImageSegment("0.png"), ImageSegment("0.png"), ImageSegment("1.png"))
    matched = MatchedDocument(("s",), (ImageMatch("0.png", 0, 0.9),))
    given = [
        record(
            SequenceDocument(segments),
            {"0.png": sample_image(kit, 1), "1.png": sample_image(kit, 2)},
            "shard.tar:1",
            source="web",
        ),
        BadItem("shard.tar", 2, "not JSON", "at byte 7"),
        record(matched, {"0.png": sample_image(kit, 3)}, "shard.tar:3"),
        record(CaptionedImage("0.png", ("c",), {}), {}, "page/three.html"),
        Record("shard.tar:5", CaptionedImage("0.png", ("c",)), (RecordImage("0.png", refuse),)),
        Record("shard.tar:6", CaptionedImage("0.png", ("c",)), (RecordImage("0.png", break_off),)),
        record(CaptionedImage("0.png", (), {"class": "tench"}), {"0.png": sample_image(kit, 4)}, "shard.tar:7"),
    ]
    report = validate(ListSource(given), quarantine=tmp_path / "q.jsonl")
    assert report.kinds == {"matched": 1, "pair": 4, "sequence": 1}
    assert report.histograms["images_per_document"].counts[2] == 1, "an image counts once a record"
    rows = {(row["id"], row["reason"]) for row in listed(tmp_path / "q.jsonl")}
    assert rows == {
        ("", "not JSON"),
        ("page/three.html#0.png", "missing image"),
        ("page/three.html", "no usable image"),
        ("shard.tar:5#0.png", "missing image"),
        ("shard.tar:5", "no usable image"),
        ("shard.tar:6#0.png", "unreadable image"),
        ("shard.tar:6", "no usable image"),
    }
    assert next(group.images for group in report.groups if group.source == "web") == 2


def test_what_progress_raises_ends_it_and_the_processes(kit, eventually):
    class Stop(Exception):
        pass

    def stop(done):
        if done:
            started.update(set(multiprocessing.active_children()) - before)
            raise Stop

    corpus = kit.corpus(pairs=[kit.pair("red.png", "x")] * 200)
    before, started = set(multiprocessing.active_children()), set[Any]()
    with pytest.raises(Stop):
        validate(corpus, processes=2, on_progress=stop, part_items=10)
    assert started
    eventually(lambda: not started & set(multiprocessing.active_children()), "every process has left")


def test_no_more_is_read_ahead_than_is_checked(kit):
    class Endless(ListSource):
        read = 0

        def read_section(self, key, start=0):
            while True:
                self.read += 1
                image = {"0.png": sample_image(kit, self.read % 256)}
                yield record(CaptionedImage("0.png", (str(self.read),)), image, f"f:{self.read}")

    class Enough(Exception):
        pass

    def stop(done):
        if done:
            raise Enough

    source = Endless([])
    with pytest.raises(Enough):
        validate(source, on_progress=stop)
    assert source.read <= 64 * 4


def test_the_list_is_bounded_and_the_rest_is_counted(kit, tmp_path, monkeypatch):
    monkeypatch.setattr("lcl_core.data.validation.report.MAX_QUARANTINED", 4)
    corpus = kit.corpus(pairs=[kit.pair(f"absent{place}.png", "x") for place in range(10)])
    report = validate(corpus, quarantine=tmp_path / "q.jsonl")
    assert len(listed(tmp_path / "q.jsonl")) == report.quarantined == 4
    assert report.not_listed == 16
    assert report.reasons == {"missing image": 10, "no usable image": 10}


def test_a_report_is_json(kit):
    report = validate(kit.corpus(pairs=[kit.pair("red.png", "x")]))
    assert Report.model_validate_json(report.model_dump_json()) == report
