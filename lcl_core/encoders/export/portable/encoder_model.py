"""The encoders of Latent Compression Learning: images and texts to one space, without the losses of training.

An export copies this file beside the weights, and ``AutoModel.from_pretrained(DIR, trust_remote_code=True)`` runs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.utils import ModelOutput

from lcl_core.model.modeling_lcl import LCLModel
from lcl_core.specs.pretrain import TEXT_CONTEXT_LENGTH


@dataclass
class LCLEncoderOutput(ModelOutput):
    """Vectors of images and texts, and how well they fit.

    Attributes:
        image_embeds, text_embeds: [n, E] and [m, E] of length 1.
        last_hidden_state: patch features [n, N, W].
        logits_per_image, logits_per_text: [n, m] and [m, n], the products of the vectors x the trained inverse
            temperature; of images and texts given together.
    """

    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    last_hidden_state: Tensor | None = None
    logits_per_image: Tensor | None = None
    logits_per_text: Tensor | None = None


class LCLEncoderModel(LCLModel):
    """``LCLModel`` whose forward pass gives the vectors of images and texts that do not belong together."""

    main_input_name = "pixel_values"

    def forward(  # type: ignore[override]
        self, pixel_values: Tensor | None = None, input_ids: Tensor | None = None, **_: Any
    ) -> LCLEncoderOutput:
        """``pixel_values`` [n, 3, S, S] and / or ``input_ids`` [m, L], as the processor makes them."""
        images = texts = patches = logits = None
        if pixel_values is not None:
            patches = self.get_patch_features(pixel_values)
            images = F.normalize(self.pool_project.pool(patches).float(), dim=-1)
        if input_ids is not None:
            texts = self.get_text_features(input_ids)
        if images is not None and texts is not None:
            logits = self.logit_scale.float().exp() * images @ texts.T
        return LCLEncoderOutput(images, texts, patches, logits, None if logits is None else logits.T)

    def get_text_features(
        self, input_ids: Tensor, context_length: int = TEXT_CONTEXT_LENGTH, normalize: bool = True
    ) -> Tensor:
        """Rows ``sot text eot 0 …`` [n, L] → [n, E], where ``eot`` is read as ``<soi>``. A longer text is cut.

        As ``LCLModel``, over padded rows in place of packed ones: n and L may be symbols of an exported graph.
        """
        ids = input_ids[:, : min(context_length, self.config.context_length)]
        positions = torch.arange(ids.shape[1], device=ids.device)
        is_end = ids == self.config.eot_token_id
        last = torch.where(is_end.any(1), is_end.to(torch.int64).argmax(1), ids.shape[1] - 1)[:, None]
        ids = torch.where(positions == last, self.config.soi_token_id, ids)
        if self.config.text_attention == "causal":
            seen = (positions <= positions[:, None])[None, None]
        else:
            seen = (positions <= last)[:, None, None]
        x = self.text.token_embedding(ids) + self.text.positional_embedding[positions]
        for block in self.text.transformer.blocks:
            attention = block.attn
            qkv = F.linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
            q, k, v = (part.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
            x = x + attention.out_proj(attended.transpose(1, 2).flatten(2))
            x = x + block.mlp.c_proj(block.mlp.activation(block.mlp.c_fc(block.ln_2(x))))
        read = x.gather(1, last[:, :, None].expand(-1, -1, x.shape[2]))[:, 0]
        features = self.text.contrastive_features(read).float()
        return F.normalize(features, dim=-1) if normalize else features
