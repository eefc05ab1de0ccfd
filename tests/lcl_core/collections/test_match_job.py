"""The match run with a real, small encoder."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lcl_core.collections import match_job
from lcl_core.collections.match_job import PairEncoder, match_records, max_similarity_assignment, run_match_job
from lcl_core.common.errors import StoreError, UserError
from lcl_core.common.run_dir import JobCancelled, RunDir
from lcl_core.data import open_corpus
from lcl_core.data.records import (
    BadItem,
    CaptionedImage,
    ImageMatch,
    ImageSegment,
    MatchedDocument,
    Record,
    RecordImage,
    TextSegment,
)
from lcl_core.data.records import SequenceDocument as Laid
from tests.lcl_core.data.conftest import Kit
from tests.lcl_core.encoders.external_samples import save_huggingface

pytest.importorskip("scipy")


@pytest.fixture
def kit(tmp_path):
    return Kit(tmp_path / "corpus")


def write_corpus(folder):
    """One document whose images stand nowhere in particular."""
    (folder / "images").mkdir(parents=True)
    infos = []
    for _place, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (32, 32), colour).save(folder / "images" / f"{colour}.png")
        infos.append({"image_name": f"{colour}.png", "matched_text_index": 0, "matched_sim": 0.0})
    texts = ["one sentence", "another", "a third", "the last"]
    (folder / "interleaved.jsonl").write_text(json.dumps({"text_list": texts, "image_info": infos}) + "\n")
    return folder


def ask(tmp_path, **encoders):
    run_dir = RunDir(tmp_path / "run")
    run_dir.path.mkdir()
    spec = {"path": str(write_corpus(tmp_path / "corpus")), "encoder": "tiny", "name": "matched"}
    run_dir.prepare({"run_id": "run_1", "kind": "match", "spec": spec, "datasets": {}, "encoders": encoders})
    return run_dir


def test_images_get_a_sentence_each_with_the_encoders_similarity(tmp_path, encoder):
    run_dir = ask(tmp_path, tiny=str(encoder))
    result = run_match_job(run_dir)
    made = open_corpus(run_dir.artifacts / "dataset")
    infos = made.documents[0]["image_info"]
    assert len({info["matched_text_index"] for info in infos}) == 3
    assert all(-1 <= info["matched_sim"] <= 1 and info["matched_sim"] != 0 for info in infos)
    assert len(result["encoder_hash"]) == 64
    assert result["dataset"]["name"] == "matched"


def test_an_unknown_encoder_is_named(tmp_path):
    with pytest.raises(UserError, match="'tiny' is not registered") as caught:
        run_match_job(ask(tmp_path))
    assert caught.value.field == "encoder"


def test_an_encoder_of_images_alone_is_refused_at_once(tmp_path):
    encoder = save_huggingface(tmp_path / "dinov2", "dinov2")
    with pytest.raises(UserError, match="'tiny' reads images alone") as caught:
        run_match_job(ask(tmp_path, tiny=str(encoder)))
    assert (caught.value.code, caught.value.field) == ("no_text_encoder", "encoder")


pytest.importorskip("scipy")
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def embed_images(images):
    """The colour of an image as a vector of length 1."""
    rows = np.array([image.getpixel((0, 0)) for image in images], np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def embed_texts(texts):
    """The colours that a text names."""
    rows = np.array([[float(name in text) for name in COLOURS] for text in texts], np.float32) + 0.01
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


ENCODER = PairEncoder(lambda image: image, 0, embed_images, embed_texts)


def laid(kit, *parts, broken=()):
    """A sequence of sentences and, by colour, of images."""

    def load(name):
        if name in broken:
            raise UserError("gone", code="file_missing", file=name)
        return kit.png(COLOURS[name])

    segments = tuple(ImageSegment(part) if part in COLOURS else TextSegment(part) for part in parts)
    names = dict.fromkeys(part for part in parts if part in COLOURS)
    images = tuple(RecordImage(name, lambda name=name: load(name)) for name in names)
    return Record("doc:1", Laid(segments), images, source="wiki", extra={"url": "u"})


def pairs_of(record):
    assert isinstance(record, Record)
    assert isinstance(record.body, MatchedDocument)
    return {match.image: match.sentence for match in record.body.matches}


def test_the_sum_is_the_largest_that_any_assignment_has():
    draw = np.random.default_rng(0)
    for images, sentences in ((1, 1), (2, 5), (4, 4), (5, 3)):
        matrix = draw.normal(size=(images, sentences))
        got = max_similarity_assignment(matrix)
        assert len(got) == min(images, sentences)
        assert len({sentence for _, sentence in got}) == len({image for image, _ in got}) == len(got)
        larger, smaller = max(images, sentences), min(images, sentences)
        square = matrix if images <= sentences else matrix.T
        best = max(
            sum(square[place, column] for place, column in enumerate(choice))
            for choice in itertools.permutations(range(larger), smaller)
        )
        assert sum(matrix[pair] for pair in got) == pytest.approx(best)


def test_what_was_said_of_images_of_other_matches_is_dropped(kit):
    """It is in the order of the earlier matches: another image would get the subject."""
    record = laid(kit, "blue", "this is red", "here is blue", "red")
    fields = {"url": "u", "image_info": [{"subject": {"concept": "a"}}, {"subject": {"concept": "b"}}]}
    (got,) = match_records([replace(record, extra=fields)], ENCODER)
    assert isinstance(got, Record)
    assert got.extra == {"url": "u"}


def test_a_sequence_becomes_sentences_with_their_images(kit):
    record = laid(kit, "blue", "this is red", "green", "here is blue", "nothing", "red", "green leaves")
    (got,) = match_records([record], ENCODER)
    assert pairs_of(got) == {"blue": 1, "green": 3, "red": 0}
    assert isinstance(got, Record)
    assert (got.id, got.source, got.extra) == ("doc:1", "wiki", {"url": "u"})
    assert got.body.sentences[2] == "nothing"  # type: ignore[union-attr]
    assert got.body.matches[0].similarity == pytest.approx(1, abs=0.01)  # type: ignore[union-attr]
    assert {image.name: image.load() for image in got.images} == {
        name: kit.png(COLOURS[name]) for name in ("red", "green", "blue")
    }


def test_no_sentence_gets_two_and_the_image_that_fits_least_is_left_out(kit):
    (got,) = match_records([laid(kit, "red", "red", "a red thing", "green", "blue", "green grass")], ENCODER)
    assert pairs_of(got) == {"red": 0, "green": 1}
    assert [image.name for image in got.images] == ["red", "green"]  # type: ignore[union-attr]


def test_matches_without_scores_are_made_anew(kit):
    body = MatchedDocument(("green", "red"), (ImageMatch("red", 0, 0.0), ImageMatch("green", 0, 0.0)))
    images = tuple(RecordImage(name, lambda name=name: kit.png(COLOURS[name])) for name in ("red", "green"))
    (got,) = match_records([Record("a:1", body, images)], ENCODER)
    assert pairs_of(got) == {"red": 1, "green": 0}


def test_what_cannot_be_matched_is_listed_and_the_rest_goes_on(kit):
    pair = Record("p:1", CaptionedImage("x", ("c",)), ())
    bad = BadItem("f", 3, "not JSON")
    given = [
        pair,
        bad,
        laid(kit, "only words"),
        laid(kit, "red", "  "),
        laid(kit, "red", "so red", broken=("red",)),
        laid(kit, "green", "red", "a red one", broken=("green",)),
    ]
    got = list(match_records(given, ENCODER))
    assert got[:2] == [pair, bad]
    assert [item.reason for item in got[2:-1] if isinstance(item, BadItem)] == [
        "nothing to match",
        "nothing to match",
        "file_missing",
        "no usable image",
        "file_missing",
    ]
    assert pairs_of(got[-1]) == {"red": 0}


def test_an_image_of_a_store_that_does_not_answer_is_no_unreadable_one():
    def refuse():
        raise StoreError("it does not answer", code="store_unreachable")

    record = Record("a:1", MatchedDocument(("red",), (ImageMatch("red", 0, 0.0),)), (RecordImage("red", refuse),))
    with pytest.raises(StoreError):
        list(match_records([record], ENCODER))


@pytest.mark.parametrize("limit", ["records", "bytes"])
def test_documents_are_embedded_together_and_none_is_mixed_up(kit, monkeypatch, limit):
    """Groups begin at the same records whatever part they are in, so that vectors have the same bits."""
    monkeypatch.setattr(match_job, "GROUP_RECORDS", 4)
    if limit == "bytes":
        monkeypatch.setattr(match_job, "GROUP_BYTES", 1)
    embedded: list[list[str]] = []

    def texts(items):
        embedded.append(list(items))
        return embed_texts(items)

    names = list(COLOURS)
    given = [laid(kit, names[number % 3], "nothing", f"{names[number % 3]} {number}") for number in range(9)]
    got = list(match_records([*given[:4], BadItem("f", 1, "bad"), *given[4:]], replace(ENCODER, texts=texts)))
    assert [isinstance(item, BadItem) for item in got] == [number == 4 for number in range(10)]
    kept = [item for item in got if isinstance(item, Record)]
    assert [pairs_of(record) for record in kept] == [{names[number % 3]: 1} for number in range(9)]
    if limit == "bytes":
        assert len(embedded) == 9
    else:
        assert [len(batch) for batch in embedded] == [5, 4, 3], "a sentence that is repeated is embedded once"


def test_a_stopped_run_embeds_no_further_batch(tmp_path, encoder):
    run_dir = ask(tmp_path, tiny=str(encoder))
    run_dir._stop.set()
    with pytest.raises(JobCancelled):
        run_match_job(run_dir)


def test_without_scipy_the_way_out_is_reported(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(UserError, match=r"lcl\[data\]"):
        max_similarity_assignment(np.ones((1, 1)))
