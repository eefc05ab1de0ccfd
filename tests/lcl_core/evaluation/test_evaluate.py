"""The evaluation run as a whole, on a small corpus and on the sample."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import ExitCode, JobCancelled
from lcl_core.data import Corpus, open_corpus
from lcl_core.evaluation.evaluate import evaluate
from lcl_core.evaluation.features import EvaluatedEncoder
from lcl_core.evaluation.results import score_predictions
from lcl_core.model import LCLModel, LCLProcessor
from tests.lcl_core.encoders.external_samples import save_huggingface
from tests.module_process import run_module


def numbers(result):
    return {(row["variant"], row["metric"]): row for row in result["rows"]}


def test_every_number_stands_beside_chance_and_the_untrained_encoder(new_run):
    result = evaluate(new_run())
    rows = numbers(result)
    retrieval = [f"{way}{m}" for way in ("TR", "IR") for m in ("@1", "@5", "@10", " median rank")]
    expected = [(variant, metric) for variant in ("captions[0]", "captions[1]", "all") for metric in retrieval]
    assert list(rows) == [*expected, ("colour", "acc@1"), ("colour", "acc@5"), ("colour", "acc@1 class mean")]
    # The encoder has the weights that the untrained twin starts from, so the two columns must agree.
    for row in result["rows"]:
        assert row["value"] == row["untrained"]
        assert row["split"] == "test"
    assert rows["captions[0]", "IR@1"]["count"] == 4  # twelve images, four different first captions
    assert rows["captions[0]", "IR@1"]["chance"] == pytest.approx(3 / 12)
    assert rows["captions[0]", "TR@1"]["count"] == 12
    assert rows["captions[0]", "TR@1"]["chance"] == pytest.approx(1 / 4)
    assert rows["captions[1]", "TR@1"]["count"] == 11
    assert rows["captions[1]", "TR@1"]["left_out"] == {"no_caption": 1}
    assert rows["captions[1]", "IR@1"]["candidates"] == 12
    colour = rows["colour", "acc@1"]
    assert (colour["count"], colour["left_out"]) == (10, {"unseen": 1, "unlabelled": 1})
    assert colour["chance"] == pytest.approx(1 / 4)
    assert colour["value"] > 0.6  # four flat colours are easy even for random weights


def test_answers_are_stored_and_scores_follow_from_them(new_run):
    run_dir = new_run()
    result = evaluate(run_dir)
    records = run_dir.artifacts / "records"
    assert score_predictions(records, seed=0) == result["rows"]
    lines = [
        json.loads(line) for line in (records / "classification-test-colour-image_to_class-frozen-trained.jsonl").open()
    ]
    assert len(lines) == 10
    assert lines[0]["query"] == "40.png"
    assert (lines[0]["label"], len(lines[0]["top"])) == ("red", 4)
    table = json.loads((run_dir.artifacts / "table.json").read_text())
    assert table["rows"] == json.loads(json.dumps(result["rows"]))
    assert table["spec"]["classification"]["epochs"] == 4
    assert result["encoder_hash"] == table["encoder_hash"]


def test_predictions_of_images_name_their_concept_unless_it_is_predicted(new_run, squares, tmp_path):
    corpus = Path(shutil.copytree(squares, tmp_path / "concepts"))
    lines = [json.loads(line) for line in (corpus / "pairs.jsonl").open()]
    for number, line in enumerate(lines):
        line["labels"]["concept"] = f"Square {number // 2 % 8}"
    (corpus / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tuning = {"epochs": 1, "batch_size": 16, "labels": ["colour", "concept"]}
    run_dir = new_run(
        corpus=corpus, classification=tuning, untrained_baseline=False,
        tasks=["retrieval", "classification", "zero_shot_classification"],
        zero_shot_classification={"labels": ["colour"]},
    )  # fmt: skip
    evaluate(run_dir)
    grouped = {}
    for file in (run_dir.artifacts / "records").glob("*.jsonl"):
        samples = [json.loads(line) for line in file.open()]
        grouped[file.stem] = {sample.get("group") for sample in samples}
        assert all("group" not in sample or sample["query"].endswith(".png") for sample in samples)
    images = {f"square {number}" for number in (4, 5, 6, 7, 0, 1)}
    for name, groups in grouped.items():
        expected = {None} if "-concept-" in name or "text_to_image" in name else images
        assert groups <= expected, name
    assert sum(None not in groups for groups in grouped.values()) >= 5


def test_the_same_spec_gives_the_same_numbers_with_or_without_the_cache(new_run, tmp_path):
    first = evaluate(new_run("a"))
    cached = evaluate(new_run("b"))
    (tmp_path / "cache").rename(tmp_path / "elsewhere")
    fresh = evaluate(new_run("c"))
    assert first == cached == fresh


def test_frozen_features_are_computed_once(new_run, save_tiny_encoder, monkeypatch, tmp_path):
    evaluate(new_run("a"))
    evaluated: list[str] = []
    monkeypatch.setattr(EvaluatedEncoder, "embed_images", lambda *_: evaluated.append("image"))
    monkeypatch.setattr(EvaluatedEncoder, "embed_texts", lambda *_: evaluated.append("text"))
    evaluate(new_run("b", seed=5, classification={"labels": ["colour"], "epochs": 2}))
    assert evaluated == []
    monkeypatch.undo()
    seen: list[str] = []
    read = Corpus.read_image
    monkeypatch.setattr(Corpus, "read_image", lambda self, name: seen.append(name) or read(self, name))
    other = save_tiny_encoder(tmp_path / "other", seed=1)
    evaluate(new_run("c", weights=other, untrained_baseline=False))
    assert len(seen) == 52  # another encoder has features of its own


def test_excluded_labels_are_neither_learnt_nor_asked(new_run):
    left_out = {"colour": ["grey", "red"]}
    rows = numbers(evaluate(new_run(exclude=left_out, untrained_baseline=False)))
    colour = rows["colour", "acc@1"]
    # of twelve images three are called red and two grey
    assert (colour["candidates"], colour["count"], colour["left_out"]) == (2, 5, {"unseen": 1, "unlabelled": 1})
    assert rows["captions[0]", "TR@1"]["count"] == 7


@pytest.mark.parametrize(
    ("fields", "code", "field", "words"),
    [
        ({"exclude": {"colour": ["red", "green", "blue", "grey"]}}, "no_data", "exclude", "excluded"),
        ({"splits": ["test", "tset"]}, "no_data", "splits.1", "splits: test, train"),
        ({"source": "emoji"}, "no_data", "splits.0", "source 'emoji'"),
        ({"splits": ["train"]}, "invalid_value", "splits.0", "learns from"),
        ({"encoder": "huge"}, "not_found", "encoder", "not registered"),
        ({"dataset": "photos"}, "not_found", "dataset", "not registered"),
        ({"classification": {"labels": ["shape"]}}, "invalid_value", "classification.labels.0", "labels: colour"),
        (
            {"classification": {"train_split": "nowhere", "labels": ["colour"]}},
            "no_data", "classification.train_split", "nowhere",
        ),
    ],
)  # fmt: skip
def test_bad_requests_say_where_and_what_instead(new_run, fields, code, field, words):
    with pytest.raises(UserError, match=words) as caught:
        evaluate(new_run(**fields))
    assert (caught.value.code, caught.value.field) == (code, field)


@pytest.mark.parametrize("task", ["retrieval", "zero_shot_classification"])
def test_an_encoder_of_images_alone_is_refused_before_anything_is_computed(new_run, tmp_path, monkeypatch, task):
    weights = save_huggingface(tmp_path / "vit", "vit")
    monkeypatch.setattr("lcl_core.evaluation.evaluate.load_image_encoder", None)
    with pytest.raises(UserError, match="reads no texts") as caught:
        evaluate(new_run(weights=weights, tasks=[task], zero_shot_classification={"labels": ["colour"]}))
    assert (caught.value.code, caught.value.field) == ("no_text_encoder", "tasks")


def test_an_encoder_that_gives_nan_is_refused(new_run, monkeypatch):
    embed = EvaluatedEncoder.embed_images

    def spoiled(self, images):
        pooled, patches = embed(self, images)
        return pooled * np.nan, patches

    monkeypatch.setattr(EvaluatedEncoder, "embed_images", spoiled)
    with pytest.raises(UserError, match="diverged") as caught:
        evaluate(new_run())
    assert caught.value.code == "encoder_unreadable"


def test_a_stopped_run_leaves_no_result_and_a_second_attempt_finishes(new_run, monkeypatch):
    run_dir = new_run()
    embed = EvaluatedEncoder.embed_texts

    def stop(self, ids):
        run_dir._stop.set()
        return embed(self, ids)

    with monkeypatch.context() as patch:
        patch.setattr(EvaluatedEncoder, "embed_texts", stop)
        with pytest.raises(JobCancelled):
            evaluate(run_dir)
    run_dir._stop.clear()
    again = evaluate(run_dir)
    assert again == evaluate(new_run("other"))
    steps = [json.loads(line)["step"] for line in run_dir.metrics_file.open()]
    assert steps == sorted(steps)


def test_the_ranks_are_those_of_the_model_asked_directly(new_run, encoder_dir, squares):
    run_dir = new_run(tasks=["retrieval"])
    evaluate(run_dir)
    model, processor = LCLModel.from_pretrained(encoder_dir).eval(), LCLProcessor.from_pretrained(encoder_dir)
    corpus = open_corpus(squares)
    requested = [pair for pair in corpus.pairs("test") if len(pair.captions) > 1]
    gallery = [pair.image for pair in corpus.pairs("test")]
    with torch.no_grad():
        images = model.get_image_features(processor.preprocess([corpus.read_image(name) for name in gallery]))
        texts = model.get_text_features(processor.encode_texts([pair.captions[1] for pair in requested]))
    scores = (texts.double() @ images.double().T).numpy()
    own = np.array([gallery.index(pair.image) for pair in requested])
    expected = (scores >= scores[np.arange(len(requested)), own, None] - 1e-9).sum(axis=1)
    file = run_dir.artifacts / "records" / "retrieval-test-captions_1-text_to_image-zero_shot-trained.jsonl"
    lines = [json.loads(line) for line in file.open()]
    assert [line["query"] for line in lines] == [pair.captions[1] for pair in requested]
    assert [line["rank"] for line in lines] == expected.tolist()
    assert lines[3]["top"][0] == gallery[scores[3].argmax()]


@pytest.mark.extended
def test_the_process_examines_the_sample_corpus(new_run, sample_zip):
    run_dir = new_run(
        corpus=sample_zip, splits=["test_vendor"], source="emoji",
        classification={"labels": ["subgroup", "group"], "epochs": 2},
    )  # fmt: skip
    done = run_module("lcl_core.evaluation", str(run_dir.path))
    assert done.returncode == ExitCode.OK, done.stderr
    rows = numbers(json.loads(run_dir.result_file.read_text()))
    assert rows["captions[0]", "IR@5"]["count"] == 590
    assert rows["captions[0]", "IR@5"]["chance"] == pytest.approx(5 / 590)
    assert rows["captions[1]", "IR@5"]["count"] == 539
    assert rows["subgroup", "acc@1"]["candidates"] == 48
    assert rows["subgroup", "acc@1"]["value"] > rows["subgroup", "acc@1"]["chance"]
    last = json.loads(run_dir.metrics_file.read_text().splitlines()[-1])
    assert (last["phase"], last["seconds_left"], last["step"]) == ("done", 0, last["total_steps"])
