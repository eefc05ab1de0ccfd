"""The guide to studies: its examples are studies, and its numbers are what they come to."""

from __future__ import annotations

import json
import re
from pathlib import Path

from lcl_core.specs.base import presets
from lcl_core.specs.parsing import parse_as
from lcl_core.specs.study import StudySpec
from lcl_core.studies.trials import expand_study, study_rows

GUIDE = Path(__file__).parents[2] / "docs" / "studies.md"
TEXT = GUIDE.read_text(encoding="utf-8")


def examples() -> list[StudySpec]:
    found = re.findall(r"^```json\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return [parse_as(StudySpec, json.loads(text)) for text in found]


def test_the_examples_are_studies_of_the_size_that_is_said() -> None:
    grid, search = examples()
    assert (len(study_rows(grid)), len(expand_study(grid))) == (4, 12)
    assert "Four rows, three seeds, twelve cells" in TEXT
    assert len(expand_study(search)) == 9


def test_every_field_is_explained() -> None:
    explained = set(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE))
    assert set(StudySpec.model_fields) - explained == {"question", "search"}


def test_the_built_in_studies_are_all_there_with_their_rows() -> None:
    section = TEXT.partition("## Built-in studies")[2]
    listed = {name: int(rows) for name, rows in re.findall(r"^\| `(\w+)` \| (\d+) \|", section, re.MULTILINE)}
    assert listed == {name: len(study_rows(parse_as(StudySpec, {"preset": name}))) for name in presets("study")}


def test_the_studies_of_the_comparison_can_be_run_again():
    folder = GUIDE.parent / "results" / "comparison"
    for file in set(folder.glob("study*.json")) - {folder / "study_balance.json"}:  # README: of an earlier version
        assert expand_study(parse_as(StudySpec, json.loads(file.read_text(encoding="utf-8"))))
