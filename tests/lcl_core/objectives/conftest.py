"""Objectives and what they read, for the small model."""

from __future__ import annotations

import pytest

from lcl_core.objectives import build_objective
from lcl_core.specs.pretrain import ObjectiveSpec
from tests.lcl_core.batch_partitions import PAIR_METHODS, partition_batches


@pytest.fixture
def collated(small_config, documents, pairs, pixels):
    """A method by name, with other fields of its spec, and the documents or pairs as it reads them."""

    def collate(name, **spec):
        objective = build_objective(ObjectiveSpec(name=name, **spec), small_config, seed=0)
        rows = pairs if name in PAIR_METHODS else documents
        return objective, *partition_batches(objective, rows, pixels, small_config, [range(len(rows))])

    return collate
