"""Conversion: what is written, what is left out, and what an interruption leaves."""

import hashlib
import json
import tarfile

import pytest

from lcl_core.common.errors import UserError
from lcl_core.data import Corpus, open_corpus
from lcl_core.data.records import BadItem, Record
from lcl_core.data.shards import writer
from lcl_core.data.shards.convert import convert
from lcl_core.specs.data import DataSpec


def contents(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_shards_are_plain_tars_of_runs_of_members(make, shards):
    folder = shards(make.mixed())
    with tarfile.open(folder / "shards" / "00000-00000-000.tar") as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == [
            "000000000.json", "000000000.0.png", "000000000.1.jpg",
            "000000001.json", "000000001.0.png",
            "000000002.json", "000000002.0.webp", "000000002.1.png",
            "000000003.json", "000000003.0.png",
            "000000004.json", "000000004.0.png",
            "000000005.json", "000000005.0.png",
        ]  # fmt: skip
        assert {(member.mtime, member.uid, member.gid) for member in members} == {(0, 0, 0)}
        kept = archive.extractfile("000000000.1.jpg")
        assert kept is not None
        assert kept.read() == make.packed((0, 255, 0), "JPEG"), "bytes stay as they were"
        described = archive.extractfile("000000002.json")
        assert described is not None
        value = json.loads(described.read())
    assert value["kind"] == "sequence"
    assert value["pictures"] == [{"name": "blue.webp", "file": "webp"}, {"name": "red.png", "file": "png"}]
    assert value["extra"] == {"url": "u"}


def test_webdataset_reads_them(make, shards):
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    folder = shards(make.mixed(), shard_bytes=8192)
    urls = sorted(str(file) for file in (folder / "shards").iterdir())
    assert len(urls) > 1
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in samples] == [f"{number:09d}" for number in range(6)]
    assert samples[0].keys() >= {"json", "0.png", "1.jpg"}
    assert samples[1]["0.png"] == make.packed((255, 0, 0))


def test_shards_are_bounded_and_one_large_record_is_not_lost(make, shards):
    records = [make.pair(f"p{number}", "red.png", "x" * (9000 if number == 3 else 100)) for number in range(12)]
    folder = shards(records, shard_bytes=6144)
    sizes = [file.stat().st_size for file in sorted((folder / "shards").iterdir())]
    assert sum(size > 6144 for size in sizes) == 1
    header = json.loads((folder / "index.json").read_text())
    assert [shard["bytes"] for shard in header["shards"]] == sizes
    assert sum(shard["records"] for shard in header["shards"]) == header["records"] == 12
    for shard in header["shards"]:
        assert hashlib.sha256((folder / shard["name"]).read_bytes()).hexdigest() == shard["sha256"]
    assert [len(pair.captions[0]) for pair in open_corpus(folder).pairs()][3] == 9000


def test_what_is_left_out_is_named_and_counted(make, tmp_path):
    records = [
        BadItem("lines.jsonl", 3, "the line is not JSON", "at 7"),
        make.matched("m", ["a", "b", "c"], ("gone.png", 0, 0.5), ("bad.png", 1, 0.5), ("red.png", 2, 0.5)),
        make.pair("p", "bad.png", "x"),
        Record("unnamed", make.sequence("s", "x", "red.png").body, ()),
    ]
    report = convert(records, tmp_path / "target")
    assert report.records == 2
    assert report.quarantined == {
        "file_missing": 2, "image_unreadable": 2, "the line is not JSON": 1,
    }  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "target" / "quarantine.jsonl").read_text().splitlines()]
    assert lines[0] == {
        "file": "lines.jsonl", "line": 3, "id": "", "reason": "the line is not JSON", "detail": "at 7",
    }  # fmt: skip
    assert [(line["id"], line["file"], line["reason"]) for line in lines[1:]] == [
        ("m", "gone.png", "file_missing"),
        ("m", "bad.png", "image_unreadable"),
        ("p", "bad.png", "image_unreadable"),
        ("unnamed", "red.png", "file_missing"),
    ]
    corpus = open_corpus(tmp_path / "target")
    names = [image["image_name"] for image in corpus.documents[0]["image_info"]]
    assert names == ["000000000.0.none", "000000000.1.none", "000000000.2.png"]
    with pytest.raises(UserError, match=r"quarantine\.jsonl") as caught:
        corpus.read_image(names[0])
    assert caught.value.code == "file_missing"
    assert corpus.read_image(names[2]).getpixel((0, 0)) == (255, 0, 0)


def test_the_report_and_progress(make, tmp_path):
    seen = []
    report = convert(make.mixed(), tmp_path / "t", on_progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 7
    assert (report.records, report.pictures, report.shards) == (6, 8, 1)
    assert report.bytes == (tmp_path / "t" / "shards" / "00000-00000-000.tar").stat().st_size
    assert report.content_hash == open_corpus(tmp_path / "t").content_hash()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("the disk is full"), ValueError("a bug")])
def test_an_interruption_leaves_nothing(make, tmp_path, error):
    def records():
        yield from (make.pair(str(number), "red.png", "x") for number in range(40))
        raise error

    with pytest.raises(type(error)):
        convert(records(), tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(make, tmp_path):
    (tmp_path / "t").mkdir()
    convert(make.mixed(), tmp_path / "t")
    before = contents(tmp_path / "t")
    with pytest.raises(UserError) as caught:
        convert(make.mixed()[:1], tmp_path / "t")
    assert caught.value.code == "conflict"
    assert contents(tmp_path / "t") == before


def test_a_record_beyond_the_bound_is_quarantined(make, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "MAX_RECORD_IMAGES", 2)
    three = make.sequence("s", "red.png", "green.png", "blue.png")
    report = convert([three, make.sequence("t", "red.png", "x")], tmp_path / "t")
    assert (report.records, report.quarantined) == (1, {"too_large": 1})


def test_similarities_that_are_no_numbers_match_nothing(make, tmp_path):
    nan = float("nan")
    first = [("red.png", 0, nan), ("red.png", 0, 0.5), ("blue.png", 0, nan)]
    convert([make.matched("m", ["a", "b"], *first, ("green.png", 1, nan), ("red.png", 7, 1.0))], tmp_path / "t")
    corpus = open_corpus(tmp_path / "t")
    assert len(corpus.chunks(DataSpec(), 1)) == 1
    assert corpus.chunks(DataSpec(similarity_threshold=0.6), 1)[0] == (0, 0), "a document is one piece at least"


@pytest.mark.parametrize("threshold", [0.1, 0.24, 0.3, 0.30000001, 0.9])
def test_pieces_of_shards_are_those_of_their_documents(make, tmp_path, threshold):
    convert(make.mixed(), tmp_path / "t")
    corpus, data = open_corpus(tmp_path / "t"), DataSpec(similarity_threshold=threshold)
    counted, listed = corpus.chunks(data, 1), Corpus.chunks(corpus, data, 1)
    assert len(counted) >= len(listed), "rounded to single precision, a similarity may pass that is just below"
    if threshold != 0.30000001:
        assert [counted[item] for item in range(len(counted))] == [listed[item] for item in range(len(listed))]
