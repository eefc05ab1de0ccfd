"""The text tower that reads a document with image latents in the images' places."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lcl_core.model.attention import Plan
from lcl_core.model.configuration import LCLConfig
from lcl_core.model.transformer import Transformer


class TextTower(nn.Module):
    """Packed embeddings [T, D] and positions [T] → outputs [T, D] of the last block, before any final norm."""

    def __init__(self, config: LCLConfig) -> None:
        super().__init__()
        width = config.text_width
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, width))
        # Most of a document's positions are text, so that most of what a step keeps would be this.
        self.transformer = Transformer(
            width, config.text_layers, config.text_heads, config.mlp_ratio, config.activation, keep_hidden=False
        )
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, config.embed_dim))

    def forward(self, embeddings: Tensor, positions: Tensor, plan: Plan) -> Tensor:
        return self.transformer(embeddings + self.positional_embedding[positions], plan)

    def contrastive_features(self, hidden: Tensor) -> Tensor:
        """Outputs at ``<soi>`` [M, D] → the contrastive space [M, E], not normalised."""
        return self.ln_final(hidden) @ self.text_projection.to(hidden.dtype)
