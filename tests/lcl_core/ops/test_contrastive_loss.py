"""Shared losses against plain re-statements."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from lcl_core.ops.contrastive_loss import PairTerms, contrastive_loss, describes, sigmoid_contrastive_loss
from lcl_core.ops.linear_cross_entropy import count_correct, linear_cross_entropy


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_chunked_cross_entropy_is_the_plain_one(chunk):
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


def test_labels_that_score_highest_are_counted(monkeypatch):
    monkeypatch.setattr("lcl_core.ops.linear_cross_entropy._LOGIT_BYTES", 3 * 4 * 4)  # three rows at a time
    x = torch.tensor([[3.0, 1.0], [0.0, 2.0], [5.0, 4.0], [1.0, 2.0]])
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0], [0.4, 0.4]])
    assert float(count_correct(x, weight, torch.tensor([0, 0, 0, 1]))) == 3
    assert float(count_correct(x[:0], weight, torch.tensor([], dtype=torch.long))) == 0


def test_contrastive_loss_by_hand():
    images = torch.eye(2)
    texts = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    scale = torch.tensor(0.0)
    # Rows (images): scores (1, 1) and (0, 0), each a coin toss; columns (texts): (1, 0) twice, wanted 0 then 1.
    rows = torch.log(torch.tensor(2.0))
    columns = 0.5 * (torch.log1p(torch.exp(torch.tensor(-1.0))) + torch.log1p(torch.exp(torch.tensor(1.0))))
    got = contrastive_loss(images, texts, scale)
    assert float(got.correct) == 1.0  # the second image sees two equal texts, and the first of them wins
    assert float(got.loss) / 2 == pytest.approx(float(0.5 * (rows + columns)))


GROUPS = torch.tensor([4, 9, 4, 7, 4])


@pytest.fixture
def features():
    draw = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(5, 3, generator=draw).double(), dim=1) for _ in range(2))
    return image.requires_grad_(), text.requires_grad_(), torch.tensor(1.1, dtype=torch.float64, requires_grad=True)


def gradients_agree(ours, plain, *inputs):
    assert float(ours) == pytest.approx(float(plain), rel=1e-6)
    for mine, theirs in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(plain, inputs), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


def test_pairs_of_one_group_share_the_target(features):
    image, text, log_scale = features
    scores = log_scale.exp() * image @ text.T
    plain = torch.zeros((), dtype=torch.float64)
    for logits in (scores, scores.T):
        for row in range(5):
            own = [column for column in range(5) if GROUPS[column] == GROUPS[row]]
            plain = plain - 0.5 * logits[row].log_softmax(0)[own].mean()
    ours = contrastive_loss(image, text, log_scale, groups=GROUPS)
    gradients_agree(ours.loss, plain, *features)
    nearest = scores.argmax(1)
    assert float(ours.correct) == int((GROUPS[nearest] == GROUPS).sum())


def test_pairs_with_one_of_several_groups_in_common_are_positives(features):
    """The same context or the same concept: the third and fourth pair share no group, and both one with the second."""
    image, text, log_scale = features
    groups = torch.tensor([[0, 10], [1, 11], [2, 11], [1, 13], [4, 14]])
    positives = [[0], [1, 2, 3], [1, 2], [1, 3], [4]]
    logits = log_scale.exp() * image @ text.T
    plain = torch.zeros((), dtype=torch.float64)
    for row, own in enumerate(positives):
        plain = plain - 0.5 * (logits[row].log_softmax(0)[own].mean() + logits[:, row].log_softmax(0)[own].mean())
    gradients_agree(contrastive_loss(image, text, log_scale, groups=groups).loss, plain, *features)


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_the_sigmoid_loss_is_a_sum_of_two_class_problems(features, groups):
    image, text, log_scale = features
    bias = torch.tensor(-2.5, dtype=torch.float64, requires_grad=True)
    plain = torch.zeros((), dtype=torch.float64)
    for row in range(5):
        for column in range(5):
            belongs = row == column if groups is None else bool(groups[row] == groups[column])
            score = log_scale.exp() * image[row] @ text[column] + bias
            plain = plain - F.logsigmoid(score if belongs else -score)
    ours = sigmoid_contrastive_loss(image, text, log_scale, bias, groups=groups)
    gradients_agree(ours.loss, plain, *features, bias)


@pytest.mark.parametrize("form", ["infonce", "sigmoid"])
def test_the_loss_is_in_fp32_under_autocast(form):
    """Logits of up to 100 differ in digits that bf16 does not have."""
    draw = torch.Generator().manual_seed(0)
    image = F.normalize(torch.ones(64, 16) + 0.02 * torch.randn(64, 16, generator=draw), dim=1).requires_grad_()
    text = F.normalize(image.detach() + 0.001 * torch.randn(64, 16, generator=draw), dim=1).requires_grad_()
    log_scale = torch.tensor(100.0).log().requires_grad_()

    results = []
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            if form == "infonce":
                sums = contrastive_loss(image, text, log_scale)
            else:
                sums = sigmoid_contrastive_loss(image, text, log_scale, torch.tensor(-10.0))
        results.append([*sums, *torch.autograd.grad(sums.loss, (image, text, log_scale))])
    assert all(map(torch.equal, *results))


def test_no_pairs_are_no_loss():
    nothing, scale = torch.zeros(0, 4, requires_grad=True), torch.tensor(1.0)
    none = torch.zeros(0, dtype=torch.int64)
    for sums in (
        contrastive_loss(nothing, nothing, scale, groups=none),
        contrastive_loss(nothing, nothing, scale, groups=torch.zeros(0, 2, dtype=torch.int64)),
        sigmoid_contrastive_loss(nothing, nothing, scale, torch.tensor(-10.0), groups=none),
        sigmoid_contrastive_loss(nothing, nothing, scale, torch.tensor(-10.0)),
    ):
        assert (float(sums.loss.detach()), float(sums.correct)) == (0.0, 0.0)


# terms 1 to 4; the second text says two of them, the third is not a list of terms, the fourth says what no image has
TERMS = PairTerms(
    torch.tensor([[1, 2, 0], [1, 2, 3], [3, 0, 0], [4, 1, 0], [0, 0, 0]]),
    torch.tensor([[1, 0], [2, 1], [0, 0], [9, 1], [3, 0]]),
)
DESCRIBED = [[1, 1, 0, 1, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, 1, 0, 0]]  # [text, image]


def test_a_text_describes_the_images_that_have_all_its_terms():
    assert describes(TERMS.text, TERMS.image).int().tolist() == DESCRIBED


@pytest.mark.parametrize("form", ["infonce", "sigmoid"])
def test_texts_are_positives_of_the_images_that_they_describe(features, form):
    image, text, log_scale = features
    own = torch.eye(5, dtype=torch.bool)
    positive = own | torch.tensor(DESCRIBED, dtype=torch.bool).T  # [image, text]
    scores = log_scale.exp() * image @ text.T
    if form == "sigmoid":
        bias = torch.tensor(-2.0, dtype=torch.float64)
        plain = F.softplus(torch.where(positive, -(scores + bias), scores + bias)).sum()
        ours = sigmoid_contrastive_loss(*features, bias, groups=torch.arange(5), terms=TERMS)
    else:
        rows = [scores[i].log_softmax(0)[positive[i]].mean() for i in range(5)]
        columns = [scores[:, j].log_softmax(0)[positive[:, j]].mean() for j in range(5)]
        plain = -0.5 * (torch.stack(rows).sum() + torch.stack(columns).sum())
        ours = contrastive_loss(*features, groups=torch.arange(5), terms=TERMS)
    gradients_agree(ours.loss, plain, *features)
    assert float(ours.correct) == int(positive[torch.arange(5), scores.argmax(1)].sum())
