"""The encoders of Latent Compression Learning in torch and transformers alone: pictures and texts to one space.

This file lies beside the weights, and ``AutoModel.from_pretrained(DIR, trust_remote_code=True)`` runs it. It computes
what ``lcl_core`` computes, without what training needs. Parameters have the same names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

TEXT_TOKENS = 77  # that are read of a text


class LCLConfig(PreTrainedConfig):
    """Sizes of both towers and ids of the special tokens; the defaults are a ViT-B/32."""

    model_type = "lcl"

    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 32,
        vision_width: int = 768,
        vision_layers: int = 12,
        vision_head_width: int = 64,
        text_width: int = 512,
        text_layers: int = 12,
        text_heads: int = 8,
        pool_heads: int | None = None,
        context_length: int = 2048,
        vocab_size: int = 49411,
        mlp_ratio: float = 4.0,
        activation: str = "gelu",
        eot_token_id: int = 49407,
        soi_token_id: int = 49409,
        **kwargs: Any,
    ) -> None:
        self.image_size = image_size
        self.patch_size = patch_size
        self.vision_width = vision_width
        self.vision_layers = vision_layers
        self.vision_head_width = vision_head_width
        self.text_width = text_width
        self.text_layers = text_layers
        self.text_heads = text_heads
        self.pool_heads = text_heads if pool_heads is None else pool_heads
        self.context_length = context_length
        self.vocab_size = vocab_size
        self.mlp_ratio = mlp_ratio
        self.activation = activation
        self.eot_token_id = eot_token_id
        self.soi_token_id = soi_token_id
        super().__init__(**kwargs)


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        rows, length, width = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.view(rows, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out_proj(mixed.transpose(1, 2).reshape(rows, length, width))


class MLP(nn.Module):
    def __init__(self, width: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, hidden)
        self.activation = quick_gelu if activation == "quick_gelu" else F.gelu
        self.c_proj = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.activation(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, mlp_ratio: float, activation: str) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = MLP(width, int(width * mlp_ratio), activation)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        x = x + self.attn(self.ln_1(x), causal)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, mlp_ratio: float, activation: str) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, mlp_ratio, activation) for _ in range(layers))

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        for block in self.resblocks:
            x = block(x, causal)
        return x


class VisionTower(nn.Module):
    """[n, 3, S, S] → patch features [n, N, W] after the last norm; the class token is an attention register."""

    def __init__(self, config: LCLConfig) -> None:
        super().__init__()
        width, places = config.vision_width, (config.image_size // config.patch_size) ** 2
        self.conv1 = nn.Conv2d(3, width, config.patch_size, config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(places + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        heads = width // config.vision_head_width
        self.transformer = Transformer(width, config.vision_layers, heads, config.mlp_ratio, config.activation)
        self.ln_post = nn.LayerNorm(width)

    def forward(self, pixel_values: Tensor) -> Tensor:
        patches = self.conv1(pixel_values).flatten(2).transpose(1, 2)
        register = self.class_embedding.expand(len(patches), 1, -1)
        x = torch.cat((register, patches), dim=1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 1:])


class TextTower(nn.Module):
    def __init__(self, config: LCLConfig) -> None:
        super().__init__()
        width = config.text_width
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, width))
        self.transformer = Transformer(
            width, config.text_layers, config.text_heads, config.mlp_ratio, config.activation
        )
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, width))

    def forward(self, input_ids: Tensor, ends: Tensor) -> Tensor:
        """[n, L] and the place [n] of each row's last token → [n, E]."""
        x = self.token_embedding(input_ids) + self.positional_embedding[: input_ids.shape[1]]
        x = self.transformer(x, causal=True)
        return self.ln_final(x[torch.arange(len(x), device=x.device), ends]) @ self.text_projection


class CrossAttention(nn.Module):
    def __init__(self, width: int, output_dim: int) -> None:
        super().__init__()
        self.q = nn.Linear(width, output_dim, bias=False)
        self.k = nn.Linear(width, output_dim, bias=False)
        self.v = nn.Linear(width, output_dim, bias=False)
        self.q_bias = nn.Parameter(torch.empty(output_dim))
        self.k_bias = nn.Parameter(torch.empty(output_dim))
        self.v_bias = nn.Parameter(torch.empty(output_dim))
        self.proj = nn.Linear(output_dim, output_dim, bias=False)


class Pooler(nn.Module):
    def __init__(self, width: int, output_dim: int) -> None:
        super().__init__()
        self.norm1_q = nn.LayerNorm(width)
        self.norm1_k = nn.LayerNorm(width)
        self.norm1_v = nn.LayerNorm(width)
        self.cross_attn = CrossAttention(width, output_dim)


class AttentivePoolingProjection(nn.Module):
    """Patch features [n, N, W] → pooled latents [n, E]: one learned query looks at all patches."""

    def __init__(self, width: int, output_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_token = nn.Parameter(torch.empty(1, 1, width))
        self.pooler = Pooler(width, output_dim)

    def forward(self, x: Tensor) -> Tensor:
        norms, cross = self.pooler, self.pooler.cross_attn
        q = F.linear(norms.norm1_q(self.query_token), cross.q.weight, cross.q_bias)
        k = F.linear(norms.norm1_k(x), cross.k.weight, cross.k_bias)
        v = F.linear(norms.norm1_v(x), cross.v.weight, cross.v_bias)
        query = self._split(q).expand(len(x), -1, -1, -1)
        mixed = F.scaled_dot_product_attention(query, self._split(k), self._split(v))
        return cross.proj(mixed.flatten(1))

    def _split(self, x: Tensor) -> Tensor:
        return x.view(len(x), x.shape[1], self.heads, -1).transpose(1, 2)


@dataclass
class LCLEncoderOutput(ModelOutput):
    """``image_embeds`` and ``text_embeds`` [n, E] of length 1; ``last_hidden_state``: patch features [n, N, W]."""

    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    last_hidden_state: Tensor | None = None


class LCLModel(PreTrainedModel):
    """Both towers and the pooler; what only training and captions need is left out."""

    config_class = LCLConfig
    base_model_prefix = "lcl"
    main_input_name = "pixel_values"
    _keys_to_ignore_on_load_unexpected = [r"^lm_head\."]  # noqa: RUF012 - as transformers has it

    def __init__(self, config: LCLConfig) -> None:
        super().__init__(config)
        self.visual = VisionTower(config)
        self.pool_project = AttentivePoolingProjection(config.vision_width, config.text_width, config.pool_heads)
        self.text = TextTower(config)
        self.logit_scale = nn.Parameter(torch.empty(()))
        self.post_init()

    def forward(
        self, pixel_values: Tensor | None = None, input_ids: Tensor | None = None, **_: Any
    ) -> LCLEncoderOutput:
        patches = None if pixel_values is None else self.visual(pixel_values)
        return LCLEncoderOutput(
            image_embeds=None if patches is None else F.normalize(self.pool_project(patches), dim=-1),
            text_embeds=None if input_ids is None else self.get_text_features(input_ids),
            last_hidden_state=patches,
        )

    def get_patch_features(self, pixel_values: Tensor) -> Tensor:
        """[n, 3, S, S] → patch features [n, N, W]."""
        return self.visual(pixel_values)

    def get_image_features(self, pixel_values: Tensor, normalize: bool = True) -> Tensor:
        """[n, 3, S, S] → [n, E]."""
        latents = self.pool_project(self.visual(pixel_values))
        return F.normalize(latents, dim=-1) if normalize else latents

    def get_text_features(self, input_ids: Tensor, normalize: bool = True) -> Tensor:
        """Rows ``sot text eot 0 …`` [n, L], as the processor makes them → [n, E]. A longer text is cut."""
        limit = min(TEXT_TOKENS, self.config.context_length)
        ids = input_ids[:, :limit].clone()
        is_end = ids == self.config.eot_token_id
        ends = torch.where(is_end.any(1), is_end.int().argmax(1), ids.shape[1] - 1)
        # a text is read as what stands before a picture, which would start here
        ids[torch.arange(len(ids), device=ids.device), ends] = self.config.soi_token_id
        features = self.text(ids, ends)
        return F.normalize(features, dim=-1) if normalize else features
