"""Pairs as the pair methods read them: the text feature is the one that an evaluation asks for."""

from __future__ import annotations

import pytest
import torch

from lcl_core.common.errors import UserError
from lcl_core.objectives import build_objective
from lcl_core.objectives.clip import pack_pairs
from lcl_core.specs.pretrain import ObjectiveSpec
from lcl_core.train.factory import build_model
from tests.lcl_core.batch_partitions import PAIR_METHODS


def as_texts(pairs, config, columns):
    """Rows ``sot text eot 0 …`` as a processor writes them."""
    texts = torch.zeros(len(pairs), columns, dtype=torch.long)
    for row, pair in zip(texts, pairs, strict=True):
        words = [token for token in pair.tolist() if token not in config.special_token_ids]
        ids = torch.tensor([config.sot_token_id, *words, config.eot_token_id])
        row[: len(ids)] = ids
    return texts


@pytest.mark.parametrize("name", PAIR_METHODS)
def test_features_are_those_of_the_evaluation(small_model, pairs, pixels, collated, name):
    objective, batch = collated(name)
    found = objective.encode(small_model, batch).pairs
    assert found is not None
    texts = small_model.get_text_features(as_texts(pairs, small_model.config, 9))
    torch.testing.assert_close(found.text_features, texts)
    torch.testing.assert_close(found.image_features, small_model.get_image_features(pixels))


def test_long_texts_are_cut_as_the_evaluation_cuts_them(small_config, pixels):
    small_config.context_length = 120
    model = build_model(small_config, seed=0)
    block = [small_config.soi_token_id, *[small_config.img_token_id] * 4, small_config.eoi_token_id]
    pairs = [torch.tensor([*block, *range(1, length), small_config.eot_token_id]) for length in (94, 77, 75)]
    objective = build_objective(ObjectiveSpec(name="clip"), small_config)
    batch = objective.collate(pairs, pixels[:3], small_config)
    assert sorted(batch.lengths) == [76, 77, 77]
    texts = model.get_text_features(as_texts(pairs, small_config, 100))
    torch.testing.assert_close(objective.encode(model, batch).pairs.text_features, texts)


def test_documents_are_refused(documents, pixels, small_config):
    with pytest.raises(UserError, match="one image and one text") as caught:
        pack_pairs(documents, pixels, small_config, captions=False)
    assert (caught.value.code, caught.value.field) == ("invalid_value", "objective.name")
