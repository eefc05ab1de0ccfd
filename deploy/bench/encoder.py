"""An encoder with fresh weights, of any size, registered with a running service under the name ``bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from api.client import Client
from deploy.bench.service import RunningApi
from lcl_core.data import SAMPLE_CORPUS, open_corpus, train_bpe
from lcl_core.model import LCLConfig, LCLModel, LCLProcessor
from lcl_core.train.build import build_model

NAME = "bench"
VIT_B_32: dict[str, Any] = {
    **{"image_size": 224, "patch_size": 32, "vision_width": 768, "vision_layers": 12},
    **{"text_width": 512, "text_layers": 4, "text_heads": 8, "context_length": 128},
}
DRAWINGS: dict[str, Any] = {
    **{"image_size": 64, "patch_size": 16, "vision_width": 192, "vision_layers": 6},
    **{"text_width": 192, "text_layers": 4, "text_heads": 3, "context_length": 256},
}
TINY: dict[str, Any] = {
    **{"image_size": 32, "patch_size": 16, "vision_width": 32, "vision_layers": 1, "vision_head_width": 16},
    **{"text_width": 32, "text_layers": 1, "text_heads": 2, "context_length": 64},
}


def write_encoder(directory: Path, sizes: dict[str, Any]) -> None:
    """As a run leaves one; the tokenizer knows the sample's captions."""
    texts = [caption for pair in open_corpus(SAMPLE_CORPUS).pairs("val") for caption in pair.captions]
    tokenizer = train_bpe(texts, vocab_size=1000)
    special = tokenizer.specials
    numbers = {f"{name}_token_id": getattr(special, name) for name in ("sot", "eot", "img", "soi", "eoi")}
    config = LCLConfig(**sizes, vocab_size=tokenizer.vocab_size, **numbers)
    model: LCLModel = build_model(config, seed=0)
    model.save_pretrained(directory)
    LCLProcessor(tokenizer, config.image_size).save_pretrained(directory)


def register(api: RunningApi, directory: Path) -> dict[str, Any]:
    """The service's answer; it has to be allowed to read there (``LCL_DATA_ROOTS``)."""
    with Client(api.url, api.key) as client:
        return client.import_encoder(NAME, str(directory))
