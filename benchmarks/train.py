"""Time of a whole training step: zero_grad, forward, loss, backward, gradient norm, AdamW, clamp.

The documents are in memory before the clock starts. A GPU is used when there is one.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.documents import documents_of, to_batches
from lcl_core.common.device import (
    keep_freed_memory,
    limit_onednn_cache,
    onednn_fp32_matmul,
    peak_memory_gib,
    pick_device,
)
from lcl_core.encoders.original_checkpoint import read_official_config
from lcl_core.model import LCLConfig, PackedBatch
from lcl_core.objectives.lcl import Lcl
from lcl_core.train.distributed import RankGroup
from lcl_core.train.factory import build_model
from lcl_core.train.metrics import peak_flops
from lcl_core.train.optimizer import build_optimizer, set_learning_rate
from lcl_core.train.train_step import StepReport, TrainingStep

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_RATE = 3e-4
DEFAULT_CONFIG = Path(__file__).with_name("ViT-B-32_mmc4.json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        default=DEFAULT_CONFIG,
        help="a model JSON of the authors' form; default: their ViT-B/32, MMC4",
    )
    parser.add_argument(
        "--documents", type=Path, help="benchmark documents, a JSON object a line; default: made up, of MMC4's lengths"
    )
    parser.add_argument("--batch-size", type=int, default=4, help="documents a step")
    parser.add_argument("--steps", type=int, default=4, help="steps that count; one more warms up")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="fp32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--numerics", choices=("fixed", "official"), default="fixed")
    parser.add_argument("--json", action="store_true", help="the object on one line")


def main(options: argparse.Namespace) -> None:
    config = read_official_config(options.config)
    config.numerics = options.numerics
    documents = documents_of(options.documents, config)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    limit_onednn_cache()
    batches = to_batches(documents, config, options.batch_size)
    # of the default products, before faster ones are chosen
    peak = peak_flops(DTYPES[options.dtype], pick_device(), seconds=1.0)
    with onednn_fp32_matmul() as fast:
        times, first = measure(config, batches, options.steps, options.dtype)
    report = _report(config, batches[: options.steps], times, first, peak)
    facts = {"threads": torch.get_num_threads(), "dtype": options.dtype, "onednn_fp32": fast, "steps": len(times)}
    print(json.dumps(report | facts, indent=None if options.json else 1))


def measure(
    config: LCLConfig, batches: list[PackedBatch], steps: int, dtype: str, device: torch.device | None = None
) -> tuple[list[float], StepReport]:
    """Run one step to warm up, which leaves the weights as they are, and ``steps`` that count.

    Returns: seconds of each, and what the first of them found.
    """
    device = device or pick_device()
    model = build_model(config, seed=0).train().to(device)
    step = TrainingStep(model, Lcl.from_config(config), RankGroup(), "bf16" if dtype == "bf16" else "fp32")
    optimizer = build_optimizer(model, lr=0.0)
    batches = [batch.to(device) for batch in batches]
    step(optimizer, batches[:1])
    set_learning_rate(optimizer, _RATE)
    times, reports = [], []
    for number in range(steps):
        _wait_for(device)
        start = time.perf_counter()
        reports.append(step(optimizer, [batches[number % len(batches)]]))
        _wait_for(device)
        times.append(time.perf_counter() - start)
    return times, reports[0]


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _report(
    config: LCLConfig, batches: list[PackedBatch], times: list[float], first: StepReport, peak: float
) -> dict[str, Any]:
    """Rates are over the median step."""
    seconds = median(times)
    block = config.num_image_tokens + 2
    images = sum(len(batch.pixel_values) for batch in batches) / len(batches)
    texts = sum(len(batch.token_ids) - len(batch.pixel_values) * block for batch in batches) / len(batches)
    flops = sum(Lcl.from_config(config).flops(config, batch) for batch in batches) / len(batches)
    return {
        "seconds_per_step": seconds,
        "step_seconds": times,
        "images_per_s": images / seconds,
        "real_tokens_per_s": texts / seconds,
        "peak_rss_gib": peak_memory_gib(),
        "contrastive_loss": first.losses["contrastive"].item(),
        "generation_loss": first.losses["generation"].item(),
        "mfu_useful": flops / seconds / peak,
        "tflop_per_step": flops / 1e12,
        "peak_gflops": peak / 1e9,
    }
