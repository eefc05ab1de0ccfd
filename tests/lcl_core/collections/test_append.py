"""An index run that adds to a collection: what is there is taken over as it is, changes and all."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lcl_core.collections.changes import ChangeRecord, DeltaSnapshot, write_snapshot
from lcl_core.collections.collection import Collection
from lcl_core.collections.file_format import stable_hash64
from lcl_core.collections.index_job import run_index_job
from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import RunDir
from lcl_core.encoders.engine import EncoderEngine


def write_corpus(place, sample, numbers):
    """Images ``N.webp`` of the sample, each with its captions."""
    (place / "images").mkdir(parents=True)
    lines = []
    for number, pair in zip(numbers, list(sample.pairs("val"))[numbers.start : numbers.stop], strict=True):
        (place / "images" / f"{number}.webp").write_bytes(sample.image_bytes(pair.image))
        lines.append({"image": f"{number}.webp", "captions": list(pair.captions), "labels": pair.labels})
    (place / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return place


def identity(name):
    return f"img_{stable_hash64(name):016x}"


class IndexRuns:
    """Runs index runs one after another, each on what the one before made."""

    def __init__(self, place, sample, encoder):
        self.place, self.sample, self.encoder = place, sample, encoder
        self.session = EncoderEngine(encoder, device="cpu")

    def run(self, name, numbers, base=None, **more):
        """The directory made, and the result."""
        run_dir = RunDir(self.place / name)
        run_dir.path.mkdir()
        spec = {
            "encoder": "small",
            "collection": "pictures",
            "mode": "add" if base else "replace",
            "batch_size": 4,
        } | more
        datasets = {}
        if numbers is not None:
            datasets["pictures"] = str(write_corpus(self.place / f"{name}-corpus", self.sample, numbers))
        facts = {"id": "col_1", "stored": "collections/col_1", "path": str(base), "through": 7, "index": "qdrant"}
        facts["changes"] = str(run_dir.path / "changes")
        run_dir.prepare(
            {
                "spec": spec | {"dataset": "pictures" if datasets else None},
                "datasets": datasets,
                "encoders": {"small": str(self.encoder)},
                "collections": {"pictures": facts} if base else {},
            }
        )
        write_snapshot(run_dir.path / "changes", self.changes)
        result = run_index_job(run_dir)
        return run_dir.path / result["collection"]["path"], result

    changes: list[tuple[ChangeRecord, bytes]] = []  # noqa: RUF012 (replaced, never changed)

    def added(self, number, name, by="hand"):
        """An image that the sample does not name so, with a caption of its own and one of the sample's."""
        pair = self.sample.pairs("val")[20]
        captions = ["added by hand", self.sample.pairs("val")[0].captions[0]]
        record = {"id": identity(name), "image": name, "captions": captions, "labels": {"by": by}}
        record |= {"split": "", "source": "", "media_type": "image/webp"}
        vector = self.session.embed_images([self.sample.read_image(pair.image)])[0]
        texts = self.session.embed_texts(captions)
        change = ChangeRecord(number, identity(name), record, vector.tobytes(), texts.tobytes())
        return change, self.sample.image_bytes(pair.image)


@pytest.fixture
def index_runs(tmp_path, sample, encoder):
    return IndexRuns(tmp_path, sample, encoder)


@pytest.fixture
def embedded(monkeypatch):
    """How many images and texts go through the model."""
    counts = {"images": 0, "texts": 0}
    pixels, texts = EncoderEngine.embed_pixels, EncoderEngine.embed_texts

    def count_pixels(self, given):
        counts["images"] += len(given)
        return pixels(self, given)

    def count_texts(self, given):
        counts["texts"] += len(given)
        return texts(self, given)

    monkeypatch.setattr(EncoderEngine, "health", lambda self: {})  # what an encoder looks at when it is loaded
    monkeypatch.setattr(EncoderEngine, "embed_pixels", count_pixels)
    monkeypatch.setattr(EncoderEngine, "embed_texts", count_texts)
    return counts


def test_only_what_is_new_is_embedded(index_runs, embedded):
    base, _ = index_runs.run("base", range(8))
    index_runs.changes = [index_runs.added(3, "hand.webp"), (ChangeRecord(7, identity("2.webp")), b"")]
    embedded.update(images=0, texts=0)
    place, result = index_runs.run("more", range(6, 11), base)
    assert embedded["images"] == 3, "6 and 7 are there"
    older, newer = Collection.open(base), Collection.open(place, verify=True)
    names = [record["image"] for record in newer.items(0, 100)]
    assert names == [*(f"{n}.webp" for n in (0, 1, 3, 4, 5, 6, 7)), "hand.webp", *(f"{n}.webp" for n in (8, 9, 10))]
    facts = {"id": "col_1", "base": "collections/col_1", "through": 7, "images": 11, "texts": newer.count("texts")}
    facts["index"] = "qdrant"  # as it was
    assert facts.items() <= result["collection"].items()
    assert (result["kept"], result["added"]) == (8, 3)
    known = {older.record("texts", place)["text"] for place in range(older.count("texts"))} | {"added by hand"}
    texts = {newer.record("texts", place)["text"] for place in range(newer.count("texts"))}
    assert embedded["texts"] == len(texts - known)
    check_kept(older, newer, index_runs)


def check_kept(older, newer, index_runs):
    """To the bit, images too; and what was added by hand is found by its image and by its words."""
    for name in (f"{n}.webp" for n in (0, 1, 3, 4, 5, 6, 7)):
        assert np.array_equal(older.vector(identity(name)), newer.vector(identity(name)))
        assert older.image_bytes(identity(name)) == newer.image_bytes(identity(name))
        assert older.item(identity(name)) == newer.item(identity(name))
    change, sample_image = index_runs.changes[0]
    assert newer.image_bytes(change.item) == sample_image
    assert newer.item(change.item) == change.record
    assert newer.vector(change.item).tobytes() == change.vector
    (words,) = newer.search(index_runs.session.embed_texts(["added by hand"])[0], k=1, target="texts")
    assert (words.metadata["text"], words.metadata["items"]) == ("added by hand", [change.item])
    assert newer.label_values()["by"] == ["hand"]
    with pytest.raises(UserError):
        newer.item(identity("2.webp"))


def test_without_a_dataset_it_only_folds(index_runs, embedded):
    base, _ = index_runs.run("base", range(4))
    index_runs.changes = [index_runs.added(1, "0.webp")]
    embedded.update(images=0, texts=0)
    place, result = index_runs.run("fold", None, base)
    assert embedded == {"images": 0, "texts": 0}
    assert (result["kept"], result["added"]) == (4, 0)
    folded = Collection.open(place, verify=True)
    assert folded.item(identity("0.webp"))["labels"] == {"by": "hand"}, "it took the older one's place"
    assert folded.manifest.dataset_hash == Collection.open(base).manifest.dataset_hash
    lines = (index_runs.place / "fold" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == json.loads(lines[-1])["total_steps"]


def test_an_image_whose_labels_alone_changed_keeps_its_bytes(index_runs):
    base, _ = index_runs.run("base", range(2))
    older = Collection.open(base)
    record = {**older.item(identity("0.webp")), "labels": {"by": "hand"}}
    vector = older.vector(identity("0.webp")).tobytes()
    texts = b"".join(each.tobytes() for each in older.caption_vectors(record))
    change = ChangeRecord(1, identity("0.webp"), record, vector, texts, keeps_image=True)
    index_runs.changes = [(change, b"")]
    place, _ = index_runs.run("fold", None, base)
    folded = Collection.open(place, verify=True)
    assert folded.item(identity("0.webp"))["labels"] == {"by": "hand"}
    for name in ("0.webp", "1.webp"):
        assert folded.image_bytes(identity(name)) == older.image_bytes(identity(name))


def test_another_encoder_is_refused(index_runs, encoders):
    base, _ = index_runs.run("base", range(2))
    index_runs.encoder = encoders[1]
    with pytest.raises(UserError) as caught:
        index_runs.run("more", range(2, 4), base)
    assert (caught.value.code, caught.value.field) == ("encoder_mismatch", "encoder")
    assert list((index_runs.place / "more" / "artifacts").iterdir()) == []


def test_changes_that_were_cut_are_seen(index_runs, tmp_path):
    change, sample_image = index_runs.added(1, "hand.webp")
    assert write_snapshot(tmp_path / "handed", [(change, sample_image)]) == 1
    handed = DeltaSnapshot(tmp_path / "handed")
    assert (handed.changes, handed.image(change.item)) == ([change], sample_image)
    (file,) = (tmp_path / "handed").iterdir()
    file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(UserError) as caught:
        DeltaSnapshot(tmp_path / "handed")
    assert caught.value.code == "collection_unreadable"


def test_stated_types_of_labels_are_kept_and_others_inferred_anew(index_runs):
    base, _ = index_runs.run("base", range(2))
    index_runs.changes = [index_runs.added(1, "a.webp", "7")]
    inferred, _ = index_runs.run("inferred", None, base)
    assert Collection.open(inferred).label_types()["by"] == "number"
    stated, _ = index_runs.run("stated", None, base, label_types={"by": "text"})
    index_runs.changes = [index_runs.added(2, "b.webp", "8")]
    again, _ = index_runs.run("again", None, stated)
    assert Collection.open(again).label_types()["by"] == "text", "as stated by an earlier run"
    index_runs.changes = [index_runs.added(2, "b.webp", "by hand")]
    mixed, _ = index_runs.run("mixed", None, inferred)
    assert Collection.open(mixed).label_types()["by"] == "text"
    with pytest.raises(UserError, match="'by hand' is no number"):
        index_runs.run("refused", None, inferred, label_types={"by": "number"})
    index_runs.changes = [(ChangeRecord(3, identity("a.webp")), b"")]
    gone, _ = index_runs.run("gone", None, stated)
    assert "by" not in Collection.open(gone).label_types()
