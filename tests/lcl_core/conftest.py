"""A model small enough to run in milliseconds, and documents for it; encoders with fresh weights, saved as a run saves
them, and real images.

Fixtures import what they need: tests of rooms that use no torch do not load it.
"""

import pytest

SOT, EOT, IMG, SOI, EOI = 95, 96, 97, 98, 99


@pytest.fixture
def small_config():
    from lcl_core.model import LCLConfig

    return LCLConfig(
        image_size=16,
        patch_size=8,
        vision_width=32,
        vision_layers=2,
        vision_head_width=16,
        text_width=24,
        text_layers=2,
        text_heads=2,
        context_length=40,
        vocab_size=100,
        sot_token_id=SOT,
        eot_token_id=EOT,
        img_token_id=IMG,
        soi_token_id=SOI,
        eoi_token_id=EOI,
    )


@pytest.fixture
def small_model(small_config):
    from lcl_core.train.factory import build_model

    return build_model(small_config, seed=0)


@pytest.fixture
def image_tokens():
    """One image's place in a document of the small model."""
    return [SOI, *[IMG] * 4, EOI]


@pytest.fixture
def documents(image_tokens):
    """Four documents: text first; two images; image at once after the start; a pair with the image first."""
    from torch import tensor

    return [
        tensor([SOT, 5, 6, 7, *image_tokens, 8, EOT]),
        tensor([SOT, 9, *image_tokens, 10, 11, *image_tokens, EOT]),
        tensor([SOT, *image_tokens, 12, 13, 14, EOT]),
        tensor([*image_tokens, 15, 16, EOT]),
    ]


@pytest.fixture
def pixels():
    """The five images of ``documents``, or of ``pairs``."""
    import torch

    return torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def pairs(image_tokens):
    """Five pairs in either order; two have the same text."""
    from torch import tensor

    return [
        tensor([SOT, 5, 6, 7, 8, *image_tokens]),
        tensor([*image_tokens, 9, 10, 11, EOT]),
        tensor([*image_tokens, 12, 13, EOT]),
        tensor([SOT, 12, 13, *image_tokens]),
        tensor([SOT, 14, *image_tokens]),
    ]


def save_encoder(directory, texts, seed):
    from lcl_core.data import train_bpe
    from lcl_core.model import LCLConfig, LCLProcessor
    from lcl_core.train.factory import build_model

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
    build_model(config, seed).save_pretrained(directory)
    LCLProcessor(tokenizer, config.image_size).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def sample(sample_zip):
    from lcl_core.data import open_corpus

    return open_corpus(sample_zip)


@pytest.fixture(scope="session")
def encoders(tmp_path_factory, sample):
    """Three encoder directories, each with other weights."""
    texts = [caption for pair in sample.pairs("val") for caption in pair.captions]
    return [save_encoder(tmp_path_factory.mktemp("encoder"), texts, seed) for seed in range(3)]


@pytest.fixture(scope="session")
def encoder(encoders):
    return encoders[0]


@pytest.fixture(scope="session")
def drawings(sample):
    """Twelve images of the sample corpus."""
    return [sample.read_image(pair.image) for pair in list(sample.pairs("val"))[:12]]
