"""Configurations and image processors as models of the hub have them pass, and what they say stays bounded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lcl_core.common.errors import UserError
from lcl_core.encoders.schemas.huggingface import check_huggingface
from tests.lcl_core.encoders.external_samples import GENERATION

LABELS = {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
SIDE = {
    **GENERATION, **LABELS, "_name_or_path": "", "attention_dropout": 0.0, "dropout": 0.0, "eos_token_id": 2,
    "hidden_act": "quick_gelu", "initializer_factor": 1.0, "initializer_range": 0.02, "layer_norm_eps": 1e-05,
    "projection_dim": 512, "transformers_version": "4.16.0.dev0",
}  # fmt: skip
CLIP: dict[str, Any] = {
    "_name_or_path": "openai/clip-vit-base-patch32", "architectures": ["CLIPModel"], "initializer_factor": 1.0,
    "logit_scale_init_value": 2.6592, "model_type": "clip", "projection_dim": 512, "transformers_version": None,
    "text_config": {
        **SIDE, "hidden_size": 512, "intermediate_size": 2048, "max_position_embeddings": 77, "pad_token_id": 1,
        "model_type": "clip_text_model", "num_attention_heads": 8, "num_hidden_layers": 12, "vocab_size": 49408,
    },
    "vision_config": {
        **SIDE, "hidden_size": 768, "image_size": 224, "intermediate_size": 3072, "model_type": "clip_vision_model",
        "num_attention_heads": 12, "num_hidden_layers": 12, "patch_size": 32,
    },
}  # fmt: skip
BERT: dict[str, Any] = {
    "architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072,
    "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "model_type": "bert", "num_attention_heads": 12,
    "num_hidden_layers": 12, "pad_token_id": 0, "type_vocab_size": 2, "vocab_size": 21128,
}  # fmt: skip
LARGER = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
REAL: dict[str, dict[str, Any]] = {
    "clip-vit-base-patch32": {**CLIP, "text_config_dict": None, "vision_config_dict": None},
    "clip-vit-large-patch14": {
        **CLIP,
        "text_config_dict": LARGER,
        "vision_config_dict": {**LARGER, "hidden_size": 1024, "patch_size": 14},
    },
    "bert-base-chinese": {
        **BERT, "directionality": "bidi", "pooler_fc_size": 768, "pooler_num_attention_heads": 12,
        "pooler_num_fc_layers": 3, "pooler_size_per_head": 128, "pooler_type": "first_token_transform",
    },
    "distilbert-base-uncased": {
        **GENERATION, "activation": "gelu", "attention_dropout": 0.1, "dim": 768, "dropout": 0.1, "hidden_dim": 3072,
        "model_type": "distilbert", "n_heads": 12, "n_layers": 6, "qa_dropout": 0.1, "seq_classif_dropout": 0.2,
        "sinusoidal_pos_embds": False, "tie_weights_": True, "vocab_size": 30522, "xla_device": None,
    },
    "xlm-roberta-base": {**BERT, "model_type": "xlm-roberta", "output_past": True, "max_position_embeddings": 514},
    "bge-m3": {
        **BERT, "model_type": "xlm-roberta", "max_position_embeddings": 8194, "_attn_implementation_autoset": True,
        "tokenizer_class": "XLMRobertaTokenizerFast",
    },
    "swinv2-tiny": {"model_type": "swinv2", "path_norm": True, "embed_dim": 96, "depths": [2, 2, 6, 2]},
    "vit-of-many-labels": {"model_type": "vit", "label2id": {"airplane": "0", "car": "1"}},
}  # fmt: skip


def write(directory: Path, config: dict[str, Any]) -> Path:
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize("name", REAL)
def test_configurations_of_known_models_pass(tmp_path: Path, name: str) -> None:
    assert check_huggingface(write(tmp_path, REAL[name])) == REAL[name]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pruned_heads", {"0": [1, 2]}),
        ("task_specific_params", {"summary": {"prefix": "x"}}),
        ("prefix", "x" * 201),
        ("suppress_tokens", [0] * 257),
        ("bad_words_ids", [[1]]),
        ("length_penalty", 10**12),
        ("tokenizer_class", "SomebodysTokenizer"),
    ],
)
def test_what_is_not_read_stays_short(tmp_path: Path, field: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"text_config\.{field}"):
        check_huggingface(write(tmp_path, {"model_type": "clip", "text_config": {field: value}}))


def test_a_side_in_its_early_form_is_bounded(tmp_path: Path) -> None:
    config = {**CLIP, "vision_config_dict": {"hidden_size": 1 << 30}}
    with pytest.raises(UserError, match=r"vision_config_dict\.hidden_size"):
        check_huggingface(write(tmp_path, config))


def test_unknown_names_are_reported_at_once(tmp_path: Path) -> None:
    config = {**BERT, "auto_map": {}, "quantization_config": {}, "text_config": {"backbone": "resnet18"}}
    with pytest.raises(UserError) as caught:
        check_huggingface(write(tmp_path, config))
    for name in ("auto_map", "quantization_config", "text_config.backbone", "these 3 names", "take them out"):
        assert name in caught.value.message
    many = {f"unknown_{number}": 1 for number in range(5000)}
    with pytest.raises(UserError) as caught:
        check_huggingface(write(tmp_path, {**BERT, **many}))
    assert "5000 names" in caught.value.message
    assert len(caught.value.message) < 1400


def test_files_of_fast_image_processors_pass(tmp_path: Path) -> None:
    write(tmp_path, REAL["swinv2-tiny"])
    found: dict[str, Any] = {
        "image_processor_type": "ViTImageProcessorFast", "device": None, "pad_size": None, "image_seq_length": None,
        "disable_grouping": None, "do_pad": None, "return_tensors": None, "data_format": "channels_first",
        "size": {"height": 224, "width": 224}, "_valid_processor_keys": ["images", "do_resize", "size"],
    }  # fmt: skip
    for device in (None, "cpu"):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({**found, "device": device}))
        check_huggingface(tmp_path)
    for wrong in ({"device": "cuda"}, {"pad_size": {"height": 9000}}, {"image_seq_length": 1 << 30}):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({**found, **wrong}))
        with pytest.raises(UserError, match=next(iter(wrong))):
            check_huggingface(tmp_path)
