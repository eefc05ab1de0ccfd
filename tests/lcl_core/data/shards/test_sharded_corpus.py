"""The sharded corpus has the interface of any corpus, and reads any document in one range."""

import json
import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from lcl_core.common.errors import UserError
from lcl_core.data import open_corpus
from lcl_core.data.shards.sharded_corpus import ShardedCorpus
from lcl_core.data.shards.storage import LocalShardStorage


@pytest.fixture
def folder(make, shards):
    return shards(make.mixed(), shard_bytes=8192)


@pytest.fixture
def corpus(folder):
    corpus = open_corpus(folder)
    assert isinstance(corpus, ShardedCorpus)
    return corpus


def test_documents_come_in_mmc4s_layout(corpus):
    assert len(corpus.documents) == 2, "held out splits are not trained on"
    matched, sequence = corpus.documents
    assert matched == {
        "id": "m0",
        "text_list": ["a red square", "so is this"],
        "image_info": [
            {"image_name": "000000000.0.png", "matched_text_index": 0, "matched_sim": 0.5},
            {"image_name": "000000000.1.jpg", "matched_text_index": 1, "matched_sim": 0.3},
        ],
    }
    assert sequence["segments"] == [
        {"text": "before"}, {"image": "000000002.0.webp"}, {"text": "between"}, {"image": "000000002.1.png"},
        {"text": "after"},
    ]  # fmt: skip
    assert sequence["text_list"] == ["before", "between", "after"]
    assert [image["matched_text_index"] for image in sequence["image_info"]] == [1, 2]
    assert sequence["url"] == "u"
    assert corpus.documents.location(1) == "000000002"
    assert [corpus.documents.find(f"{record:09d}") for record in range(4)] == [0, None, 1, None]
    assert [corpus.documents.find(absent) for absent in ("", "x", "interleaved.jsonl:1", "999999999")] == [None] * 4
    assert corpus.documents[-1] == sequence
    assert list(corpus.documents)[0:2] == [matched, sequence]


def test_pairs_by_split_and_source(corpus):
    def ids(*arguments, **named):
        return [pair.extra["id"] for pair in corpus.pairs(*arguments, **named)]

    assert ids() == ["p0", "p1", "p2"]
    assert ids("train") == ["p0", "p2"]
    assert ids(("train", "val"), "") == ["p1"]
    assert ids(source="t") == ["p2"]
    assert ids("none") == []
    assert corpus.splits() == {"train": 2, "val": 1}
    first = corpus.pairs()[0]
    assert (first.captions, first.labels, first.split, first.source) == (
        ("red", "a red square"), {"colour": "red"}, "train", "s",
    )  # fmt: skip
    assert corpus.read_image(first.image).getpixel((0, 0)) == (255, 0, 0)


def test_a_document_and_its_images_are_one_range_read(corpus, monkeypatch):
    reads = []
    read_range = LocalShardStorage.read_range

    def counted(self, name, start, length, digest):
        reads.append((name, start, length))
        return read_range(self, name, start, length, digest)

    monkeypatch.setattr(LocalShardStorage, "read_range", counted)
    document = corpus.documents[0]
    for image in document["image_info"]:
        corpus.read_image(image["image_name"])
    assert len(reads) == 1
    whole = reads[0][2]
    corpus.read_image(corpus.pairs()[0].image)
    described = corpus.documents.describe(0)
    assert described == document
    assert len(reads) == 3
    assert reads[-1][2] < whole, "a description alone reads no image"


BAD_NAMES = ["red.png", "../000000000.0.png", "000000000.7.png", "000000099.0.png", "000000000.json", ""]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_is_no_image_is_named(corpus, name):
    with pytest.raises(UserError) as caught:
        corpus.image_bytes(name)
    assert (caught.value.code, caught.value.file) == ("file_missing", name)


def test_the_hash_needs_no_reading(corpus, folder):
    digest = corpus.content_hash()
    assert len(digest) == 64
    for file in (folder / "shards").iterdir():
        file.unlink()
    assert open_corpus(folder).content_hash() == digest


def test_a_corpus_travels_and_is_safe_from_forks_and_threads(corpus):
    expected = [corpus.image_bytes(name) for name in ("000000000.0.png", "000000004.0.png", "000000005.0.png")] * 20
    names = ["000000000.0.png", "000000004.0.png", "000000005.0.png"] * 20
    copy = pickle.loads(pickle.dumps(corpus))
    assert copy.documents[0] == corpus.documents[0]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(corpus.image_bytes, names)) == expected
    with multiprocessing.get_context("fork").Pool(2) as processes:
        assert processes.map(corpus.image_bytes, names) == expected


def test_damage_is_named(folder):
    shard = folder / "shards" / "00000-00000-000.tar"
    data = shard.read_bytes()
    for broken in (b"\0" * len(data), data[:700], data[512:]):
        shard.write_bytes(broken)
        with pytest.raises(UserError) as caught:
            open_corpus(folder).documents[0]
        assert (caught.value.code, caught.value.file) == ("corpus_unreadable", "shards/00000-00000-000.tar")
    shard.unlink()
    with pytest.raises(UserError) as caught:
        open_corpus(folder).documents[0]
    assert (caught.value.code, caught.value.file) == ("file_missing", "shards/00000-00000-000.tar")


HEADERS = [
    ("{", "cannot be read"),
    ([], "cannot be read"),
    ({"format": "other"}, "another format"),
    ({"format": "lcl-shards", "version": 2}, "update the program"),
    ({"format": "lcl-shards", "version": 1}, "cannot be read"),
]


@pytest.mark.parametrize(("header", "words"), HEADERS)
def test_a_bad_index_is_named(folder, header, words):
    (folder / "index.json").write_text(header if isinstance(header, str) else json.dumps(header))
    with pytest.raises(UserError, match=words) as caught:
        open_corpus(folder)
    assert caught.value.code == "corpus_unreadable"


def test_an_index_that_is_cut_short_is_named(folder):
    rows = folder / "index" / "rows.bin"
    rows.write_bytes(rows.read_bytes()[:-1])
    with pytest.raises(UserError) as caught:
        open_corpus(folder)
    assert caught.value.code == "corpus_unreadable"


@pytest.mark.parametrize("name", ["index.json", "index/rows.bin", "shards/00000-00000-000.tar"])
def test_files_that_lead_out_or_are_no_files(folder, tmp_path, name):
    place = folder / name
    outside = place.rename(tmp_path / "outside")
    place.symlink_to(outside)
    with pytest.raises(UserError, match="leads out of its folder") as caught:
        ShardedCorpus.open(folder).documents[0]
    assert caught.value.code == "bad_path"
    inside = outside.rename(folder / "moved")
    place.unlink()
    place.symlink_to(inside)
    assert ShardedCorpus.open(folder).documents[0]["id"] == "m0"
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(UserError) as caught:  # and it does not wait for a writer
        ShardedCorpus.open(folder).documents[0]
    assert caught.value.code in ("file_missing", "not_found")
