"""Formats by name, by their looks, and their options."""

import os
import pickle

import pytest

from lcl_core.common.errors import UserError
from lcl_core.data import open_corpus
from lcl_core.data.formats import FORMATS, open_reader, reader_class


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_a_reader_of_its_name(name):
    assert reader_class(name).format == name


def test_what_is_missing_or_unknown_is_said(make):
    folder = make.file("notes.xyz", "text").parent
    for arguments, code, field in (
        ({"path": folder / "none"}, "not_found", None),
        ({"path": folder, "format": "mmc5"}, "invalid_value", "format"),
        ({"path": folder / "notes.xyz"}, "invalid_value", None),
    ):
        with pytest.raises(UserError) as caught:
            open_reader(**arguments)
        assert (caught.value.code, caught.value.field) == (code, field)
    with pytest.raises(UserError, match="mmc4, "):
        open_reader(folder / "notes.xyz")


def test_a_pipe_is_refused_at_once(make):
    make.file("x", "")
    os.mkfifo(make.root / "docs_shard_0_v2.jsonl")
    with pytest.raises(UserError) as caught:
        open_reader(make.root / "docs_shard_0_v2.jsonl")
    assert caught.value.code == "corpus_unreadable"


@pytest.mark.parametrize("name", ["x" * 300, "half a \ud83d sign", "nul\0"])
def test_a_name_that_no_place_can_have(name):
    for call in (open_reader, open_corpus):
        with pytest.raises(UserError) as caught:
            call(name)
        assert caught.value.code == "not_found"


@pytest.mark.parametrize(
    ("format", "options", "field"),
    [
        ("mmc4", {"threshold": 0.3}, "threshold"),
        ("mmc4", {"images": 3}, "images"),
        ("native", {"images": "x"}, "images"),
        ("obelics", {"bytes_column": ""}, "bytes_column"),
        ("webdataset", {"caption_field": None}, "caption_field"),
    ],
)
def test_a_wrong_option_is_named(make, format, options, field):
    make.file("x", "")
    with pytest.raises(UserError, match=field) as caught:
        open_reader(make.root, format, **options)
    assert (caught.value.code, caught.value.field) == ("bad_option", field)


def test_images_that_are_not_there_are_a_wrong_option(make):
    make.jsonl("docs_shard_0_v2.jsonl", [])
    with pytest.raises(UserError) as caught:
        list(open_reader(make.root, images=make.root / "none").records())
    assert (caught.value.code, caught.value.field) == ("bad_option", "images")


def test_readers_and_images_can_be_sent_to_a_process(make, sample):
    make.jsonl("docs_shard_0_v2.jsonl", sample.mmc4())
    make.files("images", sample.mmc4_images())
    reader = pickle.loads(pickle.dumps(open_reader(str(make.root))))
    record = pickle.loads(pickle.dumps(next(iter(reader.records()))))
    image = record.images[0]
    assert image.load() == sample.mmc4_images()[image.name]


def test_folders_are_recognised_by_what_they_hold(make, sample_zip):
    make.jsonl("a/docs_no_face_shard_1_v3.jsonl", [])
    make.parquet("b/x.parquet", {"images": [["u"]], "texts": [[None]]})
    make.tar("c/x.tar", [("0.jpg", b"x")])
    make.jsonl("d/pairs.jsonl", [])
    found = [open_reader(make.root / name).format for name in "abcd"]
    assert found == ["mmc4", "obelics", "webdataset", "native"]
    assert open_reader(sample_zip).format == "native"
