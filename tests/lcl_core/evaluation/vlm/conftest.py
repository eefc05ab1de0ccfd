"""A language model of two layers with a tokenizer that was made a moment ago."""

import pytest
import torch

from lcl_core.evaluation.vlm.language_model import load_language_model, resolve_language_model
from lcl_core.specs.evaluate import LanguageModelSpec


def open_language_model(folder, cache=None, dtype=torch.float32):
    files = resolve_language_model(LanguageModelSpec(path=str(folder)), field="captioning.language_model")
    return load_language_model(
        files, cache or folder / "cache", dtype=dtype, device=torch.device("cpu"), field="captioning.language_model"
    )


@pytest.fixture(scope="session")
def open_language():
    return open_language_model


@pytest.fixture
def language(language_model_dir):
    """A fresh copy of the small model."""
    return open_language_model(language_model_dir)
