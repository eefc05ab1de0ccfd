"""A case's product, loaded from the authors' files, beside the reference in fp32 and in fp64."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lcl_core.encoders.original_checkpoint import config_from_official, load_official
from lcl_core.model import LCLModel
from tests.lcl_core.reference_cases import Case, recipe_weights, reference_model
from tests.reference_model import ReferenceLCL


@dataclass(frozen=True)
class ModelTrio:
    """Three models of one case with the same weights: the product, the reference in fp32, the reference in fp64."""

    case: Case
    product: LCLModel
    plain: ReferenceLCL
    exact: ReferenceLCL
    images: Tensor
    ids: Tensor


@pytest.fixture
def trio(tmp_path):
    def build(case):
        with torch.device("meta"):
            names = ReferenceLCL(config_from_official(case.official)).state_dict()
        path = tmp_path / "weights.safetensors"
        save_file(recipe_weights({name: tuple(value.shape) for name, value in names.items()}, case.seed), path)
        product = load_official(case.official, path).set_numerics("official")
        path.unlink()  # a gigabyte at the real sizes
        state = product.state_dict()
        exact = reference_model(product.config, state, torch.float64)
        return ModelTrio(case, product, reference_model(product.config, state), exact, *case.inputs())

    return build
