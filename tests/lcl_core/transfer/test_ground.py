"""What a head stands on: frozen features stay, an encoder that learns along is a copy."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lcl_core.data import open_corpus
from lcl_core.rundir import RunDir
from lcl_core.specs import AugmentationSpec, ClassificationSpec, EvaluateSpec
from lcl_core.transfer.cache import FeatureCache
from lcl_core.transfer.classifier import learn
from lcl_core.transfer.encoder import ExamEncoder, load_encoder
from lcl_core.transfer.gallery import Picture, gather
from lcl_core.transfer.ground import GROUNDS, FeatureView, FrozenPictureView
from lcl_core.transfer.labels import labelled
from lcl_core.transfer.ledger import Ledger
from lcl_core.transfer.progress import Progress
from lcl_core.transfer.records import Records
from lcl_core.transfer.tasks import Room

PLAIN = AugmentationSpec()


@pytest.fixture
def encoder(encoder_dir: Path) -> ExamEncoder:
    return load_encoder(encoder_dir)


@pytest.fixture
def room(tmp_path: Path, squares: Path) -> Room:
    run_dir = RunDir(tmp_path)
    return Room(
        spec=EvaluateSpec(encoder="tiny"), corpus=open_corpus(squares), records=Records(tmp_path / "records"),
        cache=FeatureCache(tmp_path / "cache"), progress=Progress(run_dir, 1), artifacts=tmp_path,
        choices=Ledger(tmp_path / "choice.json"), curves=Ledger(tmp_path / "curves.json"), patches=True,
    )  # fmt: skip


@pytest.fixture
def pictures(room: Room) -> list[Picture]:
    return gather(room.corpus.pairs("train"))


def weights(encoder: ExamEncoder) -> list[torch.Tensor]:
    return [each.detach().clone() for each in encoder.tower.module.parameters()]


@pytest.mark.parametrize("transfer", ["frozen", "full"])
def test_only_a_copy_learns_and_only_in_full_transfer(
    room: Room, encoder: ExamEncoder, pictures: list[Picture], transfer: str
) -> None:
    before = weights(encoder)
    ground = GROUNDS[transfer](room, encoder, PLAIN)
    classes = tuple(sorted({picture.labels["colour"] for picture in pictures}))
    teachers = labelled(pictures, "colour", classes)
    spec = ClassificationSpec(epochs=2, batch_size=16, encoder_lr=1e-2)
    learn(ground, ground.view("train", pictures), teachers, len(classes), spec, seed=0, field="classification")
    assert all(torch.equal(old, new) for old, new in zip(before, weights(encoder), strict=True))
    assert not any(each.requires_grad for each in encoder.tower.module.parameters())
    if transfer == "frozen":
        assert ground.tower is None
        return
    learnt = list(ground.tower.module.parameters())
    assert all(not torch.equal(old, new) for old, new in zip(before, learnt, strict=True))


def test_features_too_large_for_the_cache_are_computed_each_time_and_are_the_same(
    room: Room, encoder: ExamEncoder, pictures: list[Picture]
) -> None:
    cached = GROUNDS["frozen"](room, encoder, PLAIN).view("train", pictures)
    small = replace(room, cache=FeatureCache(room.cache.root, max_bytes=10_000))
    fresh = GROUNDS["frozen"](small, encoder, PLAIN).view("train", pictures)
    assert isinstance(cached, FeatureView)
    assert isinstance(fresh, FrozenPictureView)
    rows = np.array([3, 17, 4])
    draw = random.Random(0)
    torch.testing.assert_close(
        fresh.tokens(fresh.load(rows, draw)), cached.tokens(cached.load(rows, draw)), atol=2e-3, rtol=0
    )
    assert not fresh.tokens(fresh.load(rows)).requires_grad


def test_pictures_are_augmented_while_learning_alone(room: Room, encoder: ExamEncoder, pictures: list[Picture]) -> None:
    grey = AugmentationSpec(grey_probability=1.0)
    view = GROUNDS["full"](room, encoder, grey).view("train", pictures)
    rows = np.array([0, 1])
    assert torch.equal(
        view.load(rows), encoder.tower.preprocess([room.corpus.read_image(pictures[r].image) for r in rows])
    )
    assert not torch.equal(view.load(rows), view.load(rows, random.Random(1)))
    assert torch.equal(view.load(rows, random.Random(1)), view.load(rows, random.Random(1)))
