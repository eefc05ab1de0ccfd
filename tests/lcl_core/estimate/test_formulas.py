"""The formulas against the real model, its methods, and a batch as they lay it out."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lcl_core.common.errors import UserError
from lcl_core.data import clip_tokenizer
from lcl_core.estimate import flops
from lcl_core.estimate.flops import (
    CLIP_TOKENS,
    FORWARD_FLOPS,
    Workload,
    expected_workload,
    method_parameters,
    method_step_flops,
    model_parameters,
    model_sizes,
    part_parameters,
    target_parameters,
    vision_flops,
)
from lcl_core.estimate.report import training_memory
from lcl_core.model import LCLConfig, LCLModel
from lcl_core.objectives import OBJECTIVES, build_objective
from lcl_core.specs.parsing import parse_spec
from lcl_core.specs.pretrain import ObjectiveSpec, PretrainSpec
from lcl_core.train.optimizer import freeze_parts
from tests.lcl_core.reference_loss import compute_loss

EMU_EMA = {"name": "emu", "regression_target": "ema"}


def kept_bytes(model, forward):
    """What a forward pass keeps for the backward pass, without the model's weights."""
    weights, kept = {parameter.data_ptr() for parameter in model.parameters()}, {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # with the tensor, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(size for size, _ in kept.values())


def test_the_parameters_are_those_of_the_model(small_model, small_config):
    assert model_parameters(small_config) == small_model.num_parameters()


@pytest.mark.parametrize("part", ["vision", "pooler", "text", "head"])
def test_frozen_parameters_are_those_that_are_not_trained(small_model, small_config, part):
    freeze_parts(small_model, [part])
    frozen = sum(parameter.numel() for parameter in small_model.parameters() if not parameter.requires_grad)
    assert part_parameters(small_config)[part] == frozen > 0


@pytest.mark.parametrize("fields", [*({"name": name} for name in OBJECTIVES), EMU_EMA])
def test_a_methods_own_parameters_are_counted(small_config, fields):
    spec = ObjectiveSpec.model_validate(fields)
    own = list(build_objective(spec, small_config).parameters())
    assert method_parameters(spec, small_config) == sum(each.numel() for each in own if each.requires_grad)
    assert target_parameters(spec, small_config) == sum(each.numel() for each in own if not each.requires_grad)


def test_every_method_has_its_formula():
    assert FORWARD_FLOPS.keys() == OBJECTIVES.keys()


def equal_pairs(config, objective, count, words):
    """A batch of as many documents of one image and as many words; and tokens of each."""
    image = [config.soi_token_id, *[config.img_token_id] * 4, config.eoi_token_id]
    rows = [
        torch.tensor([config.sot_token_id, *[5 + number] * words, *image, config.eot_token_id])
        for number in range(count)
    ]
    return objective.collate(rows, torch.zeros(count, 3, 16, 16), config), len(rows[0])


@pytest.mark.parametrize("fields", [*({"name": name} for name in OBJECTIVES), EMU_EMA])
def test_an_expected_document_costs_what_a_batch_of_such_documents_does(small_config, fields):
    spec, count = ObjectiveSpec.model_validate(fields), 6
    objective = build_objective(spec, small_config)
    batch, tokens = equal_pairs(small_config, objective, count, words=20)
    load = expected_workload(spec, images=1, patches=4, tokens=tokens)
    wanted = objective.flops(small_config, batch)
    assert method_step_flops(spec, small_config, load) * count == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_rows_are_those_that_the_text_tower_reads(small_config, small_model, name):
    spec, count, read = ObjectiveSpec.model_validate({"name": name}), 6, []
    objective = build_objective(spec, small_config)
    batch, tokens = equal_pairs(small_config, objective, count, words=20)
    small_model.text.transformer.register_forward_pre_hook(lambda _module, given: read.append(len(given[0])))
    compute_loss(objective, small_model, batch)
    load = expected_workload(spec, images=1, patches=4, tokens=tokens)
    assert count * (sum(load.lengths) + sum(load.matched)) == pytest.approx(sum(read), abs=count)
    assert sum(objective.workload(small_config, batch).matched) == sum(read[1:])


def activations(spec, sizes, load):
    return training_memory(spec, sizes, load, 0, 0, "cpu")["activations"]


def test_a_spec_has_the_sizes_of_its_model():
    spec = parse_spec("pretrain", {"tokenizer": {"kind": "clip"}, "model": {"vision_width": 64, "vision_layers": 1}})
    with torch.device("meta"):
        model = LCLModel(LCLConfig(**spec.model.model_dump()))
    assert model_parameters(model_sizes(spec)) == model.num_parameters()


TOWERS = [
    {},
    {"vision": "resnet", "vision_layers": 5},
    {"vision": "timm:resnet18", "vision_width": 256},
    {"vision": "timm:swin_tiny_patch4_window7_224", "image_size": 224, "patch_size": 32, "vision_width": 768},
]


def spec_of_tower(changes, **more):
    sizes = {"image_size": 64, "patch_size": 16, "text_width": 64, "text_heads": 1, "text_layers": 1, **changes}
    return parse_spec("pretrain", {"model": sizes, "tokenizer": {"vocab_size": 300}, **more})


@pytest.mark.parametrize("changes", TOWERS)
def test_parameters_and_operations_are_those_of_every_vision_tower(changes):
    spec = spec_of_tower(changes)
    sizes, side = model_sizes(spec), spec.model.image_size
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model = LCLModel(LCLConfig(**spec.model.model_dump(), vocab_size=sizes.vocab_size, **SPECIALS)).eval()
        model.visual(torch.empty(3, 3, side, side))
    assert model_parameters(sizes) == model.num_parameters()
    # within 3 %: mixing by attention in windows is counted by its kernel
    assert vision_flops(sizes, 3, sizes.num_image_tokens) == pytest.approx(counter.get_total_flops(), rel=0.03)


SPECIALS = {f"{name}_token_id": number for number, name in enumerate(("sot", "eot", "img", "soi", "eoi"))}


@pytest.mark.parametrize("changes", TOWERS)
def test_the_memory_of_every_vision_tower_is_about_what_it_keeps(changes):
    spec = spec_of_tower(changes)
    sizes, side = model_sizes(spec), spec.model.image_size
    model = LCLModel(LCLConfig(**spec.model.model_dump(), vocab_size=sizes.vocab_size, **SPECIALS)).train()
    kept = kept_bytes(model, lambda: model.visual(torch.zeros(2, 3, side, side)))
    counted = [activations(spec, sizes, Workload(count, sizes.num_image_tokens, [0.0], 0)) for count in (2, 0)]
    assert 0.4 < (counted[0] - counted[1]) / kept < 2.5


def test_an_estimate_of_a_network_that_timm_does_not_have_names_the_field(monkeypatch):
    monkeypatch.setattr("timm.is_model", lambda name: False)
    flops._timm_counts.cache_clear()
    with pytest.raises(UserError, match="has no model 'resnet18'") as caught:
        model_parameters(model_sizes(spec_of_tower({"vision": "timm:resnet18", "vision_width": 256})))
    assert caught.value.field == "model.vision"


def test_memory_follows_what_is_switched_on():
    load = Workload(128, 16, [3000.0], 1000)

    def memory(count=load, parameters=1000, frozen=0, device="gpu", **engine):
        spec = parse_spec("pretrain", {"preset": "sample", "precision": "fp32", "engine": engine})
        return training_memory(spec, model_sizes(spec), count, parameters, frozen, device)

    plain = memory()
    assert (plain["weights"], plain["moments"]) == (4000, 8000)
    assert memory(device="cpu")["copies"] - plain["copies"] == 12_000
    assert memory(activation_checkpointing=True)["activations"] < 0.6 * plain["activations"]
    assert memory(strategy="fsdp2", processes=4)["moments"] == 2000
    assert memory(frozen=400)["gradients"] == 2400
    assert 1.5 < memory(Workload(256, 16, [6000.0], 2000))["activations"] / plain["activations"] < 2


def test_clips_vocabulary_is_larger():
    assert clip_tokenizer().vocab_size == CLIP_TOKENS
    own, clips = (model_sizes(PretrainSpec.model_validate({"tokenizer": {"kind": kind}})) for kind in ("bpe", "clip"))
    assert clips.vocab_size > own.vocab_size
