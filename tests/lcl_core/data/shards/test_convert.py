"""Conversion: what is written, what is left out, and what an interruption leaves."""

from __future__ import annotations

import fcntl
import hashlib
import io
import itertools
import json
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lcl_core.common.errors import UserError
from lcl_core.data import Corpus, open_corpus
from lcl_core.data.records import BadItem, Record, RecordImage
from lcl_core.data.shards.convert import QuarantineLog, convert, pack_image, write_records
from lcl_core.data.shards.index import ShardIndex
from lcl_core.data.shards.writer import ShardWriter
from lcl_core.specs.data import DataSpec


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_shards_are_plain_tars_of_runs_of_members(make: Any, shards: Callable[..., Path]) -> None:
    folder = shards(make.mixed())
    with tarfile.open(folder / "shards" / "000000.tar") as archive:
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


def test_webdataset_reads_them(make: Any, shards: Callable[..., Path]) -> None:
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    folder = shards(make.mixed(), shard_bytes=8192)
    urls = sorted(str(file) for file in (folder / "shards").iterdir())
    assert len(urls) > 1
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in samples] == [f"{number:09d}" for number in range(6)]
    assert samples[0].keys() >= {"json", "0.png", "1.jpg"}
    assert samples[1]["0.png"] == make.packed((255, 0, 0))


def test_shards_are_bounded_and_one_large_record_is_not_lost(make: Any, shards: Callable[..., Path]) -> None:
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


def test_the_same_records_give_the_same_bytes(make: Any, shards: Callable[..., Path]) -> None:
    first, again = shards(make.mixed(), "a"), shards(make.mixed(), "b")
    assert contents(first) == contents(again)
    other = shards(make.mixed()[1:], "c")
    hashes = {open_corpus(folder).content_hash() for folder in (first, again, other)}
    assert len(hashes) == 2


def test_what_is_left_out_is_named_and_counted(make: Any, tmp_path: Path) -> None:
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
    assert caught.value.code == "image_left_out"
    assert corpus.read_image(names[2]).getpixel((0, 0)) == (255, 0, 0)


def test_larger_images_are_made_smaller_on_request_only(make: Any, tmp_path: Path) -> None:
    def record(kind: str, size: tuple[int, int]) -> Record:
        data = make.packed((255, 0, 0), kind, size)
        pair = make.pair(f"{kind} {size}", "red.png", "x")
        return Record(pair.id, pair.body, (RecordImage("red.png", lambda: data),))

    records = [record("JPEG", (400, 100)), record("PNG", (50, 300)), record("WEBP", (64, 100)), record("GIF", (200, 8))]
    convert(records, tmp_path / "t", max_side=100)
    corpus = open_corpus(tmp_path / "t")
    images = [Image.open(io.BytesIO(corpus.image_bytes(pair.image))) for pair in corpus.pairs()]
    assert [(image.format, image.size) for image in images] == [
        ("JPEG", (100, 25)), ("PNG", (17, 100)), ("WEBP", (64, 100)), ("JPEG", (100, 4)),
    ]  # fmt: skip
    assert corpus.image_bytes(corpus.pairs()[2].image) == make.packed((255, 0, 0), "WEBP", (64, 100))


def test_the_report_and_progress(make: Any, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    report = convert(make.mixed(), tmp_path / "t", on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, None) for number in range(1, 8)]
    assert (report.records, report.pictures, report.shards) == (6, 8, 1)
    assert report.bytes == (tmp_path / "t" / "shards" / "000000.tar").stat().st_size
    assert report.content_hash == open_corpus(tmp_path / "t").content_hash()
    assert not report.removed_leftover


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("the disk is full"), ValueError("a bug")])
def test_an_interruption_leaves_nothing_and_says_so(make: Any, tmp_path: Path, error: BaseException) -> None:
    def records() -> Iterator[Record]:
        yield from (make.pair(str(number), "red.png", "x") for number in range(40))
        raise error

    with pytest.raises(type(error)) as caught:
        convert(records(), tmp_path / "t")
    assert list(tmp_path.iterdir()) == []
    assert any("left nothing at" in note for note in caught.value.__notes__)
    if isinstance(caught.value, UserError):
        assert "left nothing at" in str(caught.value)


ENDLESS = """
import itertools, sys
from lcl_core.data.records import CaptionedImage, Record, RecordImage
from lcl_core.data.shards.convert import convert
data = open(sys.argv[2], "rb").read()
images = (RecordImage("red.png", lambda: data),)
convert((Record(str(n), CaptionedImage("red.png", ("x",)), images) for n in itertools.count()), sys.argv[1])
"""


def test_a_killed_conversion_leaves_no_corpus_and_the_next_one_cleans_up(
    make: Any, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    (tmp_path / "red.png").write_bytes(make.packed((255, 0, 0)))
    target = tmp_path / "into" / "t"
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(target), str(tmp_path / "red.png")])
    beside = target.with_name(".t.converting")
    try:
        eventually(lambda: list(beside.glob("shards/*.tar")), "the first shard")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not target.exists()
    assert beside.exists()
    report = convert(make.mixed(), target)
    assert report.removed_leftover
    assert [file.name for file in target.parent.iterdir()] == ["t"]
    assert len(open_corpus(target).pairs()) == 3


def test_nothing_is_overwritten(make: Any, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    convert(make.mixed(), tmp_path / "t")
    before = contents(tmp_path / "t")
    with pytest.raises(UserError) as caught:
        convert(make.mixed()[:1], tmp_path / "t")
    assert caught.value.code == "target_exists"
    assert contents(tmp_path / "t") == before


def test_two_conversions_to_one_place_do_not_meet(make: Any, tmp_path: Path) -> None:
    with (tmp_path / ".t.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError) as caught:
            convert(make.mixed(), tmp_path / "t")
    assert caught.value.code == "conversion_running"


def test_files_are_read_one_record_after_the_other_and_memory_is_bounded(make: Any, tmp_path: Path) -> None:
    """No reader need be safe from threads, and only a few records are held ahead of the one that is written."""
    held: list[int] = []
    read = itertools.count()

    def records() -> Iterator[Record]:
        for number in range(200):
            data = make.packed((number, 0, 0))
            pair = make.pair(str(number), "red.png", "x")

            def load(data: bytes = data) -> bytes:
                held.append(next(read))
                return data

            yield Record(pair.id, pair.body, (RecordImage("red.png", load),))

    convert(records(), tmp_path / "t")
    assert held == list(range(200))
    pairs = open_corpus(tmp_path / "t").pairs()
    assert [pair.extra["id"] for pair in pairs] == [str(number) for number in range(200)]


@pytest.mark.parametrize(("threads", "own"), [(1, False), (2, True)])
def test_one_thread_decodes_where_it_reads(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, own: bool
) -> None:
    module = sys.modules[convert.__module__]
    used: set[int] = set()

    def pack(image: RecordImage, max_side: int | None) -> Any:
        used.add(threading.get_ident())
        return pack_image(image, max_side)

    monkeypatch.setattr(module, "pack_image", pack)
    writer = ShardWriter(tmp_path, 1 << 20, lambda name: None)
    write_records(make.mixed(), writer, QuarantineLog(str), None, lambda done, total: None, threads)
    writer.close()
    assert used
    assert (threading.get_ident() not in used) == own


def test_a_folder_is_on_disk_before_it_gets_its_name(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unflushed: Callable[[Path], list[str]]
) -> None:
    rename = Path.rename
    left: list[list[str]] = []

    def observed(path: Path, target: Path) -> Path:
        left.append(unflushed(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", observed)
    convert(make.mixed(), tmp_path / "t")
    assert left == [[]]


def test_too_many_sources_are_refused(make: Any, tmp_path: Path) -> None:
    records = (make.pair(str(number), "red.png", "x", source=str(number)) for number in range(1100))
    with pytest.raises(UserError) as caught:
        convert(records, tmp_path / "t")
    assert caught.value.code == "too_many_sources"


def test_a_record_beyond_the_bound_is_quarantined(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[convert.__module__]
    monkeypatch.setattr(module, "MAX_RECORD_IMAGES", 2)
    three = make.sequence("s", "red.png", "green.png", "blue.png")
    report = convert([three, make.sequence("t", "red.png", "x")], tmp_path / "t")
    assert (report.records, report.quarantined) == (1, {"record_too_large": 1})


@pytest.mark.parametrize("bound", [1024, 1536, 2048, 2560])
def test_the_bound_of_a_record_is_that_of_its_members(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: int
) -> None:
    """With their headers and padding, since no reader takes a longer range; what is written can be read."""
    for name in (convert.__module__, ShardIndex.__module__):
        monkeypatch.setattr(sys.modules[name], "MAX_RECORD_BYTES", bound)
    report = convert([make.pair("p", "red.png", "x")], tmp_path / "t")
    assert (report.records, report.quarantined) == ((1, {}) if bound >= 2048 else (0, {"record_too_large": 1}))
    assert [pair.captions for pair in open_corpus(tmp_path / "t").pairs()] == [("x",)] * report.records


def test_more_shards_than_a_header_can_name_are_refused(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def records(count: int) -> Iterator[Record]:
        for number in range(count):
            seen.append(number)
            yield make.pair(str(number), "red.png", "x")

    monkeypatch.setattr("lcl_core.data.shards.format.MAX_SHARDS", 3)
    assert convert(records(3), tmp_path / "three", shard_bytes=1).shards == 3
    seen.clear()
    with pytest.raises(UserError, match="at most 3 shards; raise shard_megabytes") as caught:
        convert(records(1000), tmp_path / "four", shard_bytes=1)
    assert (caught.value.code, caught.value.field) == ("corpus_too_large", "shard_megabytes")
    assert len(seen) < 100, "as early as it is known"
    assert not (tmp_path / "four").exists()


def test_similarities_that_are_no_numbers_match_nothing(make: Any, tmp_path: Path) -> None:
    nan = float("nan")
    first = [("red.png", 0, nan), ("red.png", 0, 0.5), ("blue.png", 0, nan)]
    convert([make.matched("m", ["a", "b"], *first, ("green.png", 1, nan), ("red.png", 7, 1.0))], tmp_path / "t")
    corpus = open_corpus(tmp_path / "t")
    assert len(corpus.chunks(DataSpec(), 1)) == 1
    assert corpus.chunks(DataSpec(similarity_threshold=0.6), 1)[0] == (0, 0), "a document is one piece at least"


@pytest.mark.parametrize("threshold", [0.1, 0.24, 0.3, 0.30000001, 0.9])
def test_pieces_of_shards_are_those_of_their_documents(make: Any, tmp_path: Path, threshold: float) -> None:
    convert(make.mixed(), tmp_path / "t")
    corpus, data = open_corpus(tmp_path / "t"), DataSpec(similarity_threshold=threshold)
    counted, listed = corpus.chunks(data, 1), Corpus.chunks(corpus, data, 1)
    assert len(counted) >= len(listed), "rounded to single precision, a similarity may pass that is just below"
    if threshold != 0.30000001:
        assert [counted[item] for item in range(len(counted))] == [listed[item] for item in range(len(listed))]
