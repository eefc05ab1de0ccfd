"""A run that starts from a registered encoder: what is taken, fitted and left, and that its checkpoints come first."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import JobCancelled, RunDir
from lcl_core.data.tokenizer import clip_tokenizer, train_bpe
from lcl_core.encoders.files import hash_files
from lcl_core.encoders.registry import load_image_encoder
from lcl_core.encoders.tower_weights import TowerWeights, model_settings, tower_weights
from lcl_core.model import LCLConfig
from lcl_core.train.factory import build_model
from lcl_core.train.trainer import Trainer
from lcl_core.train.warm_start import copy_weights, resize_patch_embedding
from tests.lcl_core.encoders.external_samples import save_huggingface, save_openclip, save_timm
from tests.lcl_core.train.small_runs import TINY, curve, prepared, trainer, weights

WORDS = ["a red bus on a blue road", "the cat and the dog", "a dog on a bus"]


@pytest.fixture
def words():
    return train_bpe(WORDS, 300)


def sized(config, **changes):
    return LCLConfig(**{**config.to_dict(), **changes})


def of_model(model, vocabulary):
    return TowerWeights(model.state_dict(), vocabulary, model_settings(model.config))


def test_an_equal_model_takes_everything(small_config, words):
    config = sized(small_config, vocab_size=words.vocab_size)
    old, new = build_model(config, 0), build_model(config, 1)
    report = copy_weights(new, of_model(old, words.vocabulary), words)
    assert all(torch.equal(tensor, new.state_dict()[name]) for name, tensor in old.state_dict().items())
    assert (len(report.taken), report.resampled, report.new, report.unused) == (len(old.state_dict()), {}, {}, {})
    assert report.differences == {}


def test_positions_and_patches_are_fitted(small_config, words):
    old = build_model(sized(small_config, image_size=32, context_length=60), 0)  # 4 x 4 patches of 8
    new = build_model(sized(small_config, image_size=32, patch_size=16, context_length=80), 1)
    own = new.text.positional_embedding.detach().clone()
    report = copy_weights(new, of_model(old, {}), words)
    positions = old.visual.positional_embedding.detach()
    assert torch.equal(new.visual.positional_embedding[0], positions[0])
    grid = F.interpolate(positions[1:].T.reshape(1, 32, 4, 4), size=2, mode="bicubic", antialias=True)
    torch.testing.assert_close(new.visual.positional_embedding[1:], grid[0].flatten(1).T)
    assert report.resampled["visual.positional_embedding"] == "4 x 4 to 2 x 2 positions, bicubic"
    assert report.resampled["visual.conv1.weight"] == "8 x 8 to 16 x 16 patches"
    assert torch.equal(new.text.positional_embedding[:60], old.text.positional_embedding)
    assert torch.equal(new.text.positional_embedding[60:], own[60:])
    assert report.resampled["text.positional_embedding"] == "the first 60 of 80 positions"


@pytest.mark.parametrize("side", [12, 16])
def test_larger_patch_embeddings_compute_the_same_of_resized_patches(side):
    generator = torch.Generator().manual_seed(0)
    weight, patches = torch.randn(5, 3, 8, 8, generator=generator), torch.randn(7, 3, 8, 8, generator=generator)
    larger = F.interpolate(patches, size=side, mode="bicubic", align_corners=False)
    ours = torch.einsum("wcij,ncij->nw", resize_patch_embedding(weight, side), larger)
    torch.testing.assert_close(ours, torch.einsum("wcij,ncij->nw", weight, patches), atol=1e-3, rtol=1e-3)


def test_tokens_are_matched_by_their_text(small_config, words):
    clip = clip_tokenizer()
    config = sized(small_config, vocab_size=words.vocab_size)
    model, rows = build_model(config, 0), torch.randn(clip.vocab_size, 24)
    own = model.text.token_embedding.weight.detach().clone()
    report = copy_weights(model, TowerWeights({"text.token_embedding.weight": rows}, clip.vocabulary), words)
    found = model.text.token_embedding.weight
    assert torch.equal(found[words.encode("dog")[0]], rows[clip.encode("dog")[0]])
    assert torch.equal(found[words.specials.sot], rows[clip.specials.sot])
    assert torch.equal(found[words.specials.pad], own[words.specials.pad])
    count = sum(not torch.equal(*pair) for pair in zip(found, own, strict=True))
    assert report.resampled["text.token_embedding.weight"] == f"{count} of {words.vocab_size} tokens, by their text"
    other = copy_weights(model, TowerWeights({"lm_head.1.weight": rows}, {"unheard-of": 0}), words)
    assert other.new["lm_head.1.weight"] == "the vocabularies have no token in common"


@torch.no_grad()
def test_tokens_keep_their_size_where_the_encoder_has_no_first_norm(tmp_path, words):
    pytest.importorskip("timm")
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    encoder = load_image_encoder(save_timm(tmp_path, **settings))
    model = build_model(
        LCLConfig(image_size=32, patch_size=8, vision_width=32, vision_layers=2, vision_head_width=16, text_width=32), 0
    )
    report = copy_weights(model, tower_weights(encoder), words)
    assert "visual.ln_pre.weight" in report.resampled
    pixels = F.interpolate(torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1)), size=32, mode="bicubic")

    def likeness():
        theirs = encoder.patches(encoder.renormalised(pixels))
        return float(F.cosine_similarity(model.visual(pixels), theirs, dim=-1).mean())

    fitted = likeness()
    model.visual.ln_pre.weight.fill_(1.0)
    model.visual.ln_pre.bias.zero_()
    assert fitted > 0.97
    assert fitted > likeness()


# runs


def starting_from(path, sample_zip, encoder, **changes):
    """A prepared run with ``model.init``; ``changes`` of the model."""
    model = {**TINY["model"], "vision_layers": 2, "patch_size": 8, "init": "enc_1", **changes}
    run_dir = prepared(path, sample_zip, model=model)
    files = {"encoders": {"enc_1": str(encoder)}, "encoder_files": {"enc_1": dict(hash_files(encoder))}}
    run_dir.prepare({**run_dir.read_run(), **files})
    return run_dir


@pytest.fixture
def clip_encoder(tmp_path):
    pytest.importorskip("open_clip")
    return save_openclip(tmp_path / "encoder")


def test_a_run_starts_from_it_and_says_so(tmp_path, sample_zip, clip_encoder, capfd):
    run_dir = starting_from(tmp_path / "run", sample_zip, clip_encoder)
    started = trainer(run_dir)
    saved = load_file(clip_encoder / "open_clip_model.safetensors")
    name = "visual.transformer.resblocks.1.mlp.c_fc.weight"
    assert torch.equal(started.model.state_dict()[name], saved[name])
    report = json.loads((run_dir.artifacts / "init.json").read_text())
    assert (report["encoder"], len(report["weights"])) == ("enc_1", 64)
    assert name in report["taken"]
    assert report["new"]["pool_project.query_token"] == "the encoder has none"
    assert report["new"]["text.ln_final.weight"] == "shape [24] in the encoder, [32] here"
    assert "visual.proj" in report["unused"]
    assert "start from encoder enc_1" in capfd.readouterr().out
    result = started.run()
    assert json.loads((run_dir.artifacts / "encoder" / "training.json").read_text())["model"]["init"] == "enc_1"
    assert load_image_encoder(run_dir.path / result["encoder"]["path"]).width == 32


def stop_once_after_a_line(monkeypatch):
    """The first trainer is requested to stop when it has written its first line."""
    log = Trainer._log
    stopped = []

    def write_and_stop(self, *arguments):
        log(self, *arguments)
        if not stopped:
            stopped.append(self.progress.step)
            self.run_dir._stop.set()

    monkeypatch.setattr(Trainer, "_log", write_and_stop)


def test_its_own_checkpoint_comes_first(tmp_path, sample_zip, clip_encoder, monkeypatch):
    whole, halved = (
        starting_from(tmp_path / name, sample_zip, clip_encoder, freeze=["text"]) for name in ("whole", "halved")
    )
    trainer(whole).run()
    stop_once_after_a_line(monkeypatch)
    with pytest.raises(JobCancelled):
        trainer(halved).run()
    trainer(RunDir(halved.path)).run()
    assert curve(halved) == curve(whole)
    assert weights(halved) == weights(whole)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda run, encoder: run.prepare({**run.read_run(), "encoders": {}}), "not_found"),
        (lambda run, encoder: (encoder / "config.json").write_text("{}"), "encoder_changed"),
        (lambda run, encoder: run.prepare({**run.read_run(), "encoder_files": {}}), "init_mismatch"),
        (lambda run, encoder: (encoder / "model.safetensors").unlink(), "encoder_unreadable"),
    ],
)
def test_what_cannot_be_started_from_names_the_field(tmp_path, sample_zip, spoil, code):
    encoder = save_huggingface(tmp_path / "encoder", "resnet")
    run_dir = starting_from(tmp_path / "run", sample_zip, encoder)
    spoil(run_dir, encoder)
    with pytest.raises(UserError, match=r"model\.init") as caught:
        trainer(run_dir)
    assert (caught.value.code, caught.value.field) == (code, "model.init")


def test_frozen_parts_stay_and_the_others_learn(tmp_path, sample_zip):
    run_dir = prepared(tmp_path, sample_zip, model={**TINY["model"], "freeze": ["text"]})
    begun = trainer(run_dir)
    before = {name: tensor.clone() for name, tensor in begun.model.state_dict().items()}
    begun.run()
    after = load_file(run_dir.artifacts / "encoder" / "model.safetensors")
    stayed = {name for name, tensor in before.items() if torch.equal(tensor, after[name])}
    assert stayed == {name for name in before if name.startswith("text.")}
