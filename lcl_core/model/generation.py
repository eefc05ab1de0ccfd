"""Captions and continuations from the pre-trained pair of towers.

Greedy and sampled texts are written a token at a time; beams are searched by transformers' own decoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache, GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from lcl_core.model.caching import RoomyCache
from lcl_core.model.modeling import LCLModel
from lcl_core.model.prefixes import caption_prefix
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
    context: str = "",
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
        context: text before the image.
        num_beams: 1 is greedy (unless ``top_p`` asks for sampling), more is beam search.
        top_p: nucleus sampling with this mass.
        seed: of the sampling; image i is drawn with ``seed`` + i, whatever is written beside it.

    Raises:
        UserError: ``prompt_too_long``: image, texts and new tokens do not fit into the context.
    """
    prefix = caption_prefix(model, processor, pixel_values, prompt, context)
    if num_beams > 1:
        return [processor.decode(ids) for ids in search_beams(model, prefix, max_new_tokens, num_beams)]
    ends = torch.tensor([model.config.eot_token_id, model.config.soi_token_id], device=prefix.device)
    seeds = range(seed, seed + len(prefix))
    written: list[Tensor] = []
    ended = torch.zeros(len(prefix), dtype=torch.bool, device=prefix.device)
    for ids in write(model, prefix, max_new_tokens, top_p, temperature, seeds):
        written.append(ids)
        ended |= torch.isin(ids, ends)
        if ended.all():
            break
    return [processor.decode(row) for row in torch.stack(written, dim=1).tolist()] if written else []


@torch.inference_mode()
def write(
    model: LCLModel,
    prefix: Tensor,
    max_new_tokens: int,
    top_p: float | None = None,
    temperature: float = 1.0,
    seeds: Sequence[int] = (),
) -> Iterator[Tensor]:
    """The tokens [n] that come next after embeddings [n, L, D], one step at a time, until nobody asks for more.

    At most ``max_new_tokens``, and no more than there is room for. The likeliest ones, or with ``top_p`` drawn, each
    row by its own one of ``seeds``. Ends are tokens like others: it is for the caller to stop.
    """
    decoder, cache = TextDecoder(model), RoomyCache()
    draws = [torch.Generator(prefix.device).manual_seed(seed) for seed in seeds]
    new = prefix
    for _ in range(_room(model, prefix, max_new_tokens)):
        scores = decoder(inputs_embeds=new, cache=cache).logits[:, -1]
        ids = scores.argmax(dim=-1) if top_p is None else _draw(scores / temperature, top_p, draws)
        yield ids
        new = model.text.token_embedding(ids)[:, None]


def _draw(scores: Tensor, top_p: float, draws: Sequence[torch.Generator]) -> Tensor:
    """[n, V] → [n] drawn from the likeliest tokens that together have ``top_p`` of the probability."""
    if top_p < 1:
        ascending, order = scores.sort(dim=-1)
        unlikely = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
        unlikely[:, -1] = False
        scores = scores.masked_fill(unlikely.scatter(1, order, unlikely), -torch.inf)
    rows = scores.softmax(dim=-1)
    return torch.cat([torch.multinomial(row, 1, generator=draw) for row, draw in zip(rows, draws, strict=True)])


@torch.inference_mode()
def search_beams(model: LCLModel, prefix: Tensor, max_new_tokens: int, num_beams: int) -> list[list[int]]:
    """Embeddings [n, L, D] → the likeliest text of each row among those that ``num_beams`` kept beginnings lead to."""
    specials = model.config
    config = GenerationConfig(
        max_new_tokens=_room(model, prefix, max_new_tokens),
        num_beams=num_beams,
        do_sample=False,
        eos_token_id=[specials.eot_token_id, specials.soi_token_id],
        pad_token_id=specials.eot_token_id,
        bos_token_id=specials.sot_token_id,
    )
    everything = prefix.new_ones(prefix.shape[:2], dtype=torch.long)
    ids = TextDecoder(model).generate(
        inputs_embeds=prefix, attention_mask=everything, generation_config=config, cache=RoomyCache()
    )
    return ids.tolist()


def _room(model: LCLModel, prefix: Tensor, max_new_tokens: int) -> int:
    return min(max_new_tokens, model.config.context_length - prefix.shape[1])
