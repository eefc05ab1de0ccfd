"""lmms-eval's interface, restated as far as an adapter touches it, and the package itself where it is installed."""

import importlib
import importlib.util
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from lcl_core.encoders.registry import load_image_encoder
from lcl_core.evaluation.vlm import lmms_eval as adapter
from lcl_core.evaluation.vlm.language_model import load_language_model, resolve_language_model
from lcl_core.evaluation.vlm.model import LlavaModel, VisionLanguageModel, save_vlm
from lcl_core.specs.evaluate import LanguageModelSpec
from tests.lcl_core.evaluation.conftest import save_encoder, save_language_model

DOCS = [{"picture": Image.new("RGB", (20, 20), colour), "answer": "red"} for colour in ("red", "blue", "green")]
TASKS = {"colours": {"test": DOCS}}


class StandIn(ABC):
    """lmms_eval.api.model.lmms: three methods to write, and a dictionary of tasks that the evaluator fills."""

    is_simple = True

    def __init__(self):
        self.task_dict: dict[str, Any] = {}

    @abstractmethod
    def loglikelihood(self, requests): ...

    @abstractmethod
    def generate_until(self, requests): ...

    @abstractmethod
    def generate_until_multi_round(self, requests): ...


@dataclass(frozen=True)
class Manifest:
    """lmms_eval.models.registry_v2.ModelManifest."""

    model_id: str
    simple_class_path: str | None = None


@pytest.fixture
def bridge(tmp_path):
    """A saved bridge with its encoder, as the adapter's arguments."""
    encoder = save_encoder(tmp_path / "encoder")
    spec = LanguageModelSpec(path=str(save_language_model(tmp_path / "language")))
    files = resolve_language_model(spec, field="language_model")
    cpu = torch.device("cpu")
    language = load_language_model(files, tmp_path, dtype=torch.float32, device=cpu, field="language_model")
    tower = load_image_encoder(encoder)
    source: Any = SimpleNamespace(trained_encoder=None, model=tower)
    save_vlm(
        tmp_path / "bridge",
        VisionLanguageModel(source, LlavaModel(language, tower.width, tower.tokens, 0), None),
        spec,
    )
    return {"bridge": str(tmp_path / "bridge"), "encoder": str(encoder)}


@pytest.fixture
def stand_in(monkeypatch):
    for name, members in (("api.model", {"lmms": StandIn}), ("models.registry_v2", {"ModelManifest": Manifest})):
        module = ModuleType(f"lmms_eval.{name}")
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, f"lmms_eval.{name}", module)
        monkeypatch.setitem(sys.modules, f"lmms_eval.{name.split('.')[0]}", ModuleType("package"))
    monkeypatch.setitem(sys.modules, "lmms_eval", ModuleType("lmms_eval"))


def shown(doc):
    return [doc["picture"]]


def requested(number, text="Which colour?", **settings):
    return SimpleNamespace(args=(text, {"max_new_tokens": 5, **settings}, shown, number, "colours", "test"))


def examine(model):
    """What holds of the adapter, whoever its base is."""
    model.task_dict = TASKS
    requests = [requested(0), requested(1, until=["a"]), requested(2), requested(0, "Red?")]
    answers = model.generate_until(requests)
    assert len(answers) == 4
    assert "a" not in answers[1]
    alone = [model.generate_until([request])[0] for request in requests]
    assert alone == answers  # batches and groups change nothing, and the order is kept


def test_the_adapter_keeps_the_interface(stand_in, bridge):
    manifest = adapter.manifest()
    module, name = manifest.simple_class_path.rsplit(".", 1)
    model = getattr(importlib.import_module(module), name)(**bridge, batch_size="2")
    assert isinstance(model, StandIn)
    examine(model)
    for method in (model.generate_until_multi_round, model.loglikelihood):
        with pytest.raises(NotImplementedError, match="leave out tasks"):
            method([])


@pytest.mark.skipif(importlib.util.find_spec("lmms_eval") is None, reason="pip install lmms-eval")
def test_the_adapter_is_a_model_of_the_real_package(bridge):
    from lmms_eval.api.model import lmms
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    registry = ModelRegistryV2()
    registry.register_manifest(adapter.manifest())
    model_class = registry.get_model_class("lcl")
    model = model_class.create_from_arg_string(",".join(f"{key}={value}" for key, value in bridge.items()))
    assert isinstance(model, lmms)
    examine(model)


@pytest.mark.parametrize("stops", ["ASSISTANT:", ["ASSISTANT:", "."], ["."]])
def test_an_answer_ends_at_the_first_stop(stops):
    assert adapter._cut_at_stop("yes. ASSISTANT: no", stops).rstrip(".") == "yes"


def test_nothing_else_is_made_up():
    with pytest.raises(AttributeError):
        adapter.Other  # noqa: B018
