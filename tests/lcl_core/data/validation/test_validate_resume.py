"""One report, however many parts and processes, after any interruption."""

import json
import random

import pytest

from lcl_core.data import open_corpus
from lcl_core.data.formats import open_reader
from lcl_core.data.records import Record
from lcl_core.data.shards.convert import convert
from lcl_core.data.validation.validate import Validator, validate

DOCUMENTS, PAIRS = 40, 61


@pytest.fixture
def corpus(kit):
    """Documents and captioned images of many sources, some with problems, some of them copies of others."""
    drawn = random.Random(0)
    for number in range(12):
        kit.write(f"images/{number}.png", kit.png((number // 2, 0, 0), (9 + number // 2, 12)))
    documents = [
        kit.document(
            [f"words {n % 7}"] * (n % 4), *(kit.image(f"{m}.png", 0, drawn.uniform(-1, 1)) for m in (n % 14, 3))
        )
        for n in range(DOCUMENTS)
    ]
    pairs = [kit.pair(f"{n % 13}.png", f"caption {n % 9}", source=f"team {n % 5}") for n in range(PAIRS)]
    pairs[17] = {"image": 3}
    return kit.corpus(documents, pairs)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("part_items", [20, 7, 1])
@pytest.mark.parametrize("made", ["corpus", "reader", "shards"])
def test_parts_give_the_report_of_one_part(corpus, tmp_path, made, part_items):
    source = corpus
    if made == "reader":
        source = open_reader(corpus.path, "native")
    elif made == "shards":
        convert(open_reader(corpus.path, "native").records(), tmp_path / "shards", 1 << 20)
        source = open_corpus(tmp_path / "shards")
    once = validate(source, quarantine=tmp_path / "once.jsonl")
    parts = validate(source, tmp_path / "work", quarantine=tmp_path / "parts.jsonl", part_items=part_items)
    assert parts == once
    assert lines(tmp_path / "parts.jsonl") == lines(tmp_path / "once.jsonl")
    assert once.reasons["duplicate image"] > 0
    assert once.histograms["similarity"].count > 0
    assert not (tmp_path / "work").exists()


def test_processes_change_nothing(corpus, tmp_path):
    once = validate(corpus, quarantine=tmp_path / "once.jsonl")
    several = validate(corpus, tmp_path / "work", processes=2, quarantine=tmp_path / "several.jsonl", part_items=11)
    assert several == once
    assert lines(tmp_path / "several.jsonl") == lines(tmp_path / "once.jsonl")


def test_more_sources_than_are_counted_apart(kit, tmp_path, monkeypatch):
    monkeypatch.setattr("lcl_core.data.validation.report.MAX_GROUPS", 5)
    pairs = [kit.pair("red.png", f"caption {n}", source=f"site {n % 9}") for n in range(30)]
    corpus = kit.corpus(pairs=pairs)
    once = validate(corpus)
    assert len(once.groups) == 6
    assert validate(corpus, tmp_path / "work", part_items=8) == once


class Interrupted(Exception):
    pass


def test_an_interrupted_validation_goes_on_and_reads_no_part_twice(corpus, tmp_path, monkeypatch):
    once = validate(corpus, quarantine=tmp_path / "once.jsonl")
    checked = []
    examine = Validator.examine

    def counting(self, item):
        if isinstance(item, Record):
            checked.append(item.id)
        return examine(self, item)

    monkeypatch.setattr(Validator, "examine", counting)

    def interrupt(done):
        if done >= 35:
            raise Interrupted

    options = {"quarantine": tmp_path / "parts.jsonl", "part_items": 10}
    with pytest.raises(Interrupted):
        validate(corpus, tmp_path / "work", on_progress=interrupt, **options)
    first = len(checked)
    report = validate(corpus, tmp_path / "work", **options)
    assert report == once
    assert lines(tmp_path / "parts.jsonl") == lines(tmp_path / "once.jsonl")
    assert first <= 40
    assert len(checked) <= DOCUMENTS + PAIRS + 10


def test_another_threshold_begins_anew(corpus, tmp_path):
    def interrupt(done):
        if done >= 35:
            raise Interrupted

    with pytest.raises(Interrupted):
        validate(corpus, tmp_path / "work", on_progress=interrupt, part_items=10)
    report = validate(corpus, tmp_path / "work", similarity_threshold=0.9, part_items=10)
    assert report == validate(corpus, similarity_threshold=0.9)
