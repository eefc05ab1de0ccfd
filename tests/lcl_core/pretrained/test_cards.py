"""Model cards: what is said of an encoder on images that had no part in its choice stands wherever it is praised."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lcl_core.pretrained import PretrainedEncoder, pretrained_encoders

README = Path(__file__).parents[3] / "README.md"
DECIMAL = re.compile(r"(?<![\d.])\.\d+")
APART = re.compile(r"had no part in any choice[^.]*?(\.\d+)[^.]*\(chance (\.\d+)\)", re.DOTALL)


@pytest.mark.parametrize("encoder", pretrained_encoders(), ids=lambda encoder: encoder.name)
def test_a_card_has_a_figure_of_images_that_had_no_part_in_the_choice(encoder: PretrainedEncoder) -> None:
    """Its recipe is chosen by figures of some split; those of that split alone would promise too much."""
    assert APART.search((encoder.directory / "README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("encoder", pretrained_encoders(), ids=lambda encoder: encoder.name)
def test_the_figures_that_come_with_an_encoder_are_those_of_its_card(encoder: PretrainedEncoder) -> None:
    card = (encoder.directory / "README.md").read_text(encoding="utf-8")
    known = set(DECIMAL.findall(card))
    assert encoder.figures or encoder.superseded, "the encoder that is offered has figures"
    for row in encoder.figures:
        name = "a word of the name" if row["metric"] == "a word of the name" else row["split"].partition(",")[0]
        assert name in card
        for value in (row["value"], row["chance"], row["untrained"]):
            assert f"{value:.3f}".removeprefix("0") in known, row


OFFERED = [encoder for encoder in pretrained_encoders() if encoder.superseded is None]


def test_one_encoder_is_offered_and_older_ones_name_what_came_after_them() -> None:
    names = [encoder.name for encoder in pretrained_encoders()]
    assert len(OFFERED) == 1
    assert all(encoder.superseded in names for encoder in pretrained_encoders() if encoder not in OFFERED)


@pytest.mark.parametrize("encoder", OFFERED, ids=lambda encoder: encoder.name)
def test_the_manual_quotes_the_card_and_not_the_optimistic_figures_alone(encoder: PretrainedEncoder) -> None:
    card = (encoder.directory / "README.md").read_text(encoding="utf-8")
    apart = APART.search(card)
    assert apart is not None
    link = f"(lcl_core/pretrained/{encoder.name}/README.md)"
    quoting = [part.partition(link)[2] for part in README.read_text(encoding="utf-8").split("\n\n") if link in part]
    for text in quoting:
        figures = DECIMAL.findall(text)
        assert set(figures) <= set(DECIMAL.findall(card))
        assert not figures or set(apart.groups()) <= set(figures)
    assert any(DECIMAL.search(text) for text in quoting), "README quotes figures of no encoder that ships"
