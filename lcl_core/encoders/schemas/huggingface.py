"""What Hugging Face's small JSON may say: ``config.json`` and the image processor's. Knows no transformers.

Left out, and so refused, is whatever makes transformers ask a hub, read another file or choose code: ``auto_map``,
``backbone``, ``attn_implementation``, ``quantization_config`` and their like. Names that no encoder reads (settings of
generation, of heads and of earlier versions) are known too, with short values: older files hold many of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

from lcl_core.encoders.schemas.base import (
    Finite,
    ShortText,
    Version,
    one_of,
    read_json_object,
    validate_model,
)
from lcl_core.encoders.schemas.vocabulary import CLASSES

CONFIG = "config.json"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
IMAGES, TEXTS = "images", "texts"
MODEL_TYPES: dict[str, tuple[str, ...]] = {  # model_type: what such a model reads
    **dict.fromkeys(("clip", "siglip"), (IMAGES, TEXTS)),
    **dict.fromkeys(
        (
            *("beit", "clip_vision_model", "convnext", "convnextv2", "deit", "dinov2", "dinov2_with_registers"),
            *("dinov3_vit", "ijepa", "resnet", "siglip_vision_model", "swin", "swinv2", "vit", "vit_msn"),
        ),
        (IMAGES,),
    ),
    **dict.fromkeys(("bert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta"), (TEXTS,)),
}

Side = Annotated[int, Field(ge=1, le=4096)]
Width = Annotated[int, Field(ge=1, le=32_768)]
Layers = Annotated[int, Field(ge=0, le=128)]
Heads = Annotated[int, Field(ge=1, le=512)]
Token = Annotated[int, Field(ge=-1, lt=1 << 20)]
Share = Annotated[float, Field(ge=0, le=1)]
Epsilon = Annotated[float, Field(ge=0, le=1)]
Few = 16  # stages of a network that has several
Activation = Literal[
    "gelu", "gelu_10", "gelu_fast", "gelu_new", "gelu_python", "gelu_pytorch_tanh", "quick_gelu", "relu", "relu6",
    "selu", "sigmoid", "silu", "swish", "tanh",
]  # fmt: skip
Dtype = Literal["float32", "float16", "bfloat16", "float64", "auto"]


def _check_unread(value: Any) -> Any:
    numbers = value if isinstance(value, list) else [value]
    if isinstance(value, str):
        short = len(value) <= 200
    elif len(numbers) <= 256 and all(isinstance(each, int | float) for each in numbers):
        short = all(abs(each) < 1 << 31 for each in numbers)
    else:
        short = value in (None, {})
    if not short:
        raise ValueError("nothing here reads this setting; take it out of the file")
    return value


Unread = Annotated[Any, AfterValidator(_check_unread)]  # null, a number, a few of them, a short text or an empty object


def _list_of(kind: Any, most: int = Few) -> Any:
    return Annotated[list[kind], Field(max_length=most)]


# Every name that a configuration of the types above may hold, and its bounds.
_FIELDS: dict[Any, tuple[str, ...]] = {
    Side: ("image_size", "patch_size", "encoder_stride", "window_size"),
    Width: (
        *("hidden_size", "intermediate_size", "embed_dim", "embedding_size", "projection_dim", "projection_size"),
        *("pooler_output_size", "dim", "hidden_dim", "auxiliary_channels"),
    ),
    Layers: ("num_hidden_layers", "n_layers", "num_layers", "auxiliary_num_convs", "num_stages"),
    Heads: ("num_attention_heads", "n_heads", "type_vocab_size"),
    Annotated[int, Field(ge=1, le=1 << 20)]: ("vocab_size",),
    # RoBERTa counts positions from 2 on: 8194 for texts of 8192 tokens
    Annotated[int, Field(ge=1, le=8194)]: ("max_position_embeddings", "max_length", "relative_attention_num_buckets"),
    Annotated[int, Field(ge=0, le=256)]: ("num_register_tokens", "chunk_size_feed_forward"),
    Token: ("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "semantic_loss_ignore_index"),
    Literal[3]: ("num_channels",),
    Annotated[float, Field(gt=0, le=64)]: ("mlp_ratio",),
    Share: (
        *("attention_dropout", "attention_probs_dropout_prob", "classifier_dropout", "drop_path_rate", "dropout"),
        *("hidden_dropout_prob", "qa_dropout", "seq_classif_dropout", "summary_last_dropout", "dropout_rate"),
    ),
    Epsilon: ("layer_norm_eps",),
    Finite: (
        *("initializer_factor", "initializer_range", "layer_scale_init_value", "layerscale_value"),
        *("logit_scale_init_value", "auxiliary_loss_weight", "pos_embed_jitter", "pos_embed_rescale"),
        *("pos_embed_shift", "rope_theta"),
    ),
    bool: (
        *("add_cross_attention", "add_fpn", "apply_layernorm", "auxiliary_concat_input", "downsample_in_bottleneck"),
        *("downsample_in_first_stage", "gradient_checkpointing", "is_decoder", "is_encoder_decoder", "key_bias"),
        *("mlp_bias", "output_attentions", "output_hidden_states", "proj_bias", "qkv_bias", "query_bias"),
        *("reshape_hidden_states", "return_dict", "sinusoidal_pos_embds", "summary_use_proj", "tie_word_embeddings"),
        *("use_absolute_embeddings", "use_absolute_position_embeddings", "use_auxiliary_head"),
        *("use_cache", "use_gated_mlp", "use_mask_token", "use_mean_pooling", "use_relative_position_bias"),
        *("use_shared_relative_position_bias", "use_swiglu_ffn", "value_bias", "vision_use_head", "torchscript"),
        *("path_norm", "use_bfloat16"),
    ),
    Activation: ("hidden_act", "activation", "pooler_act", "summary_activation"),
    Literal["absolute"]: ("position_embedding_type",),
    Literal["basic", "bottleneck"]: ("layer_type",),
    Dtype: ("dtype", "torch_dtype"),
    Version: ("transformers_version",),
    ShortText: ("_name_or_path", "problem_type", "summary_type", "finetuning_task"),
    _list_of(Layers): ("depths",),
    _list_of(Width): ("hidden_sizes",),
    _list_of(Heads): ("num_heads",),
    _list_of(Annotated[int, Field(ge=0, le=4096)]): ("pool_scales", "pretrained_window_sizes"),
    _list_of(Annotated[int, Field(ge=-256, le=256)], 130): ("out_indices",),
    _list_of(ShortText, 130): ("out_features", "stage_names", "architectures"),
    Annotated[dict[ShortText, ShortText], Field(max_length=50_000)]: ("id2label",),
    Annotated[dict[ShortText, int | ShortText], Field(max_length=50_000)]: ("label2id",),
    Annotated[str, one_of(*CLASSES)]: ("tokenizer_class",),
    Unread: (
        # of generation: transformers takes them out of a configuration
        *("assistant_confidence_threshold", "assistant_lookbehind", "bad_words_ids", "begin_suppress_tokens"),
        *("diversity_penalty", "do_sample", "early_stopping", "encoder_no_repeat_ngram_size"),
        *("encoder_repetition_penalty", "epsilon_cutoff", "eta_cutoff", "exponential_decay_length_penalty"),
        *("forced_bos_token_id", "forced_eos_token_id", "length_penalty", "min_length", "no_repeat_ngram_size"),
        *("num_assistant_tokens", "num_assistant_tokens_schedule", "num_beam_groups", "num_beams"),
        *("num_return_sequences", "output_scores", "remove_invalid_values", "repetition_penalty"),
        *("return_dict_in_generate", "suppress_tokens", "target_lookbehind", "temperature", "top_k", "top_p"),
        "typical_p",
        # of decoders, heads and other libraries, and of earlier versions
        *("_attn_implementation_autoset", "_commit_hash", "_num_labels", "cross_attention_hidden_size"),
        *("decoder_start_token_id", "directionality", "num_labels", "output_past", "pooler_fc_size"),
        *("pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type", "prefix"),
        *("pruned_heads", "summary_first_dropout", "task_specific_params", "tf_legacy_loss", "tie_encoder_decoder"),
        *("tie_weights_", "xla_device"),
    ),
}
_CLOSED = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _closed_model(name: str, **more: Any) -> Any:
    fields: Any = {
        f"of_{each}": (kind | None, Field(None, alias=each)) for kind, names in _FIELDS.items() for each in names
    }
    return create_model(name, __config__=_CLOSED, **{**fields, **more})


_SUBTYPES = Literal["clip_text_model", "clip_vision_model", "siglip_text_model", "siglip_vision_model"]
_Side: Any = _closed_model("SideConfig", model_type=(_SUBTYPES | None, None))
_Config: Any = _closed_model(
    "HuggingFaceConfig",
    model_type=(Annotated[str, one_of(*MODEL_TYPES)], ...),
    text_config=(_Side | None, None),
    vision_config=(_Side | None, None),
    # in CLIP's first files: transformers builds a side with these in place of those of text_config and vision_config
    text_config_dict=(_Side | None, None),
    vision_config_dict=(_Side | None, None),
)


class ImageSize(BaseModel):
    """Of images, as image processors write it."""

    model_config = _CLOSED

    height: Side | None = None
    width: Side | None = None
    shortest_edge: Side | None = None
    longest_edge: Side | None = None


_Channels = Annotated[list[Annotated[float, Field(ge=-10, le=10)]], Field(min_length=3, max_length=3)]
_Scales = Annotated[list[Annotated[float, Field(ge=1e-3, le=100)]], Field(min_length=3, max_length=3)]
_PROCESSOR_TYPES = ("Beit", "Bit", "CLIP", "ConvNext", "DeiT", "DINOv3ViT", "Siglip", "ViT")
_PROCESSOR_ENDS = ("FeatureExtractor", "ImageProcessor", "ImageProcessorFast", "ImageProcessorPil")
_Kind = Annotated[str, one_of(*(f"{name}{end}" for name in _PROCESSOR_TYPES for end in _PROCESSOR_ENDS))]


class ImageProcessorConfig(BaseModel):
    """``preprocessor_config.json``."""

    model_config = _CLOSED

    image_processor_type: _Kind | None = None
    feature_extractor_type: _Kind | None = None
    processor_class: ShortText | None = None
    do_convert_rgb: bool | None = None
    do_resize: bool | None = None
    do_center_crop: bool | None = None
    do_rescale: bool | None = None
    do_normalize: bool | None = None
    do_reduce_labels: bool | None = None
    do_flip_channel_order: bool | None = None
    do_pad: Literal[False] | None = None
    size: ImageSize | Side | None = None
    crop_size: ImageSize | Side | None = None
    crop_pct: Annotated[float, Field(ge=0.1, le=2)] | None = None
    resample: Annotated[int, Field(ge=0, le=5)] | None = None
    rescale_factor: Annotated[float, Field(gt=0, le=1)] | None = None
    image_mean: _Channels | None = None
    image_std: _Scales | None = None
    return_tensors: Literal["pt", "np"] | None = None
    data_format: Literal["channels_first"] | None = None
    input_data_format: Literal["channels_first", "channels_last"] | None = None
    default_to_square: bool | None = None
    disable_grouping: bool | None = None
    reduce_labels: bool | None = None
    device: Literal["cpu"] | None = None
    pad_size: None = None
    image_seq_length: None = None
    valid_processor_keys: Annotated[list[ShortText], Field(max_length=64)] | None = Field(
        None, alias="_valid_processor_keys"
    )


class ProcessorConfig(BaseModel):
    """``processor_config.json`` of a model that sees and reads."""

    model_config = _CLOSED

    processor_class: Literal["CLIPProcessor", "SiglipProcessor"] | None = None
    image_processor: ImageProcessorConfig | None = None


def check_huggingface(directory: Path) -> dict[str, Any]:
    """``config.json``, checked. Raises: UserError ``encoder_unreadable``."""
    path = directory / CONFIG
    config = read_json_object(path)
    validate_model(_Config, config, path)
    for name in PROCESSORS:
        if (directory / name).is_file():
            found = read_json_object(directory / name)
            validate_model(
                ProcessorConfig if "image_processor" in found else ImageProcessorConfig, found, directory / name
            )
    return config
