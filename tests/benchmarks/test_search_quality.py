"""Search quality: what counts as found, on an encoder whose spaces are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import search_quality
from benchmarks.__main__ import main
from lcl_core.data.records import CaptionPair
from tests.lcl_core.saved_encoders import encoder, encoders, sample  # noqa: F401

pytestmark = pytest.mark.extended


def pair(name: str, *terms: str) -> CaptionPair:
    return CaptionPair(name, (name, f"{name}: {', '.join(terms)}") if terms else (name,), {}, "train", "emoji")


@pytest.fixture
def spaces(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """Vectors by name, in place of an encoder's; a text has its image's unless ``text NAME`` has one."""
    vectors: dict[str, list[float]] = {}

    def of_texts(_: object, texts: list[str]) -> torch.Tensor:
        return torch.tensor([vectors.get(f"text {text}", vectors[text]) for text in texts])

    monkeypatch.setattr(search_quality, "_texts", of_texts)
    monkeypatch.setattr(
        search_quality, "_embedded", lambda _, __, pairs: torch.tensor([vectors[each.image] for each in pairs])
    )
    return vectors


def test_a_name_finds_its_image_among_the_first_five(spaces: dict[str, list[float]]) -> None:
    names = [f"image {number}" for number in range(12)]
    pairs = [pair(name, "a") for name in names]
    spaces |= {name: torch.eye(12)[at].tolist() for at, name in enumerate(names)}
    every = search_quality.by_name(object(), object(), pairs)  # type: ignore[arg-type]
    assert (every["text_to_image_r5"], every["image_to_text_r5"], every["chance"]) == (1, 1, round(5 / 12, 4))
    spaces["text image 0"] = [-1.0] + 11 * [0.0]  # the farthest from its own image, as near as others to the rest
    found = search_quality.by_name(object(), object(), pairs)  # type: ignore[arg-type]
    assert found["text_to_image_r5"] == found["image_to_text_r5"] == round(11 / 12, 4)


def test_a_term_counts_where_captions_list_it(spaces: dict[str, list[float]]) -> None:
    pairs = [pair(f"cat {number}", "pet") for number in range(8)] + [
        pair(f"pet {number}", "car") for number in range(8)
    ]
    spaces |= {each.image: [1.0, 0.0] if each.image.startswith("cat") else [0.0, 1.0] for each in pairs}
    spaces |= {"pet": [1.0, 0.0], "car": [1.0, 0.0]}
    images = torch.tensor([spaces[each.image] for each in pairs])
    found = search_quality.by_term(object(), images, search_quality.listed_keywords(pairs), "keywords")  # type: ignore[arg-type]
    assert found == {"images": 16, "keywords": 2, "precision_at_8": 0.5, "chance": 0.5}


def test_an_attribute_and_a_keyword_are_one_search(spaces: dict[str, list[float]]) -> None:
    """Of eight red cars and eight blue ones a search for red cars is right where it finds the red."""
    pairs = [
        CaptionPair(f"{colour} {number}", ("car",), {}, "train", "", {"keywords": ["car"], "attributes": [colour]})
        for colour in ("red", "blue")
        for number in range(8)
    ]
    described = search_quality.described_keywords(pairs)
    assert (described[0], described[8]) == ({"red car"}, {"blue car"})
    images = torch.tensor([[1.0, 0.0] if "red" in each.image else [0.0, 1.0] for each in pairs])
    spaces |= {"red car": [1.0, 0.0], "blue car": [1.0, 0.1]}
    found = search_quality.by_term(object(), images, described, "terms")  # type: ignore[arg-type]
    assert found == {"images": 16, "terms": 2, "precision_at_8": 0.5, "chance": 0.5}


def test_content_words_leave_out_colours_and_function_words() -> None:
    assert search_quality.content_words("Red apple with the large Leaf") == {"apple", "leaf"}


def test_it_measures_a_saved_encoder_and_the_same_network_untrained(
    encoder: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--encoder", str(encoder), "--splits", "test_vendor", "--threads", "1", "--untrained", "--no-captions"]
    assert main(["search-quality", *words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    for figures in (report, report["untrained"]):
        assert figures["by_keyword"]["keywords"] == 548
        assert 0 < figures["by_attribute"]["chance"] < figures["by_attribute"]["terms"]
        assert figures["by_name"]["fluent-3d"]["images"] == 590
        assert figures["by_name"]["fluent-3d"]["text_to_image_r5"] < 0.1


def test_a_split_without_names_is_refused(
    encoder: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["search-quality", "--encoder", str(encoder), "--splits", "nowhere"]) == 2
    assert "no image of these splits and teams" in capsys.readouterr().err
