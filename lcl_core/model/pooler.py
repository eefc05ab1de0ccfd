"""Attentive pooling: an image's one latent for the contrastive loss and its tokens for the document."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CrossAttention(nn.Module):
    """The projections of the pooler; biases are parameters of their own and the output has none."""

    def __init__(self, width: int, output_dim: int) -> None:
        super().__init__()
        self.q = nn.Linear(width, output_dim, bias=False)
        self.k = nn.Linear(width, output_dim, bias=False)
        self.v = nn.Linear(width, output_dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(output_dim))
        self.k_bias = nn.Parameter(torch.zeros(output_dim))
        self.v_bias = nn.Parameter(torch.zeros(output_dim))
        self.proj = nn.Linear(output_dim, output_dim, bias=False)


class Pooler(nn.Module):
    """Norms and projections of the pooling attention: [..., W] → query, key, value [..., D]."""

    def __init__(self, width: int, output_dim: int) -> None:
        super().__init__()
        self.norm1_q = nn.LayerNorm(width)
        self.norm1_k = nn.LayerNorm(width)
        self.norm1_v = nn.LayerNorm(width)
        self.cross_attn = CrossAttention(width, output_dim)

    def query(self, x: Tensor) -> Tensor:
        return F.linear(self.norm1_q(x), self.cross_attn.q.weight, self.cross_attn.q_bias)

    def key(self, x: Tensor) -> Tensor:
        return F.linear(self.norm1_k(x), self.cross_attn.k.weight, self.cross_attn.k_bias)

    def value(self, x: Tensor) -> Tensor:
        return F.linear(self.norm1_v(x), self.cross_attn.v.weight, self.cross_attn.v_bias)


class AttentivePoolingProjection(nn.Module):
    """Patch features [n, N, W] → pooled latents [n, D] and patch tokens [n, N, D].

    Both share one value path (norm, projection, output projection): the latent mixes the values with one learned
    query, the tokens take them unmixed. No residual, no MLP, no positions here.
    """

    def __init__(self, width: int, output_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_token = nn.Parameter(torch.empty(1, 1, width))
        self.pooler = Pooler(width, output_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value = self.pooler.value(x)
        return self._pool(x, value), self.pooler.cross_attn.proj(value)

    def pool(self, x: Tensor) -> Tensor:
        """The pooled latents alone."""
        return self._pool(x, self.pooler.value(x))

    def attention(self, x: Tensor) -> Tensor:
        """How much each patch weighs in the latent: [n, N, W] → [n, heads, N], rows sum to 1."""
        q, k = self._query(), self._split(self.pooler.key(x))
        return ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1).squeeze(2)

    def _query(self) -> Tensor:
        """[1, heads, 1, D/heads]; the same for every image, so computed once."""
        return self._split(self.pooler.query(self.query_token))

    def _pool(self, x: Tensor, value: Tensor) -> Tensor:
        key = self._split(self.pooler.key(x))
        query = self._query().expand(len(x), -1, -1, -1)
        mixed = F.scaled_dot_product_attention(query.to(key.dtype), key, self._split(value))
        return self.pooler.cross_attn.proj(mixed.flatten(1))

    def _split(self, x: Tensor) -> Tensor:
        return x.view(len(x), x.shape[1], self.heads, -1).transpose(1, 2)
