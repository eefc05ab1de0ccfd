"""Latent Compression Learning: a vision tower, an attentive pooler and a causal text transformer.

The pooler turns patch features into one latent an image, for the contrastive loss, and into patch tokens, which take
the placeholders' positions in the document (LCL, arXiv 2406.07543, Method).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from lcl_core.model.configuration_lcl import LCLConfig, Numerics
from lcl_core.model.packed_batch import PackedBatch, PackedTokens
from lcl_core.model.transformer import Attention, Transformer
from lcl_core.model.vision_towers import MaskedPatches, VisionTower, build_vision_tower
from lcl_core.ops.attention import VarlenLayout
from lcl_core.ops.contrastive_loss import contrastive_loss
from lcl_core.ops.linear_cross_entropy import linear_cross_entropy
from lcl_core.ops.recompute import pad_rows
from lcl_core.specs.pretrain import TEXT_CONTEXT_LENGTH

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)  # CLIP's initial inverse temperature
MAX_LOGIT_SCALE = math.log(100)


class Activations(NamedTuple):
    """Activations of a packed batch.

    Attributes:
        image_latents: [n, D] pooled latents, not normalised.
        patch_tokens: [n, N, D] the images' tokens in the document; none where the objective encodes texts alone.
        hidden: [T, D] the text tower's packed outputs, before any final norm.
    """

    image_latents: Tensor
    patch_tokens: Tensor | None
    hidden: Tensor


@dataclass
class LCLOutput(ModelOutput):
    """Losses of a batch and the tensors that they come from.

    Attributes:
        loss: the weighted sum.
        losses: each loss by name, already x its weight.
        contrastive_loss, generation_loss: those two of them, where the objective has them.
        image_features, text_features: [M, E] L2-normalised contrastive pairs, row-aligned.
        image_latents, patch_tokens, hidden: as in :class:`Activations`.
        batch: the packed batch (its indices give the token of each row).
    """

    loss: Tensor | None = None
    losses: Mapping[str, Tensor] | None = None
    contrastive_loss: Tensor | None = None
    generation_loss: Tensor | None = None
    image_features: Tensor | None = None
    text_features: Tensor | None = None
    image_latents: Tensor | None = None
    patch_tokens: Tensor | None = None
    hidden: Tensor | None = None
    batch: PackedBatch | None = None


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
        """Weight of each patch in the latent: [n, N, W] → [n, heads, N], rows sum to 1."""
        q, k = self._query(), self._split(self.pooler.key(x))
        return ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1).squeeze(2)

    def _query(self) -> Tensor:
        """[1, heads, 1, D/heads]; the same for every image, so computed once."""
        return self._split(self.pooler.query(self.query_token))

    def _pool(self, x: Tensor, value: Tensor) -> Tensor:
        key = self._split(self.pooler.key(x))
        query = self._query().expand(x.shape[0], -1, -1, -1)
        mixed = F.scaled_dot_product_attention(query.to(key.dtype), key, self._split(value))
        return self.pooler.cross_attn.proj(mixed.flatten(1))

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


class TextTower(nn.Module):
    """Packed embeddings [T, D] and positions [T] → outputs [T, D] of the last block, before any final norm."""

    def __init__(self, config: LCLConfig) -> None:
        super().__init__()
        width = config.text_width
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, width))
        # Most of a document's positions are text: pre-activations would be most of a step's memory.
        self.transformer = Transformer(
            width, config.text_layers, config.text_heads, config.mlp_ratio, config.activation, keep_hidden=False
        )
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, config.embed_dim))

    def forward(self, embeddings: Tensor, positions: Tensor, layout: VarlenLayout) -> Tensor:
        return self.transformer(embeddings + self.positional_embedding[positions], layout)

    def contrastive_features(self, hidden: Tensor) -> Tensor:
        """Outputs at ``<soi>`` [M, D] → the contrastive space [M, E], not normalised."""
        rows = pad_rows(hidden) if self.training else hidden
        return (self.ln_final(rows) @ self.text_projection.to(hidden.dtype))[: hidden.shape[0]]


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
        self.visual = build_vision_tower(config)
        self.pool_project = AttentivePoolingProjection(config.vision_width, width, config.pool_heads)
        self.text = TextTower(config)
        self.lm_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.vocab_size, bias=False))
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))
        self.post_init()
        if not list(self.visual.parameters(recurse=False)):
            # transformers leaves out modules that have no parameters of their own
            self.visual.init_weights()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The authors' initial weights: CLIP's rules for the text tower, torch's defaults elsewhere.

        Children are initialised before their parents.
        """
        if module is self:
            nn.init.constant_(self.logit_scale, INITIAL_LOGIT_SCALE)
        elif isinstance(module, (nn.Linear | nn.Conv2d, nn.LayerNorm)):
            module.reset_parameters()
        elif isinstance(module, Attention):
            nn.init.xavier_uniform_(module.in_proj_weight)
            nn.init.zeros_(module.in_proj_bias)
            nn.init.zeros_(module.out_proj.bias)
        elif isinstance(module, CrossAttention):
            for bias in (module.q_bias, module.k_bias, module.v_bias):
                nn.init.zeros_(bias)
        elif isinstance(module, AttentivePoolingProjection):
            nn.init.normal_(module.query_token)
        elif isinstance(module, VisionTower):
            module.init_weights()
        elif callable(compute := getattr(module, "init_non_persistent_buffers", None)):
            compute()  # tensors of timm's networks that their weights lack
        elif isinstance(module, TextTower):
            _init_text_tower(module)

    def forward(self, pixel_values: Tensor, input_ids: Tensor, **_: Any) -> LCLOutput:
        """Both losses of right-padded documents, each the mean over the batch's items.

        L = lambda * L_con + L_gen (arXiv 2406.07543, Method); :mod:`lcl_core.objectives.lcl` is the same over the
        batches of several processes.

        Args:
            pixel_values: [n, 3, S, S], images in document order across the batch.
            input_ids: [B, L] long, right-padded with zeros; never written to.
        """
        batch = PackedBatch.from_padded(input_ids, pixel_values, self.config)
        latents, tokens = self.encode_images(batch.pixel_values)
        hidden = self.encode_documents(batch, tokens)
        image_features, text_features = self.contrastive_pairs(latents, hidden, batch)
        generation = self.next_token_loss(hidden, batch)
        contrastive = contrastive_loss(image_features, text_features, self.logit_scale).loss
        losses = {
            "generation": self.mean_loss(generation, len(batch.labels)) * self.config.generation_weight,
            "contrastive": self.mean_loss(contrastive, len(image_features)) * self.config.contrastive_weight,
        }
        return LCLOutput(
            loss=torch.stack(list(losses.values())).sum(),
            losses=losses,
            contrastive_loss=losses["contrastive"],
            generation_loss=losses["generation"],
            image_features=image_features,
            text_features=text_features,
            image_latents=latents,
            patch_tokens=tokens,
            hidden=hidden,
            batch=batch,
        )

    def encode_images(self, pixel_values: Tensor, masked: MaskedPatches | None = None) -> tuple[Tensor, Tensor]:
        """[n, 3, S, S] → pooled latents [n, D] and patch tokens [n, N, D]."""
        return self.pool_project(self.visual(pixel_values, masked))

    def embed_tokens(self, token_ids: Tensor, image_slots: Tensor, patch_tokens: Tensor) -> Tensor:
        """Embeddings [T, D] of ids [T], with the patch tokens [n, N, D] in the slots [n * N]."""
        embeddings = self.text.token_embedding(token_ids)
        return embeddings.index_copy(0, image_slots, patch_tokens.flatten(0, 1).to(embeddings.dtype))

    def encode_documents(self, batch: PackedBatch, patch_tokens: Tensor) -> Tensor:
        """Text tower outputs [T, D], with the patch tokens [n, N, D] of all images at the placeholders."""
        if batch.placed_images is not None:
            patch_tokens = patch_tokens.index_select(0, batch.placed_images)
        embeddings = self.embed_tokens(batch.token_ids, batch.image_slots, patch_tokens)
        return self.text(embeddings, batch.positions, batch.layout)

    def contrastive_pairs(self, latents: Tensor, hidden: Tensor, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Each image's latent and the text tower's output at the ``<soi>`` of its context, [M, E] L2-normalised."""
        context = self.text.contrastive_features(hidden.index_select(0, batch.pair_positions))
        image = F.normalize(latents.index_select(0, batch.pair_images).float(), dim=-1)
        return image, F.normalize(context.float(), dim=-1)

    def lm_head_inputs(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """[K, D] outputs at label positions, normalised for the vocabulary's projection."""
        return self.lm_head[0](hidden.index_select(0, batch.label_positions))

    def next_token_loss(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """Cross-entropy of the batch's labels from the outputs at their positions, summed."""
        return linear_cross_entropy(self.lm_head_inputs(hidden, batch), self.lm_head[1].weight, batch.labels)

    def mean_loss(self, total: Tensor, count: int) -> Tensor:
        """total / count; over no items it is 0, and NaN in the authors' numerics, as theirs is."""
        return total / (count if self.config.numerics == "official" else max(count, 1))

    def get_patch_features(self, pixel_values: Tensor) -> Tensor:
        """[n, 3, S, S] of any dtype → [n, N, W] patch features before the pooler, in the weights' dtype."""
        return self.visual(pixel_values)

    def get_image_features(self, pixel_values: Tensor, normalize: bool = True) -> Tensor:
        """[n, 3, S, S] of any dtype → pooled latents [n, E] fp32, L2-normalised by default."""
        latents = self.pool_project.pool(self.visual(pixel_values)).float()
        return F.normalize(latents, dim=-1) if normalize else latents

    def get_text_features(
        self, input_ids: Tensor, context_length: int = TEXT_CONTEXT_LENGTH, normalize: bool = True
    ) -> Tensor:
        """Texts as contexts of an image that would come next: ``sot text <soi>``.

        Args:
            input_ids: [n, L] rows ``sot text eot 0 …``; never written to.
            context_length: rows are cut to this many tokens, the last of which becomes ``<soi>``.

        Returns:
            [n, E] fp32, one row a text.
        """
        packed = PackedTokens.pack_contexts(input_ids[:, :context_length].cpu(), self.config)
        ends = packed.document.bincount().cumsum(0) - 1
        embeddings = self.text.token_embedding(packed.ids.to(self.device))
        hidden = self.text(embeddings, packed.positions.to(self.device), packed.layout.to(self.device))
        features = self.text.contrastive_features(hidden.index_select(0, ends.to(self.device))).float()
        return F.normalize(features, dim=-1) if normalize else features

    def configure_blocks(self, *, checkpointing: bool = False, compiled: bool = False) -> None:
        """Choose how the blocks of both towers compute in training.

        Args:
            checkpointing: recompute activations in the backward pass, to keep fewer in memory.
            compiled: compile each block. Images all have one shape: their number alone becomes symbolic, once it has
                changed. Packed rows of text differ each time, so their length is symbolic from the first batch on.
        """
        self.visual.configure_blocks(checkpointing=checkpointing, compiled=compiled)
        self.text.transformer.checkpointing = checkpointing
        for block in self.text.transformer.blocks if compiled else ():
            block.attn.disable_compile()
            block.compile(dynamic=True)

    @torch.no_grad()
    def clamp_logit_scale_(self) -> None:
        """Keep the inverse temperature within [1, 100]; call after every optimiser step."""
        self.logit_scale.clamp_(0, MAX_LOGIT_SCALE)

    def set_numerics(self, numerics: Numerics) -> Self:
        """``fixed`` (default) or ``official``, the authors' behaviour to the letter."""
        if numerics not in ("fixed", "official"):
            raise ValueError(f"numerics must be 'fixed' or 'official', not {numerics!r}")
        self.config.numerics = numerics
        return self


def _init_text_tower(tower: TextTower) -> None:
    width = tower.positional_embedding.shape[1]
    blocks = tower.transformer.blocks
    nn.init.normal_(tower.token_embedding.weight, std=0.02)
    nn.init.normal_(tower.positional_embedding, std=0.01)
    nn.init.normal_(tower.text_projection, std=width**-0.5)
    residual = width**-0.5 * (2 * len(blocks)) ** -0.5
    for block in blocks:
        nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
        nn.init.normal_(block.attn.out_proj.weight, std=residual)
        nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(block.mlp.c_proj.weight, std=residual)
