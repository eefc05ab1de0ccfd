"""Best, worst and random samples."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from lcl_core.evaluation.benchmarks.base import AnsweredQuestion, BenchmarkQuestion
from lcl_core.evaluation.plots import SampleCell, answer_cells, caption_cells, draw_samples, pick_samples, rank_cells
from lcl_core.evaluation.results import PredictionFile

EXAMPLES = [SampleCell((f"{n}.png",), (f"word {n}",), goodness, None) for n, goodness in enumerate([3, 1, 2, 5, 4])]


def test_best_and_worst_are_by_goodness_and_random_ones_by_the_seed() -> None:
    chosen = pick_samples(EXAMPLES, 2, seed=1)
    assert [example.quality for example in chosen["best"]] == [5, 4]
    assert [example.quality for example in chosen["worst"]] == [1, 2]
    assert chosen["random"] == pick_samples(EXAMPLES, 2, seed=1)["random"]
    assert len({example.quality for example in pick_samples(EXAMPLES, 9, seed=2)["random"]}) == 5


def test_images_lie_in_their_cells(tmp_path: Path) -> None:
    requested: list[str] = []

    def read(name: str) -> Image.Image:
        requested.append(name)
        return Image.new("RGB", (300, 40), (255, 0, 0))

    draw_samples(EXAMPLES[:1], read, "a title", tmp_path / "grid.png", seed=0)
    assert requested == ["0.png"] * 3
    with Image.open(tmp_path / "grid.png") as image:
        assert (255, 0, 0) in {colour for _, colour in image.getcolors(1 << 20) or ()}


def test_what_a_sheet_of_ranks_shows() -> None:
    sheet = PredictionFile("c", "t", "v", "frozen", "ranks", "trained", part="image_to_class")
    reported = {"query": "q.png", "label": "ant", "rank": 2, "top": ["bee", "ant"], "probability": 0.25}
    assert rank_cells(sheet, [reported]) == [SampleCell(("q.png",), ("is ant (25%)", "seen as bee"), 0.25, False)]
    texts = PredictionFile("r", "t", "v", "zero_shot", "ranks", "trained", part="text_to_image")
    (found,) = rank_cells(texts, [{"query": "an ant", "rank": 1, "top": ["a.png", "b.png"]}])
    assert (found.images, found.correct) == (("a.png", "b.png"), True)


def test_what_a_sheet_of_captions_shows() -> None:
    sheet = PredictionFile("captioning", "t", "all", "frozen", "captions", "trained")
    said = [("a cat on a mat", ["a cat on a mat"]), ("a dog", ["two red cars", "cars"]), ("birds", ["a tree"])]
    found = caption_cells(
        sheet, [{"query": f"{n}.png", "caption": own, "references": true} for n, (own, true) in enumerate(said)]
    )
    assert found[0].quality > found[1].quality == 0
    assert found[1].images == ("1.png",)
    assert found[1].words == ("“a dog” (0.00)", "own: two red cars")


def test_what_a_sheet_of_answers_shows() -> None:
    options = {"A": "red", "B": "blue"}
    requested = BenchmarkQuestion("1", "1.png", "Which?", ("B",), options, {"medium": "image", "dimension": "colour"})
    sheet = PredictionFile("dialogue", "t", "x", "frozen", "answers", "trained", facts={"benchmark": "seed-bench"})
    found = answer_cells(sheet, [AnsweredQuestion(requested, "B").to_dict()])
    assert found == [SampleCell(("1.png",), ("Which?", "“B”; right: blue"), 1.0, True)]
    (wrong,) = answer_cells(sheet, [AnsweredQuestion(requested, None).to_dict()])
    assert (wrong.words[1], wrong.correct) == ("“nothing”; right: blue", False)
