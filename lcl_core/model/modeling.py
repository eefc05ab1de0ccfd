"""LCLModel: a ViT, an attentive pooler and a causal text tower, trained together from scratch."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from lcl_core.costs.methods import CONTEXT_TOKENS
from lcl_core.model.batch import Layout, PackedBatch, as_context
from lcl_core.model.configuration import LCLConfig, Numerics
from lcl_core.model.initialisation import initial_logit_scale, initialise
from lcl_core.model.output import LCLOutput
from lcl_core.model.pooler import AttentivePoolingProjection
from lcl_core.model.text import TextTower
from lcl_core.model.vision import Blanks, VisionTower


class LCLModel(PreTrainedModel):
    """Vision encoder and language model of Latent Compression Learning.

    After pre-training the text tower may be thrown away: ``get_image_features`` and ``get_patch_features`` are the
    product.
    """

    config_class = LCLConfig
    base_model_prefix = "lcl"
    main_input_name = "pixel_values"
    config: LCLConfig

    def __init__(self, config: LCLConfig) -> None:
        super().__init__(config)
        width = config.text_width
        self.visual = VisionTower(config)
        self.pool_project = AttentivePoolingProjection(config.vision_width, width, config.pool_heads)
        self.text = TextTower(config)
        self.lm_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.vocab_size, bias=False))
        self.logit_scale = nn.Parameter(torch.tensor(initial_logit_scale()))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        initialise(module)
        if module is self:
            nn.init.constant_(self.logit_scale, initial_logit_scale())

    def forward(self, pixel_values: Tensor, input_ids: Tensor, **_: Any) -> LCLOutput:
        """Both losses of right-padded documents.

        Args:
            pixel_values: [n, 3, S, S], images in document order across the batch.
            input_ids: [B, L] long, right-padded with zeros; never written to.

        Raises:
            UserError: placeholders do not match the images, or a document is too long.
        """
        from lcl_core.objectives import Lcl, compute_loss  # objectives stand on the model

        batch = PackedBatch.from_padded(input_ids, pixel_values, self.config)
        return compute_loss(Lcl.of(self.config), self, batch)

    def encode_images(
        self, pixel_values: Tensor, patches: Tensor | None = None, blanks: Blanks | None = None
    ) -> tuple[Tensor, Tensor]:
        """[n, 3, S, S] → pooled latents [n, D] and patch tokens [n, N, D].

        Args:
            patches: [n, N] numbers of the patches to look at; none: all.
            blanks: patches that are hidden.
        """
        return self.pool_project(self.visual(pixel_values, patches, blanks))

    def embed(self, token_ids: Tensor, image_slots: Tensor, patch_tokens: Tensor) -> Tensor:
        """Embeddings [T, D] of ids [T], with the patch tokens [n, N, D] in the slots [n * N]."""
        embeddings = self.text.token_embedding(token_ids)
        return embeddings.index_copy(0, image_slots, patch_tokens.flatten(0, 1).to(embeddings.dtype))

    def read_documents(self, batch: PackedBatch, patch_tokens: Tensor) -> Tensor:
        """Text tower outputs [T, D] with the patch tokens [n, N, D] in the placeholders' places."""
        embeddings = self.embed(batch.token_ids, batch.image_slots, patch_tokens)
        return self.text(embeddings, batch.positions, batch.plan)

    def get_patch_features(self, pixel_values: Tensor) -> Tensor:
        """[n, 3, S, S] → [n, N, W] patch features of the vision tower, before the pooler."""
        return self.visual(pixel_values)

    def get_image_features(self, pixel_values: Tensor, normalize: bool = True) -> Tensor:
        """[n, 3, S, S] → pooled latents [n, E], L2-normalised unless told otherwise."""
        latents = self.pool_project.pool(self.visual(pixel_values)).float()
        return F.normalize(latents, dim=-1) if normalize else latents

    def get_text_features(
        self, input_ids: Tensor, context_length: int = CONTEXT_TOKENS, normalize: bool = True
    ) -> Tensor:
        """Texts as contexts of an image that would come next: ``sot text <soi>``.

        Args:
            input_ids: [n, L] rows ``sot text eot 0 …``; never written to.
            context_length: rows are cut to this many tokens, the last of which becomes ``<soi>``.

        Returns:
            [n, E], one row a text.
        """
        rows = [as_context(row[:context_length].cpu(), self.config) for row in input_ids]
        layout = Layout.of(rows, self.config.context_length)
        ends = torch.tensor([len(row) for row in rows]).cumsum(0) - 1
        embeddings = self.text.token_embedding(layout.ids.to(self.device))
        hidden = self.text(embeddings, layout.positions.to(self.device), layout.plan.to(self.device))
        features = self.text.contrastive_features(hidden.index_select(0, ends.to(self.device))).float()
        return F.normalize(features, dim=-1) if normalize else features

    def configure_blocks(self, *, checkpointing: bool = False, compiled: bool = False) -> None:
        """Choose how the transformer blocks compute in training.

        Args:
            checkpointing: compute activations again in the backward pass, to keep fewer in memory.
            compiled: compile each block; packed rows differ in length, so lengths stay symbolic.
        """
        for tower in (self.visual.transformer, self.text.transformer):
            tower.checkpointing = checkpointing
            for block in tower.blocks if compiled else ():
                block.attn.leave_uncompiled()
                block.compile(dynamic=True)

    @torch.no_grad()
    def clamp_logit_scale_(self) -> None:
        """Keep the inverse temperature within [1, 100]; call after every optimiser step."""
        self.logit_scale.clamp_(0, math.log(100))

    def set_numerics(self, numerics: Numerics) -> Self:
        """``fixed`` (default) or ``official``, the authors' behaviour to the letter.

        Raises: ValueError for any other word.
        """
        if numerics not in ("fixed", "official"):
            raise ValueError(f"numerics must be 'fixed' or 'official', not {numerics!r}")
        self.config.numerics = numerics
        return self
