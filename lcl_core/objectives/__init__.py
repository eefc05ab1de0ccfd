"""The pre-training objectives by name. A new one is a file, its entry here, and its ``Method`` in ``specs``."""

from __future__ import annotations

import torch

from lcl_core.data.sampling.shuffle import mix64
from lcl_core.model.configuration_lcl import LCLConfig
from lcl_core.objectives.base import Objective
from lcl_core.objectives.beit3 import Beit3
from lcl_core.objectives.blip2 import Blip2
from lcl_core.objectives.clip import Clip, Coca
from lcl_core.objectives.emu import Emu
from lcl_core.objectives.flamingo import Flamingo
from lcl_core.objectives.lcl import Lcl
from lcl_core.specs.pretrain import ObjectiveSpec

OBJECTIVES: dict[str, type[Objective]] = {
    objective.name: objective for objective in (Lcl, Clip, Coca, Blip2, Beit3, Flamingo, Emu)
}


def build_objective(spec: ObjectiveSpec, config: LCLConfig, seed: int = 0) -> Objective:
    """The objective of a spec for a model. Its own parameters are the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix64(seed, 1))  # a different random stream from the model's
        return OBJECTIVES[spec.name].build(config, spec)
