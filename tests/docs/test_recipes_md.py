"""The recipes: sizes are those of the authors' code, and each fits a GPU."""

import pytest

from lcl_core.estimate.flops import model_parameters, model_sizes
from lcl_core.estimate.report import estimate_pretraining
from lcl_core.specs.parsing import parse_spec

PARAMETERS = {"vit_b32_mmc4": 178_642_945, "vit_b16_laion": 249_924_097}  # of the authors' models, as built
GPU_MEMORY = 40 * 2**30  # of the smaller A100


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_recipe_has_the_size_of_the_authors_model(name):
    assert model_parameters(model_sizes(parse_spec("pretrain", {"preset": name}))) == PARAMETERS[name]


@pytest.mark.parametrize("name", [*PARAMETERS, "vit_l14_mix"])
def test_a_recipe_has_the_authors_optimiser_and_loss_and_fits_a_gpu(name):
    spec = parse_spec("pretrain", {"preset": name})
    assert (spec.optimizer.betas, spec.optimizer.eps, spec.optimizer.weight_decay) == ((0.9, 0.98), 1e-6, 0.2)
    assert spec.objective.weights == {"contrastive": 0.1, "generation": 1.0}
    assert (spec.data.similarity_threshold, spec.data.max_images, spec.data.image_first_probability) == (0.24, 6, 0.5)
    assert spec.tokenizer.kind == "clip"
    assert estimate_pretraining(spec, [], "gpu").memory_bytes.expected < GPU_MEMORY
