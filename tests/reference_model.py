"""The model written the usual way: what the benchmark compares with, and what the tests take for the reference.

Rows are right-padded, attention gets a dense additive mask in [L, B, D] layout, places are found by boolean masks
and the full-vocabulary logits of all targets stand in memory at once, as in the authors' code. Numerics are
theirs (``official``), parameter names too. It shares no code with ``lcl_core.model`` or ``lcl_core.objectives``, so
that an error there cannot hide here. Runs in fp32, in fp64 and under bf16 autocast.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from lcl_core.model import LCLConfig


class Sigmoid1702(nn.Module):
    """CLIP's ``quick_gelu``."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class ResidualBlock(nn.Module):
    """x += attention(LN x); x += MLP(LN x); x is [L, B, D]."""

    def __init__(self, width: int, heads: int, hidden: int, quick: bool) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        layers: list[tuple[str, nn.Module]] = [
            ("c_fc", nn.Linear(width, hidden)),
            ("gelu", Sigmoid1702() if quick else nn.GELU()),
            ("c_proj", nn.Linear(hidden, width)),
        ]
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        normed = self.ln_1(x)
        mask = None if mask is None else mask.to(x.dtype)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Stack(nn.Module):
    """Blocks over [B, L, D]."""

    def __init__(self, width: int, layers: int, heads: int, hidden: int, quick: bool) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(ResidualBlock(width, heads, hidden, quick) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x.permute(1, 0, 2)
        for block in self.resblocks:
            x = block(x, mask)
        return x.permute(1, 0, 2)


class Vision(nn.Module):
    """[n, 3, S, S] → [n, N, W]."""

    def __init__(self, config: LCLConfig) -> None:
        super().__init__()
        width, patch = config.vision_width, config.patch_size
        patches = (config.image_size // patch) ** 2
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(patches + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        heads, hidden = width // config.vision_head_width, int(width * config.mlp_ratio)
        self.transformer = Stack(width, config.vision_layers, heads, hidden, config.activation == "quick_gelu")
        self.ln_post = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv1(images)
        x = x.reshape(x.shape[0], x.shape[1], -1).permute(0, 2, 1)
        first = self.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        x = torch.cat([first, x], dim=1) + self.positional_embedding.to(x.dtype)
        return self.ln_post(self.transformer(self.ln_pre(x)))[:, 1:]


class CrossAttention(nn.Module):
    """Attention whose three input biases are parameters of their own and whose output has none."""

    def __init__(self, width: int, output: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, output, bias=False) for _ in range(3))
        self.q_bias, self.k_bias, self.v_bias = (nn.Parameter(torch.zeros(output)) for _ in range(3))
        self.proj = nn.Linear(output, output, bias=False)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q = self._heads(F.linear(query, self.q.weight, self.q_bias))
        k = self._heads(F.linear(key, self.k.weight, self.k_bias))
        v = self._heads(F.linear(value, self.v.weight, self.v_bias))
        weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Pooler(nn.Module):
    """A norm for each of query, key and value, and the attention."""

    def __init__(self, width: int, output: int, heads: int) -> None:
        super().__init__()
        self.norm1_q, self.norm1_k, self.norm1_v = (nn.LayerNorm(width) for _ in range(3))
        self.cross_attn = CrossAttention(width, output, heads)


class PoolProject(nn.Module):
    """[n, N, W] → one latent [n, D], or N tokens [n, N, D]; each computes its values anew, as shipped."""

    def __init__(self, width: int, output: int, heads: int) -> None:
        super().__init__()
        self.query_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pooler = Pooler(width, output, heads)

    def pool(self, x: Tensor) -> Tensor:
        pooler, query = self.pooler, self.query_token.expand(x.shape[0], -1, -1)
        return pooler.cross_attn(pooler.norm1_q(query), pooler.norm1_k(x), pooler.norm1_v(x))[:, 0]

    def project(self, x: Tensor) -> Tensor:
        attention = self.pooler.cross_attn
        return attention.proj(F.linear(self.pooler.norm1_v(x), attention.v.weight, attention.v_bias))


class Text(nn.Module):
    """Embeddings [B, L, D] → outputs of the last block [B, L, D]."""

    def __init__(self, config: LCLConfig) -> None:
        super().__init__()
        width = config.text_width
        self.positional_embedding = nn.Parameter(torch.zeros(config.context_length, width))
        self.text_projection = nn.Parameter(torch.zeros(width, width))
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        hidden = int(width * config.mlp_ratio)
        self.transformer = Stack(
            width, config.text_layers, config.text_heads, hidden, config.activation == "quick_gelu"
        )
        self.ln_final = nn.LayerNorm(width)
        self._mask = torch.empty(0, 0)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        if self._mask.shape[0] != length:
            self._mask = torch.full((length, length), float("-inf"), device=x.device).triu(1)
        return self.transformer(x + self.positional_embedding[:length], self._mask)

    def contrast(self, hidden: Tensor) -> Tensor:
        """Outputs at an image start [M, D] → unit vectors [M, E]."""
        return normalize(self.ln_final(hidden) @ self.text_projection.to(hidden.dtype))


class Result(NamedTuple):
    """Losses (each x its weight) and what they were made of; shapes as :class:`lcl_core.model.LCLOutput`'s,
    but ``hidden`` is [B, L, D]."""

    contrastive_loss: Tensor
    generation_loss: Tensor
    image_features: Tensor
    text_features: Tensor
    latents: Tensor
    tokens: Tensor
    hidden: Tensor

    @property
    def loss(self) -> Tensor:
        return self.contrastive_loss + self.generation_loss


class ReferenceLCL(nn.Module):
    """LCL as the authors run it; ``load_state_dict`` takes their weights and the product's."""

    def __init__(self, config: LCLConfig) -> None:
        super().__init__()
        width = config.text_width
        self.config = config
        self.visual = Vision(config)
        self.pool_project = PoolProject(config.vision_width, width, config.pool_heads)
        self.text = Text(config)
        self.lm_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.vocab_size, bias=False))
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor, input_ids: Tensor) -> Result:
        """Both losses of images [n, 3, S, S] in document order and right-padded rows [B, L]; 0 is padding."""
        patches = self.visual(images)
        latents, tokens = self.pool_project.pool(patches), self.pool_project.project(patches)
        hidden = self.text(self._embed(input_ids, tokens))
        starts = input_ids == self.config.soi_token_id
        behind_something = starts.clone()
        behind_something[:, 0] = False
        image_features = normalize(latents[behind_something[starts]])
        text_features = self.text.contrast(hidden[behind_something])
        contrastive = self._contrastive(image_features, text_features)
        generation = self._generation(hidden, input_ids)
        return Result(contrastive, generation, image_features, text_features, latents, tokens, hidden)

    @torch.no_grad()
    def clamp(self) -> None:
        """The inverse temperature stays within [1, 100]."""
        self.logit_scale.clamp_(0.0, torch.tensor(100.0).log().item())

    def _embed(self, input_ids: Tensor, tokens: Tensor) -> Tensor:
        embedded = self.text.token_embedding(input_ids)
        embedded[input_ids == self.config.img_token_id] = tokens.flatten(0, 1).to(embedded.dtype)
        return embedded

    def _contrastive(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        logits = self.logit_scale.exp() * image_features @ text_features.T
        target = torch.arange(logits.shape[0], device=logits.device)
        both = F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)
        return self.config.contrastive_weight * both / 2

    def _generation(self, hidden: Tensor, input_ids: Tensor) -> Tensor:
        labels = input_ids[:, 1:]
        kept = (labels != self.config.img_token_id) & (labels != self.config.eoi_token_id) & (labels != 0)
        logits = to_fp32(self.lm_head(hidden[:, :-1][kept]))
        return self.config.generation_weight * F.cross_entropy(logits, labels[kept])


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """AdamW's groups: every parameter of two or more dimensions is decayed, the rest is not."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    plain = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def to_fp32(x: Tensor) -> Tensor:
    """fp32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def normalize(x: Tensor) -> Tensor:
    return F.normalize(to_fp32(x), dim=-1)
