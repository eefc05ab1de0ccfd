"""Captioning through a bridge: it learns by heart, and what is frozen stays as it is to the bit."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from lcl_core.common.errors import UserError
from lcl_core.evaluation.evaluate import evaluate
from lcl_core.evaluation.tasks.base import EvaluationData
from lcl_core.evaluation.tasks.captioning import Captioning
from lcl_core.evaluation.vlm import model as vlm_model
from lcl_core.evaluation.vlm.language_model import IMAGE_PLACEHOLDER, caption_tokens
from lcl_core.evaluation.vlm.model import VisionLanguageModel
from lcl_core.specs.parsing import parse_spec


@pytest.fixture
def caption_run(new_run, squares, taught_language_model_dir):
    """Makes a run that captions; keyword arguments are fields of the captioning spec, or ``spec`` of the run's."""

    def make(name="run", spec=None, corpus=squares, **fields):
        own = {
            "language_model": {"path": str(taught_language_model_dir)}, "epochs": 4, "batch_size": 16, "lr": 3e-3,
            "decoding": {"max_new_tokens": 12}, "zero_shot": False, **fields,
        }  # fmt: skip
        rest = {"untrained_baseline": False, **(spec or {})}
        return new_run(name, corpus=corpus, tasks=["captioning"], captioning=own, **rest)

    return make


def sheet(run_dir, name):
    return [json.loads(line) for line in (run_dir.artifacts / "records" / f"{name}.jsonl").open()]


def numbers(result):
    return {(row["variant"], row["transfer"], row["metric"]): row for row in result["rows"]}


@pytest.fixture
def built_models(monkeypatch):
    """Every model that a run builds."""
    built: list[VisionLanguageModel] = []
    build = vlm_model.build_vlm

    def watched(*args, **kwargs):
        built.append(build(*args, **kwargs))
        return built[-1]

    monkeypatch.setattr("lcl_core.evaluation.tasks.captioning.build_vlm", watched)
    return built


def test_it_learns_the_captions_of_what_it_sees(caption_run):
    run_dir = caption_run(epochs=20, batch_size=8, caption=0)
    rows = numbers(evaluate(run_dir))
    lines = sheet(run_dir, "captioning-test-all-frozen-trained")
    assert len(lines) == 12
    right = [line["caption"] == line["references"][0] for line in lines]
    assert sum(right) >= 10, [line["caption"] for line in lines]
    cider = rows["all", "frozen", "CIDEr"]
    assert cider["value"] > 2 * cider["chance"]
    assert cider["value"] > 2 * cider["majority"]
    assert cider["interval"][0] <= cider["value"] <= cider["interval"][1]


def test_captions_may_be_answers_to_a_question(caption_run, built_models):
    evaluate(caption_run(question="What colour?", epochs=1, caption=0))
    language = built_models[0].llava.language
    requested, whole = (caption_tokens(language, caption, "What colour?") for caption in (None, "red"))
    assert whole.ids[: len(requested.ids)] == requested.ids
    assert requested.ids.count(IMAGE_PLACEHOLDER) == 1
    assert "What colour?" in language.tokenizer.decode([each for each in requested.ids if each >= 0])


@pytest.mark.parametrize("train", [False, True])
def test_full_teaches_the_encoder_and_the_language_model_if_reported(
    caption_run, built_models, taught_language_model_dir, encoder_dir, train
):
    model = {"path": str(taught_language_model_dir), "train": train, "lr": 1e-3}
    result = evaluate(caption_run(spec={"transfer": ["full"]}, epochs=1, language_model=model))
    (vlm,) = built_models
    assert vlm.source.trained_encoder is not None
    before = load_file(encoder_dir / "model.safetensors")
    after = vlm.source.trained_encoder.module.state_dict()
    assert not torch.equal(before["visual.conv1.weight"], after["conv1.weight"])
    stored = load_file(taught_language_model_dir / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(stored.bfloat16(), vlm.llava.language.embeddings.bfloat16()) is not train
    assert {row["transfer"] for row in result["rows"]} == {"full"}


def test_the_text_tower_speaks_untaught(caption_run):
    run_dir = caption_run(language_model=None, zero_shot=True, spec={"untrained_baseline": True})
    rows = evaluate(run_dir)["rows"]
    assert {row["transfer"] for row in rows} == {"zero_shot"}
    assert all(row["value"] == row["untrained"] for row in rows)  # the encoder has its initial weights
    assert len(sheet(run_dir, "captioning-test-all-zero_shot-trained")) == 12


def test_blank_captions_are_no_references(caption_run, squares, tmp_path, taught_language_model_dir):
    """Image 40 has only blank captions, image 41 one of two; the search measures on what has words, too."""
    corpus = shutil.copytree(squares, tmp_path / "blank")
    lines = [json.loads(line) for line in (corpus / "pairs.jsonl").read_text().splitlines()]
    lines[40]["captions"], lines[41]["captions"] = ["", " "], [" ", "a square"]
    for line in lines[:40:2]:
        line["captions"] = [" "]
    (corpus / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run_dir = caption_run(corpus=corpus, language_model=None, zero_shot=True)
    rows = evaluate(run_dir)["rows"]
    assert {(row["count"], row["left_out"].get("no_caption")) for row in rows} == {(11, 1)}
    written = {line["query"]: line["references"] for line in sheet(run_dir, "captioning-test-all-zero_shot-trained")}
    assert written["41.png"] == ["a square"]
    own = {"search": {"lr": [1e-3, 1]}, "language_model": {"path": str(taught_language_model_dir)}}
    spec = parse_spec("evaluate", {"encoder": "tiny", "dataset": "blank", "splits": ["test"], "captioning": own})
    task = Captioning.plan(EvaluationData(spec, {"blank": str(corpus)}, {}))
    assert [row for row in task.holdout.test if row % 2 == 0] == []


def test_sources_are_scored_by_themselves(caption_run):
    rows = numbers(evaluate(caption_run(epochs=1, by_source=True)))
    assert {variant for variant, *_ in rows} == {"all", "even", "odd"}
    assert [rows[variant, "frozen", "CIDEr"]["count"] for variant in ("all", "even", "odd")] == [12, 6, 6]


def captions_elsewhere(folder, squares):
    """The squares as another corpus, all of a source that the evaluated one lacks."""
    shutil.copytree(squares, folder)
    lines = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    (folder / "pairs.jsonl").write_text("".join(json.dumps({**line, "source": "elsewhere"}) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize(("dataset", "images"), [("elsewhere", 12), ("squares", None)])
def test_the_validation_split_is_one_of_the_corpus_to_train_on(
    tmp_path, squares, taught_language_model_dir, dataset, images
):
    """A split of that name of the evaluated corpus, and its sources, are others."""
    own = {"train_dataset": dataset, "validation_split": "test", "search": {"lr": [1e-3, 1e-4]}}
    own["language_model"] = {"path": str(taught_language_model_dir)}
    fields = {"encoder": "tiny", "dataset": "squares", "splits": ["test"], "source": "even", "captioning": own}
    elsewhere = captions_elsewhere(tmp_path / "elsewhere", squares)
    paths = {"squares": str(squares), "elsewhere": str(elsewhere)}
    data = EvaluationData(parse_spec("evaluate", fields), paths, {})
    if images is None:
        with pytest.raises(UserError, match="'test' is examined") as caught:
            Captioning.plan(data)
        assert (caught.value.code, caught.value.field) == ("invalid_value", "captioning.validation_split")
        return
    task = Captioning.plan(data)
    assert (len(task.train), len(task.holdout.source)) == (40, images)
    assert {image.source for image in [*task.train.images, *task.holdout.source.images]} == {"elsewhere"}


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"train_split": "test"}, "invalid_value", "splits.0"),
        ({"train_split": "nowhere"}, "no_data", "captioning.train_split"),
        ({"caption": 7}, "no_data", "captioning.caption"),
        ({"train_dataset": "elsewhere"}, "not_found", "captioning.train_dataset"),
        ({"language_model": {"path": "/no/such"}}, "language_model_unreadable", "captioning.language_model.path"),
    ],
)
def test_bad_requests_say_where(caption_run, fields, code, field):
    with pytest.raises(UserError) as caught:
        evaluate(caption_run(**fields))
    assert (caught.value.code, caught.value.field) == (code, field)
