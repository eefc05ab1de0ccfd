"""One rank of steps over documents that several ranks share, with every objective in turn.

    multi_rank_steps.py FOLDER RANK RANKS STRATEGY HANDS [OBJECTIVES BLOCKS FROZEN]

FOLDER/documents.safetensors and FOLDER/pairs.safetensors hold rows, FOLDER/pixels.safetensors their images; HANDS
(JSON) says which rows each micro-batch of each rank takes; OBJECTIVES (JSON) are names of ``VARIANTS``, by default all,
BLOCKS (JSON) the arguments of ``LCLModel.configure_blocks`` and FROZEN (JSON) parts of the model. Rank 0 writes, by
objective, gradients, weights and the losses of two steps.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import MappingProxyType

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor

from lcl_core.model import LCLConfig
from lcl_core.objectives import build_objective
from lcl_core.specs.pretrain import ObjectiveSpec
from lcl_core.train.distributed import RankGroup
from lcl_core.train.factory import build_model
from lcl_core.train.optimizer import build_optimizer, freeze_parts
from lcl_core.train.train_step import TrainingStep
from tests.lcl_core.batch_partitions import VARIANTS, partition_batches, rows_of_variant

CONTRASTIVE_WEIGHT = 0.1  # with more of it round-off of the pooler's key bias, zero by mathematics, stands out


def main(folder, rank, ranks, strategy, hands, objectives=tuple(VARIANTS), blocks=MappingProxyType({}), frozen=()):
    if ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
    config = LCLConfig(**json.loads((folder / "config.json").read_text()))
    tensors = {}
    facts = {}
    for name in objectives:
        found, facts[name] = learnt(name, folder, config, strategy, hands, blocks, frozen)
        tensors |= {f"{name}.{key}": tensor for key, tensor in found.items()}
    if rank == 0:
        save_file(tensors, folder / "result.safetensors")
        (folder / "result.json").write_text(json.dumps(facts))
    if ranks > 1:
        dist.destroy_process_group()


def learnt(name, folder, config, strategy, hands, blocks, frozen):
    """Gradients of the first step (``grad``) and the second (``later_grad``), weights after it; numbers of both."""
    documents, pairs = (_load_rows(folder / f"{kind}.safetensors") for kind in ("documents", "pairs"))
    rows = rows_of_variant(VARIANTS[name], documents, pairs)
    pixels = load_file(folder / "pixels.safetensors")["pixels"][
        : sum(int((r == config.soi_token_id).sum()) for r in rows)
    ]
    objective = build_objective(ObjectiveSpec(**VARIANTS[name], contrastive_weight=CONTRASTIVE_WEIGHT), config)
    meeting = RankGroup()
    model = build_model(config, seed=0).train()
    model.configure_blocks(**blocks)
    freeze_parts(model, frozen)
    step = TrainingStep(model, objective, meeting, strategy=strategy, max_grad_norm=0.5)
    # with a usual epsilon steps turn the round-off of near-zero gradients into full steps of the rate
    optimizer = build_optimizer(step.trained, lr=1e-3, eps=1e-3)
    facts, gradients = [], {}
    for kind in ("grad", "later_grad"):
        facts.append(numbers(step(optimizer, partition_batches(objective, rows, pixels, config, hands)), meeting))
        named = step.trained.named_parameters()
        gradients |= {f"{kind}.{key}": _whole(p.grad) for key, p in named if p.grad is not None}
        objective.after_step(step.model)
    return gradients | {f"weight.{key}": _whole(p) for key, p in step.trained.named_parameters()}, facts


def _load_rows(file):
    case = load_file(file)
    return [case[f"{number}"] for number in range(len(case))]


def numbers(report, meeting):
    """What the ranks found together."""
    own = {name: float(loss) for name, loss in report.losses.items()}
    own |= {f"{name}.total": float(ratio.total) for name, ratio in report.metrics.items()}
    own |= {f"{name}.count": float(ratio.count) for name, ratio in report.metrics.items()}
    shares = meeting.all_gather_object(own)
    return {name: sum(share[name] for share in shares) for name in own} | {"norm": float(report.norm)}


def _whole(tensor):
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().clone()


if __name__ == "__main__":
    torch.set_num_threads(1)
    hands, *options = map(json.loads, sys.argv[5:])
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], hands[int(sys.argv[2])], *options)
