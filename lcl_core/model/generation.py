"""Text generation with the pre-trained towers: prompts, KV cache, sampling, beam search, incremental detokenisation.

A caption follows ``<soi> img x N <eoi>``, the layout of pairs. With text before the image, and for documents of several
parts, the layout is that of interleaved documents: ``sot``, then texts and images in turn. Beam search gives what
transformers' own gives with its defaults.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from lcl_core.common.errors import UserError
from lcl_core.data.records import Document, ImageSegment, TextSegment
from lcl_core.data.sampling.document_plan import encode_open_document, image_block
from lcl_core.model.configuration_lcl import LCLConfig
from lcl_core.model.modeling_lcl import LCLModel
from lcl_core.model.processing_lcl import LCLProcessor
from lcl_core.model.transformer import Block
from lcl_core.ops.recompute import norm_linear

_INCOMPLETE_CHARACTER = "\N{REPLACEMENT CHARACTER}"  # decoded from the first bytes of a character
_WORD_END = "</w>"  # becomes a space once it is complete
_MIN_HEADROOM = 64  # tokens; transformers' own layers copy everything they hold for each token
_EXCLUDED_SCORE = -1e9
_SCORE_COPIES = 4  # of a step's scores: logits, probabilities, sums, sorting
PROMPT_TOKENS = 8192  # over all rows, that one step reads of a long prompt
FinishedRows = list[tuple[int, list[int]]]


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
        num_beams: 1 is greedy (or sampling, with ``top_p``), more is beam search.
        top_p: nucleus sampling with this mass.
        seed: of the sampling; image i is sampled with ``seed`` + i, whatever else is in the batch.
    """
    prefix = caption_prefix(model, processor, pixel_values, prompt, context)
    if num_beams > 1:
        finished = dict(row for rows in beam_search(model, prefix, max_new_tokens, num_beams) for row in rows)
        return [processor.decode(finished[row]) for row in range(len(prefix))]
    ends = torch.tensor([model.config.eot_token_id, model.config.soi_token_id], device=prefix.device)
    seeds = range(seed, seed + len(prefix))
    generated: list[Tensor] = []
    ended = torch.zeros(len(prefix), dtype=torch.bool, device=prefix.device)
    for ids in generate_tokens(model, prefix, max_new_tokens, top_p, temperature, seeds):
        if ids is None:
            continue
        generated.append(ids)
        ended |= torch.isin(ids, ends)
        if ended.all():
            break
    return [processor.decode(row) for row in torch.stack(generated, dim=1).tolist()] if generated else []


@torch.inference_mode()
def generate_tokens(
    model: LCLModel,
    prefix: Tensor,
    max_new_tokens: int,
    top_p: float | None = None,
    temperature: float = 1.0,
    seeds: Sequence[int] = (),
) -> Iterator[Tensor | None]:
    """Continue embeddings [n, L, D] by tokens [n], one step at a time, for at most ``max_new_tokens`` steps.

    Greedy, or with ``top_p`` sampled, each row by its own one of ``seeds``. Ends the context at ``context_length``. End
    tokens are yielded like others: the caller stops. None: the step has read a part of a long prompt.
    """
    decoder, cache = TextDecoder(model), PreallocatedCache()
    generators = [torch.Generator(prefix.device).manual_seed(seed) for seed in seeds]
    *parts, new = _prompt_parts(prefix)
    for part in parts:
        decoder(part, cache)
        yield None
    for _ in range(remaining_context(model, prefix, max_new_tokens)):
        scores = decoder(new, cache)
        ids = scores.argmax(dim=-1) if top_p is None else _sample_top_p(scores / temperature, top_p, generators)
        yield ids
        new = model.text.token_embedding(ids)[:, None]


def _prompt_parts(prefix: Tensor) -> Sequence[Tensor]:
    """Embeddings [n, L, D] in parts of at most ``PROMPT_TOKENS`` tokens over all rows."""
    return prefix.split(max(1, PROMPT_TOKENS // max(1, len(prefix))), dim=1)


def _sample_top_p(scores: Tensor, top_p: float, generators: Sequence[torch.Generator]) -> Tensor:
    """[n, V] → [n] sampled from the likeliest tokens that together have ``top_p`` of the probability."""
    if top_p < 1:
        ascending, order = scores.sort(dim=-1)
        unlikely = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
        unlikely[:, -1] = False
        scores = scores.masked_fill(unlikely.scatter(1, order, unlikely), -torch.inf)
    rows = scores.softmax(dim=-1)
    return torch.cat(
        [torch.multinomial(row, 1, generator=generator) for row, generator in zip(rows, generators, strict=True)]
    )


@dataclass(slots=True)
class _BeamRow:
    """Beams of one text, and those that have ended; scores are mean log-probabilities."""

    width: int
    running: list[list[int]]
    ended: list[tuple[float, list[int]]] = field(default_factory=list)

    def end(self, score: float, ids: list[int]) -> None:
        """Keep an ended text, if it is among the best."""
        self.ended = sorted([*self.ended, (score, ids)], key=lambda each: -each[0])[: self.width]

    def may_improve(self, best: float) -> bool:
        """Whether a beam of that score could still precede those that have ended."""
        return len(self.ended) < self.width or best > self.ended[-1][0]


@torch.inference_mode()
def beam_search(model: LCLModel, prefix: Tensor, max_new_tokens: int, num_beams: int) -> Iterator[FinishedRows]:
    """Embeddings [n, L, D] → after each step the rows that are decided, as (row, ids with the end).

    Each row keeps ``num_beams`` beams; a text's score is the mean log-probability of its tokens. The prompt is read
    once a row, in the parts of ``_prompt_parts``; its cache is repeated for the beams.
    """
    decoder, cache = TextDecoder(model), PreallocatedCache()
    ends = torch.tensor([model.config.eot_token_id, model.config.soi_token_id], device=prefix.device)
    rows = {row: _BeamRow(num_beams, [[] for _ in range(num_beams)]) for row in range(len(prefix))}
    scores = prefix.new_full((len(prefix), num_beams), _EXCLUDED_SCORE, dtype=torch.float)
    scores[:, 0] = 0  # all beams are the same at first
    offsets = torch.arange(len(prefix), device=prefix.device)[:, None] * num_beams
    last = remaining_context(model, prefix, max_new_tokens)
    *parts, new = _prompt_parts(prefix)
    for part in parts:
        decoder(part, cache)
        yield []
    for length in range(1, last + 1):
        following = decoder(new, cache).log_softmax(-1)
        if length == 1:
            following = following.repeat_interleave(num_beams, dim=0)
            cache.batch_repeat_interleave(num_beams)
        summed = (following.view(*scores.shape, -1) + scores[:, :, None]).flatten(1)
        # so many that enough of them continue, should the likeliest all end
        top, flat = summed.topk((1 + len(ends)) * num_beams)
        parents, tokens = flat // following.shape[-1], flat % following.shape[-1]
        over = torch.isin(tokens, ends) | (length == last)
        scores, kept = (top + over * _EXCLUDED_SCORE).topk(num_beams)
        on_host = zip(*(part.tolist() for part in (parents, tokens, over, top, kept)), strict=True)
        for row, (origins, words, is_over, likeliest, kept_ranks) in enumerate(on_host):
            if (state := rows.get(row)) is None:
                continue
            # of the candidates, those among the best that are over end, the kept ones continue
            for rank, score in enumerate(likeliest[: state.width]):
                if is_over[rank]:
                    state.end(score / length, [*state.running[origins[rank]], words[rank]])
            state.running = [[*state.running[origins[rank]], words[rank]] for rank in kept_ranks]
        best = (scores[:, 0] / length).tolist()
        decided = [row for row, state in rows.items() if length == last or not state.may_improve(best[row])]
        yield [(row, rows.pop(row).ended[0][1]) for row in decided]
        if not rows:
            return
        cache.reorder_cache((parents.gather(1, kept) + offsets).flatten())  # type: ignore[arg-type]
        new = model.text.token_embedding(tokens.gather(1, kept).flatten())[:, None]


def caption_prompt_ids(config: LCLConfig, processor: LCLProcessor, prompt: str = "", context: str = "") -> list[int]:
    """Ids of an image, ``context`` before it and ``prompt`` after it."""
    if context:
        ids = document_prompt_ids(config, processor, [context, None, *([prompt] if prompt else [])])
    else:
        tokenizer = processor.tokenizer
        ids = [*image_block(tokenizer, config.num_image_tokens), *(tokenizer.encode(prompt) if prompt else [])]
    if len(ids) >= config.context_length:
        message = "the texts leave no room for a caption; shorten them"
        raise UserError(message, code="too_large", field="context" if context else "prompt")
    return ids


def document_prompt_ids(config: LCLConfig, processor: LCLProcessor, parts: Sequence[str | None]) -> list[int]:
    """Ids of texts and (None) images in reading order; at most one more than ``context_length``."""
    segments = tuple(ImageSegment("") if part is None else TextSegment(part) for part in parts)
    limit = config.context_length + 1
    return encode_open_document(Document("", segments), processor.tokenizer, config.num_image_tokens, limit)[:limit]


def check_context_length(config: LCLConfig, ids: Sequence[int], field: str) -> None:
    """Raises: UserError ``too_large`` where not even one token fits after ``ids``."""
    if len(ids) >= config.context_length:
        message = (
            f"the document is longer than the {config.context_length - 1} tokens after which this encoder can go on "
            f"(an image takes {config.num_image_tokens + 2}); leave out the oldest parts"
        )
        raise UserError(message, code="too_large", field=field)


@torch.inference_mode()
def caption_prefix(
    model: LCLModel, processor: LCLProcessor, pixel_values: Tensor, prompt: str = "", context: str = ""
) -> Tensor:
    """[n, 3, S, S] → embeddings [n, L, D], an image each between the same texts."""
    ids = caption_prompt_ids(model.config, processor, prompt, context)
    return torch.stack([_embed_prompt(model, ids, tokens[None]) for tokens in model.encode_images(pixel_values)[1]])


@torch.inference_mode()
def document_prefix(model: LCLModel, ids: Sequence[int], pixel_values: Tensor) -> Tensor:
    """Ids of a document and its images [k, 3, S, S] → embeddings [1, L, D]."""
    if not len(pixel_values):
        return model.text.token_embedding(torch.tensor([ids], device=model.device))
    return _embed_prompt(model, ids, model.encode_images(pixel_values)[1])[None]


def remaining_context(model: LCLModel, prefix: Tensor, max_new_tokens: int) -> int:
    """``max_new_tokens``, or fewer where the context ends earlier, after embeddings [n, L, D]."""
    return min(max_new_tokens, model.config.context_length - prefix.shape[1])


def generation_bytes(config: LCLConfig, prompt_tokens: int, max_new_tokens: int, num_beams: int) -> int:
    """Memory that one text takes while it is generated: fp32 keys, values and scores of all of its beams."""
    tokens = min(prompt_tokens + max_new_tokens, config.context_length)
    capacity = tokens + max(_MIN_HEADROOM, tokens // 2)
    cached = 2 * config.text_layers * config.text_width * capacity
    return 4 * num_beams * (cached + _SCORE_COPIES * config.vocab_size)


def _embed_prompt(model: LCLModel, ids: Sequence[int], patch_tokens: Tensor) -> Tensor:
    token_ids = torch.tensor(ids, device=model.device)
    slots = torch.nonzero(token_ids == model.config.img_token_id).flatten()
    return model.embed_tokens(token_ids, slots, patch_tokens)


class TextDecoder:
    """The text tower and its head with a KV cache; shares the model's weights."""

    def __init__(self, model: LCLModel) -> None:
        self.text, self.lm_head = model.text, model.lm_head

    def __call__(self, inputs_embeds: Tensor, cache: Cache) -> Tensor:
        """Embeddings [B, L, D] → logits [B, V] of the last position, fp32."""
        start = cache.get_seq_length()
        x = inputs_embeds + self.text.positional_embedding[start : start + inputs_embeds.shape[1]]
        for layer, block in enumerate(self.text.transformer.blocks):
            x = _cached_block(block, x, cache, layer)
        logits: Tensor = self.lm_head(x[:, -1]).float()
        return logits


def _cached_block(block: Block, x: Tensor, cache: Cache, layer: int) -> Tensor:
    """One pre-norm block over new tokens [B, L, D] that also see the cached ones."""
    attention = block.attn
    qkv = norm_linear(x, block.ln_1, attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = qkv.unflatten(2, (3, attention.heads, -1)).permute(2, 0, 3, 1, 4)
    k, v = cache.update(k, v, layer)
    new, known = q.shape[2], k.shape[2]
    # A single new token sees all earlier ones; a prompt sees itself causally, and its later parts the earlier ones too.
    is_causal = new == known > 1
    mask = None if is_causal or new == 1 else q.new_ones(new, known, dtype=torch.bool).tril(known - new)
    mixed = F.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal)
    x = x + attention.out_proj(mixed.transpose(1, 2).flatten(2))
    return x + block.mlp(x, block.ln_2)


class PreallocatedCache(Cache):
    """A cache that writes a new token in place. Not for use under autograd."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=_PreallocatedLayer)


class _PreallocatedLayer(DynamicLayer):
    """``keys`` and ``values`` [B, H, L, D] are the front of a longer buffer, unless beams were just reordered."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Add tokens [B, H, n, D]. Returns: all keys and values, [B, H, L + n, D]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys, self.values = _append(self.keys, key_states), _append(self.values, value_states)
        return self.keys, self.values


def _append(kept: Tensor | None, new: Tensor) -> Tensor:
    """``kept`` and behind it ``new``: in its own storage if that has the capacity, else in a longer one."""
    if kept is None or kept.numel() == 0:
        kept = new[:, :, :0]
    length = kept.shape[2] + new.shape[2]
    if not kept.shape[2] or _capacity(kept) < length:
        batch, heads, _, width = new.shape
        longer = new.new_empty(batch, heads, length + max(_MIN_HEADROOM, length // 2), width)[:, :, :length]
        longer[:, :, : kept.shape[2]] = kept
    else:
        longer = kept.as_strided((*kept.shape[:2], length, kept.shape[3]), kept.stride())
    longer[:, :, kept.shape[2] :] = new
    return longer


def _capacity(kept: Tensor) -> int:
    """Tokens between one head's first and the next head's, of [B, H, L, D]; L where it is no buffer's front."""
    _, head, token, number = kept.stride()
    is_front = number == 1 and token == kept.shape[3] and kept.shape[0] * kept.shape[1] > 0
    return head // token if is_front else kept.shape[2]


class IncrementalDetokenizer:
    """Tokens in, parts of text out, which together are what ``LCLProcessor.decode`` gives for all tokens.

    A token may be a part of a character: text is returned once later tokens cannot change it.
    """

    def __init__(self, processor: LCLProcessor) -> None:
        specials = processor.tokenizer.specials
        self._decode = processor.decode
        self._ends = (specials.eot, specials.soi)
        self._ids: list[int] = []
        self._returned = 0
        self.ended = False

    @property
    def text(self) -> str:
        """The text of all tokens so far."""
        return self._decode(self._ids)

    def add(self, token: int) -> str:
        """Add a token. Returns: the text that has become certain, maybe none. ``ended`` is true after an end token."""
        if token in self._ends:
            self.ended = True
            return ""
        self._ids.append(token)
        # Without what later tokens may change: an incomplete character, the start of a word's end, a final space
        kept = self.text.rstrip(_INCOMPLETE_CHARACTER)
        begun = next((n for n in range(len(_WORD_END) - 1, 0, -1) if kept.endswith(_WORD_END[:n])), 0)
        return self._new_part(kept[: len(kept) - begun].rstrip())

    def flush(self) -> str:
        """The rest of the text, after the last token."""
        return self._new_part(self.text)

    def _new_part(self, text: str) -> str:
        part = text[self._returned :]
        self._returned = max(self._returned, len(text))
        return part
