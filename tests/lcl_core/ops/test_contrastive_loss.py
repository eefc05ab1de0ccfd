"""Shared losses against plain re-statements."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from lcl_core.ops.contrastive_loss import contrastive_loss
from lcl_core.ops.linear_cross_entropy import count_correct, linear_cross_entropy


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_chunked_cross_entropy_is_the_plain_one(chunk: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 11, (7,))
    plain = F.cross_entropy(x @ weight.T, labels, reduction="sum")
    expected = torch.autograd.grad(3 * plain, (x, weight))
    ours = linear_cross_entropy(x, weight, labels, chunk)
    found = torch.autograd.grad(3 * ours, (x, weight))
    assert float(ours) == pytest.approx(float(plain), rel=1e-6)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs, atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        assert float(linear_cross_entropy(x, weight, labels, chunk)) == pytest.approx(float(plain), rel=1e-6)


def test_labels_that_score_highest_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lcl_core.ops.linear_cross_entropy._LOGIT_BYTES", 3 * 4 * 4)  # three rows at a time
    x = torch.tensor([[3.0, 1.0], [0.0, 2.0], [5.0, 4.0], [1.0, 2.0]])
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0], [0.4, 0.4]])
    assert float(count_correct(x, weight, torch.tensor([0, 0, 0, 1]))) == 3
    assert float(count_correct(x[:0], weight, torch.tensor([], dtype=torch.long))) == 0


def test_contrastive_loss_by_hand() -> None:
    images = torch.eye(2)
    texts = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    scale = torch.tensor(0.0)
    # Rows (images): scores (1, 1) and (0, 0), each a coin toss; columns (texts): (1, 0) twice, wanted 0 then 1.
    rows = torch.log(torch.tensor(2.0))
    columns = 0.5 * (torch.log1p(torch.exp(torch.tensor(-1.0))) + torch.log1p(torch.exp(torch.tensor(1.0))))
    got = contrastive_loss(images, texts, scale)
    assert float(got.correct) == 1.0  # the second image sees two equal texts, and the first of them wins
    assert float(got.loss) / 2 == pytest.approx(float(0.5 * (rows + columns)))
