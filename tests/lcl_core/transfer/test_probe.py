"""The attentive probe: it is the attention it says it is, learns what is there and nothing that is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lcl_core.errors import UserError
from lcl_core.specs import ClassificationSpec
from lcl_core.transfer.probe import AttentiveProbe, Predictions, Rows, predict, train_probe

SPEC = ClassificationSpec(epochs=12, batch_size=64, lr=2e-3)
CLASSES, PATCHES, WIDTH = 6, 9, 64


def planted(images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with the class written into one patch, at a random place: only attention can find it."""
    rng = np.random.default_rng(seed)
    code = np.random.default_rng(99).standard_normal((CLASSES, WIDTH)) * 3
    classes = rng.integers(0, CLASSES, images)
    patches = rng.standard_normal((images, PATCHES, WIDTH))
    patches[np.arange(images), rng.integers(0, PATCHES, images)] += code[classes]
    return patches.astype(np.float16), classes


def rows(patches: np.ndarray, classes: np.ndarray) -> Rows:
    return Rows(patches, np.arange(len(classes)), classes)


def exam(train: Rows, test: Rows, seed: int = 0) -> Predictions:
    return predict(train_probe(train, CLASSES, SPEC, seed, lambda _: None), test)


def accuracy(predictions: Predictions) -> float:
    return float(np.mean(predictions.rank == 1))


def test_it_learns_a_planted_signal_and_generalises() -> None:
    assert accuracy(exam(rows(*planted(600, 0)), rows(*planted(300, 1)))) > 0.9


def test_shuffled_labels_give_chance() -> None:
    patches, classes = planted(600, 0)
    shuffled = rows(patches, np.random.default_rng(5).permutation(classes))
    assert accuracy(exam(shuffled, rows(*planted(600, 1)))) == pytest.approx(1 / CLASSES, abs=0.06)


def test_the_same_seed_gives_the_same_answers_and_another_does_not() -> None:
    train, test = rows(*planted(200, 0)), rows(*planted(200, 1))
    first, again, other = exam(train, test, 3), exam(train, test, 3), exam(train, test, 4)
    assert first.rank.tolist() == again.rank.tolist()
    assert first.top.tolist() == again.top.tolist()
    assert first.top.tolist() != other.top.tolist()


def test_training_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    train_probe(rows(*planted(64, 0)), CLASSES, SPEC, 1, lambda _: None)
    assert torch.equal(before, torch.random.get_rng_state())


def test_it_equals_cross_attention_written_out() -> None:
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


def test_only_the_chosen_rows_are_seen() -> None:
    patches, classes = planted(200, 0)
    chosen = np.arange(1, 200, 2)
    spoiled = patches.copy()
    spoiled[::2] = 1000
    spoiled_rows = Rows(spoiled, chosen, classes[chosen])
    test = rows(*planted(50, 1))
    clean_rows = Rows(patches, chosen, classes[chosen])
    assert exam(spoiled_rows, test).top.tolist() == exam(clean_rows, test).top.tolist()


def test_top_answers_are_ordered_and_agree_with_the_rank() -> None:
    test = rows(*planted(100, 1))
    got = exam(rows(*planted(300, 0)), test)
    assert got.top.shape == (100, 5)
    for rank, top, true in zip(got.rank, got.top, test.classes, strict=True):
        assert (top[rank - 1] == true) if rank <= 5 else (true not in top)


def test_progress_counts_every_picture_of_every_epoch() -> None:
    counts: list[int] = []
    train_probe(rows(*planted(100, 0)), CLASSES, SPEC, 0, counts.append)
    assert sum(counts) == 100 * SPEC.epochs
    assert len(counts) == 2 * SPEC.epochs


def test_a_diverging_probe_names_the_learning_rate() -> None:
    patches, classes = planted(100, 0)
    patches[3] = np.inf
    with pytest.raises(UserError, match=r"classification\.lr") as caught:
        train_probe(rows(patches, classes), CLASSES, SPEC, 0, lambda _: None)
    assert caught.value.field == "classification.lr"
