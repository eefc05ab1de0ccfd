"""What each method learns, and what it does not, from a dozen images in a few seconds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor

from lcl_core.model import LCLConfig, LCLModel
from lcl_core.objectives import build_objective
from lcl_core.objectives.base import GlobalBatch, Objective
from lcl_core.objectives.emu import effective_rank, log_variance
from lcl_core.specs.pretrain import ObjectiveSpec
from lcl_core.train.distributed import RankGroup
from lcl_core.train.factory import build_model
from lcl_core.train.optimizer import build_optimizer
from lcl_core.train.train_step import TrainingStep
from tests.lcl_core.batch_partitions import PAIR_METHODS

SOT, EOT, IMG, SOI, EOI = 95, 96, 97, 98, 99
BLOCK = [SOI, *[IMG] * 4, EOI]
IMAGES, STEPS = 12, 40
DRAW = torch.Generator().manual_seed(0)
PIXELS = torch.randn(IMAGES, 3, 16, 16, generator=DRAW)
WORDS = torch.randint(1, 90, (IMAGES, 3), generator=DRAW).tolist()


@dataclass(frozen=True)
class Learnt:
    model: LCLModel
    objective: Objective
    rows: list[Tensor]
    losses: dict[str, float]

    def collate(self, key, pixels=PIXELS):
        keys = [key * IMAGES + place for place in range(IMAGES)]
        return self.objective.collate(self.rows, pixels, self.model.config, keys=keys)

    @torch.no_grad()
    def retrieves(self):
        """Share of images to which their own words are the nearest."""
        images = self.model.get_image_features(PIXELS)
        texts = self.model.get_text_features(torch.tensor([[SOT, *words, EOT] for words in WORDS]))
        return float(((images @ texts.T).argmax(1) == torch.arange(IMAGES)).float().mean())

    @torch.no_grad()
    def latents(self):
        return self.model.get_image_features(PIXELS, normalize=False)


def rows_of(name):
    """Pairs; or documents with the words on both sides of the image; or, to be restored, one word beside it."""
    if name in PAIR_METHODS:
        return [torch.tensor([SOT, *words, *BLOCK]) for words in WORDS]
    if name == "beit3":
        return [torch.tensor([SOT, *BLOCK, words[0], EOT]) for words in WORDS]
    return [torch.tensor([SOT, *words, *BLOCK, *words, EOT]) for words in WORDS]


@pytest.fixture(scope="module")
def learnt():
    """The method of that name after its training; each is trained once."""

    @cache
    def train(name):
        config = LCLConfig(
            image_size=16, patch_size=8, vision_width=32, vision_layers=2, vision_head_width=16, text_width=32,
            text_layers=2, text_heads=2, context_length=40, vocab_size=100, sot_token_id=SOT, eot_token_id=EOT,
            img_token_id=IMG, soi_token_id=SOI, eoi_token_id=EOI,
        )  # fmt: skip
        made = Learnt(build_model(config, seed=0), build_objective(ObjectiveSpec(name=name), config), rows_of(name), {})
        step = TrainingStep(made.model.train(), made.objective, RankGroup())
        optimizer = build_optimizer(step.trained, lr=3e-3, weight_decay=0.0)
        for number in range(STEPS):
            report = step(optimizer, [made.collate(number)])
        made.losses.update({loss: float(value) for loss, value in report.losses.items()})
        made.model.eval()
        return made

    yield train
    train.cache_clear()


@pytest.mark.parametrize("name", ["lcl", "clip", "coca", "blip2"])
def test_who_contrasts_retrieves_what_it_has_learnt(learnt, name):
    assert learnt(name).retrieves() == 1.0


def test_generation_alone_learns_the_text_but_not_to_retrieve(learnt):
    generation, lcl = learnt("flamingo"), learnt("lcl")
    assert generation.losses["generation"] < 1.1 * lcl.losses["generation"] < 1.0, "of 4.7 in the beginning"
    assert generation.retrieves() < 0.3


def test_regression_of_its_own_latents_makes_them_collapse(learnt):
    emu, lcl = learnt("emu"), learnt("lcl")
    assert emu.losses["regression"] < 0.02, "of 0.5 in the beginning: it predicts what it has made alike"
    assert effective_rank(emu.latents()) < 0.7 * effective_rank(lcl.latents())
    assert log_variance(emu.latents()) < log_variance(lcl.latents()) - 3
    assert emu.retrieves() < 0.3


def test_captioning_writes_the_captions(learnt):
    for name in ("coca", "blip2"):
        assert learnt(name).losses["generation"] / learnt(name).objective.weights["generation"] < 0.5, name


def test_matching_tells_pairs_from_new_negatives(learnt):
    blip2 = learnt("blip2")
    batch = blip2.collate(key=12345)
    with torch.no_grad():
        encoding = blip2.objective.encode(blip2.model, batch)
        accuracy = blip2.objective.losses(blip2.model, batch, encoding, GlobalBatch()).metrics["matching_accuracy"]
    assert float(accuracy.count) == 3 * IMAGES
    assert float(accuracy.total) / float(accuracy.count) > 0.9, "two in three are negatives"


def test_masked_words_are_restored_from_the_image(learnt):
    beit3 = learnt("beit3")
    found = {}
    for what, pixels in (("own", PIXELS), ("another", PIXELS.roll(1, 0)), ("none", torch.zeros_like(PIXELS))):
        batch = beit3.collate(key=54321, pixels=pixels)
        with torch.no_grad():
            encoding = beit3.objective.encode(beit3.model, batch)
            losses = beit3.objective.losses(beit3.model, batch, encoding, GlobalBatch(compute_metrics=True))
        assert len(batch.labels) == IMAGES
        found[what] = float(losses.metrics["masked_text_accuracy"].total) / IMAGES
    assert found["own"] > 0.8
    assert found["another"] < 0.3
    assert found["none"] < 0.3
