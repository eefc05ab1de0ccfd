"""Where a training step's time goes: seconds of each part, and their share, from a profile of one step on the CPU.

Operators are told apart by what they are and by the shapes that they work on. Profiling itself costs a few hundredths.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import train
from benchmarks.documents import documents_of, to_batches
from lcl_core.common.device import keep_freed_memory, limit_onednn_cache, onednn_fp32_matmul, pick_device
from lcl_core.common.errors import UserError
from lcl_core.encoders.original_checkpoint import read_official_config
from lcl_core.model import LCLConfig, PackedBatch
from lcl_core.objectives.lcl import Lcl
from lcl_core.ops.recompute import pad_rows
from lcl_core.train.distributed import RankGroup
from lcl_core.train.factory import build_model
from lcl_core.train.optimizer import build_optimizer
from lcl_core.train.train_step import TrainingStep

_PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::mkldnn_convolution", "aten::convolution_backward")
_BATCHED = ("aten::bmm", "aten::baddbmm_")
_OPTIMIZER = ("aten::_fused_adamw_", "aten::linalg_vector_norm", "Optimizer.zero_grad#AdamW.zero_grad")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    train.add_arguments(parser)


def main(options: argparse.Namespace) -> None:
    if pick_device().type != "cpu":
        raise UserError("the breakdown reads operators of the CPU; hide the GPU for it", code="bad_device")
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    limit_onednn_cache()
    config = read_official_config(options.config)
    batch = to_batches(documents_of(options.documents, config), config, options.batch_size)[0]
    with onednn_fp32_matmul():
        operators = _profiled(config, batch, options.dtype)
    seconds = _by_part(operators, _parts(config, batch))
    total = sum(seconds.values())
    shares = {name: round(value / total, 3) for name, value in seconds.items()}
    report = {"seconds": seconds, "share": shares, "total_seconds": total, "dtype": options.dtype}
    print(json.dumps(report, indent=None if options.json else 1))


def _profiled(config: LCLConfig, batch: PackedBatch, dtype: str) -> Iterable[Any]:
    model = build_model(config, seed=0).train()
    step = TrainingStep(model, Lcl.from_config(config), RankGroup(), "bf16" if dtype == "bf16" else "fp32")
    optimizer = build_optimizer(model, lr=3e-4)
    step(optimizer, [batch])
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found:
        step(optimizer, [batch])
    return found.key_averages(group_by_input_shape=True)


def _parts(config: LCLConfig, batch: PackedBatch) -> list[tuple[str, Callable[[str, set[int]], bool]]]:
    """Names of parts and how to know their operators by name and by the sizes in their shapes; the first that fits."""
    # with the rows of padding that products of the text tower have in training
    tokens = {len(batch.token_ids), len(pad_rows(batch.token_ids[:, None]))}
    rows = len(batch.pixel_values) * (config.num_image_tokens + 1)
    return [
        ("head and cross-entropy", lambda name, sizes: config.vocab_size in sizes and name not in _OPTIMIZER),
        ("optimiser", lambda name, sizes: name in _OPTIMIZER),
        ("text: linear layers", lambda name, sizes: name in _PRODUCTS and bool(tokens & sizes)),
        ("vision and pooler: linear layers", lambda name, sizes: name in _PRODUCTS and not tokens & sizes),
        ("attention: products", lambda name, sizes: name in _BATCHED),
        ("text: norms, GELU, sums, moves", lambda name, sizes: bool(tokens & sizes)),
        ("vision: norms, GELU, sums, moves", lambda name, sizes: rows in sizes),
        ("attention: softmax, copies, and all else", lambda name, sizes: True),
    ]


def _by_part(operators: Iterable[Any], parts: list[tuple[str, Callable[[str, set[int]], bool]]]) -> dict[str, float]:
    seconds = {name: 0.0 for name, _ in parts}
    for operator in operators:
        shapes = operator.input_shapes or []
        sizes = {size for shape in shapes if isinstance(shape, list) for size in shape if isinstance(size, int)}
        part = next(name for name, fits in parts if fits(operator.key, sizes))
        seconds[part] += operator.self_cpu_time_total / 1e6
    return seconds
