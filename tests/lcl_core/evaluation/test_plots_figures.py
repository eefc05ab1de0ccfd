"""All figures of a run."""

from __future__ import annotations

import errno
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lcl_core.common.run_dir import RunDir
from lcl_core.data import open_corpus
from lcl_core.evaluation import plots
from lcl_core.evaluation.evaluate import evaluate
from lcl_core.evaluation.plots import make_figures
from lcl_core.evaluation.results import PredictionFile, PredictionStore

FIELDS = {"figures": True, "untrained_baseline": False}


def names(run_dir: RunDir) -> list[str]:
    return sorted(file.name for file in (run_dir.artifacts / "figures").iterdir())


def test_every_sheet_has_its_figures(new_run: Callable[..., RunDir]) -> None:
    run_dir = new_run(**FIELDS)
    result = evaluate(run_dir)
    found = names(run_dir)
    assert "figures_left_out" not in result
    assert "confusion-classification-test-colour-image_to_class-frozen-trained.png" in found
    assert "curves.png" in found
    assert sum(name.startswith("examples-") for name in found) == 1 + 2 * 3


def test_labels_that_give_one_name_have_figures_each(tmp_path: Path, squares: Path) -> None:
    store = PredictionStore(tmp_path / "records")
    store.start()
    samples = [
        {"query": f"{number}.png", "label": label, "rank": 1, "right": 1, "top": [label], "probability": 0.5}
        for number, label in enumerate(("red", "green"))
    ]
    for label in ("a-b", "a_b"):
        store.add(PredictionFile("c", "test", label, "frozen", "ranks", "trained", part="image_to_class"), samples)
    folder = tmp_path / "figures"
    assert make_figures(store.folder, [], open_corpus(str(squares)), folder, seed=0) is None
    stems = {file.stem for file in store.folder.glob("*.jsonl")}
    assert len(stems) == 2
    assert {file.stem for file in folder.iterdir()} == {
        f"{kind}-{stem}" for kind in ("examples", "confusion") for stem in stems
    }


def test_without_matplotlib_the_rest_is_drawn_and_the_result_says_so(
    new_run: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run_dir = new_run(**FIELDS)
    assert "matplotlib" in evaluate(run_dir)["figures_left_out"]
    assert all(name.startswith("examples-") for name in names(run_dir))


def test_a_figure_that_cannot_be_drawn_is_left_out_and_the_evaluation_succeeds(
    new_run: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(samples: object, title: str, file: Path) -> None:
        file.write_bytes(b"half")
        raise ValueError("unknown symbol\nin a label")

    monkeypatch.setattr(plots, "draw_confusion", fail)
    run_dir = new_run(**FIELDS)
    failed = "confusion-classification-test-colour-image_to_class-frozen-trained.png"
    assert evaluate(run_dir)["figures_left_out"] == f"{failed}: ValueError: unknown symbol"
    assert failed not in names(run_dir)
    assert "curves.png" in names(run_dir)


def test_a_full_disk_is_an_error_of_the_run(tmp_path: Path, squares: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PredictionStore(tmp_path / "records")
    store.start()

    def fail(curves: object, file: Path) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(plots, "draw_curves", fail)
    store.add(PredictionFile("c", "test", "a", "frozen", "other", "trained"), [])
    with pytest.raises(OSError, match="no space"):
        make_figures(store.folder, [{}], open_corpus(str(squares)), tmp_path / "figures", seed=0)


def test_class_labels_with_formulas_do_not_fail_an_evaluation(
    new_run: Callable[..., RunDir], tmp_path: Path, squares: Path
) -> None:
    corpus = tmp_path / "symbols"
    shutil.copytree(squares, corpus)
    lines = (corpus / "pairs.jsonl").read_text().replace('"colour": "red"', '"colour": "red $x^$"')
    (corpus / "pairs.jsonl").write_text(lines)
    run_dir = new_run(corpus=corpus, tasks=["classification"], **FIELDS)
    assert "figures_left_out" not in evaluate(run_dir)
