"""What a head stands on: frozen features stay, an encoder that learns along is a copy."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from lcl_core.common.run_dir import RunDir
from lcl_core.data import open_corpus
from lcl_core.encoders.registry import load_image_encoder
from lcl_core.evaluation.classifiers import fit_probe
from lcl_core.evaluation.features import EvaluatedEncoder, FeatureCache
from lcl_core.evaluation.results import PredictionStore
from lcl_core.evaluation.tasks.base import (
    EvalContext,
    EvalProgress,
    EvaluationData,
    SplitImages,
    classes_of,
    group_captions_by_image,
    select_labeled,
)
from lcl_core.evaluation.tasks.retrieval import Retrieval
from lcl_core.evaluation.training import FeatureSource
from lcl_core.specs.data import AugmentationSpec
from lcl_core.specs.evaluate import ClassificationSpec, EvaluateSpec

PLAIN = AugmentationSpec()


@pytest.fixture
def encoder(encoder_dir):
    return EvaluatedEncoder("trained", load_image_encoder(encoder_dir))


@pytest.fixture
def context(tmp_path, encoder):
    run_dir = RunDir(tmp_path)
    return EvalContext(
        spec=EvaluateSpec(encoder="tiny"), encoder=encoder,
        predictions=PredictionStore(tmp_path / "records"), cache=FeatureCache(tmp_path / "cache"),
        progress=EvalProgress(run_dir), artifacts=tmp_path,
        needs_patch_features=True,
    )  # fmt: skip


@pytest.fixture
def images(squares):
    corpus = open_corpus(squares)
    return SplitImages(corpus, "train", group_captions_by_image(corpus.pairs("train")))


def weights(encoder):
    return [each.detach().clone() for each in encoder.model.module.parameters()]


@pytest.mark.parametrize("transfer", ["frozen", "full"])
def test_only_a_copy_learns_and_only_in_full_transfer(context, encoder, images, transfer):
    before = weights(encoder)
    source = FeatureSource(context, transfer, PLAIN)
    classes = classes_of("colour", images, field="labels")
    train_set = select_labeled(images, "colour", classes)
    spec = ClassificationSpec(epochs=2, batch_size=16, encoder_lr=1e-2)
    fit_probe(source, train_set, spec, "classification")
    assert all(torch.equal(old, new) for old, new in zip(before, weights(encoder), strict=True))
    assert not any(each.requires_grad for each in encoder.model.module.parameters())
    if transfer == "frozen":
        assert source.trained_encoder is None
        return
    learnt = list(source.trained_encoder.module.parameters())
    assert all(not torch.equal(old, new) for old, new in zip(before, learnt, strict=True))


def test_features_too_large_for_the_cache_are_computed_each_time_and_are_the_same(context, encoder, images):
    cached = FeatureSource(context, "frozen", PLAIN).batches(images)
    small = replace(context, cache=FeatureCache(context.cache.root, max_bytes=10_000))
    fresh = FeatureSource(small, "frozen", PLAIN).batches(images)
    assert (cached.threads, fresh.threads) == (0, None)
    rows = np.array([3, 17, 4])
    draw = random.Random(0)
    torch.testing.assert_close(
        fresh.patches(fresh.load(rows, draw)), cached.patches(cached.load(rows, draw)), atol=2e-3, rtol=0
    )
    assert not fresh.patches(fresh.load(rows)).requires_grad


def cached_arrays(context):
    return [{file.name for file in entry.glob("*.npy")} for entry in context.cache.root.iterdir() if entry.is_dir()]


def test_pooled_latents_come_without_patch_features_that_are_too_large_for_the_cache(
    context, encoder, encoder_dir, squares
):
    small = replace(context, cache=FeatureCache(context.cache.root, max_bytes=6_000))
    small.predictions.start()
    spec = small.spec.model_copy(update={"splits": ["test"], "dataset": "squares"})
    data = EvaluationData(spec, {"squares": str(squares)}, {"tiny": str(encoder_dir)})
    Retrieval.plan(data).run(small)
    assert list(small.predictions.read())
    assert {"pooled.npy"} in cached_arrays(small)
    assert not any("patches.npy" in names for names in cached_arrays(small))


def test_pooled_latents_and_patch_features_that_fit_are_one_entry(context, encoder, images):
    assert context.get_pooled_latents(images) is not None
    assert context.get_patch_features(images) is not None
    assert cached_arrays(context) == [{"pooled.npy", "patches.npy"}]


def test_images_are_augmented_while_learning_alone(context, encoder, images):
    grey = AugmentationSpec(grey_probability=1.0)
    view = FeatureSource(context, "full", grey).batches(images)
    rows = np.array([0, 1])
    assert torch.equal(
        view.load(rows), encoder.model.preprocess([images.corpus.read_image(images.images[r].name) for r in rows])
    )
    assert not torch.equal(view.load(rows), view.load(rows, random.Random(1)))
    assert torch.equal(view.load(rows, random.Random(1)), view.load(rows, random.Random(1)))
