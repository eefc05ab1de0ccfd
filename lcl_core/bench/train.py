"""Time of a whole training step: zero_grad, forward, loss, backward, AdamW, clamp."""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from lcl_core.bench.documents import read_documents, to_batches
from lcl_core.bench.flops import step_flops
from lcl_core.bench.peak import matmul_peak
from lcl_core.interop.official import read_official_config
from lcl_core.model import LCLConfig, LCLModel, LCLOutput, PackedBatch
from lcl_core.objectives.lcl import lcl
from lcl_core.train import build_optimizer
from lcl_core.train.build import build_model
from lcl_core.train.device import autocast

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, help="a model JSON of the authors' form")
    parser.add_argument("--documents", type=Path, required=True, help="benchmark documents, a JSON object a line")
    parser.add_argument("--batch-size", type=int, default=4, help="documents a step")
    parser.add_argument("--steps", type=int, default=4, help="steps that count; one more warms up")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="fp32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true", help="the object on one line")


def main(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    config = read_official_config(options.config)
    batches = to_batches(read_documents(options.documents), config, options.batch_size)
    report = measure(config, batches, options.steps, options.dtype)
    print(json.dumps(report, indent=None if options.json else 1))


def measure(config: LCLConfig, batches: list[PackedBatch], steps: int, dtype: str) -> dict[str, Any]:
    """Run one step to warm up and ``steps`` that count. Rates are over the median step."""
    model = build_model(config, seed=0).train()
    optimizer = build_optimizer(model, lr=3e-4)
    run_step(model, None, batches[0], dtype)
    times, first = [], None
    for number in range(steps):
        start = time.perf_counter()
        output = run_step(model, optimizer, batches[number % len(batches)], dtype)
        times.append(time.perf_counter() - start)
        first = first or output
    return _report(config, batches[:steps], times, first, dtype)


def run_step(
    model: LCLModel, optimizer: torch.optim.Optimizer | None, batch: PackedBatch, dtype: str
) -> LCLOutput:
    """One training step; without an optimiser the weights stay as they are."""
    model.zero_grad(set_to_none=True)
    with autocast(torch.device("cpu"), "bf16" if dtype == "bf16" else "fp32"):
        output = lcl(model, batch)
    assert output.loss is not None
    output.loss.backward()
    if optimizer is not None:
        optimizer.step()
        model.clamp_logit_scale_()
    return output


def _report(
    config: LCLConfig, batches: list[PackedBatch], times: list[float], first: LCLOutput | None, dtype: str
) -> dict[str, Any]:
    assert first is not None
    assert first.contrastive_loss is not None
    assert first.generation_loss is not None
    seconds = median(times)
    image_tokens = config.num_image_tokens
    images = sum(len(batch.pixel_values) for batch in batches) / len(batches)
    texts = sum(len(batch.token_ids) - len(batch.pixel_values) * (image_tokens + 2) for batch in batches)
    flops = sum(_flops(config, batch) for batch in batches) / len(batches)
    return {
        "seconds_per_step": seconds,
        "images_per_s": images / seconds,
        "real_tokens_per_s": texts / len(batches) / seconds,
        "peak_rss_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "contrastive_loss": first.contrastive_loss.item(),
        "generation_loss": first.generation_loss.item(),
        "mfu_useful": flops / seconds / matmul_peak(DTYPES[dtype]),
        "tflop_per_step": flops / 1e12,
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "steps": len(times),
    }


def _flops(config: LCLConfig, batch: PackedBatch) -> float:
    starts = torch.nonzero(batch.positions == 0).flatten().tolist()
    ends = [*starts[1:], len(batch.positions)]
    lengths = [end - start for start, end in zip(starts, ends, strict=True)]
    return step_flops(config, lengths, len(batch.pixel_values), len(batch.labels))
