"""Published tables: what is compared with the baseline, and over which seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tables
from benchmarks.tables import (
    BOTH_DIRECTIONS,
    PublishedTable,
    PublishedTests,
    SingleRunColumn,
    SingleRunTable,
    build,
)
from lcl_core.common.errors import UserError
from lcl_core.studies.statistics import equivalence_p, holm_adjust, paired_test

pytestmark = pytest.mark.extended

BASE = {0: 0.9, 1: 0.12, 2: 0.15}


def study_row(name: str, **columns: dict[int, float]) -> dict[str, Any]:
    figures = {column: {"values": {str(seed): value for seed, value in own.items()}} for column, own in columns.items()}
    return {"labels": {"method": name}, "figures": figures}


@pytest.fixture
def compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The words about the difference of a row from the baseline, whose rows are these."""

    def build_words(base: Any, other: Any, margin: float | None = None, column: str = "acc@1") -> str:
        rows = [study_row("lcl", **base), study_row("clip", **other)]
        folder = tmp_path / "methods"
        folder.mkdir(exist_ok=True)
        (folder / "table.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
        names = {"clip": "`clip`", "lcl": "`lcl`"}
        table = PublishedTable("method", "method", names, "lcl", "`lcl`", columns=(column,), margins={"clip": margin})
        monkeypatch.setattr(tables, "RESULTS", tmp_path)
        monkeypatch.setitem(tables.TABLES, "methods", table)
        line = next(line for line in build("methods") if line.startswith("| `clip` |"))
        return line.split(" | ")[2].removesuffix(" |")

    return build_words


def test_values_are_paired_by_their_seeds(compared: Any) -> None:
    words = compared({"acc@1": BASE}, {"acc@1": {1: 0.22, 2: 0.26, 3: 0.9}})
    expected = paired_test([0.12, 0.15], [0.22, 0.26])
    assert expected.p is not None
    assert words.startswith(".105 (")
    assert words.endswith(f", 2 shared seeds, {expected.p:.2g}".replace("0.", "."))


def test_an_equivalence_is_over_the_shared_seeds_too(compared: Any) -> None:
    words = compared({"acc@1": BASE}, {"acc@1": {1: 0.122, 2: 0.151, 3: 0.9}}, margin=0.02)
    p = equivalence_p([0.12, 0.15], [0.122, 0.151], 0.02)
    assert p is not None
    assert words.endswith(f", 2 shared seeds, equivalence {p:.2g}".replace("0.", "."))


def test_both_directions_are_averaged_seed_by_seed(compared: Any) -> None:
    base = {"IR@5": {0: 0.1, 1: 0.2, 2: 0.3}, "TR@5": {0: 0.1, 1: 0.2, 2: 0.3}}
    other = {"IR@5": {0: 0.2, 1: 0.4, 2: 0.5}, "TR@5": {1: 0.4, 2: 0.5, 3: 0.9}}
    assert compared(base, other, column=BOTH_DIRECTIONS) == ".200 (.200 – .200), 2 shared seeds"


@pytest.mark.parametrize(("other", "expected"), [({2: 0.25, 4: 0.9}, ".100, 1 shared seed"), ({3: 0.5, 4: 0.6}, "")])
def test_too_few_shared_seeds_give_no_test(compared: Any, other: dict[int, float], expected: str) -> None:
    assert compared({"acc@1": BASE}, {"acc@1": other}).strip("| ") == expected


def test_a_tested_row_may_be_that_of_another_table(
    compared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared({"acc@1": BASE}, {"acc@1": BASE})
    own = {**study_row("x", **{"acc@1": {0: 0.95, 1: 0.2, 2: 0.2}}), "labels": {"target": "detached"}}
    (tmp_path / "targets.json").write_text(json.dumps({"rows": [own]}), encoding="utf-8")
    tests = {"detached against live": ("detached", "live")}
    table = PublishedTests("target", tests, "targets", from_table={"live": ("methods", "lcl")})
    monkeypatch.setitem(tables.TABLES, "targets", table)
    (line,) = build("targets")[2:]
    assert line.startswith("| detached against live | .450 ± .433 | .390 ± .442 | .060 (")


def test_a_row_may_be_that_of_another_table(compared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared({"acc@1": BASE}, {"acc@1": BASE})
    (tmp_path / "losses").mkdir()
    own = {**study_row("x", **{"acc@1": {0: 0.95, 1: 0.2, 2: 0.2}}), "labels": {"loss": "half"}}
    (tmp_path / "losses" / "table.json").write_text(json.dumps({"rows": [own]}), encoding="utf-8")
    names = {"half": "half", "whole": "whole"}
    table = PublishedTable(
        *("loss", "loss", names, "whole", "whole"), columns=("acc@1",), from_table={"whole": ("methods", "lcl")}
    )
    monkeypatch.setitem(tables.TABLES, "losses", table)
    half, whole = build("losses")[2:]
    assert half.startswith("| half | .450 ")
    assert "| .060 (" in half
    assert whole.startswith("| whole | .390 ")


@pytest.fixture
def tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The lines of two planned tests, of the text and of the method, between rows with these values by seed."""

    def build_lines(values: dict[tuple[str, str], dict[int, float]]) -> list[str]:
        rows = [
            {**study_row("x", **{"acc@1": own}), "labels": {"method": method, "text": text}}
            for (method, text), own in values.items()
        ]
        (tmp_path / "texts").mkdir()
        (tmp_path / "texts" / "table.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
        monkeypatch.setattr(tables, "RESULTS", tmp_path)
        named = {"text": ("lcl,own", "lcl,other"), "method": ("lcl,own", "clip,own")}
        monkeypatch.setitem(tables.TABLES, "texts", PublishedTests("method,text", named, "texts/table"))
        return build("texts")[2:]

    return build_lines


OWN = {0: 0.30, 1: 0.33, 2: 0.31}


def test_planned_tests_are_between_rows_and_are_corrected_together(tested: Any) -> None:
    values = {
        ("lcl", "own"): OWN,
        ("lcl", "other"): {0: 0.20, 1: 0.22, 2: 0.23},
        ("clip", "own"): {0: 0.30, 1: 0.31, 2: 0.33},
    }
    text, method = tested(values)
    others = (("lcl", "other"), ("clip", "own"))
    tests = [paired_test(list(values[other].values()), list(values["lcl", "own"].values())) for other in others]
    adjusted = [f"{p:.2g}".replace("0.", ".") for p in holm_adjust([test.p for test in tests]) if p is not None]
    assert text.startswith("| text | .313 ± .015 | .217 ± .015 | .097 (")
    assert text.endswith(f"), {adjusted[0]} |")
    assert method.startswith("| method | .313 ± .015 | .313 ± .015 | .000 (")
    assert method.endswith(f"), {adjusted[1]} |")


def test_a_planned_test_without_a_p_counts_in_the_correction(tested: Any) -> None:
    other = {0: 0.20, 1: 0.22, 2: 0.23}
    text, method = tested({("lcl", "own"): OWN, ("lcl", "other"): other, ("clip", "own"): {0: 0.2}})
    (p, _) = holm_adjust([paired_test(list(other.values()), list(OWN.values())).p, None], tests=2)
    assert text.endswith(f"), {p:.2g} |".replace("0.", "."))
    assert method == "| method | .313 ± .015 | .200 | .100, 1 shared seed |"


def test_a_planned_test_of_a_table_of_rows_counts_without_a_shared_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"lcl": OWN, "clip": {0: 0.20, 1: 0.22, 2: 0.23}, "coca": {7: 0.2}}
    rows = [study_row(name, **{"acc@1": own}) for name, own in values.items()]
    (tmp_path / "all.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    names = {name: name for name in values}
    table = PublishedTable("method", "method", names, "lcl", "lcl", columns=("acc@1",), values="all")
    monkeypatch.setitem(tables.TABLES, "all", table)
    line = next(line for line in build("all") if line.startswith("| clip |"))
    p = paired_test(list(OWN.values()), list(values["clip"].values())).p
    assert p is not None
    assert line.endswith(f"), {2 * p:.2g} |".replace("0.", "."))


def test_a_test_names_the_number_of_shared_seeds(tested: Any) -> None:
    values = {
        ("lcl", "own"): OWN,
        ("lcl", "other"): {0: 0.20, 1: 0.22},
        ("clip", "own"): {0: 0.30, 1: 0.31, 2: 0.33},
    }
    text, method = tested(values)
    assert "), 2 shared seeds, " in text
    assert "shared" not in method


def test_a_test_of_rows_without_a_shared_seed_is_an_error(tested: Any) -> None:
    values = {("lcl", "own"): OWN, ("lcl", "other"): {3: 0.2}, ("clip", "own"): OWN}
    with pytest.raises(UserError, match=r"table texts: .* the test text share no seed; .*table\.json") as caught:
        tested(values)
    assert caught.value.code == "no_shared_seed"


def test_rows_with_the_same_seeds_say_nothing_of_them(compared: Any) -> None:
    assert "seed" not in compared({"acc@1": BASE}, {"acc@1": {2: 0.16, 1: 0.13, 0: 0.95}})


def test_single_runs_have_the_interval_of_their_evaluation_and_the_figure_of_the_same_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorter = [study_row(name, **{"IR@5": {0: 0.1, 1: 0.9}, "TR@5": {0: 0.3, 1: 0.9}}) for name in ("lcl", "none")]
    (tmp_path / "short.json").write_text(json.dumps({"rows": shorter}), encoding="utf-8")
    (tmp_path / "long").mkdir()
    (tmp_path / "long" / "lcl.csv").write_text(
        "task,variant,metric,value,low,high\n"
        "tuned_retrieval,captions[0],IR@5,0.2,0.15,0.26\n"
        "tuned_retrieval,captions[0],IR@10,0.9,0.9,0.9\n"
        "tuned_retrieval,captions[0],TR@5,0.4,0.31,0.5\n",
        encoding="utf-8",
    )
    names = {"lcl": "`lcl`", "none": "*none*"}
    columns = [
        SingleRunColumn("before", BOTH_DIRECTIONS, table="short"),
        SingleRunColumn("after", BOTH_DIRECTIONS, evaluations="long"),
        SingleRunColumn("to images", "IR@5", evaluations="long"),
    ]
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    monkeypatch.setitem(tables.TABLES, "short", PublishedTests("method", {}, "short"))
    reads = {"lcl": "documents", "none": ""}
    monkeypatch.setitem(tables.TABLES, "long", SingleRunTable("method", names, reads, columns, "long"))
    assert build("long") == [
        "| method | reads | before | after | to images |",
        "|---|---|---|---|---|",
        "| `lcl` | documents | .200 | .300 | .200 (.150 – .260) |",
        "| *none* | | .200 | | |",
    ]
