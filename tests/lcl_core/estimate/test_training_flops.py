"""The estimate against the trainer's own count, which knows every document."""

import pytest

from lcl_core.estimate.flops import CLIP_TOKENS, step_flops, training_flops
from lcl_core.model import LCLConfig
from lcl_core.specs.parsing import parse_spec
from lcl_core.specs.pretrain import PretrainSpec


def test_equal_documents_cost_what_the_trainer_counts() -> None:
    spec = parse_spec("pretrain", {"preset": "sample"})
    assert isinstance(spec, PretrainSpec)
    config = LCLConfig(**spec.model.model_dump(), vocab_size=spec.tokenizer.vocab_size + 5)
    documents, length = 40, 2 * spec.model.num_image_tokens + 30
    counted = step_flops(config, [length] * documents, 2 * documents, 30 * documents)
    assert training_flops(spec, 2 * documents, length * documents, documents) == pytest.approx(counted, rel=1e-12)


def test_clips_vocabulary_is_larger():
    from lcl_core.data import clip_tokenizer

    assert clip_tokenizer().vocab_size == CLIP_TOKENS
    own, clips = (
        training_flops(PretrainSpec.model_validate({"tokenizer": {"kind": kind}}), 10, 1000, 10)
        for kind in ("bpe", "clip")
    )
    assert clips > own
