"""Attentive-pooling probe: a learned query looks at frozen patch features, a linear layer names the class.

The paper's transfer head (a). N patches of width W an image, h heads of width d = W / h, C classes, B images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from lcl_core.errors import UserError
from lcl_core.specs import ClassificationSpec
from lcl_core.transfer.metrics import class_ranks

_HEAD_WIDTH = 64
_WARMUP = 0.05  # share of the steps
_PREDICTED_AT_ONCE = 1024
TOP = 5


class AttentiveProbe(nn.Module):
    """Layer norm → cross-attention of one learned query → output projection → layer norm → linear.

    One query makes attention cheap: q·(K x) = (Kᵀ q)·x, and mixing before projecting equals projecting before
    mixing, so keys and values of the N patches are never formed (exactly the same function, N times less
    work). The input norm's scale and shift would fold into K and V, so it has none.
    """

    def __init__(self, width: int, classes: int, generator: torch.Generator) -> None:
        super().__init__()
        heads = width // _HEAD_WIDTH if width % _HEAD_WIDTH == 0 else 1
        self.query = nn.Parameter(torch.empty(heads, width // heads))
        self.key = nn.Parameter(torch.empty(heads, width // heads, width))
        self.value = nn.Parameter(torch.empty(heads, width // heads, width))
        self.out = skip_init(nn.Linear, width, width)
        self.norm = nn.LayerNorm(width)
        self.head = skip_init(nn.Linear, width, classes)
        with torch.no_grad():
            self.query.normal_(0, 1, generator=generator)
            for weight in (self.key, self.value, self.out.weight):
                weight.normal_(0, width**-0.5, generator=generator)
            self.head.weight.normal_(0, 0.01, generator=generator)
            self.out.bias.zero_()
            self.head.bias.zero_()

    def forward(self, patches: Tensor) -> Tensor:
        """[B, N, W] → logits [B, C]."""
        x = F.layer_norm(patches, patches.shape[-1:])
        look = torch.einsum("hd,hdw->wh", self.query, self.key) / math.sqrt(self.query.shape[1])
        weights = (x @ look).softmax(dim=1)
        mixed = weights.transpose(1, 2) @ x  # [B, h, W]
        values = torch.einsum("bhw,hdw->bhd", mixed, self.value).flatten(1)
        return self.head(self.norm(self.out(values)))


@dataclass(frozen=True)
class Predictions:
    """Of Q pictures: rank [Q] of the true class (ties count against us) and the ``TOP`` classes [Q, ≤TOP]."""

    rank: NDArray[np.int64]
    top: NDArray[np.int64]


class Rows:
    """Some rows of a (memory-mapped) array of patch features [n, N, W] with their classes."""

    def __init__(self, patches: NDArray[np.float16], rows: NDArray[np.int64], classes: NDArray[np.int64]) -> None:
        self.rows = rows
        self.classes = classes
        self._patches = patches

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        return self._patches.shape[-1]

    def tokens(self, picks: NDArray[np.int64], device: str) -> Tensor:
        """[B, N, W] float32."""
        return torch.from_numpy(self._patches[self.rows[picks]]).to(device).float()


def train_probe(
    rows: Rows, classes: int, spec: ClassificationSpec, seed: int, on_step: Callable[[int], None]
) -> AttentiveProbe:
    """AdamW on cross-entropy, warm-up over 5 % of the steps, then cosine to zero; deterministic by ``seed``.

    Args:
        rows: training pictures.
        classes: C; every class of ``rows`` is below it.
        on_step: called with the number of pictures of each step.

    Raises:
        UserError: ``probe_diverged``.
    """
    generator = torch.Generator().manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    probe = AttentiveProbe(rows.width, classes, generator).to(device)
    targets = torch.from_numpy(rows.classes).to(device)
    steps = spec.epochs * math.ceil(len(rows) / spec.batch_size)
    optimizer = _adamw(probe, spec)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _lr_share(step, steps))
    for _ in range(spec.epochs):
        for picks in torch.randperm(len(rows), generator=generator).split(spec.batch_size):
            loss = F.cross_entropy(probe(rows.tokens(picks.numpy(), device)), targets[picks.to(device)])
            if not torch.isfinite(loss):
                raise UserError(
                    "the probe's loss is no longer a number; lower classification.lr",
                    code="probe_diverged", field="classification.lr",
                )  # fmt: skip
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            on_step(len(picks))
    return probe.eval()


@torch.inference_mode()
def predict(probe: AttentiveProbe, rows: Rows) -> Predictions:
    """The probe's answers for ``rows``, in their order."""
    device = str(probe.query.device)
    ranks, tops = [], []
    for picks in np.array_split(np.arange(len(rows)), math.ceil(len(rows) / _PREDICTED_AT_ONCE)):
        logits = probe(rows.tokens(picks, device)).cpu()
        if not torch.isfinite(logits).all():
            raise UserError("the probe gives NaN; lower classification.lr", code="probe_diverged",
                            field="classification.lr")  # fmt: skip
        ranks.append(class_ranks(logits.numpy(), rows.classes[picks]))
        tops.append(logits.topk(min(TOP, logits.shape[1])).indices.numpy())
    return Predictions(np.concatenate(ranks), np.concatenate(tops))


def _adamw(probe: AttentiveProbe, spec: ClassificationSpec) -> torch.optim.AdamW:
    """No decay of biases, norms and the query, as usual."""
    plain = [p for name, p in probe.named_parameters() if p.ndim < 2 or name == "query"]
    decayed = [p for name, p in probe.named_parameters() if p.ndim >= 2 and name != "query"]
    groups = [{"params": decayed, "weight_decay": spec.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=spec.lr, fused=True)


def _lr_share(step: int, steps: int) -> float:
    warmup = max(1, round(_WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
