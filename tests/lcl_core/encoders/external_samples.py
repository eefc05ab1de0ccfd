"""Small encoders of other libraries with random weights, saved as those libraries save them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "red", "blue", "bus", "of", "picture", "the", "end"]


def sample_images():
    """Sizes and shapes that resizing and cropping treat differently, and one that is not RGB."""
    rng = np.random.default_rng(4)
    sizes = ((50, 80, 3), (80, 50, 3), (32, 32, 3), (7, 40, 3), (300, 211, 3))
    found = [Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)) for size in sizes]
    return [*found, Image.fromarray(rng.integers(0, 256, (40, 30), dtype=np.uint8)).convert("RGB")]


def perturb_weights(model, seed=0):
    """Every parameter and statistic away from its initial value, so that nothing is a no-op; evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(0.02 * torch.rand(value.shape, generator=generator))
    return model.eval()


def save_openclip(folder, kind="vit", **text):
    """An OpenCLIP model: ``vit``, ``resnet``, ``coca`` or ``timm``; ``text`` changes its ``text_cfg``."""
    import open_clip
    from open_clip.push_to_hf_hub import save_config_for_hf
    from safetensors.torch import save_file

    towers: dict[str, dict[str, Any]] = {
        "vit": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "resnet": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
        "coca": {
            "layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "attentional_pool": True,
            "attn_pooler_heads": 2, "output_tokens": True,
        },
        "timm": {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "timm_proj": "linear"},
    }  # fmt: skip
    size = 224 if kind == "timm" else 32
    config: dict[str, Any] = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": size, **towers[kind]},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 2} | text,
    }
    if text:
        config["custom_text"] = True
    if kind == "coca":
        config["text_cfg"] |= {"embed_cls": True, "output_tokens": True}
        config["multimodal_cfg"] = {
            "context_length": 16, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 1,
            "attn_pooler_heads": 2,
        }  # fmt: skip
        config["custom_text"] = True
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    settings = {"model_cfg": config, "preprocess_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.3, 0.2, 0.25]}}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    model = perturb_weights(open_clip.create_model(f"local-dir:{folder}"))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    save_config_for_hf(model, folder / "open_clip_config.json", config)
    return folder


def save_timm(folder, name="vit_tiny_patch16_224", **settings):
    import timm

    torch.manual_seed(0)
    model = perturb_weights(timm.create_model(name, pretrained=False, num_classes=5, **settings))
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    return folder


def save_tokenizer(folder):
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A end", special_tokens=[("[CLS]", 1), ("end", len(WORDS) - 1)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(folder)


def save_huggingface(folder, kind):
    """A transformers model; ``bert`` reads texts alone, ``clip`` and ``siglip`` both."""
    import transformers as hf

    small: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    }  # fmt: skip
    sight = {**small, "image_size": 32, "patch_size": 8}
    text = {**small, "vocab_size": len(WORDS), "max_position_embeddings": 12}
    text |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": len(WORDS) - 1}
    torch.manual_seed(0)
    made: dict[str, Any] = {
        "vit": lambda: hf.ViTModel(hf.ViTConfig(**sight)),
        "vit-without-pooler": lambda: hf.ViTForImageClassification(hf.ViTConfig(**sight, num_labels=3)),
        "dinov2": lambda: hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**sight, num_register_tokens=3)),
        "beit": lambda: hf.BeitModel(hf.BeitConfig(**sight)),
        "dinov2-larger-table": lambda: hf.Dinov2Model(hf.Dinov2Config(**{**sight, "image_size": 64})),
        "resnet": lambda: hf.ResNetModel(
            hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_channels=3)
        ),
        "clip": lambda: hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=sight, projection_dim=20)),
        "siglip": lambda: hf.SiglipModel(
            hf.SiglipConfig(text_config={**text, "projection_size": 32}, vision_config=sight)
        ),
        "clip-projected": lambda: hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**sight, projection_dim=20)),
        "bert": lambda: hf.BertModel(hf.BertConfig(**text)),
    }
    perturb_weights(made[kind]()).save_pretrained(folder)
    if kind != "bert":
        square = {"height": 32, "width": 32}
        hf.CLIPImageProcessor(
            size={"shortest_edge": 36}, crop_size=square, image_mean=[0.4, 0.5, 0.6], image_std=[0.3, 0.2, 0.25]
        ).save_pretrained(folder)
    if kind in ("clip", "siglip", "bert"):
        save_tokenizer(folder)
    return folder


def save_sentence_encoder(folder, pooling, *types, **limits):
    """A BERT as sentence-transformers saves it: a module of each of ``types``, by default network, pooling and norm."""
    save_huggingface(folder, "bert")
    kinds = types or tuple(f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Normalize"))
    modules = []
    for number, kind in enumerate(kinds):
        path = f"{number}_{kind.rpartition('.')[2]}" if number else ""
        modules.append({"idx": number, "name": str(number), "path": path, "type": kind})
        (folder / path).mkdir(exist_ok=True)
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **pooling}))
    if limits:
        (folder / "sentence_bert_config.json").write_text(json.dumps(limits))
    return folder
