"""Time of the same training step written the usual way: rows padded, dense masks, all logits at once.

Its ratio to ``train``, taken in one run on one machine, says what packing and chunking are worth there. Initial
weights, documents and their order are those of ``train``, so that the losses can be compared with those of
``train --numerics official``. A GPU is used when there is one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks import train
from benchmarks.documents import documents_of, to_batches
from lcl_core.common.device import autocast, peak_memory_gib, pick_device
from lcl_core.common.errors import UserError
from lcl_core.encoders.original_checkpoint import read_official_config
from lcl_core.model import PackedBatch
from lcl_core.train.factory import build_model
from tests.reference_model import ReferenceLCL, decay_groups

Losses = tuple[float, float]  # contrastive, generation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    train.add_arguments(parser)
    parser.set_defaults(numerics="official")


def main(options: argparse.Namespace) -> None:
    if options.numerics != "official":
        raise UserError(
            "what the authors ship computes in official numerics alone; leave --numerics out",
            code="bad_numerics",
            field="numerics",
        )
    config = read_official_config(options.config)
    torch.set_num_threads(options.threads)
    packed = to_batches(documents_of(options.documents, config), config, options.batch_size)
    batches = [pad(batch, config.context_length) for batch in packed]
    model = ReferenceLCL(config)
    model.load_state_dict(build_model(config, seed=0).state_dict())
    model.train().to(pick_device())
    times, losses = zip(*run_steps(model, batches, options.steps, options.dtype), strict=True)
    counted = batches[: options.steps]
    places = sum(batch.input_ids.numel() for batch in counted)
    report = {
        "seconds_per_step": median(times),
        "images_per_s": sum(len(batch.images) for batch in counted) / len(counted) / median(times),
        "peak_rss_gib": peak_memory_gib(),
        "contrastive_loss": losses[0][0],
        "generation_loss": losses[0][1],
        "padding_share": 1 - sum(batch.real for batch in counted) / places,
        "threads": torch.get_num_threads(),
        "dtype": options.dtype,
        "steps": len(times),
    }
    print(json.dumps(report, indent=None if options.json else 1))


class Padded(NamedTuple):
    """A batch the usual way: images [n, 3, S, S], rows [B, context_length] and how many tokens of them are real."""

    images: Tensor
    input_ids: Tensor
    real: int


def pad(batch: PackedBatch, context_length: int) -> Padded:
    """Every document to the full context, zeros on the right; on the device that computes."""
    starts = [*torch.nonzero(batch.positions == 0).flatten().tolist(), len(batch.token_ids)]
    rows = torch.zeros(len(starts) - 1, context_length, dtype=torch.long)
    for row, start, end in zip(rows, starts[:-1], starts[1:], strict=True):
        row[: end - start] = batch.token_ids[start:end]
    return Padded(batch.pixel_values.to(pick_device()), rows.to(pick_device()), len(batch.token_ids))


def run_steps(model: ReferenceLCL, batches: list[Padded], steps: int, dtype: str) -> Iterator[tuple[float, Losses]]:
    """Seconds and losses of each counted step: zero_grad, forward, losses, backward, AdamW, clamp."""
    optimizer = torch.optim.AdamW(decay_groups(model, 0.2), lr=3e-4, betas=(0.9, 0.98), eps=1e-6)
    run_step(model, None, batches[0], dtype)
    for number in range(steps):
        start = time.perf_counter()
        losses = run_step(model, optimizer, batches[number % len(batches)], dtype)
        yield time.perf_counter() - start, losses


def run_step(model: ReferenceLCL, optimizer: torch.optim.Optimizer | None, batch: Padded, dtype: str) -> Losses:
    """One training step; without an optimiser the weights stay as they are. Waits for the device."""
    model.zero_grad(set_to_none=True)
    with autocast(batch.images.device, "bf16" if dtype == "bf16" else "fp32"):
        result = model(batch.images, batch.input_ids)
    result.loss.backward()
    if optimizer is not None:
        optimizer.step()
        model.clamp()
    return result.contrastive_loss.item(), result.generation_loss.item()
