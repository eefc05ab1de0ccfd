"""Every figure of what grows says whether it was measured, simulated or extrapolated, and from what."""

from __future__ import annotations

import argparse
import json
from typing import Any

import pytest

from benchmarks import scale

pytestmark = pytest.mark.extended

TAGS = {"measured", "simulated", "extrapolated"}
LONG = {"conversion", "parts"}  # they start processes


@pytest.fixture(scope="module")
def printed(request: pytest.FixtureRequest) -> dict[str, list[dict[str, Any]]]:
    with pytest.MonkeyPatch.context() as patch:
        written: list[str] = []
        patch.setattr("builtins.print", written.append)
        chosen = [name for name in scale.MEASUREMENTS if name not in LONG]
        scale.main(argparse.Namespace(long=False, only=chosen))
    found: dict[str, list[dict[str, Any]]] = json.loads(written[0])
    return found


def test_every_figure_has_its_tag(printed: dict[str, list[dict[str, Any]]]) -> None:
    assert printed.keys() == scale.MEASUREMENTS.keys() - LONG
    for figures in printed.values():
        assert figures
        for figure in figures:
            assert figure["tag"] in TAGS
            assert isinstance(figure["value"], int | float)
            assert ("fit" in figure) == (figure["tag"] == "extrapolated")


def test_what_must_not_grow(printed: dict[str, list[dict[str, Any]]]) -> None:
    opens = {each["value"] for each in printed["resume"] if each["figure"] == "opens of a rank"}
    assert opens == {6}
    short, long = (each["value"] for each in printed["claims"])
    assert long < 1.5 * short
    first, more = (each["value"] for each in printed["idle-workers"])
    assert more < first
    assert all(each["value"] < 1024 for each in printed["positions"])
