"""A head that learns classes: the attention that it says it is, and it learns what is there and nothing that is not."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lcl_core.common.errors import UserError
from lcl_core.evaluation.classifiers import AttentiveProbe, fit_probe, predict_by_probe
from lcl_core.evaluation.tasks.base import LabeledImages, SplitImages
from lcl_core.evaluation.training import FeatureSource
from lcl_core.specs.evaluate import ClassificationSpec

SPEC = ClassificationSpec(epochs=12, batch_size=64, lr=2e-3)
CLASSES, PATCHES, WIDTH = 6, 9, 64


def planted(images, seed):
    """Noise with the class written into one patch, at a random place: only attention can find it."""
    rng = np.random.default_rng(seed)
    code = np.random.default_rng(99).standard_normal((CLASSES, WIDTH)) * 3
    classes = rng.integers(0, CLASSES, images)
    patches = rng.standard_normal((images, PATCHES, WIDTH))
    patches[np.arange(images), rng.integers(0, PATCHES, images)] += code[classes]
    return patches.astype(np.float16), classes


def rows(patches, classes, chosen=None):
    """Images of which only the patch features are known: their corpus is an array."""
    chosen = np.arange(len(classes)) if chosen is None else chosen
    split = SplitImages(patches, "train", [])
    return LabeledImages(split, "kind", tuple("abcdef"), chosen, classes[chosen], {})


def source(seed=0):
    context = SimpleNamespace(
        encoder=SimpleNamespace(model=SimpleNamespace(width=WIDTH, device=torch.device("cpu"))),
        get_patch_features=lambda split: split.corpus,
        spec=SimpleNamespace(seed=seed),
        progress=SimpleNamespace(heartbeat=lambda: None),
    )
    return FeatureSource(context, "frozen", None)


def train_probe(train, seed=0):
    return fit_probe(source(seed), train, SPEC, "classification")[0]


def fit_and_predict(train, test, seed=0):
    return predict_by_probe(source(seed), train_probe(train, seed), test, "classification")


def accuracy(predictions):
    return float(np.mean(predictions.rank == 1))


def test_it_learns_a_planted_signal_and_generalises():
    assert accuracy(fit_and_predict(rows(*planted(600, 0)), rows(*planted(300, 1)))) > 0.9


def test_shuffled_labels_give_chance():
    patches, classes = planted(600, 0)
    shuffled = rows(patches, np.random.default_rng(5).permutation(classes))
    assert accuracy(fit_and_predict(shuffled, rows(*planted(600, 1)))) == pytest.approx(1 / CLASSES, abs=0.06)


def test_the_same_seed_gives_the_same_answers_and_another_does_not():
    train, test = rows(*planted(200, 0)), rows(*planted(200, 1))
    first, again, other = (
        fit_and_predict(train, test, 3),
        fit_and_predict(train, test, 3),
        fit_and_predict(train, test, 4),
    )
    assert first.rank.tolist() == again.rank.tolist()
    assert first.top.tolist() == again.top.tolist()
    assert first.top.tolist() != other.top.tolist()


def test_only_the_chosen_rows_are_seen():
    patches, classes = planted(200, 0)
    chosen = np.arange(1, 200, 2)
    spoiled = patches.copy()
    spoiled[::2] = 1000
    test = rows(*planted(50, 1))
    found, expected = (fit_and_predict(rows(each, classes, chosen), test) for each in (spoiled, patches))
    assert found.top.tolist() == expected.top.tolist()


def test_top_answers_are_ordered_and_agree_with_the_rank():
    test = rows(*planted(100, 1))
    got = fit_and_predict(rows(*planted(300, 0)), test)
    assert got.top.shape == (100, 5)
    for rank, top, true in zip(got.rank, got.top, test.classes, strict=True):
        assert (top[rank - 1] == true) if rank <= 5 else (true not in top)


def test_a_diverging_probe_names_the_learning_rate():
    patches, classes = planted(100, 0)
    patches[3] = np.inf
    with pytest.raises(UserError, match=r"classification\.lr") as caught:
        train_probe(rows(patches, classes))
    assert caught.value.field == "classification.lr"


def test_it_equals_cross_attention_written_out():
    width, heads = 128, 2
    probe = AttentiveProbe(width, 5, torch.Generator().manual_seed(0))
    patches = torch.randn(3, 7, width, generator=torch.Generator().manual_seed(1))
    x = F.layer_norm(patches, (width,))
    keys = torch.einsum("bnw,hdw->bhnd", x, probe.key)
    values = torch.einsum("bnw,hdw->bhnd", x, probe.value)
    query = probe.query.view(1, heads, 1, width // heads).expand(3, -1, -1, -1)
    mixed = F.scaled_dot_product_attention(query, keys, values).flatten(1)
    expected = probe.head(probe.norm(probe.out(mixed)))
    torch.testing.assert_close(probe(patches), expected)
