"""Whose encoder lies in a directory, told without torch."""

from __future__ import annotations

import hashlib
import json

import pytest

from lcl_core.common.errors import UserError
from lcl_core.encoders.files import hash_weights
from lcl_core.encoders.registry import detect_encoder


def lay(folder, config, *weights, name="config.json"):
    (folder / name).write_text(config if isinstance(config, str) else json.dumps(config))
    for weight in weights:
        (folder / weight).write_bytes(weight.encode())
    return folder


CLIP = {"model_type": "clip", "vision_config": {}, "text_config": {}}
BOTH = ("images", "texts")


@pytest.mark.parametrize(
    ("config", "kind", "model", "reads"),
    [
        ({"model_type": "lcl"}, "lcl", "lcl", BOTH),
        (CLIP, "huggingface", "clip", BOTH),
        ({"model_type": "vit", "image_size": 224}, "huggingface", "vit", ("images",)),
        ({"model_type": "resnet", "num_channels": 3}, "huggingface", "resnet", ("images",)),
        ({"model_type": "bert", "vocab_size": 30522}, "huggingface", "bert", ("texts",)),
        ({"model_type": "beit", "image_size": 224, "vocab_size": 8192}, "huggingface", "beit", ("images",)),
        ({"architecture": "resnet18", "num_classes": 10}, "timm", "resnet18", ("images",)),
    ],
)
def test_a_configuration_says_whose_it_is(tmp_path, config, kind, model, reads):
    found = detect_encoder(lay(tmp_path, config, "model.safetensors"))
    assert (found.kind, found.model, found.reads) == (kind, model, reads)
    assert found.weights == ("model.safetensors",)


def test_an_openclip_directory_may_hold_other_configurations(tmp_path):
    lay(tmp_path, CLIP, "model.safetensors", "open_clip_model.safetensors")
    lay(tmp_path, {"model_cfg": {"vision_cfg": {"width": 768, "layers": 12, "patch_size": 16}}},
        name="open_clip_config.json")  # fmt: skip
    found = detect_encoder(tmp_path)
    assert (found.kind, found.model, found.weights) == (
        "openclip", "vit-768x12-16", ("open_clip_model.safetensors",),
    )  # fmt: skip


def test_shards_are_named_by_their_index(tmp_path):
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    lay(tmp_path, CLIP, *shards)
    lay(tmp_path, {"weight_map": {"a": shards[1], "b": shards[0], "c": shards[0]}}, name="model.safetensors.index.json")
    found = detect_encoder(tmp_path)
    assert list(found.weights) == shards
    lines = [f"{name}\0{hashlib.sha256(name.encode()).hexdigest()}\n" for name in shards]
    assert hash_weights(tmp_path, found.weights) == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_two_sets_of_weights_are_refused(tmp_path):
    """The library would load the single file, and the hash would be that of the shards."""
    lay(tmp_path, CLIP, "model.safetensors", "model-00001-of-00001.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    lay(tmp_path, index, name="model.safetensors.index.json")
    with pytest.raises(UserError, match="two sets of weights") as caught:
        detect_encoder(tmp_path)
    assert caught.value.code == "encoder_unreadable"


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "absent.safetensors", 7])
def test_shards_lie_in_the_directory(tmp_path, name):
    lay(tmp_path, CLIP)
    lay(tmp_path, {"weight_map": {"a": name}}, name="model.safetensors.index.json")
    with pytest.raises(UserError) as caught:
        detect_encoder(tmp_path)
    assert caught.value.code == "encoder_unreadable"


@pytest.mark.parametrize(
    ("config", "weights", "words"),
    [
        (CLIP, "pytorch_model.bin", "read from safetensors alone"),
        ({"model_type": "wav2vec2"}, "model.safetensors", "neither images nor texts"),
        ({"name": "something"}, "model.safetensors", "its format is unknown"),
        ("[1, 2]", "model.safetensors", "not a model's configuration"),
        ("{", "model.safetensors", "not JSON"),
    ],
)
def test_what_nobody_can_read_is_reported(tmp_path, config, weights, words):
    with pytest.raises(UserError, match=words) as caught:
        detect_encoder(lay(tmp_path, config, weights))
    assert caught.value.code == "encoder_unreadable"
    assert str(tmp_path) in str(caught.value)


def test_links_are_not_followed(tmp_path):
    lay(tmp_path, CLIP)
    (tmp_path / "model.safetensors").symlink_to("/etc/hostname")
    with pytest.raises(UserError, match="of its own"):
        detect_encoder(tmp_path)
