"""Objectives and what they read, for the small model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from lcl_core.model import LCLConfig, PackedBatch
from lcl_core.objectives import Objective, build_objective
from lcl_core.specs import ObjectiveSpec
from tests.lcl_core.dealing import PAIR_METHODS, dealt


@pytest.fixture
def collated(
    small_config: LCLConfig, documents: list[Tensor], pairs: list[Tensor], pixels: Tensor
) -> Callable[..., tuple[Objective, PackedBatch]]:
    """A method by name, with other fields of its spec, and the documents or pairs as it reads them."""

    def collate(name: str, **spec: float) -> tuple[Objective, PackedBatch]:
        objective = build_objective(ObjectiveSpec(name=name, **spec), small_config, seed=0)
        rows = pairs if name in PAIR_METHODS else documents
        return objective, *dealt(objective, rows, pixels, small_config, [range(len(rows))])

    return collate
