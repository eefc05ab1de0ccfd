"""The memory that one of eight ranks needs to begin with the weights of a larger model.

    sharded_start_memory.py deferred|whole

Prints as JSON the bytes of the model, of this rank's shard, of the largest tensor, and the peak of resident memory.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from lcl_core.common.device import release_freed_memory
from lcl_core.model import LCLConfig
from lcl_core.objectives.registry import build_objective
from lcl_core.specs.pretrain import ObjectiveSpec
from lcl_core.train.checkpoint.writer import part_and_offset
from lcl_core.train.distributed import RankGroup
from lcl_core.train.factory import build_model
from lcl_core.train.train_step import TrainingStep
from tests.lcl_core.train.test_checkpoint_reader import fake_group
from tests.lcl_core.train.test_deferred_init import sharded, tensors_of

RANKS = 8


def resident(field: str) -> int:
    (line,) = [each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(f"{field}:")]
    return int(line.split()[1]) << 10


def config(layers: int, width: int) -> LCLConfig:
    sizes = {"vision_width": width, "text_width": width, "vision_layers": layers, "text_layers": layers}
    return LCLConfig(image_size=32, patch_size=16, context_length=64, vocab_size=50_000, text_heads=2, **sizes)


def begin(how: str, chosen: LCLConfig) -> dict[str, torch.Tensor]:
    if how == "deferred":
        return tensors_of(sharded(chosen, seed=1))
    model = build_model(chosen, seed=1)
    TrainingStep(
        model, build_objective(ObjectiveSpec(name="lcl"), chosen), RankGroup.__new__(RankGroup), strategy="fsdp2"
    )
    return tensors_of(model)


def main(how: str) -> None:
    torch.set_num_threads(1)
    with fake_group(0, RANKS):
        begin(how, config(layers=1, width=64))  # what libraries need once
        release_freed_memory()  # free pages that the model fills would not count
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
        before = resident("VmRSS")
        tensors = begin(how, config(layers=12, width=512))
        found = {
            "peak": resident("VmHWM") - before,
            "model": sum(tensor.nbytes for tensor in tensors.values()),
            "shard": sum(part_and_offset(tensor)[0].nbytes for tensor in tensors.values()),
            "largest": max(tensor.numel() * tensor.itemsize for tensor in tensors.values()),
        }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
