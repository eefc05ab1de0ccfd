"""Tokens a second of captions with the keys and values of earlier tokens kept, and without, in turn in one run."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.train import DEFAULT_CONFIG
from lcl_core.common.device import pick_device
from lcl_core.common.errors import UserError
from lcl_core.encoders.original_checkpoint import read_official_config
from lcl_core.model.generation import PreallocatedCache, TextDecoder
from lcl_core.train.factory import build_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="a model's JSON of the authors' form")
    parser.add_argument("--images", type=int, default=8, help="captioned together")
    parser.add_argument("--tokens", type=int, default=64, help="of each caption")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="on one line")


def main(options: argparse.Namespace) -> None:
    if min(options.images, options.tokens, options.repeats, options.threads) < 1:
        raise UserError("every size must be positive", code="bad_option")
    torch.set_num_threads(options.threads)
    print(json.dumps(measure(options), indent=None if options.json else 1))


@torch.inference_mode()
def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Greedy captions of random images' tokens by random weights, after one of each for warmth."""
    config = read_official_config(options.config)
    room = config.context_length - config.num_image_tokens - 2
    if options.tokens > room:
        raise UserError(f"the context leaves room for {room} tokens", code="bad_option", field="tokens")
    device = pick_device()
    decoder = TextDecoder(build_model(config, seed=0).eval().to(device))
    places = config.num_image_tokens + 2  # between <soi> and <eoi>
    prefix = torch.randn(options.images, places, config.text_width, generator=torch.Generator().manual_seed(0)) * 0.02
    prefix = prefix.to(device)
    kept, again = _written(decoder, prefix, 2, True), _written(decoder, prefix, 2, False)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(options.repeats):
        for keeping, times in seconds.items():
            start = time.perf_counter()
            written = _written(decoder, prefix, options.tokens, keeping)
            times.append(time.perf_counter() - start)
            kept, again = (written, again) if keeping else (kept, written)
    count = options.images * options.tokens
    with_cache, without = count / median(seconds[True]), count / median(seconds[False])
    return {
        "tokens_per_s": round(with_cache, 1),
        "tokens_per_s_without_cache": round(without, 1),
        "ratio": round(with_cache / without, 2),
        "same_tokens": round(float((kept == again).float().mean()), 4),
        "images": options.images,
        "tokens": options.tokens,
        "threads": options.threads,
    }


def _written(decoder: TextDecoder, prefix: Tensor, tokens: int, keeping: bool) -> Tensor:
    """Ids [images, tokens]; without ``keeping`` every token reads all that came before anew."""
    cache = PreallocatedCache()
    seen, new, ids = prefix, prefix, []
    for _ in range(tokens):
        output = decoder(inputs_embeds=new, cache=cache) if keeping else decoder(inputs_embeds=seen)
        chosen = output.logits[:, -1].argmax(dim=-1, keepdim=True)
        ids.append(chosen)
        new = decoder.text.token_embedding(chosen)
        seen = torch.cat([seen, new], dim=1)
    return torch.cat(ids, dim=1)
