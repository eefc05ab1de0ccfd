"""Zero-shot classification as a run, against the model asked directly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import RunDir
from lcl_core.data import open_corpus
from lcl_core.evaluation.evaluate import evaluate
from lcl_core.evaluation.features import EvaluatedEncoder
from lcl_core.model import LCLModel, LCLProcessor

NewRun = Callable[..., RunDir]
TASK = "zero_shot_classification"
TEMPLATES = ["a {} square", "{}"]


def test_ranks_are_those_of_the_model_asked_directly(new_run: NewRun, encoder_dir: Path, squares: Path) -> None:
    spec = {"labels": ["colour"], "templates": TEMPLATES, "class_names": {"blue": "deep blue"}}
    run_dir = new_run(tasks=[TASK], zero_shot_classification=spec)
    result = evaluate(run_dir)
    model, processor = LCLModel.from_pretrained(encoder_dir).eval(), LCLProcessor.from_pretrained(encoder_dir)
    corpus = open_corpus(squares)
    requested = [pair for pair in corpus.pairs("test") if pair.labels]
    names = {"blue": "deep blue", "green": "green", "grey": "grey", "pink": "pink", "red": "red"}
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


def test_descriptions_are_read_once(new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {"labels": ["colour"]}
    first = evaluate(new_run("a", tasks=[TASK], zero_shot_classification=spec))
    monkeypatch.setattr(EvaluatedEncoder, "embed_texts", lambda *_: pytest.fail("read again"))
    assert evaluate(new_run("b", tasks=[TASK], zero_shot_classification=spec)) == first


def test_an_encoder_that_reads_no_texts_says_so(new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lcl_core.encoders.lcl.LCLEncoder.encode_texts", lambda *_: None)
    with pytest.raises(UserError, match="reads no texts") as caught:
        evaluate(new_run(tasks=[TASK], zero_shot_classification={"labels": ["colour"]}))
    assert (caught.value.code, caught.value.field) == ("no_text_encoder", "tasks")


def test_a_label_that_is_not_there_is_named(new_run: NewRun) -> None:
    with pytest.raises(UserError, match="labels: colour") as caught:
        evaluate(new_run(tasks=[TASK], zero_shot_classification={"labels": ["shape"]}))
    assert caught.value.field == "zero_shot_classification.labels.0"
