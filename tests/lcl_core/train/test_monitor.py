"""Held-out data while a run trains: right numbers, no effect on the training, and the best weights kept."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lcl_core.common.errors import UserError
from lcl_core.common.files import sha256_file
from lcl_core.common.run_dir import ExitCode, JobCancelled, RunDir
from lcl_core.evaluation.metrics import rank_bidirectional
from lcl_core.model import LCLModel
from lcl_core.train import monitor
from lcl_core.train.checkpoint import CheckpointManager
from lcl_core.train.monitor import _share_of, neighbour_accuracy, retrieval_recalls
from tests.lcl_core.train.small_runs import curve, finished, prepared, trainer, weights

MONITOR = {"dataset": "sample", "split": "val", "every": 4, "images": 24}
RATES = {"lr": 2e-3, "warmup_steps": 2, "schedule": "constant"}


def monitored(path, sample_zip, fields=(), **changes):
    return prepared(path, sample_zip, monitor={**MONITOR, **dict(fields)}, **changes)


def held_out(run_dir):
    """Held-out numbers by step, without the seconds."""
    return {
        line["step"]: {
            name.removeprefix("held_out."): value
            for name, value in line.items()
            if name.startswith("held_out.") and name != "held_out.seconds"
        }
        for line in curve(run_dir)
        if "held_out.loss" in line
    }


def trained_part(run_dir):
    return [{k: v for k, v in line.items() if not k.startswith("held_out.")} for line in curve(run_dir)]


@pytest.mark.parametrize(
    "changes",
    [{}, {"objective": {"name": "blip2"}, "data": {"sources": [{"view": "pairs"}]}}],
    ids=["averaged", "hard negatives"],
)
def test_a_monitored_run_has_the_same_weights(tmp_path, sample_zip, changes):
    alone = prepared(tmp_path / "alone", sample_zip, steps=8, **changes)
    beside = monitored(tmp_path / "beside", sample_zip, steps=8, **changes)
    for run_dir in (alone, beside):
        trainer(run_dir).run()
    assert weights(beside) == weights(alone)
    assert trained_part(beside) == curve(alone)
    numbers = held_out(beside)
    assert list(numbers) == [4, 8]
    assert {"loss", "retrieval_r1", "retrieval_r5", "in_batch_accuracy", "contrastive_loss"} <= numbers[8].keys()


@pytest.mark.parametrize("view", ["pairs", "interleaved"])
def test_the_losses_are_those_of_the_exported_model(tmp_path, sample_zip, view):
    """As ``LCLModel.forward`` computes them over one batch that holds all held-out documents."""
    run_dir = monitored(
        tmp_path,
        sample_zip,
        {"view": view, "images": 12},
        data={"sources": [{"view": "pairs" if view == "interleaved" else "interleaved"}], "piece_images": 2},
        batch={"tokens": 4096, "images": 64},
        steps=4,
    )
    run = trainer(run_dir)
    run.run()
    assert run.monitor is not None
    samples = list(run.monitor._samples.values())
    assert sum(len(sample.levels) for sample in samples) <= 12
    ids = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(s.token_ids).long() for s in samples], batch_first=True)
    model = LCLModel.from_pretrained(run_dir.artifacts / "encoder")
    pixels = torch.from_numpy(np.concatenate([sample.pixels for sample in samples]))
    with torch.no_grad():
        out = model(pixel_values=pixels, input_ids=ids)
    found = held_out(run_dir)[4]
    for name in ("loss", "contrastive_loss", "generation_loss"):
        assert found[name] == pytest.approx(float(getattr(out, name)), rel=1e-4)


@pytest.mark.parametrize("positives", ["own", "same_concept"])
def test_held_out_documents_have_concepts_where_the_loss_reads_them(tmp_path, sample_zip, positives):
    """Else images of one concept, positives in training, are each other's negatives here."""
    data = {"sources": [{"view": "pairs"}]}
    run_dir = monitored(tmp_path, sample_zip, {"view": "matched_pairs"}, data=data, objective={"positives": positives})
    run = trainer(run_dir)
    assert run.monitor is not None
    assert run.monitor.evaluate(run.step.trained, 4) is not None
    samples = run.monitor._samples.values()
    assert any(any(sample.concepts) for sample in samples) is (positives == "same_concept")


def test_retrieval_is_what_an_evaluation_counts():
    torch.manual_seed(0)
    images, texts = (F.normalize(torch.randn(n, 8), dim=1) for n in (40, 30))
    owners = torch.cat((torch.arange(30), torch.randint(0, 30, (10,))))
    pairs = np.stack([np.arange(40), owners.numpy()], axis=1)
    of_images, of_texts = rank_bidirectional(images.numpy(), texts.numpy(), pairs)
    found = retrieval_recalls(images, texts, owners)
    for way, ranks in (("text_to_image", of_texts), ("image_to_text", of_images)):
        for k in (1, 5):
            assert found[f"{way}_r{k}"] == pytest.approx(float((ranks.rank <= k).mean()))
    assert found["retrieval_r5"] == pytest.approx((found["text_to_image_r5"] + found["image_to_text_r5"]) / 2)
    assert retrieval_recalls(images, images, torch.arange(40))["retrieval_r1"] == 1
    collapsed = torch.ones(40, 8) / 8**0.5
    assert retrieval_recalls(collapsed, collapsed, torch.arange(40))["retrieval_r5"] == 0, "ties count against it"


def test_nearest_neighbours_vote_without_the_image_itself():
    torch.manual_seed(0)
    features = F.normalize(torch.randn(50, 4), dim=1)
    labels = torch.randint(0, 5, (50,))
    right = 0
    for row in range(50):
        others = [other for other in range(50) if other != row]
        near = sorted(others, key=lambda other: -float(features[row] @ features[other]))[:20]
        votes = Counter()
        for other in near:
            votes[int(labels[other])] += float(torch.exp(features[row] @ features[other] / 0.07))
        right += votes.most_common(1)[0][0] == int(labels[row])
    assert neighbour_accuracy(features, labels) == pytest.approx(right / 50)
    apart = torch.eye(2).repeat_interleave(2, 0)
    assert neighbour_accuracy(apart, torch.tensor([0, 0, 1, 1])) == 1
    assert neighbour_accuracy(apart, torch.tensor([0, 1, 0, 1])) == 0


def test_the_best_weights_are_kept_and_exported(tmp_path, sample_zip):
    rates = {**RATES, "lr": 2e-2}  # too much: the losses rise again
    # all of the split: categories are known of a tenth of it, and two images have to share one
    choice = {
        "every": 1,
        "images": 400,
        "label": "category",
        "choose": "held_out.knn_accuracy",
        "export": "best",
    }
    run_dir = monitored(tmp_path / "run", sample_zip, choice, optimizer=rates, steps=6, log_every=2)
    result = trainer(run_dir).run()
    values = {step: numbers["knn_accuracy"] for step, numbers in held_out(run_dir).items()}
    assert list(values) == [1, 2, 3, 4, 5, 6]
    step = max(values, key=lambda each: values[each])
    assert step < 6, "this test is about a best step that is not the last"
    found = result["monitor"]
    assert (found["best"]["step"], found["best"]["value"]) == (step, values[step])
    assert (found["last"]["step"], found["last"]["value"]) == (6, values[6])
    best = run_dir.path / found["best"]["path"] / "model.safetensors"
    assert (result["encoder"]["path"], result["encoder"]["hash"], result["encoder"]["steps"]) == (
        "artifacts/encoder_best",
        sha256_file(best),
        step,
    )
    short = prepared(tmp_path / "short", sample_zip, optimizer=rates, steps=step)
    trainer(short).run()
    assert sha256_file(best) == weights(short)
    assert json.loads((best.parent / "training.json").read_text())["best"]["step"] == step


@pytest.mark.parametrize("stop", [4, 8])
def test_stopped_while_it_is_measured_it_resumes_to_the_same_lines(tmp_path, sample_zip, monkeypatch, stop):
    undisturbed = monitored(tmp_path / "undisturbed", sample_zip, steps=8)
    trainer(undisturbed).run()
    run_dir = monitored(tmp_path / "stopped", sample_zip, steps=8)
    stopping = trainer(run_dir)
    real = monitor.progress_line

    def stop_at(spec, run_dir, ranks, phase, step):
        if step == stop:
            run_dir._stop.set()  # as SIGTERM does
        return real(spec, run_dir, ranks, phase, step)

    with monkeypatch.context() as patch:
        patch.setattr(monitor, "progress_line", stop_at)
        with pytest.raises(JobCancelled):
            stopping.run()
    resumed = trainer(RunDir(run_dir.path)).run()
    assert held_out(run_dir) == held_out(undisturbed)
    assert trained_part(run_dir) == trained_part(undisturbed)
    assert weights(run_dir) == weights(undisturbed)
    assert resumed["monitor"]["best"] == trainer(undisturbed).run()["monitor"]["best"]


@pytest.mark.extended
@pytest.mark.parametrize(("strategy", "objective"), [("ddp", "blip2"), ("fsdp2", "lcl"), ("fsdp2", "blip2")])
def test_several_ranks_measure_what_one_does(tmp_path, sample_zip, strategy, objective):
    engine = {"processes": 2, "strategy": strategy}
    data = {"sources": [{"view": "pairs" if objective == "blip2" else "interleaved"}]}
    changes = {"steps": 4, "engine": engine, "objective": {"name": objective}, "data": data}
    run_dir = monitored(tmp_path, sample_zip, {"images": 44}, **changes)
    assert finished(run_dir) == ExitCode.OK, run_dir.log_file.read_text()
    alone = trainer(run_dir)
    with CheckpointManager(run_dir.checkpoints, alone.ranks) as alone.checkpoints:
        alone._restore()
    assert alone.monitor is not None
    found = alone.monitor.evaluate(alone.step.trained, 4)
    assert found is not None
    expected = held_out(run_dir)[4]
    for name, value in expected.items():
        assert found[f"held_out.{name}"] == pytest.approx(value, abs=2e-6)


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_each_micro_batch_is_measured_by_one_rank(ranks):
    """Beside it a rank makes only the passes without which sharded ranks would wait for it."""
    group = [[number] for number in range(5)]
    shares = [_share_of(group, rank, ranks, "class") for rank in range(ranks)]
    assert [batch for share in shares for batch in share.batches[: share.counted]] == group
    assert {len(share.batches) for share in shares} == {-(-5 // ranks)}


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"split": "absent"}, "no_data", "monitor.split"),
        ({"dataset": "other"}, "not_found", "monitor.dataset"),
        ({"label": "absent", "choose": "held_out.knn_accuracy"}, "no_data", "monitor.choose"),
    ],
)
def test_what_cannot_be_measured_names_its_field(tmp_path, sample_zip, fields, code, field):
    run_dir = monitored(tmp_path, sample_zip, fields, steps=4)
    with pytest.raises(UserError) as caught:
        trainer(run_dir).run()
    assert (caught.value.code, caught.value.field) == (code, field)
