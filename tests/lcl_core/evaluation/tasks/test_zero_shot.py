"""Zero-shot classification: prompts, names of classes, and the run."""

import json

import numpy as np
import pytest
import torch
from timm.data import ImageNetInfo
from torch.nn import functional as F

from lcl_core.common.errors import UserError
from lcl_core.data import open_corpus
from lcl_core.evaluation.evaluate import evaluate
from lcl_core.evaluation.tasks.zero_shot import class_names, prompt_templates
from lcl_core.model import LCLModel, LCLProcessor

TASK = "zero_shot_classification"
TEMPLATES = ["a {} square", "{}"]


def test_ranks_are_those_of_the_model_asked_directly(new_run, encoder_dir, squares):
    spec = {"labels": ["colour"], "templates": TEMPLATES}
    run_dir = new_run(tasks=[TASK], zero_shot_classification=spec)
    result = evaluate(run_dir)
    model, processor = LCLModel.from_pretrained(encoder_dir).eval(), LCLProcessor.from_pretrained(encoder_dir)
    corpus = open_corpus(squares)
    requested = [pair for pair in corpus.pairs("test") if pair.labels]
    names = {"blue": "blue", "green": "green", "grey": "grey", "pink": "pink", "red": "red"}
    with torch.no_grad():
        images = model.get_image_features(processor.preprocess([corpus.read_image(pair.image) for pair in requested]))
        columns = []
        for name in names.values():
            texts = processor.encode_texts([template.format(name) for template in TEMPLATES])
            columns.append(F.normalize(model.get_text_features(texts).mean(0), dim=0))
    scores = (images @ torch.stack(columns, dim=1)).numpy()
    own = np.array([sorted(names).index(pair.labels["colour"]) for pair in requested])
    expected = (scores >= scores[np.arange(len(requested)), own, None]).sum(axis=1)
    file = run_dir.artifacts / "records" / f"{TASK}-test-colour-image_to_class-zero_shot-trained.jsonl"
    lines = [json.loads(line) for line in file.open()]
    assert [line["query"] for line in lines] == [pair.image for pair in requested]
    assert [line["rank"] for line in lines] == expected.tolist()
    row = result["rows"][0]
    assert (row["transfer"], row["metric"], row["candidates"], row["majority"]) == ("zero_shot", "acc@1", 5, None)
    assert row["left_out"] == {"unlabelled": 1}


def test_a_label_that_is_not_there_is_named(new_run):
    with pytest.raises(UserError, match="labels: colour") as caught:
        evaluate(new_run(tasks=[TASK], zero_shot_classification={"labels": ["shape"]}))
    assert caught.value.field == "zero_shot_classification.labels.0"


SYNSETS = ImageNetInfo("imagenet-1k").label_names()


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        (["animal-bug", "sky_and  weather", "-"], "labels", ("animal bug", "sky and  weather", "-")),
        (["737-200", "jack-o'-lantern"], "as_written", ("737-200", "jack-o'-lantern")),
    ],
)
def test_names_of_classes(labels, names, expected):
    assert class_names(labels, names, field="x") == expected


def test_imagenet_s_templates_and_names_come_from_open_clip():
    pytest.importorskip("open_clip")
    templates = prompt_templates("imagenet")
    assert len(templates) == 80
    assert all("{}" in template for template in templates)
    names = class_names(SYNSETS, "imagenet", field="x")
    assert (len(names), *names[:2], names[999]) == (1000, "tench", "goldfish", "toilet paper")


def test_a_part_of_imagenet_s_synsets_has_names():
    """ImageNet-R and -A have 200 of them; a class that is none is named by the evaluation."""
    pytest.importorskip("open_clip")
    assert class_names([SYNSETS[999], SYNSETS[0]], "imagenet", field="x") == ("toilet paper", "tench")


@pytest.mark.parametrize("labels", [["cat", "dog"], [*SYNSETS[:999], "cat"]])
def test_imagenet_s_names_are_for_its_synsets_alone(labels):
    pytest.importorskip("open_clip")
    with pytest.raises(UserError, match="thousand synsets") as caught:
        class_names(labels, "imagenet", field="x")
    assert caught.value.code == "invalid_value"


def test_without_open_clip_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "open_clip.zero_shot_metadata", None)
    with pytest.raises(UserError, match=r"open_clip.*lcl\[interop\]") as caught:
        prompt_templates("imagenet")
    assert caught.value.code == "missing_extra"
