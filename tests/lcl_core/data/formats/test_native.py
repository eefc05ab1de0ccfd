"""Our own folder or zip, as records."""

import pytest

from lcl_core.common.errors import UserError
from lcl_core.data import open_corpus
from lcl_core.data.formats import open_reader
from lcl_core.data.records import CaptionedImage, MatchedDocument
from lcl_core.data.shards.convert import convert


def test_the_sample_corpus_is_read_whole(sample_zip):
    corpus = open_corpus(sample_zip)
    reader = open_reader(sample_zip)
    assert reader.format == "native"
    records = list(reader.records())
    documents = [record for record in records if isinstance(record.body, MatchedDocument)]
    pairs = [record for record in records if isinstance(record.body, CaptionedImage)]
    assert records == [*documents, *pairs]
    assert len({record.id for record in records}) == len(records)
    for record, row in zip(documents, corpus.documents, strict=True):
        assert list(record.body.sentences) == row["text_list"]
        found = [(match.image, match.sentence, match.similarity) for match in record.body.matches]
        assert found == [
            (image["image_name"], image["matched_text_index"], image["matched_sim"]) for image in row["image_info"]
        ]
        assert (record.source, record.extra["url"]) == (row["source"], row["url"])
        assert [image["insert_before"] for image in record.extra.get("image_info", [])] == [
            image["insert_before"] for image in row["image_info"]
        ]
    for record, pair in zip(pairs, corpus.pairs(), strict=True):
        assert record.body == CaptionedImage(pair.image, pair.captions, pair.labels)
        assert (record.split, record.source, record.extra) == (pair.split, pair.source, pair.extra)
    sample_image = documents[0].images[0]
    assert sample_image.load() == corpus.image_bytes(sample_image.name)


def test_several_files_in_a_folder(make, walk):
    for name in ("a", "val", "test_vendor"):
        make.jsonl(f"interleaved/{name}.jsonl", [{"text_list": [name], "image_info": []}])
    make.jsonl("pairs/b.jsonl", [{"image": "x.png", "captions": ["c"], "split": "val"}])
    records, bad = walk(open_reader(make.root))
    assert bad == []
    assert [(record.id, record.split) for record in records] == [
        ("interleaved/a.jsonl:1", "train"),
        ("interleaved/test_vendor.jsonl:1", "test_vendor"),
        ("interleaved/val.jsonl:1", "val"),
        ("pairs/b.jsonl:1", "val"),
    ]


@pytest.mark.parametrize("held_out", ["val-00000", "validation", "val/a", "test/a", "test/val/a", "test_vendor/train"])
def test_documents_to_train_on_are_the_same_after_conversion(make, tmp_path, held_out):
    for name in ("train", "vendor/val", held_out):
        make.jsonl(f"interleaved/{name}.jsonl", [{"text_list": [name], "image_info": []}])
    convert(open_reader(make.root).records(), tmp_path / "shards")
    trained = [
        [row["text_list"][0] for row in open_corpus(path).documents] for path in (make.root, tmp_path / "shards")
    ]
    assert trained == [["train", "vendor/val"]] * 2
    splits = {record.split for record in open_reader(make.root).records()}
    assert splits == {"train", held_out.partition("/")[0]}


def test_a_folder_without_the_files(make):
    make.file("README", "nothing")
    with pytest.raises(UserError) as caught:
        list(open_reader(make.root, format="native").records())
    assert caught.value.code == "corpus_unreadable"
