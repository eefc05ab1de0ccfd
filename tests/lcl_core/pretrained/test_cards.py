"""Encoders that come with the product: their figures are those of their model cards, and one of them is offered."""

import re

import pytest

from lcl_core.pretrained import pretrained_encoders

ENCODERS = pretrained_encoders()


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: encoder.name)
def test_the_figures_that_come_with_an_encoder_are_those_of_its_card(encoder):
    card = (encoder.directory / "README.md").read_text(encoding="utf-8")
    known = set(re.findall(r"(?<![\d.])\.\d+", card))
    assert encoder.figures
    for row in encoder.figures:
        for value in (row["value"], row["chance"], row["untrained"]):
            assert f"{value:.3f}".removeprefix("0") in known, row


def test_one_encoder_is_offered_and_older_ones_name_what_came_after_them():
    (offered,) = [encoder for encoder in ENCODERS if encoder.superseded is None]
    assert {encoder.superseded for encoder in ENCODERS if encoder is not offered} == {offered.name}
