"""An index run in parts: the files of one that embeds all at once, whoever embeds the parts, and whatever is killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lcl_core.collections.file_format import MANIFEST
from lcl_core.collections.index_job import RejectedItems, run_index_job
from lcl_core.common.errors import StoreError
from lcl_core.common.run_dir import JobCancelled, JobProgress
from lcl_core.data.corpus.file_corpus import FileCorpus
from lcl_core.encoders.engine import EncoderEngine
from tests.lcl_core.collections.test_index_job import metrics, prepare

ROOT = Path(__file__).parents[3]
BATCH = 8
IMAGES = 104  # 13 batches: 7 parts of 16 images


@pytest.fixture(autouse=True)
def one_thread():
    """As each of several processes embeds with."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, sample):
    """Images of the sample; two cannot be read, and some share captions with others that are far from them."""
    place = tmp_path_factory.mktemp("corpus")
    (place / "images").mkdir()
    lines = []
    for number, pair in enumerate(list(sample.pairs("train"))[: IMAGES - 2]):
        (place / "images" / f"{number}.webp").write_bytes(sample.image_bytes(pair.image))
        captions = [*pair.captions, f"number {number % 40}"]
        lines.append({"image": f"{number}.webp", "captions": captions, "labels": pair.labels})
    (place / "images" / "bad.png").write_bytes(b"no image")
    lines.insert(30, {"image": "bad.png", "captions": ["bad"]})
    lines.insert(90, {"image": "gone.png", "captions": ["gone"]})
    (place / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return place


@pytest.fixture
def run(tmp_path, corpus, encoder):
    def prepared(name, **spec):
        return prepare(tmp_path / name, corpus, encoder, batch_size=BATCH, **spec)

    return prepared


def contents(run_dir):
    """All files of the output; of the manifest all but the time."""
    found: dict[str, Any] = {
        path.relative_to(run_dir.artifacts).as_posix(): path.read_bytes()
        for path in run_dir.artifacts.rglob("*")
        if path.is_file()
    }
    manifest = json.loads(found.pop(f"collection/{MANIFEST}"))
    assert manifest.pop("created_at")
    return found | {"manifest": manifest}


@pytest.fixture
def expected(run):
    run_dir = run("whole")
    assert run_index_job(run_dir, part_items=1000)["skipped"] == {"image_unreadable": 1, "file_missing": 1}
    return contents(run_dir)


def test_the_files_do_not_depend_on_parts(run, expected):
    run_dir = run("parts")
    run_index_job(run_dir, part_items=16)
    assert contents(run_dir) == expected
    assert list(run_dir.checkpoints.iterdir()) == [], "the parts have gone into the collection"


def test_an_interrupted_run_embeds_what_is_missing(run, expected, monkeypatch):
    run_dir, embedded, stop = run("parts"), {"images": 0, "texts": 0}, {"images": 50, "texts": 30}
    pixels, texts, advance = EncoderEngine.embed_pixels, EncoderEngine.embed_texts, JobProgress.__call__

    def count(what, embed):
        def counted(self, given):
            embedded[what] += len(given)
            return embed(self, given)

        return counted

    def interrupted(self, done, total):
        advance(self, done, total)
        if stop and all(embedded[what] >= most for what, most in stop.items()):
            raise JobCancelled

    monkeypatch.setattr(EncoderEngine, "health", lambda self: {})
    monkeypatch.setattr(EncoderEngine, "embed_pixels", count("images", pixels))
    monkeypatch.setattr(EncoderEngine, "embed_texts", count("texts", texts))
    monkeypatch.setattr(JobProgress, "__call__", interrupted)
    for limits in ({"images": 50}, {"texts": 30}):
        stop = limits
        with pytest.raises(JobCancelled):
            run_index_job(run_dir, part_items=16)
        assert not list(run_dir.artifacts.glob("*collection*"))
    stop = {}
    result = run_index_job(run_dir, part_items=16)
    assert contents(run_dir) == expected
    assert embedded["images"] <= IMAGES - 2 + 16
    assert embedded["texts"] <= result["collection"]["texts"] + 16
    last = metrics(run_dir)[-1]
    assert (last["step"], last["seconds_left"]) == (last["total_steps"], 0)


def test_an_outage_leaves_no_image_out_and_the_next_attempt_continues(run, expected, monkeypatch):
    def refuse(self, name):
        if name == "70.webp":
            raise StoreError("it does not answer", code="store_unreachable")
        return image_bytes(self, name)

    run_dir, image_bytes = run("parts"), FileCorpus.image_bytes
    with monkeypatch.context() as patch:
        patch.setattr(FileCorpus, "image_bytes", refuse)
        with pytest.raises(StoreError):
            run_index_job(run_dir, part_items=16)
    run_index_job(run_dir, part_items=16)
    assert contents(run_dir) == expected


def test_another_encoder_or_other_images_begin_anew(tmp_path, corpus, encoders, monkeypatch):
    embedded: list[int] = []
    pixels = EncoderEngine.embed_pixels
    monkeypatch.setattr(EncoderEngine, "health", lambda self: {})
    monkeypatch.setattr(
        EncoderEngine, "embed_pixels", lambda self, given: embedded.append(len(given)) or pixels(self, given)
    )
    with monkeypatch.context() as patch:
        patch.setattr(RejectedItems, "raise_if_all", interrupt)
        with pytest.raises(JobCancelled):
            run_index_job(prepare(tmp_path / "run", corpus, encoders[0], batch_size=BATCH))
    assert sum(embedded) == IMAGES - 2
    run_index_job(prepare(tmp_path / "run", corpus, encoders[1], batch_size=BATCH))
    assert sum(embedded) == 2 * (IMAGES - 2)


def interrupt(*_):
    raise JobCancelled
