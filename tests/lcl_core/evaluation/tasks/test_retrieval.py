"""Tuned retrieval as a whole, on coloured squares: who learns, who is frozen, what is chosen and what is refused."""

import json

import numpy as np
import pytest
import torch

from lcl_core.common.errors import UserError
from lcl_core.encoders.registry import load_image_encoder
from lcl_core.evaluation.evaluate import evaluate
from lcl_core.evaluation.tasks.retrieval import ContrastiveHead

FAST = {"epochs": 8, "batch_size": 20, "lr": 5e-3, "text_lr": 1e-3}


def run(new_run, name="run", **fields):
    own = {**FAST, **fields.pop("tuned_retrieval", {})}
    run_dir = new_run(name, tasks=["tuned_retrieval"], untrained_baseline=False, tuned_retrieval=own, **fields)
    rows = evaluate(run_dir)["rows"]
    return run_dir, {(row["transfer"], row["variant"], row["metric"]): row for row in rows}


def test_it_learns_to_match_frozen_and_full(new_run, encoder_dir):
    before = load_image_encoder(encoder_dir).identity["weights"]
    run_dir, rows = run(new_run, transfer=["frozen", "full"])
    for transfer in ("frozen", "full"):
        found = rows[transfer, "captions[0]", "TR@1"]
        assert (found["task"], found["split"], found["candidates"], found["count"]) == (
            "tuned_retrieval", "test", 4, 12,
        )  # fmt: skip
        assert found["value"] >= 0.75  # chance is a quarter
        assert rows[transfer, "all", "IR@1"]["value"] is not None
        assert rows[transfer, "captions[0]", "IR median rank"]["value"] >= 1
    assert load_image_encoder(encoder_dir).identity["weights"] == before
    curves = json.loads((run_dir.artifacts / "curves.json").read_text())
    assert [curve["transfer"] for curve in curves] == ["frozen", "full"]
    assert curves[0]["loss"][-1] < curves[0]["loss"][0]
    records = "tuned_retrieval-test-captions_0-image_to_text-frozen-trained.jsonl"
    assert len((run_dir.artifacts / "records" / records).read_text().splitlines()) == 12


def test_a_frozen_text_encoder_reads_each_text_once(new_run, monkeypatch):
    from lcl_core.encoders.lcl import LCLTextEncoder

    requested: list[str] = []
    read = LCLTextEncoder.features
    monkeypatch.setattr(LCLTextEncoder, "features", lambda self, texts: requested.extend(texts) or read(self, texts))
    run(new_run, tuned_retrieval={"text_lr": 0.0})
    assert len(requested) == len(set(requested)) == 4 + 51  # one caption a colour, and one an image that has two


def test_another_text_encoder_may_read(new_run, tmp_path):
    from tests.lcl_core.encoders.external_samples import save_huggingface

    texts = save_huggingface(tmp_path / "bert", "bert")
    run_dir = new_run(
        tasks=["tuned_retrieval"], tuned_retrieval={**FAST, "epochs": 1, "text_encoder": "words"},
        encoders={"words": str(texts)},
    )  # fmt: skip
    rows = evaluate(run_dir)["rows"]
    assert len(rows) == 24
    assert all(row["untrained"] is not None for row in rows)


def test_what_is_best_on_held_out_images_is_used(new_run):
    search = {"search": {"lr": [1e-6, 5e-3]}, "text_lr": 0.0, "epochs": 8}
    run_dir, _ = run(new_run, tuned_retrieval=search)
    (choice,) = json.loads((run_dir.artifacts / "choice.json").read_text())
    assert [trial["lr"] for trial in choice["tried"]] == [1e-6, 5e-3]
    scores = [trial["score"] for trial in choice["tried"]]
    assert choice["chosen"] == {"lr": [1e-6, 5e-3][int(np.argmax(scores))]}
    assert choice["held_out"] == {"split": "train", "pictures": 4, "of": 40}


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"splits": ["train"]}, "invalid_value", "splits.0"),
        ({"tuned_retrieval": {"train_split": "absent"}}, "no_data", "tuned_retrieval.train_split"),
        ({"tuned_retrieval": {"text_encoder": "absent"}}, "not_found", "tuned_retrieval.text_encoder"),
        (
            {"tuned_retrieval": {"search": {"lr": [1e-3]}, "validation_split": "test"}},
            "invalid_value", "tuned_retrieval.validation_split",
        ),
    ],
)  # fmt: skip
def test_bad_requests_name_their_field(new_run, fields, code, field):
    with pytest.raises(UserError) as caught:
        run(new_run, **fields)
    assert (caught.value.code, caught.value.field) == (code, field)


def test_an_encoder_that_reads_no_texts_needs_another_that_does(new_run, tmp_path):
    from tests.lcl_core.encoders.external_samples import save_huggingface

    with pytest.raises(UserError) as caught:
        run(new_run, weights=save_huggingface(tmp_path / "vit", "vit"))
    assert (caught.value.code, caught.value.field) == ("no_text_encoder", "tuned_retrieval.text_encoder")


def test_the_loss_is_symmetric_cross_entropy_without_false_rivals():
    head = ContrastiveHead(8, 2, torch.Generator().manual_seed(0))
    images = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]), dim=-1)
    texts = torch.nn.functional.normalize(torch.tensor([[0.8, 0.6], [1.0, 0.0], [0.0, 1.0]]), dim=-1)
    scores = (images @ texts.T / 0.07).double()

    def entropy(rows, rivals):
        found = [torch.logsumexp(rows[i, [i, *rivals[i]]], 0) - rows[i, i] for i in range(3)]
        return float(torch.stack(found).mean())

    everybody = [[1, 2], [0, 2], [0, 1]]
    expected = (entropy(scores, everybody) + entropy(scores.T, everybody)) / 2
    assert head.loss(images, texts, ["a", "b", "c"]).item() == pytest.approx(expected, abs=1e-5)
    apart = [[2], [2], [0, 1]]  # the first two say the same
    expected = (entropy(scores, apart) + entropy(scores.T, apart)) / 2
    assert head.loss(images, texts, ["a", "a", "c"]).item() == pytest.approx(expected, abs=1e-5)
