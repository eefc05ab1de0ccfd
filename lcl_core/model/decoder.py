"""The text tower as a causal language model that keeps what it has read."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F
from transformers import Cache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from lcl_core.model.caching import RoomyCache
from lcl_core.model.modeling import LCLModel
from lcl_core.model.thrifty import norm_linear
from lcl_core.model.transformer import Block


class DecoderConfig(PreTrainedConfig):
    """What transformers' decoding asks of a causal language model."""

    model_type = "lcl_decoder"

    def __init__(self, vocab_size: int = 0, num_hidden_layers: int = 0, **kwargs: Any) -> None:
        self.vocab_size = vocab_size
        self.num_hidden_layers = num_hidden_layers
        super().__init__(**kwargs)


class TextDecoder(PreTrainedModel, GenerationMixin):
    """The text tower and its head with a KV cache; shares the model's weights.

    Transformers' own ``generate`` works on it, too.
    """

    config_class = DecoderConfig
    main_input_name = "input_ids"

    def __init__(self, model: LCLModel) -> None:
        super().__init__(DecoderConfig(vocab_size=model.config.vocab_size, num_hidden_layers=model.config.text_layers))
        self.text = model.text
        self.lm_head = model.lm_head
        self.eval()

    def forward(
        self,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """[B, L] ids or [B, L, D] embeddings → logits [B, 1, V] of the last place."""
        cache = RoomyCache() if cache is None else cache
        x = self.text.token_embedding(input_ids) if inputs_embeds is None else inputs_embeds
        start = cache.get_seq_length()
        x = x + self.text.positional_embedding[start : start + x.shape[1]]
        for layer, block in enumerate(self.text.transformer.blocks):
            x = _cached_block(block, x, cache, layer)
        return CausalLMOutputWithPast(logits=self.lm_head(x[:, -1:]).float(), cache=cache)


def _cached_block(block: Block, x: Tensor, cache: Cache, layer: int) -> Tensor:
    """One pre-norm block over new tokens [B, L, D] that also see the cached ones."""
    attention = block.attn
    qkv = norm_linear(x, block.ln_1, attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = qkv.unflatten(2, (3, attention.heads, -1)).permute(2, 0, 3, 1, 4)
    k, v = cache.update(k, v, layer)
    # A single new token sees all that came before; a prompt sees itself causally.
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1)
    x = x + attention.out_proj(mixed.transpose(1, 2).flatten(2))
    return x + block.mlp(x, block.ln_2)
