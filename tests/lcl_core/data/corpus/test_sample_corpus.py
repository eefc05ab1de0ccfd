"""What ships with the product: the sample corpus, CLIP's vocabulary, and their notices."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lcl_core import data
from lcl_core.data import SAMPLE_CORPUS, Sample, SampleStream, open_corpus
from lcl_core.specs.pretrain import PretrainSpec

FOLDER = Path(data.__file__).parent


@pytest.fixture(scope="module")
def sample():
    return open_corpus(SAMPLE_CORPUS)


def test_what_is_in_it(sample, sample_zip):
    assert sample_zip == SAMPLE_CORPUS
    assert len(sample.documents) == 531
    assert sample.splits() == {
        "train": 2865, "extra": 1253, "val": 344, "test_vendor": 590, "test_concept": 228, "test_both": 57, "test": 60,
    }  # fmt: skip
    pair = sample.pairs("test_vendor", "emoji")[0]
    assert set(pair.labels) == {"concept", "group", "subgroup"}


def test_every_line_and_every_image_can_be_read(sample):
    names = {info["image_name"] for document in sample.documents for info in document["image_info"]}
    names |= {pair.image for pair in sample.pairs()}
    assert len(names) == 5397
    for name in sorted(names)[::20]:
        assert sample.read_image(name).size <= (64, 64)


def test_documents_show_no_image_that_is_examined_on(sample):
    shown = {info["image_name"] for document in sample.documents for info in document["image_info"]}
    examined = {pair.image for pair in sample.pairs() if pair.split != "train"}
    assert examined
    assert not shown & examined


def test_each_licence_in_it_is_in_the_notice(sample):
    notice = (FOLDER / "sample" / "NOTICE").read_text(encoding="utf-8")
    words = {
        "CC-BY-4.0": "CC-BY 4.0",
        "Apache-2.0": "Apache License 2.0",
        "MIT": "MIT License",
        "public domain (CC dedication)": "public domain",
    }
    licences = Counter(pair.extra["licence"] for pair in sample.pairs())
    assert set(licences) == set(words)
    assert all(word in notice for word in words.values())
    for work in (
        "Twemoji",
        "EmojiOne",
        "EmojiTwo",
        "Noto",
        "Fluent",
        "Firefox OS",
        "Streamline",
        "Open Clip Art",
        "emojibase",
        "resized",
    ):
        assert work in notice


def test_the_notice_at_the_top_points_to_both():
    top = (FOLDER.parents[1] / "NOTICE").read_text(encoding="utf-8")
    for place in ("lcl_core/data/sample/NOTICE", "lcl_core/data/vocabulary/NOTICE"):
        assert place in top
        assert (FOLDER.parents[1] / place).is_file()
    assert "MIT" in (FOLDER / "vocabulary" / "NOTICE").read_text(encoding="utf-8")


def test_the_preset_reads_it_without_loss(sample, tokenizer):
    spec = PretrainSpec.model_validate({"preset": "sample"})
    model = spec.model
    stream = SampleStream(
        spec.data, {"sample": sample}, tokenizer, model.num_image_tokens, 16, model.context_length, spec.seed
    )
    seen = [stream[position] for position in range(200)]
    assert all(isinstance(each, Sample) for each in seen)
    assert all(len(each.token_ids) <= model.context_length for each in seen)
    assert all(np.isfinite(each.pixels).all() for each in seen)
