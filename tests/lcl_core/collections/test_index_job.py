"""The index run as a process: from a corpus and an encoder to a collection that answers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lcl_core.collections import vector_index
from lcl_core.collections.collection import Collection
from lcl_core.collections.index_job import MAX_CAPTION, dtype_for, run_index_job, shorten
from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import ExitCode, JobCancelled, RunDir
from lcl_core.encoders.engine import EncoderEngine
from tests.lcl_core.train.small_runs import finished


def prepare(place, corpus, encoder_directory, **spec):
    place.mkdir(exist_ok=True)
    run_dir = RunDir(place)
    run_dir.prepare(
        {
            "run_id": "run_1",
            "kind": "index",
            "spec": {"encoder": "small", "collection": "pictures", "batch_size": 16, **spec},
            "datasets": {"sample": str(corpus)},
            "encoders": {"small": str(encoder_directory)},
            "attempt": 1,
        }
    )
    return run_dir


def write_corpus(place, sample, broken):
    """A folder corpus: four images of the sample, the first one on two lines, and ``broken`` ones."""
    (place / "images").mkdir(parents=True)
    lines = []
    for number, pair in enumerate(list(sample.pairs("val"))[:4]):
        (place / "images" / f"{number}.webp").write_bytes(sample.image_bytes(pair.image))
        lines.append({"image": f"{number}.webp", "captions": list(pair.captions), "labels": pair.labels})
    lines.append({"image": "0.webp", "captions": ["seen twice"]})
    for name, data in broken.items():
        (place / "images" / name).write_bytes(data)
        lines.append({"image": name, "captions": ["broken"]})
    (place / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return place


def metrics(run_dir):
    return [json.loads(line) for line in run_dir.metrics_file.read_text().splitlines()]


def job(run_dir):
    return "lcl_core.collections.index_job", str(run_dir.path)


def test_a_collection_of_a_split(tmp_path, sample, sample_zip, encoder):
    run_dir = prepare(tmp_path / "run", sample_zip, encoder, splits=["val"])
    result, pairs = run_index_job(run_dir), sample.pairs("val")
    session = EncoderEngine(encoder, device="cpu")
    collection = Collection.open(run_dir.path / result["collection"]["path"], verify=True)
    assert result["collection"] == {
        "path": "artifacts/collection",
        "name": "pictures",
        "encoder_hash": session.hash,
        "images": len(pairs),
        "texts": len({caption for pair in pairs for caption in pair.captions}),
        "dim": session.dim,
        "index": "files",
    }
    assert result["skipped"] == {}
    assert collection.manifest.dataset_hash == sample.content_hash()
    positions, places = collection.neighbour_places()
    assert (len(positions), places.shape) == (len(pairs), (len(pairs), 2))
    assert metrics(run_dir)[-1]["phase"] == "map"
    pair = pairs[40]
    hit = collection.search(session.embed_images([sample.read_image(pair.image)])[0], k=1)[0]
    assert hit.metadata["image"] == pair.image
    assert hit.metadata["labels"] == pair.labels
    assert hit.score == pytest.approx(1, abs=1e-4)
    assert collection.image_bytes(hit.id) == sample.image_bytes(pair.image)
    words = collection.search(session.embed_texts([pair.captions[0]])[0], k=1, target="texts")[0]
    assert words.metadata["text"] == pair.captions[0]
    assert hit.id in words.metadata["items"]


def test_a_map_that_cannot_be_computed_is_told_and_fails_no_run(tmp_path, sample_zip, encoder, monkeypatch, caplog):
    def too_large(*_):
        raise MemoryError("no room")

    monkeypatch.setattr("lcl_core.collections.writer.project_neighbours", too_large)
    result = run_index_job(prepare(tmp_path / "run", sample_zip, encoder, splits=["val"]))
    assert Collection.open(tmp_path / "run" / result["collection"]["path"]).neighbour_places() is None
    assert "the map by neighbours could not be computed (no room)" in caplog.text


def test_unreadable_images_are_set_aside_with_their_reasons(tmp_path, sample, encoder):
    broken = {"text.png": b"not an image", "cut.webp": sample.image_bytes(sample.pairs("val")[0].image)[:200]}
    corpus = write_corpus(tmp_path / "corpus", sample, broken)
    with (corpus / "pairs.jsonl").open("a") as file:
        file.write(json.dumps({"image": "gone.png", "captions": ["gone"]}) + "\n")
    run_dir = prepare(tmp_path / "run", corpus, encoder)
    result = run_index_job(run_dir)
    assert result["collection"]["images"] == 4
    assert result["skipped"] == {"image_unreadable": 2, "file_missing": 1}
    lines = [json.loads(line) for line in (run_dir.artifacts / "quarantine.jsonl").read_text().splitlines()]
    assert [(line["image"], line["code"]) for line in lines] == [
        ("text.png", "image_unreadable"),
        ("cut.webp", "image_unreadable"),
        ("gone.png", "file_missing"),
    ]
    assert all(line["message"] for line in lines)
    collection = Collection.open(run_dir.artifacts / "collection")
    twice = collection.items()[0]
    assert twice["captions"] == [*sample.pairs("val")[0].captions, "seen twice"], "an image is there once"
    texts, _ = collection.vectors("texts")
    assert len(texts) == result["collection"]["texts"]
    assert metrics(run_dir)[-1]["step"] == metrics(run_dir)[-1]["total_steps"]


def test_nothing_readable_fails_with_the_reason(tmp_path, encoder):
    corpus = tmp_path / "corpus"
    (corpus / "images").mkdir(parents=True)
    (corpus / "images" / "a.png").write_bytes(b"no image")
    (corpus / "pairs.jsonl").write_text('{"image": "a.png", "captions": ["a"]}\n')
    run_dir = prepare(tmp_path / "run", corpus, encoder)
    assert finished(run_dir, *job(run_dir)) == ExitCode.USER_ERROR, run_dir.log_file.read_text()
    error = json.loads(run_dir.error_file.read_text())
    assert error["code"] == "no_data"
    assert "a.png" in error["message"]
    assert "Traceback" not in run_dir.log_file.read_text()
    assert [path.name for path in run_dir.artifacts.iterdir()] == ["quarantine.jsonl"]


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"splits": ["nowhere"]}, "no_data", "splits"),
        ({"batch_size": 0}, "bad_spec", "batch_size"),
        ({"encoder": "stranger"}, "not_found", "encoder"),
        ({"dataset": "stranger"}, "not_found", "dataset"),
    ],
)
def test_bad_questions_name_their_field(tmp_path, sample_zip, encoder, change, code, field):
    run_dir = prepare(tmp_path / "run", sample_zip, encoder, **change)
    with pytest.raises(UserError) as caught:
        run_index_job(run_dir)
    assert (caught.value.code, caught.value.field) == (code, field)
    assert list(run_dir.artifacts.iterdir()) == []


def test_a_corpus_without_captioned_images_is_reported_so(tmp_path, encoder):
    (tmp_path / "interleaved.jsonl").write_text('{"text_list": ["a"], "image_info": []}\n')
    run_dir = prepare(tmp_path / "run", tmp_path, encoder)
    with pytest.raises(UserError, match="no captioned images") as caught:
        run_index_job(run_dir)
    assert caught.value.code == "no_data"


def test_images_of_documents_have_the_text_that_they_belong_to(tmp_path, sample, encoder):
    """Where there are no captioned images. An image in two documents is one item with both texts."""
    corpus = write_corpus(tmp_path / "corpus", sample, {})
    (corpus / "pairs.jsonl").unlink()
    matched = [("0.webp", 1), ("1.webp", 0), ("2.webp", -1)]
    info = [{"image_name": name, "matched_text_index": place, "matched_sim": 0.3} for name, place in matched]
    segments = [{"text": "before"}, {"image": "0.webp"}, {"image": "3.webp"}, {"text": "after " * 60}]
    beside = {"text_list": [], "image_info": []}
    documents = [{"text_list": ["A.", "B."], "image_info": info}, {**beside, "segments": segments}, {"text_list": 3}]
    (corpus / "interleaved.jsonl").write_text("".join(json.dumps(each) + "\n" for each in documents))
    run_dir = prepare(tmp_path / "run", corpus, encoder)
    result = run_index_job(run_dir)
    assert result["collection"]["images"] == 4
    collection = Collection.open(run_dir.artifacts / "collection")
    captions = {item["image"]: item["captions"] for item in collection.items()}
    assert captions["0.webp"] == ["B.", "before"]
    assert captions["1.webp"] == ["A."]
    assert captions["2.webp"] == []
    (cut,) = captions["3.webp"]
    assert cut.startswith("after after")
    assert 150 < len(cut) <= 200


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("a  bird\n in a tree ", "a bird in a tree"),
        ("x" * MAX_CAPTION, "x" * MAX_CAPTION),
        ("这是一只红色的鸟。" * 40, ("这是一只红色的鸟。" * 40)[: MAX_CAPTION - 1] + "…"),
        ("https://example.org/" + "x" * 300, "https://example.org/" + "x" * (MAX_CAPTION - 21) + "…"),
        ("a bird " + "x" * 300, "a bird " + "x" * (MAX_CAPTION - 8) + "…"),
        ("word " * 60, "word " * 39 + "word…"),
        ("x" * (MAX_CAPTION - 1) + " more", "x" * (MAX_CAPTION - 1) + "…"),
    ],
)
def test_a_long_text_is_cut_at_the_limit_also_without_blanks(text, caption):
    assert shorten(text) == caption
    assert len(caption) <= MAX_CAPTION


def test_a_stop_between_batches_leaves_nothing_half_written(tmp_path, sample_zip, encoder):
    run_dir = prepare(tmp_path / "run", sample_zip, encoder)
    run_dir._stop.set()
    with pytest.raises(JobCancelled):
        run_index_job(run_dir)
    assert len(metrics(run_dir)) == 1
    assert list(run_dir.artifacts.iterdir()) == []


@pytest.mark.parametrize("searched_by", ["files", "qdrant"])
def test_who_is_searched_elsewhere_needs_no_graph(tmp_path, sample, encoder, monkeypatch, searched_by):
    monkeypatch.setattr(vector_index, "EXACT_ROWS", 2)
    run_dir = prepare(tmp_path / "run", write_corpus(tmp_path / "corpus", sample, {}), encoder, index=searched_by)
    assert run_index_job(run_dir)["collection"]["index"] == searched_by
    found = [path.name for path in (run_dir.artifacts / "collection").glob("*.usearch")]
    assert len(found) == (2 if searched_by == "files" else 0)


def test_texts_that_nothing_can_store_are_replaced(tmp_path, sample, encoder):
    corpus = write_corpus(tmp_path / "corpus", sample, {})
    line = {
        "image": "1.webp",
        "captions": ["half \ud83d", "a\0b"],
        "labels": {"k\udc00": "\ud800", "n": "\0"},
        "split": "\ud800",
    }
    (corpus / "pairs.jsonl").write_text(json.dumps(line) + "\n")
    run_dir = prepare(tmp_path / "run", corpus, encoder)
    assert run_index_job(run_dir)["collection"]["texts"] == 2
    collection = Collection.open(run_dir.artifacts / "collection", verify=True)
    (item,) = collection.items()
    assert item["captions"] == ["half \ufffd", "a\ufffdb"]
    assert (item["labels"], item["split"]) == ({"k\ufffd": "\ufffd", "n": "\ufffd"}, "\ufffd")
    assert {hit.metadata["text"] for hit in collection.search(collection.vector(item["id"]), target="texts")} == set(
        item["captions"]
    )
    assert collection.label_values()["k\ufffd"] == ["\ufffd"]


def test_many_vectors_are_kept_in_half_the_bytes():
    assert dtype_for(100_000, 512) == "f32"
    assert dtype_for(1_000_000, 512) == "f16"


def with_labels(place, sample, years):
    (place / "images").mkdir(parents=True)
    lines = []
    for number, (pair, year) in enumerate(zip(sample.pairs("val"), years, strict=False)):
        (place / "images" / f"{number}.webp").write_bytes(sample.image_bytes(pair.image))
        labels = {"year": year, "code": f"{number}", "tags": "red; round"}
        lines.append({"image": f"{number}.webp", "captions": ["a thing"], "labels": labels})
    (place / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return place


def test_types_of_labels_are_inferred_or_stated(tmp_path, sample, encoder):
    corpus = with_labels(tmp_path / "corpus", sample, ["1990", "2001"])
    run_dir = prepare(tmp_path / "run", corpus, encoder, label_types={"code": "text", "tags": "set"})
    result = run_index_job(run_dir)
    collection = Collection.open(run_dir.path / result["collection"]["path"])
    assert collection.label_types() == {
        **{"split": "text", "source": "text"},
        **{"year": "number", "code": "text", "tags": "set"},
    }
    query = np.ones(collection.dim)
    (hit,) = collection.search(query, where={"year": {"gt": 1990}, "tags": {"all": ["red", "round"]}})
    assert hit.metadata["labels"] == {"year": "2001", "code": "1", "tags": "red; round"}
    assert [entry["phase"] for entry in metrics(run_dir)][-1] == "texts"


@pytest.mark.parametrize(
    ("types", "code", "field"),
    [
        ({"year": "number"}, "invalid_value", "label_types.year"),
        ({"yaer": "number"}, "invalid_value", "label_types.yaer"),
    ],
)
def test_a_type_that_does_not_fit_fails_before_anything_is_embedded(tmp_path, sample, encoder, types, code, field):
    corpus = with_labels(tmp_path / "corpus", sample, ["1990", "about 2000"])
    run_dir = prepare(tmp_path / "run", corpus, encoder, label_types=types)
    with pytest.raises(UserError) as caught:
        run_index_job(run_dir)
    assert (caught.value.code, caught.value.field) == (code, field)
    assert not run_dir.metrics_file.exists()
