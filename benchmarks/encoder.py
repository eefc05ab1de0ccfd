"""Encoder with fresh weights, and a collection made elsewhere, registered with a running service as ``bench``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from api.client import Client
from api.client.payloads import Json
from benchmarks.service import RunningApi
from lcl_core.collections.file_format import MANIFEST, read_manifest
from lcl_core.common.files import write_json_atomically
from lcl_core.data import SAMPLE_CORPUS, open_corpus, train_bpe
from lcl_core.db.models import CollectionRow, new_id
from lcl_core.db.session import now
from lcl_core.model import LCLConfig, LCLModel, LCLProcessor
from lcl_core.train.factory import build_model

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
    """Save an encoder as a run does; the tokenizer is trained on the sample's captions."""
    texts = [caption for pair in open_corpus(SAMPLE_CORPUS).pairs("val") for caption in pair.captions]
    tokenizer = train_bpe(texts, vocab_size=1000)
    special = tokenizer.specials
    numbers = {f"{name}_token_id": getattr(special, name) for name in ("sot", "eot", "img", "soi", "eoi")}
    config = LCLConfig(**sizes, vocab_size=tokenizer.vocab_size, **numbers)
    model: LCLModel = build_model(config, seed=0)
    model.save_pretrained(directory)
    LCLProcessor(tokenizer, config.image_size).save_pretrained(directory)


def register_encoder(api: RunningApi, directory: Path) -> Json:
    """Import the encoder over REST; ``LCL_DATA_ROOTS`` must contain ``directory``."""
    with Client(api.url, api.key) as client:
        return client.import_encoder(NAME, str(directory))


def link_collection(api: RunningApi, source: Path, encoder: Json) -> None:
    """Register the collection in ``source`` for this encoder; its files are linked into the service's home."""
    identity = new_id("col")
    target = api.home / "collections" / identity
    target.mkdir(parents=True)
    for path in source.iterdir():
        if path.name != MANIFEST:
            os.symlink(path.resolve(), target / path.name)
    manifest = read_manifest(source)
    write_json_atomically(target / MANIFEST, {**manifest.model_dump(), "encoder_hash": encoder["hash"]})
    sizes = {"images": manifest.images, "texts": manifest.texts, "dim": manifest.dim}
    with api.database.session() as session:
        columns = {"owner": "bench", "created_at": now(session), **sizes}
        columns |= {"encoder_id": encoder["id"], "encoder_hash": encoder["hash"]}
        columns["encoder_identity"] = encoder["identity"]
        session.add(CollectionRow(id=identity, name=NAME, path=f"collections/{identity}", **columns))
