"""Several processes that train one model: how they meet, and how gradients or weights are shared."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from lcl_core.model import LCLModel
from lcl_core.train.module import TrainingModule


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the other processes that torchrun, or our own launcher, started; nothing to do for one alone.

    Messages about CPU tensors go over gloo, also on GPU machines: what the host knows need not wait for a device.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    dist.init_process_group("gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:nccl")
    try:
        yield
    finally:
        dist.destroy_process_group()


def share(module: TrainingModule, strategy: str) -> nn.Module:
    """Make the processes train one model. One process alone keeps the module as it is.

    Args:
        strategy: ``ddp``, every process holds all weights; ``fsdp2``, each holds a part of every block.
    Raises: KeyError for another strategy.
    """
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return module
    return STRATEGIES[strategy](module)


def _replicate(module: TrainingModule) -> nn.Module:
    return DistributedDataParallel(module, gradient_as_bucket_view=True)


def _shard(module: TrainingModule) -> nn.Module:
    model = module.model
    mesh = init_device_mesh(model.device.type, (dist.get_world_size(),))
    for tower in (model.visual, model.text):
        for block in tower.transformer.blocks:
            fully_shard(block, mesh=mesh)
    # FSDP2 shards no scalars: the temperature stays whole on every rank, and the step averages its gradient
    fully_shard(module, mesh=mesh, ignored_params={model.logit_scale})
    return module


STRATEGIES: dict[str, Callable[[TrainingModule], nn.Module]] = {"ddp": _replicate, "fsdp2": _shard}


@contextmanager
def without_sync(module: nn.Module, skip: bool) -> Iterator[None]:
    """Within, backward passes only add up gradients on each rank, if ``skip``."""
    if not skip:
        yield
    elif isinstance(module, DistributedDataParallel):
        with module.no_sync():
            yield
    elif isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            module.set_requires_gradient_sync(True)
    else:
        yield


def average_unsharded(module: nn.Module, model: LCLModel) -> None:
    """Average over the ranks the gradient of the parameter that FSDP2 leaves alone."""
    gradient = model.logit_scale.grad
    if isinstance(module, FSDPModule) and gradient is not None:
        dist.all_reduce(gradient)
        gradient /= dist.get_world_size()
