"""The recipes: sizes are those of the authors' code, and the page has the figures of an estimate."""

from __future__ import annotations

import pytest

from lcl_core.estimate.flops import model_sizes
from lcl_core.estimate.memory import model_parameters
from scripts import recipe_tables

PARAMETERS = {"vit_b32_mmc4": 178_642_945, "vit_b16_laion": 249_924_097}  # of the authors' models, as built
GPU_MEMORY = 40 * 2**30  # of the smaller A100


def test_the_page_has_the_figures_of_the_estimate() -> None:
    text = recipe_tables.PAGE.read_text(encoding="utf-8")
    found = recipe_tables.MARKED.search(text)
    assert found is not None
    assert found[0] == recipe_tables.tables(), "python -m scripts.recipe_tables writes them"


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_recipe_has_the_size_of_the_authors_model(name: str) -> None:
    assert model_parameters(model_sizes(recipe_tables.recipe(name))) == PARAMETERS[name]


@pytest.mark.parametrize("name", recipe_tables.RECIPES)
def test_a_recipe_has_the_authors_optimiser_and_loss_and_fits_a_gpu(name: str) -> None:
    spec = recipe_tables.recipe(name)
    optimizer = spec.optimizer
    assert (optimizer.betas, optimizer.eps, optimizer.weight_decay) == ((0.9, 0.98), 1e-6, 0.2)
    assert spec.objective.weights == {"contrastive": 0.1, "generation": 1.0}
    assert (spec.data.similarity_threshold, spec.data.max_images, spec.data.image_first_probability) == (0.24, 6, 0.5)
    assert spec.tokenizer.kind == "clip"
    estimate = recipe_tables.estimate_pretraining(spec, [], "gpu")
    assert estimate.memory_bytes.expected < GPU_MEMORY
