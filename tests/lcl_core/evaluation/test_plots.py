"""Figures of a run: sample grids, confusion matrices, loss curves, and what happens when one cannot be drawn."""

import errno
import shutil
import sys

import pytest
from PIL import Image

from lcl_core.data import open_corpus
from lcl_core.evaluation import plots
from lcl_core.evaluation.evaluate import evaluate
from lcl_core.evaluation.plots import (
    SampleCell,
    confusion_matrix,
    draw_curves,
    make_figures,
    most_confused_classes,
    pick_samples,
    sample_cells,
)
from lcl_core.evaluation.results import PredictionFile, PredictionStore
from lcl_core.evaluation.vlm.questions import LabelQuestion

FIELDS = {"figures": True, "untrained_baseline": False}
CONFUSION = "confusion-classification-test-colour-image_to_class-frozen-trained.png"


def names(run_dir):
    return sorted(file.name for file in (run_dir.artifacts / "figures").iterdir())


def test_every_prediction_file_has_its_figures_whatever_its_labels(new_run, tmp_path, squares):
    """``red $x^$`` is no formula that matplotlib can read."""
    corpus = shutil.copytree(squares, tmp_path / "symbols")
    lines = (corpus / "pairs.jsonl").read_text().replace('"colour": "red"', '"colour": "red $x^$"')
    (corpus / "pairs.jsonl").write_text(lines)
    run_dir = new_run(corpus=corpus, **FIELDS)
    assert "figures_left_out" not in evaluate(run_dir)
    found = names(run_dir)
    assert {CONFUSION, "curves.png"} < set(found)
    assert sum(name.startswith("examples-") for name in found) == 1 + 2 * 3
    with Image.open(run_dir.artifacts / "figures" / CONFUSION) as image:
        assert min(image.size) > 200


def test_without_matplotlib_the_rest_is_drawn_and_the_result_says_so(new_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run_dir = new_run(**FIELDS)
    assert "matplotlib" in evaluate(run_dir)["figures_left_out"]
    assert all(name.startswith("examples-") for name in names(run_dir))


def test_a_figure_that_cannot_be_drawn_is_left_out_and_a_full_disk_fails_the_run(squares, tmp_path, monkeypatch):
    errors = [ValueError("unknown symbol\nin a label"), OSError(errno.ENOSPC, "no space left on device")]

    def fail(curves, file):
        file.write_bytes(b"half")
        raise errors.pop(0)

    monkeypatch.setattr(plots, "draw_curves", fail)
    store, folder = PredictionStore(tmp_path / "records"), tmp_path / "figures"
    store.start()
    corpus = open_corpus(str(squares))
    assert make_figures(store.folder, [{}], corpus, folder, seed=0) == "curves.png: unknown symbol"
    assert list(folder.iterdir()) == []
    with pytest.raises(OSError, match="no space"):
        make_figures(store.folder, [{}], corpus, folder, seed=0)


def test_each_task_and_protocol_has_a_panel_of_curves(tmp_path):
    def size(*panels):
        about = {"variant": "v", "encoder": "trained", "steps_a_point": 2, "loss": [3.0, 1.0]}
        draw_curves([{"task": task, "transfer": transfer, **about} for task, transfer in panels], tmp_path / "c.png")
        with Image.open(tmp_path / "c.png") as image:
            return image.size

    one, three = size(("a", "frozen"), ("a", "frozen")), size(("a", "frozen"), ("b", "frozen"), ("a", "full"))
    assert three == (2 * one[0], 2 * one[1])


def test_confusion_is_counted_and_of_many_classes_those_in_the_most_mistakes():
    pairs = [("a", "a"), ("a", "b"), ("b", "c"), ("b", "c"), ("c", "z"), ("d", "d")]
    samples = [{"label": label, "top": [answer], "rank": 1} for label, answer in pairs]
    assert confusion_matrix(samples, ["a", "b", "c"]).tolist() == [[1, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]
    assert most_confused_classes(samples) == ["a", "b", "c", "d"]
    assert most_confused_classes(samples, most=2) == ["b", "c"]


def test_best_and_worst_samples_are_by_quality_and_random_ones_by_the_seed():
    cells = [SampleCell((f"{n}.png",), (f"word {n}",), quality, None) for n, quality in enumerate([3, 1, 2, 5, 4])]
    chosen = pick_samples(cells, 2, seed=1)
    assert [cell.quality for cell in chosen["best"]] == [5, 4]
    assert [cell.quality for cell in chosen["worst"]] == [1, 2]
    assert chosen["random"] == pick_samples(cells, 2, seed=1)["random"]
    assert len({cell.quality for cell in pick_samples(cells, 9, seed=2)["random"]}) == 5


def test_the_words_of_each_kind_of_sample():
    about = ("t", "v", "frozen")
    classes = PredictionFile("c", *about, "ranks", "trained", part="image_to_class")
    sample = {"query": "q.png", "label": "ant", "rank": 2, "top": ["bee", "ant"], "probability": 0.25}
    assert sample_cells(classes, [sample]) == [SampleCell(("q.png",), ("is ant (25%)", "seen as bee"), 0.25, False)]
    texts = PredictionFile("r", *about, "ranks", "trained", part="text_to_image")
    (found,) = sample_cells(texts, [{"query": "an ant", "rank": 1, "top": ["a.png", "b.png"]}])
    assert (found.images, found.correct) == (("a.png", "b.png"), True)
    captions = [("a cat on a mat", ["a cat on a mat"]), ("a dog", ["two red cars", "cars"]), ("birds", ["a tree"])]
    samples = [{"query": f"{n}", "caption": own, "references": true} for n, (own, true) in enumerate(captions)]
    first, second, _ = sample_cells(PredictionFile("captioning", *about, "captions", "trained"), samples)
    assert first.quality > second.quality == 0
    assert second.words == ("“a dog” (0.00)", "own: two red cars")
    question = LabelQuestion("1", "1.png", "Red?", "yes", answer="Yes.")
    asked = PredictionFile("dialogue", *about, "answers", "trained")
    assert sample_cells(asked, [question.to_dict()]) == [
        SampleCell(("1.png",), ("Red?", "“Yes.”; right: yes"), 1.0, True)
    ]
