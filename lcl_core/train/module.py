"""The module that DDP and FSDP wrap: model and objective, so that one forward pass is all of a batch's terms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lcl_core.model import LCLModel, PackedBatch
from lcl_core.objectives import Encoding, Joint, Objective, Terms


class TrainingModule(nn.Module):
    """Everything that is trained: the model, and what the objective has of its own."""

    def __init__(self, model: LCLModel, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: PackedBatch, joint: Joint | None = None) -> Encoding | Terms:
        """The terms of a batch; without ``joint`` only what the effective batch has to know of it."""
        encoding = self.objective.encode(self.model, batch)
        if joint is None:
            return encoding
        return Terms(encoding, self.objective.losses(self.model, batch, encoding, joint), self._idle())

    def _idle(self) -> Tensor | None:
        """0, through which idle parameters get a gradient of 0.

        Processes wait for the gradient of every parameter, and every method's optimiser treats them alike.
        """
        if not self.objective.idle:
            return None
        idle = [p for name, p in self.model.named_parameters() if name.startswith(self.objective.idle)]
        return torch.stack([parameter.reshape(-1)[0].float() for parameter in idle]).sum() * 0.0
