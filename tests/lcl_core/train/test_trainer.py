"""Whole runs on the sample corpus: they learn, and an interrupted one ends as if it had been left alone."""

from __future__ import annotations

import json

import pytest
import torch

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import JobCancelled, RunDir
from lcl_core.data.corpus.open import open_corpus
from lcl_core.data.tokenizer import load_tokenizer, train_bpe
from lcl_core.estimate.report import START_SECONDS, estimate_pretraining, measured_run
from lcl_core.model import LCLModel, LCLProcessor
from lcl_core.specs.parsing import parse_spec
from lcl_core.specs.pretrain import PretrainSpec
from lcl_core.train.trainer import Trainer, train
from tests.lcl_core.train.small_runs import curve, prepared, trainer, weights


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, sample_zip):
    run_dir = prepared(tmp_path_factory.mktemp("undisturbed"), sample_zip)
    run_dir.write_result(trainer(run_dir).run())
    return run_dir


def test_the_losses_fall_and_the_encoder_loads(undisturbed):
    lines = curve(undisturbed)
    assert [line["step"] for line in lines] == [4, 8, 12]
    assert lines[-1]["generation_loss"] < lines[0]["generation_loss"]
    directory = undisturbed.artifacts / "encoder"
    model = LCLModel.from_pretrained(directory)
    processor = LCLProcessor.from_pretrained(directory)
    texts = model.get_text_features(processor.encode_texts(["a cat", "the longest caption of the two"]))
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(2))
    result = json.loads(undisturbed.result_file.read_text())["encoder"]
    assert result["hash"] == weights(undisturbed)
    assert result["steps"] == 12
    assert result["vocab_size"] == load_tokenizer(undisturbed.tokenizer_file).vocab_size


def test_the_run_is_what_would_be_forecast_of_it(undisturbed, monkeypatch):
    monkeypatch.setattr("lcl_core.estimate.report.MIN_STEPS", 1)  # the run is shorter than those whose rate counts
    spec, result = undisturbed.read_run()["spec"], json.loads(undisturbed.result_file.read_text())
    encoder, parsed = result["encoder"], parse_spec("pretrain", spec)
    assert isinstance(parsed, PretrainSpec)
    past = measured_run("run_1", spec, result)
    assert past is not None
    found = estimate_pretraining(parsed, [past])
    assert found.certainty == "measured"
    assert found.parameters == encoder["parameters"]
    for name in ("documents", "images", "tokens"):
        assert getattr(found.samples, name) == pytest.approx(encoder[f"{name}_seen"], rel=0.02)
    assert found.flops == pytest.approx(encoder["flops"], rel=0.05)
    assert found.seconds.low < encoder["seconds"] + START_SECONDS < found.seconds.high
    newest = max(undisturbed.checkpoints.iterdir())
    files = sum(file.stat().st_size for file in newest.rglob("*") if file.is_file())
    assert found.checkpoint_bytes == pytest.approx(files, rel=0.1)


class _StopAt(RunDir):
    """Asks the trainer to stop once ``step`` is done, as SIGTERM would."""

    step = 0
    trainer: Trainer

    @property
    def stop_requested(self):
        return self.trainer.progress.step >= self.step

    def raise_if_stopped(self):
        if self.stop_requested:
            raise JobCancelled


def test_cancelled_twice_and_resumed_is_bitwise_the_same(undisturbed, tmp_path, sample_zip):
    run_dir, seconds = prepared(tmp_path, sample_zip), [0.0]
    for stop in (3, 6):
        stopping = _StopAt(run_dir.path)
        stopping.step = stop
        stopping.trainer = trainer(stopping, workers=2)
        with pytest.raises(JobCancelled):
            stopping.trainer.run()
        state = json.loads((run_dir.checkpoints / f"step_{stop:08d}" / "state.json").read_text())
        assert state["seconds"] > seconds[-1], "the time of steps after the last metric line, too"
        seconds.append(state["seconds"])
    assert trainer(run_dir).run()["encoder"]["seconds"] >= round(seconds[-1], 2)
    assert curve(run_dir) == curve(undisturbed)
    assert weights(run_dir) == weights(undisturbed)


def test_the_result_has_the_contents_of_datasets_that_were_registered_without_a_hash(tmp_path, sample_zip):
    sources = [{"view": "pairs"}, {"dataset": "known", "view": "pairs"}]
    run_dir = prepared(tmp_path, sample_zip, steps=1, data={"sources": sources, "workers": 0})
    paths = dict.fromkeys(("sample", "known"), str(sample_zip))
    run_dir.prepare({**run_dir.read_run(), "datasets": paths, "dataset_hashes": {"sample": None, "known": "k" * 64}})
    result = train(parse_spec("pretrain", run_dir.read_run()["spec"]), run_dir, paths)
    assert result["dataset_hashes"] == {"sample": open_corpus(sample_zip).content_hash()}


def test_an_unknown_dataset_names_its_field(tmp_path, sample_zip):
    run_dir = prepared(tmp_path, sample_zip, data={"sources": [{}, {"dataset": "other"}]})
    with pytest.raises(UserError, match="other") as caught:
        trainer(run_dir)
    assert caught.value.field == "data.sources.1.dataset"


def test_a_diverging_run_says_what_to_change(tmp_path, sample_zip):
    run_dir = prepared(tmp_path, sample_zip, optimizer={"lr": 1.0, "warmup_steps": 0}, steps=40, log_every=1)
    diverging = trainer(run_dir)
    diverging.model.lm_head[1].weight.data.mul_(float("inf"))
    with pytest.raises(UserError, match=r"Lower optimizer\.lr"):
        diverging.run()
    facts = json.loads((run_dir.artifacts / "not_a_number.json").read_text())
    assert facts["step"] == 1
    assert facts["documents"]
    assert all(name.startswith("sample:") for name in facts["documents"])
    assert not (run_dir.artifacts / "encoder").exists()


def test_a_shared_tokenizer_is_the_runs_own_until_it_ends(tmp_path, sample_zip):
    """Its file may change meanwhile; a copy that is lost is made again, and must be the one of the checkpoint."""
    file = tmp_path / "shared.json"
    train_bpe(["zebra crossing"] * 3, 320).save(file)
    settings = {"steps": 4, "checkpoint_every": 1, "tokenizer": {"path": str(file)}}
    run_dir = prepared(tmp_path / "run", sample_zip, **settings)
    run = trainer(run_dir)
    run.spec = run.spec.model_copy(update={"steps": 2})
    run.run()
    train_bpe(["zebra grossing"] * 3, 320).save(file)
    trainer(run_dir).run()
    words = load_tokenizer(run_dir.artifacts / "encoder" / "tokenizer.json")
    assert len(words.encode("zebra crossing")) < 4
    run_dir.tokenizer_file.unlink()
    with pytest.raises(UserError, match="put the run's own") as caught:
        trainer(run_dir).run()
    assert caught.value.code == "conflict"
