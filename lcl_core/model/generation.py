"""Captions and continuations from the pre-trained pair of towers, through transformers' own decoding.

An image-first document is ``<soi> img x N <eoi> text <eot>`` (the pair layout), so a caption is what the text tower
writes after ``<eoi>``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache, GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from lcl_core.errors import UserError
from lcl_core.model.caching import RoomyCache
from lcl_core.model.modeling import LCLModel
from lcl_core.model.thrifty import norm_linear
from lcl_core.model.transformer import Block

if TYPE_CHECKING:
    from lcl_core.model.processor import LCLProcessor


class DecoderConfig(PreTrainedConfig):
    """What transformers' decoding asks of a causal language model."""

    model_type = "lcl_decoder"

    def __init__(self, vocab_size: int = 0, num_hidden_layers: int = 0, **kwargs: Any) -> None:
        self.vocab_size = vocab_size
        self.num_hidden_layers = num_hidden_layers
        super().__init__(**kwargs)


class TextDecoder(PreTrainedModel, GenerationMixin):
    """The text tower and its head as a causal language model with a KV cache; shares the model's weights."""

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


@torch.inference_mode()
def generate_captions(
    model: LCLModel,
    processor: LCLProcessor,
    pixel_values: Tensor,
    prompt: str = "",
    max_new_tokens: int = 24,
    num_beams: int = 1,
    top_p: float | None = None,
    temperature: float = 1.0,
    seed: int = 0,
) -> list[str]:
    """One text an image.

    Args:
        pixel_values: [n, 3, S, S].
        prompt: the caption's beginning; the answer continues it.
        num_beams: 1 is greedy (unless ``top_p`` asks for sampling), more is beam search.
        top_p: nucleus sampling with this mass, reproducible by ``seed``.

    Raises:
        UserError: image, prompt and new tokens do not fit into the context.
    """
    decoder = TextDecoder(model)
    prefix = caption_prefix(model, processor, pixel_values, prompt)
    room = model.config.context_length - prefix.shape[1]
    if room < 1:
        raise UserError("the prompt leaves no room for a caption; shorten it", code="prompt_too_long", field="prompt")
    config = GenerationConfig(
        max_new_tokens=min(max_new_tokens, room),
        num_beams=num_beams,
        do_sample=top_p is not None,
        top_p=top_p,
        top_k=0 if top_p is not None else None,
        temperature=temperature if top_p is not None else None,
        eos_token_id=[model.config.eot_token_id, model.config.soi_token_id],
        pad_token_id=model.config.eot_token_id,
        bos_token_id=model.config.sot_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        everything = prefix.new_ones(prefix.shape[:2], dtype=torch.long)
        ids = decoder.generate(
            inputs_embeds=prefix, attention_mask=everything, generation_config=config, cache=RoomyCache()
        )
    return [processor.decode(row.tolist()) for row in ids]


def caption_prefix(model: LCLModel, processor: LCLProcessor, pixel_values: Tensor, prompt: str) -> Tensor:
    """[n, 3, S, S] → embeddings [n, N + 2 + prompt, D] of ``<soi>``, patch tokens, ``<eoi>`` and the prompt."""
    _, tokens = model.encode_images(pixel_values)
    ids = processor.tokenizer.encode(prompt) if prompt else []
    embed = model.text.token_embedding
    behind = torch.tensor([model.config.eoi_token_id, *ids], device=model.device)
    before = torch.tensor([model.config.soi_token_id], device=model.device)
    parts = (embed(before).expand(len(tokens), -1, -1), tokens, embed(behind).expand(len(tokens), -1, -1))
    return torch.cat([part.to(tokens.dtype) for part in parts], dim=1)
