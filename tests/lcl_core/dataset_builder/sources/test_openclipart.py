"""Clip art with the titles, descriptions and keywords that its uploaders gave."""

from __future__ import annotations

from typing import Any

import pytest

from lcl_core.dataset_builder.sources.openclipart import SOURCE

PNG, SVG = "usr/share/openclipart/png", "usr/share/openclipart/svg"


def svg(title: str, description: str = "", *keywords: str) -> str:
    listed = "".join(f"<rdf:li>{word}</rdf:li>" for word in keywords)
    return (
        f"<svg><metadata><dc:title>{title}</dc:title><dc:creator><dc:title>Somebody</dc:title></dc:creator>"
        f"<dc:description>{description}</dc:description><rdf:Bag>{listed}</rdf:Bag></metadata></svg>"
    )


def build(kit: Any, drawings: dict[str, tuple[bytes, str | None]]) -> dict[str, Any]:
    """By name, the pairs of these drawings: (pixels, vectors)."""
    pixels = {f"{PNG}/{name}.png": png for name, (png, _) in drawings.items()}
    vectors = {f"{SVG}/{name}.svg": text for name, (_, text) in drawings.items() if text is not None}
    built = SOURCE.build(kit.source_files(SOURCE, {"openclipart-png": pixels, "openclipart-svg": vectors}))
    return {pair.image.removeprefix("openclipart/").removesuffix(".webp"): pair for pair in built.pairs}


def test_words_come_from_the_drawing_or_else_from_its_name(kit: Any) -> None:
    pytest.importorskip("resvg_py")
    said = svg("Red &amp; ripe apple 2", "An apple with a leaf.", "Fruit", "hash(0x1)", "fruit", "größe", "apple")
    pairs = build(
        kit,
        {
            "food/fruit/a": (kit.draw_image("red"), said),
            "food/fruit/green_pear_02": (kit.draw_image("green"), svg("Fruit icons")),
            "food/plum_anna_01": (kit.draw_image("purple"), None),
        },
    )
    apple, pear, plum = pairs["food/fruit/a"], pairs["food/fruit/green_pear_02"], pairs["food/plum_anna_01"]
    assert apple.captions == ("Red & ripe apple", "An apple with a leaf.", "Red & ripe apple: fruit, apple")
    assert (apple.name, apple.keywords) == ("Red & ripe apple", ("fruit", "apple"))
    assert apple.labels == {"category": "food", "subcategory": "food/fruit"}
    assert pear.captions == ("green pear",)
    assert (plum.captions, plum.labels["subcategory"]) == (("plum anna",), "food")
    assert plum.to_json()["keywords"] == []


def test_parts_copies_and_the_unusable_are_left_out(kit: Any) -> None:
    pytest.importorskip("resvg_py")
    pairs = build(
        kit,
        {
            "food/apple": (kit.draw_image("red"), None),
            "food/apple_again": (kit.draw_image("red"), None),
            "computer/icons/disk": (kit.draw_image("blue"), None),
            "food/ab": (kit.draw_image("green"), None),
            "food/banner": (kit.draw_image("black", (400, 30)), None),
            "food/broken": (b"broken", None),
        },
    )
    assert set(pairs) == {"food/apple"}
