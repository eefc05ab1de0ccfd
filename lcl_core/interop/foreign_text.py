"""What the text encoders of other origins share."""

from __future__ import annotations

import copy
from functools import cached_property
from typing import Self

import torch
from torch import nn

from lcl_core.transfer.text_side import TextSide


class ForeignTextSide(TextSide):
    """A text encoder in the network of another library; a class of it says in ``features`` what that answers.

    ``identity`` is set by whoever knows the weights.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.identity = {}

    @property
    def module(self) -> nn.Module:
        return self.network

    @cached_property
    def width(self) -> int:
        with torch.inference_mode():
            return self.features(["a"]).shape[1]

    def copy(self) -> Self:
        twin = copy.copy(self)
        twin.network = copy.deepcopy(self.network).requires_grad_(True)
        return twin
