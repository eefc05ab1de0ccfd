"""Corpora: documents, captioned images, images."""

import json
import pickle

import pytest

from lcl_core.common.errors import UserError
from lcl_core.data import open_corpus


def test_documents_and_pairs_of_a_folder_and_of_its_zip(kit):
    documents = [kit.document(["a red square"], kit.image("red.png", 0)), kit.document([])]
    pairs = [
        kit.pair("red.png", "red", "a square", labels={"colour": "red"}, split="val", source="s", vendor="v"),
        kit.pair("blue.png"),
    ]
    folder = kit.corpus(documents, pairs)
    for corpus in (folder, open_corpus(kit.zip())):
        assert list(corpus.documents) == documents
        first, second = corpus.pairs()
        assert (first.image, first.captions, first.labels) == ("red.png", ("red", "a square"), {"colour": "red"})
        assert (first.split, first.source, first.extra) == ("val", "s", {"vendor": "v"})
        assert (second.captions, second.labels, second.split, second.source) == ((), {}, "train", "")
        assert corpus.read_image("red.png").getpixel((0, 0)) == (255, 0, 0)
        assert corpus.image_bytes("red.png") == kit.png((255, 0, 0))


def test_one_bad_line_spoils_no_other_pair(kit):
    corpus = kit.corpus(pairs=[kit.pair("red.png", "red"), {"image": ""}, kit.pair("blue.png", "blue", split="val")])
    pairs = corpus.all_pairs
    assert [len(pairs), pairs[0].captions, pairs[2].split, pairs.location(2)] == [3, ("red",), "val", "pairs.jsonl:3"]
    for read in (lambda: pairs[1], lambda: corpus.pairs("val")):
        with pytest.raises(UserError) as caught:
            read()
        assert (caught.value.code, caught.value.line) == ("bad_document", 2)


def test_a_image_whose_name_is_no_text_has_its_place_in_the_hash(kit):
    corpus = kit.corpus([kit.document(["a"])])
    without = corpus.content_hash()
    kit.write("images/\udcff.png", b"")
    assert open_corpus(kit.root).content_hash() != without


def test_pairs_by_split_and_source(kit):
    rows = [
        kit.pair(f"{number}.png", split=split, source=source)
        for number, (split, source) in enumerate([("train", "a"), ("val", "a"), ("test", "b"), ("train", "b")])
    ]
    corpus = kit.corpus(pairs=rows)

    def chosen(*arguments, **named):
        return [pair.image[0] for pair in corpus.pairs(*arguments, **named)]

    assert chosen() == ["0", "1", "2", "3"]
    assert chosen("train") == ["0", "3"]
    assert chosen(("val", "test")) == ["1", "2"]
    assert chosen(source="b") == ["2", "3"]
    train = corpus.pairs("train")
    assert [train.find(f"pairs.jsonl:{line}") for line in range(1, 6)] == [0, None, None, 1, None]
    assert [corpus.all_pairs.find(f"pairs.jsonl:{line}") for line in (1, 4, 5)] == [0, 3, None]
    assert chosen("train", "b") == ["3"]
    assert chosen("none") == []
    assert corpus.splits() == {"train": 2, "val": 1, "test": 1}
    assert corpus.pairs("train")[1].image == "3.png"


GOOD_IMAGE = {"image_name": "a.png", "matched_text_index": 0, "matched_sim": 0.5}
BAD_DOCUMENTS = [
    ({}, "text_list"),
    ({"text_list": "a", "image_info": []}, "text_list"),
    ({"text_list": [1], "image_info": []}, "text_list"),
    ({"text_list": [None], "image_info": []}, "text_list"),
    ({"text_list": []}, "image_info"),
    ({"text_list": [], "image_info": {}}, "image_info"),
    ({"text_list": [], "image_info": ["a.png"]}, r"image_info\[0\]"),
    ({"text_list": [], "image_info": [GOOD_IMAGE, {**GOOD_IMAGE, "image_name": ""}]}, r"image_info\[1\].image_name"),
    ({"text_list": [], "image_info": [{**GOOD_IMAGE, "image_name": None}]}, "image_name"),
    ({"text_list": [], "image_info": [{**GOOD_IMAGE, "matched_text_index": "0"}]}, "matched_text_index"),
    ({"text_list": [], "image_info": [{**GOOD_IMAGE, "matched_text_index": 0.5}]}, "matched_text_index"),
    ({"text_list": [], "image_info": [{**GOOD_IMAGE, "matched_text_index": True}]}, "matched_text_index"),
    ({"text_list": [], "image_info": [{**GOOD_IMAGE, "matched_sim": "high"}]}, "matched_sim"),
    ({"text_list": [], "image_info": [{**GOOD_IMAGE, "matched_sim": None}]}, "matched_sim"),
]
BAD_PAIRS = [
    ({}, "image"),
    ({"image": "", "captions": []}, "image"),
    ({"image": 1, "captions": []}, "image"),
    ({"image": "a"}, "captions"),
    ({"image": "a", "captions": "text"}, "captions"),
    ({"image": "a", "captions": [1]}, "captions"),
    ({"image": "a", "captions": [], "labels": []}, "labels"),
    ({"image": "a", "captions": [], "labels": {"x": 1}}, "labels"),
    ({"image": "a", "captions": [], "split": 1}, "split"),
    ({"image": "a", "captions": [], "source": None}, "source"),
]


@pytest.mark.parametrize(("row", "field"), BAD_DOCUMENTS)
def test_a_malformed_document_is_named_when_it_is_read(kit, row, field):
    good = kit.document(["x"])
    corpus = kit.corpus([good, row, good])
    assert corpus.documents[0] == corpus.documents[2] == good
    with pytest.raises(UserError, match=field) as caught:
        corpus.documents[1]
    assert (caught.value.code, caught.value.file, caught.value.line) == ("bad_document", "interleaved.jsonl", 2)


@pytest.mark.parametrize(("row", "field"), BAD_PAIRS)
def test_a_malformed_pair_is_named(kit, row, field):
    corpus = kit.corpus(pairs=[kit.pair("red.png", "x"), row])
    with pytest.raises(UserError, match=field) as caught:
        corpus.pairs("train")
    assert (caught.value.code, caught.value.file, caught.value.line) == ("bad_document", "pairs.jsonl", 2)


def test_a_folder_without_the_files_says_what_is_missing(kit):
    kit.write("images/a.png", b"x")
    with pytest.raises(UserError, match=r"interleaved\.jsonl nor pairs\.jsonl") as caught:
        open_corpus(kit.root)
    assert (caught.value.code, caught.value.file) == ("corpus_unreadable", str(kit.root))


def test_unreadable_images_are_named(kit):
    corpus = kit.corpus([])
    kit.write("images/broken.png", b"nothing")
    with pytest.raises(UserError) as broken:
        corpus.read_image("broken.png")
    assert (broken.value.code, broken.value.file) == ("image_unreadable", "images/broken.png")
    with pytest.raises(UserError) as missing:
        corpus.read_image("none.png")
    assert (missing.value.code, missing.value.file) == ("file_missing", "images/none.png")
    with pytest.raises(UserError) as escape:
        corpus.read_image("../pairs.jsonl")
    assert escape.value.code == "bad_path"


def test_the_hash_is_of_names_and_contents(kit):
    corpus = kit.corpus([kit.document(["x"])])
    before = corpus.content_hash()
    assert len(before) == 64
    assert open_corpus(kit.zip()).content_hash() == before
    kit.write("README", "not part of the corpus")
    assert open_corpus(kit.root).content_hash() == before
    kit.write("images/red.png", b"other")
    other = open_corpus(kit.root).content_hash()
    (kit.root / "images" / "red.png").rename(kit.root / "images" / "crimson.png")
    assert len({before, other, open_corpus(kit.root).content_hash()}) == 3


def test_several_files_instead_of_one(kit):
    for name in ("a", "b", "val", "test_vendor"):
        kit.write(f"interleaved/{name}.jsonl", [kit.document([name])])
        kit.write(f"pairs/{name}.jsonl", [kit.pair("red.png", name, split=name)])
    corpus = open_corpus(kit.root)
    assert [row["text_list"] for row in corpus.documents] == [["a"], ["b"]]
    assert sorted(corpus.splits()) == ["a", "b", "test_vendor", "val"]
    kit.write("pairs/b.jsonl", "{\n")
    corpus = open_corpus(kit.root)
    with pytest.raises(UserError) as caught:
        corpus.pairs()
    assert (caught.value.file, caught.value.line) == ("pairs/b.jsonl", 1)


def test_only_one_view_is_needed(kit):
    corpus = kit.corpus(pairs=[kit.pair("red.png", "x")])
    assert len(corpus.documents) == 0
    kit.root = kit.root.with_name("other")
    corpus = kit.corpus([kit.document(["x"])])
    assert len(corpus.pairs()) == 0
    assert corpus.splits() == {}


def test_a_corpus_travels_to_another_process(kit):
    corpus = pickle.loads(pickle.dumps(kit.corpus([kit.document(["x"])])))
    assert corpus.documents[0]["text_list"] == ["x"]


def test_other_fields_of_a_document_are_kept(kit):
    row = {**kit.document(["x"]), "url": "u", "similarity_matrix": [[0.5]]}
    assert kit.corpus([row]).documents[0] == json.loads(json.dumps(row))
