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
from torch.nn import functional as F

from lcl_core.evaluation.features import load_evaluated_encoder
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
    tower = load_evaluated_encoder(encoder).model
    source: Any = SimpleNamespace(trained_encoder=None)
    save_vlm(
        tmp_path / "bridge",
        VisionLanguageModel(source, LlavaModel(language, tower.width, tower.tokens, 0), None),
        tower,
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
    target = lambda doc: doc["answer"]  # noqa: E731
    request = SimpleNamespace(args=("Which colour?", target, shown, 0, "colours", "test"))
    ((found, greedy),) = model.loglikelihood([request])
    assert found < 0
    assert greedy is False
    llava, encoder = model.answerer.llava, model.answerer.encoder
    prompt = model.answerer._tokens("Which colour?", [DOCS[0]["picture"]], "red")
    embed = llava.language.model.get_input_embeddings()
    seen = llava.projector(encoder.patches(encoder.preprocess([DOCS[0]["picture"]])))[0]
    parts = [seen if token < 0 else embed(torch.tensor([token])) for token in prompt.ids]
    logits = F.log_softmax(llava.language.model(inputs_embeds=torch.cat(parts)[None]).logits[0], dim=-1)
    last = sum(prompt.loss_mask)
    ids = torch.tensor(prompt.ids[-last:])
    assert found == pytest.approx(logits[-last - 1 : -1].gather(1, ids[:, None]).sum().item(), rel=1e-4)


def test_the_adapter_keeps_the_interface(stand_in, bridge):
    manifest = adapter.manifest()
    module, name = manifest.simple_class_path.rsplit(".", 1)
    model = getattr(importlib.import_module(module), name)(**bridge, batch_size="2")
    assert isinstance(model, StandIn)
    examine(model)
    with pytest.raises(NotImplementedError, match="single rounds"):
        model.generate_until_multi_round([])


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


def test_settings_are_understood():
    spec = adapter._decoding({"temperature": 0, "num_beams": 3, "top_p": 1.0}, 4)
    assert (spec.beams, spec.top_p, spec.max_new_tokens) == (3, None, 128)
    drawn = adapter._decoding({"do_sample": True, "temperature": 0.5, "top_p": 0.9, "max_new_tokens": 7}, 4)
    assert (drawn.beams, drawn.top_p, drawn.temperature, drawn.max_new_tokens) == (1, 0.9, 0.5, 7)
    assert adapter._cut_at_stop("yes. ASSISTANT: no", ["ASSISTANT:", "."]) == "yes"


def test_nothing_else_is_made_up():
    with pytest.raises(AttributeError):
        adapter.Other  # noqa: B018
