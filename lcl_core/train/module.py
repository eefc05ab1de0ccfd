"""The module that DDP and FSDP wrap: model and objective, so that one forward pass is all of a batch's terms."""

from __future__ import annotations

from torch import nn

from lcl_core.model import LCLModel, PackedBatch
from lcl_core.objectives import Objective, Terms


class TrainingModule(nn.Module):
    def __init__(self, model: LCLModel, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: PackedBatch) -> Terms:
        return self.objective.terms(self.model, batch)
