"""Each fault of the authors that ``fixed`` numerics mends, and what ``official`` makes of the same input."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from lcl_core.common.errors import UserError
from lcl_core.data import train_bpe
from lcl_core.model import LCLConfig, LCLOutput
from lcl_core.train.factory import build_model
from tests.lcl_core.data.mmc4_rendering import render_mmc4
from tests.reference_model import ReferenceLCL

BOTH = ("fixed", "official")
Run = Callable[..., LCLOutput]


@pytest.fixture
def run(small_model, pixels):
    """The model on rows of ids and the first images, in the numerics given."""

    def forward(numerics, rows, images, shown=pixels):
        small_model.set_numerics(numerics)
        ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        return small_model(pixel_values=shown[:images], input_ids=ids)

    return forward


@pytest.fixture
def reference(small_model):
    """The authors' method on the same weights."""
    model = ReferenceLCL(small_model.config)
    model.load_state_dict(small_model.state_dict())
    return model


def test_an_image_right_behind_the_start_has_no_context(run, small_config, image_tokens):
    """Its text feature depends on nothing, so two documents share it and are each other's false negatives."""
    start = small_config.sot_token_id
    rows = [[start, *image_tokens, 5, 6], [start, *image_tokens, 7], [start, 8, *image_tokens, 9]]
    official, fixed = run("official", rows, 3), run("fixed", rows, 3)
    assert official.text_features.shape[0] == 3
    torch.testing.assert_close(official.text_features[0], official.text_features[1])
    # of two equal texts neither can be told from the other: ln 2 at least for each, of three
    assert official.contrastive_loss.item() > 0.1 * math.log(2) / 3
    assert fixed.text_features.shape[0] == 1
    torch.testing.assert_close(fixed.text_features[0], official.text_features[2])
    torch.testing.assert_close(fixed.generation_loss, official.generation_loss)


def test_a_step_without_a_pair(run, reference, image_tokens, pixels):
    """Images first in every document: the authors' loss is a mean over nothing. What can be learnt is the same."""
    row = [*image_tokens, 5, 6, 7]
    official, fixed = run("official", [row], 1), run("fixed", [row], 1)
    assert math.isnan(reference(pixels[:1], torch.tensor([row])).loss.item())
    assert math.isnan(official.loss.item())
    assert math.isnan(official.contrastive_loss.item())
    assert fixed.contrastive_loss.item() == 0.0
    assert fixed.loss.item() == fixed.generation_loss.item() == official.generation_loss.item() > 0


def test_image_tokens_written_in_web_text():
    """A text that spells out an image block makes an image that is not there, and the step falls over it."""
    block = "&lt;start_of_img&gt; " + "<img_placehold> " * 4 + "<end_of_img>"
    doc = {
        "text_list": ["a red fox", block],
        "image_info": [{"image_name": "fox.png", "matched_text_index": 0, "matched_sim": 0.5}],
    }
    tokenizer = train_bpe(["a red fox", "a blue fish"] * 5, 300)
    sizes = {"image_size": 16, "patch_size": 8, "vision_width": 16, "vision_layers": 1, "vision_head_width": 16}
    sizes |= {"text_width": 16, "text_layers": 1, "text_heads": 1, "context_length": 200}
    special = {f"{name}_token_id": getattr(tokenizer.specials, name) for name in ("sot", "eot", "img", "soi", "eoi")}
    model = build_model(LCLConfig(**sizes, **special, vocab_size=tokenizer.vocab_size), seed=0)
    laid_out = {numerics: render_mmc4(doc, tokenizer, 4, 200, before=[False], numerics=numerics) for numerics in BOTH}
    one_image = torch.zeros(1, 3, 16, 16)
    ids, names = laid_out["fixed"] or ([], [])
    assert (ids.count(tokenizer.specials.soi), names) == (1, ["fox.png"])
    out = model(pixel_values=one_image, input_ids=torch.tensor([ids]))
    assert torch.isfinite(out.loss)
    ids, names = laid_out["official"] or ([], [])
    assert (ids.count(tokenizer.specials.soi), names) == (2, ["fox.png"])
    with pytest.raises(UserError, match="1 images need 4 placeholders, the documents hold 8"):
        model.set_numerics("official")(pixel_values=one_image, input_ids=torch.tensor([ids]))


def test_token_zero_in_a_text(run, reference, image_tokens, pixels):
    """The authors never predict it, taking it for padding; it is a target like any other."""
    row = [1, 0, 2, *image_tokens, 0, 3]
    ids = torch.tensor([row])
    theirs = reference(pixels[:1], ids)
    official, fixed = run("official", [row], 1), run("fixed", [row], 1)
    torch.testing.assert_close(official.generation_loss, theirs.generation_loss)
    log_p = reference.lm_head(theirs.hidden[0]).log_softmax(dim=-1)
    places = [0, 1, 2, 8, 9]  # before: 0, 2, soi, 0, 3
    every = -torch.stack([log_p[place, row[place + 1]] for place in places]).mean()
    torch.testing.assert_close(fixed.generation_loss, every)
    assert abs((every - theirs.generation_loss).item()) > 1e-3


def test_patches_that_would_go_to_another_document(run, image_tokens, pixels):
    """A placeholder too many here and one too few there: the authors show a patch of one image to the other text."""
    soi, *placeholders, eoi = image_tokens
    short = [1, soi, *placeholders[:-1], eoi, 5, 6]
    long = [2, soi, *placeholders, placeholders[0], eoi, 7, 8]
    other = torch.cat((pixels[:1] + 1.0, pixels[1:]))
    before, after = (run("official", [short, long], 2, shown).hidden for shown in (pixels, other))
    assert not torch.allclose(before[len(short) :], after[len(short) :]), "the second text saw the first one's image"
    with pytest.raises(UserError, match="document 0 holds 3 placeholders, its image starts need 4"):
        run("fixed", [short, long], 2)
    whole = [[1, *image_tokens, 5, 6], [2, *image_tokens, 7, 8]]
    before, after = (run("fixed", whole, 2, shown).hidden for shown in (pixels, other))
    torch.testing.assert_close(before[len(whole[0]) :], after[len(whole[0]) :])


@pytest.mark.parametrize("numerics", BOTH)
def test_the_callers_texts_are_never_written_to(small_model, small_config, numerics):
    """The authors turn ends into image starts in place, in the last column too; that is mended in both numerics."""
    small_model.set_numerics(numerics)
    start, end = small_config.sot_token_id, small_config.eot_token_id
    ids = torch.tensor([[start, 4, 5, end, 0, 0, 0, 0], [start, 6, 7, 8, 9, 10, 11, end]])
    kept = ids.clone()
    first = small_model.get_text_features(input_ids=ids, context_length=5)
    again = small_model.get_text_features(input_ids=ids[:, :], context_length=5)
    assert torch.equal(ids, kept)
    assert first.shape == (2, small_config.embed_dim)
    assert torch.equal(first, again)
