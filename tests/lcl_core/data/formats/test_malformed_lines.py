"""Malformed lines, documents and archives: each has its defined result, and the lines around it are read."""

import gzip
import io
import json
import os
import zipfile

import pytest

from lcl_core.common.errors import UserError
from lcl_core.data.formats import open_reader, text_files
from lcl_core.data.jsonl import MAX_LINE_BYTES

GOOD = b'{"text_list": ["good"], "image_info": []}\n'
START = b'{"text_list": [], "image_info": [], "x": '
LINES = {
    "no JSON": (b"text", "bad line"),
    "half an object": (b'{"text_list": ["x"', "bad line"),
    "an array": (b"[]", "bad line"),
    "invalid UTF-8": (b'{"text_list": ["\xff\xfe"], "image_info": []}', "bad line"),
    "nested without end": (b"[" * 100_000, "bad line"),
    "nested in a field": (START + b"[" * 500 + b"]" * 500 + b"}", "bad document"),
    "no fields": (b"{}", "bad document"),
    "text_list a string": (b'{"text_list": "x", "image_info": []}', "bad document"),
    "a sentence that is a number": (b'{"text_list": ["x", 1], "image_info": []}', "bad document"),
    "image_info an object": (b'{"text_list": [], "image_info": {}}', "bad document"),
    "a line too long": (b'{"x": "' + b"a" * MAX_LINE_BYTES + b'"}', "line too long"),
}


def shard(*lines):
    return b"".join(line.rstrip(b"\n") + b"\n" for line in lines)


@pytest.mark.parametrize("name", LINES)
def test_a_malformed_line(make, walk, name):
    line, reason = LINES[name]
    data = shard(GOOD, line, GOOD)
    make.file("docs_shard_0_v2.jsonl", data)
    make.file("docs_shard_1_v2.jsonl.gz", gzip.compress(data, 1))
    records, bad = walk(open_reader(make.root))
    assert [record.id.rpartition(":")[2] for record in records] == ["1", "3", "1", "3"]
    assert [(item.file, item.line, item.reason) for item in bad] == [
        ("docs_shard_0_v2.jsonl", 2, reason),
        ("docs_shard_1_v2.jsonl.gz", 2, reason),
    ]
    assert all(item.detail and len(item.detail) < 400 for item in bad)


IMAGE = {"image_name": "a.jpg", "matched_text_index": 0, "matched_sim": 0.5}
REFERENCES = {
    "no object": "a.jpg",
    "no name": {"matched_text_index": 0, "matched_sim": 0.5},
    "a name that is a number": {**IMAGE, "image_name": 7},
    "a name with NUL": {**IMAGE, "image_name": "a\0.jpg"},
    "an absolute name": {**IMAGE, "image_name": "/etc/passwd"},
    "a name that climbs": {**IMAGE, "image_name": "../../etc/passwd"},
    "a name with a backslash": {**IMAGE, "image_name": "..\\b.jpg"},
    "a name too long": {**IMAGE, "image_name": "a" * 2000},
    "a negative index": {**IMAGE, "matched_text_index": -1},
    "an index past the end": {**IMAGE, "matched_text_index": 1},
    "an index that is text": {**IMAGE, "matched_text_index": "0"},
    "an index that is true": {**IMAGE, "matched_text_index": True},
    "similarity NaN": {**IMAGE, "matched_sim": float("nan")},
    "similarity of 2": {**IMAGE, "matched_sim": 2},
    "similarity null": {**IMAGE, "matched_sim": None},
    "similarity true": {**IMAGE, "matched_sim": True},
}


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("format", ["mmc4", "native"])
def test_a_malformed_image_reference_leaves_the_document(make, walk, name, format):
    row = {"text_list": ["x"], "image_info": [IMAGE, REFERENCES[name], {**IMAGE, "image_name": "b.jpg"}]}
    file = "docs_shard_0_v2.jsonl" if format == "mmc4" else "interleaved.jsonl"
    make.jsonl(file, [row])
    (record,), (bad,) = walk(open_reader(make.root))
    assert [match.image for match in record.body.matches] == ["a.jpg", "b.jpg"]
    assert (bad.file, bad.line, bad.reason) == (file, 1, "bad image reference")
    assert "image_info[1]" in bad.detail


def test_odd_values_are_made_harmless(make, walk):
    """Half surrogates, NaN in a field that is kept, a byte order mark, Windows line ends, blank lines."""
    line = b'\xef\xbb\xbf{"text_list": ["\\ud800x \\ud83d\\ude00"], "image_info": [], "n": NaN, "m": 1e999}\r\n\r\n\n'
    make.file("docs_shard_0_v2.jsonl", line + GOOD.rstrip())
    (first, second), bad = walk(open_reader(make.root))
    assert bad == []
    assert first.body.sentences == ("\ufffdx \U0001f600",)
    assert first.extra == {"n": None, "m": None}
    assert second.id == "docs_shard_0_v2.jsonl:4"


PAIRS = {
    "no image": {"captions": []},
    "an unsafe image": {"image": "../x.png", "captions": []},
    "captions a string": {"image": "x.png", "captions": "c"},
    "labels a list": {"image": "x.png", "captions": [], "labels": [1]},
    "split a number": {"image": "x.png", "captions": [], "split": 3},
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_malformed_pair_of_our_own_form(make, walk, name):
    good = {"image": "x.png", "captions": ["c"]}
    make.jsonl("pairs.jsonl", [good, PAIRS[name], good])
    records, (bad,) = walk(open_reader(make.root))
    assert [record.id for record in records] == ["pairs.jsonl:1", "pairs.jsonl:3"]
    assert (bad.file, bad.line, bad.reason) == ("pairs.jsonl", 2, "bad pair")


NOISE = shard(*[json.dumps({"text_list": [os.urandom(40).hex()], "image_info": []}).encode() for _ in range(2000)])


def zipped(data, method=zipfile.ZIP_DEFLATED, name="x.jsonl"):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


ARCHIVES = {
    "an empty zip file": ("zip", b"", ""),
    "a zip of nothing": ("zip", zipped(b"", name="README"), "unreadable file"),
    "half a zip": ("zip", zipped(NOISE)[:20_000], "unreadable file"),
    "a zip with a byte changed": ("zip", flipped(zipped(NOISE), 30_000), "damaged archive"),
    "only the start of a gzip": ("gz", gzip.compress(NOISE)[:20_000], "damaged archive"),
    "a gzip with a byte changed": ("gz", flipped(gzip.compress(NOISE), 30_000), "damaged archive"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_malformed_archive(make, walk, name):
    packing, data, reason = ARCHIVES[name]
    make.file(f"docs_shard_0_v2.jsonl.{packing}", data)
    make.file("docs_shard_1_v2.jsonl", GOOD)
    records, bad = walk(open_reader(make.root))
    assert records[-1].id == "docs_shard_1_v2.jsonl:1", "the next shard is read"
    assert all(record.body.sentences[0] in NOISE.decode() for record in records[:-1])
    assert [item.reason for item in bad] == ([reason] if reason else [])
    assert not bad or bad[0].line == 0 or bad[0].line == len(records), "the line after the last that was read"


@pytest.mark.parametrize("packing", ["gz", "zip"])
def test_an_archive_that_expands_too_much(make, walk, packing, monkeypatch):
    monkeypatch.setattr(text_files, "MIN_ALLOWANCE_BYTES", 1 << 16)
    for number, data in enumerate((GOOD * 40_000, GOOD + b"\0" * (20 << 20))):
        packed = zipped(data) if packing == "zip" else gzip.compress(data)
        make.file(f"docs_shard_{number}_v2.jsonl.{packing}", packed)
    records, bad = walk(open_reader(make.root))
    assert 0 < len(records) < 40_000
    assert [item.reason for item in bad] == ["archive expands too much"] * 2


def make_link_out(make):
    (make.root / "images" / "a.jpg").symlink_to(make.file("../secret.jpg", b"secret"))


def make_loop(make):
    (make.root / "images" / "a.jpg").symlink_to("a.jpg")


def make_pipe(make):
    os.mkfifo(make.root / "images" / "a.jpg")


def make_folder(make):
    (make.root / "images" / "a.jpg").mkdir()


def make_giant(make):
    with (make.root / "images" / "a.jpg").open("wb") as file:
        file.truncate((64 << 20) + 1)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (make_link_out, "bad_path"),
        (make_loop, "file_unreadable"),
        (make_pipe, "file_missing"),
        (make_folder, "file_missing"),
        (make_giant, "too_large"),
    ],
)
@pytest.mark.parametrize("format", ["mmc4", "native"])
def test_a_image_that_cannot_be_had(make, walk, spoil, code, format):
    make.jsonl(
        "docs_shard_0_v2.jsonl" if format == "mmc4" else "interleaved.jsonl",
        [{"text_list": ["x"], "image_info": [IMAGE]}],
    )
    (make.root / "images").mkdir()
    spoil(make)
    (record,), bad = walk(open_reader(make.root))
    assert bad == []
    with pytest.raises(UserError) as caught:
        record.images[0].load()
    assert caught.value.code == code
