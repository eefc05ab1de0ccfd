"""Encoders with fresh weights, saved as a run saves them, and real images."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from lcl_core.data import Corpus, open_corpus, train_bpe
from lcl_core.model import LCLConfig, LCLModel, LCLProcessor
from lcl_core.train.factory import build_model


def save_encoder(directory: Path, texts: list[str], seed: int) -> Path:
    tokenizer = train_bpe(texts, vocab_size=300)
    specials = tokenizer.specials
    config = LCLConfig(
        image_size=32,
        patch_size=16,
        vision_width=32,
        vision_layers=2,
        vision_head_width=16,
        text_width=24,
        text_layers=2,
        text_heads=2,
        context_length=48,
        vocab_size=tokenizer.vocab_size,
        sot_token_id=specials.sot,
        eot_token_id=specials.eot,
        img_token_id=specials.img,
        soi_token_id=specials.soi,
        eoi_token_id=specials.eoi,
    )
    model: LCLModel = build_model(config, seed)
    model.save_pretrained(directory)
    LCLProcessor(tokenizer, config.image_size).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def sample(sample_zip: Path) -> Corpus:
    return open_corpus(sample_zip)


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory, sample: Corpus) -> list[Path]:
    """Three encoder directories, each with other weights."""
    texts = [caption for pair in sample.pairs("val") for caption in pair.captions]
    return [save_encoder(tmp_path_factory.mktemp("encoder"), texts, seed) for seed in range(3)]


@pytest.fixture(scope="session")
def encoder(encoders: list[Path]) -> Path:
    return encoders[0]


@pytest.fixture(scope="session")
def drawings(sample: Corpus) -> list[Image.Image]:
    """Twelve images of the sample corpus."""
    return [sample.read_image(pair.image) for pair in sample.pairs("val")[:12]]
