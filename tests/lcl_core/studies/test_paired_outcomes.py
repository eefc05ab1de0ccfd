"""Two rows question by question."""

from statistics import fmean

import pytest

from lcl_core.common.errors import UserError
from lcl_core.evaluation.results import PredictionFile, PredictionStore
from lcl_core.specs.study import MetricSpec
from lcl_core.studies.paired_outcomes import Question, compare_outcomes, question_outcomes
from lcl_core.studies.statistics import paired_test


def metric(**wanted):
    return MetricSpec(name="m", **wanted)


@pytest.fixture
def records(tmp_path):
    """Three questions in each direction, and what the untrained encoder said to them."""
    kept = PredictionStore(tmp_path / "records")
    kept.start()
    for direction, encoder, ranks in (
        ("text_to_image", "trained", [1, 4, 9]),
        ("image_to_text", "trained", [2, 1, 1]),
        ("text_to_image", "untrained", [9, 9, 1]),
    ):
        about = ("retrieval", "test", "captions[0]", "zero_shot", "ranks", encoder)
        sheet = PredictionFile(*about, part=direction, facts={"candidates": 20})
        kept.add(sheet, [{"query": f"q{n}", "rank": rank, "right": 1, "top": []} for n, rank in enumerate(ranks)])
    return kept.folder


def test_each_question_is_found_or_not(records):
    at_1, at_5, text, rank, elsewhere, learnt, training = question_outcomes(
        [
            metric(metric="IR@1"),
            metric(metric="IR@5", split="test"),
            metric(metric="TR@1"),
            metric(metric="IR median rank"),
            metric(metric="IR@5", split="val"),
            metric(metric="IR@5", transfer="full"),
            metric(metric="IR@5", of="training"),
        ],
        records,
    )
    assert list(at_1.values()) == [1.0, 0.0, 0.0]
    assert list(at_5.values()) == [1.0, 1.0, 0.0]
    asked = ("retrieval", "test", "captions[0]", "zero_shot", "text_to_image")
    assert at_5[Question(asked, ("test", "text_to_image", "", "q1"), 20)] == 1.0
    assert list(text.values()) == [0.0, 1.0, 1.0]
    assert rank == elsewhere == learnt == training == {}


def test_files_that_no_metric_asks_for_are_not_scored(tmp_path):
    kept = PredictionStore(tmp_path / "records")
    kept.start()
    retrieval = ("retrieval", "test", "captions[0]", "zero_shot", "ranks", "trained")
    sheet = PredictionFile(*retrieval, part="text_to_image", facts={"candidates": 20})
    kept.add(sheet, [{"query": "q", "rank": 2, "right": 1, "top": []}])
    unscorable = {"query": "i", "caption": "a drawing", "references": []}
    kept.add(PredictionFile("captioning", "val", "own", "frozen", "captions", "trained"), [unscorable])
    (found,) = question_outcomes([metric(metric="IR@5", split="test")], kept.folder)
    assert list(found.values()) == [1.0]
    with pytest.raises(UserError, match="no reference captions"):
        question_outcomes([metric(metric="CIDEr", split="val")], kept.folder)


def test_captions_and_answers_have_outcomes_without_their_baselines(tmp_path):
    """Facts of the baselines (``seed``) are missing."""
    kept = PredictionStore(tmp_path / "records")
    kept.start()
    captions = [{"query": f"i{n}", "caption": f"drawing {n}", "references": [f"drawing {n}"]} for n in range(3)]
    kept.add(PredictionFile("captioning", "test", "own", "frozen", "captions", "trained"), captions)
    answers = [
        {"id": f"{n}", "image": f"i{n}", "text": "Is it?", "truth": truth, "answer": "yes"}
        for n, truth in enumerate(("yes", "no"))
    ]
    about = ("dialogue", "test", "pope", "frozen", "answers", "trained")
    kept.add(PredictionFile(*about, facts={"benchmark": "pope"}), answers)
    rouge, accuracy, f1 = question_outcomes(
        [metric(metric="ROUGE-L"), metric(metric="accuracy"), metric(metric="F1")], kept.folder
    )
    assert list(rouge.values()) == pytest.approx([1.0] * 3)
    assert list(accuracy.values()) == [1.0, 0.0]
    assert f1 == {}, "it is no mean over the questions"


def test_seeds_are_averaged_before_questions_are_paired():
    def answers(*found):
        return {Question(("t", "s", "v"), ("s", f"q{n}")): value for n, value in enumerate(found)}

    left = [answers(1, 0, 0, 1), answers(0, 0, 0, 1)]
    right = [answers(1, 1, 0, 1), answers(1, 1, 1)]
    found = compare_outcomes(left, right)
    assert found == paired_test([0.5, 0.0, 0.0], [1.0, 1.0, 0.5])  # q3 was not asked of the last one


def test_samples_of_one_group_are_one_pair(tmp_path):
    """Of three drawings of a concept all are right or none: they say as much as one."""
    sides = []
    for name, firsts in (("left", [9, 9, 9, 1, 9]), ("right", [1, 1, 1, 1, 9])):
        kept = PredictionStore(tmp_path / name)
        kept.start()
        about = ("classification", "test", "colour", "frozen", "ranks", "trained")
        samples = [
            {
                "query": f"i{n}",
                "rank": rank,
                "right": 1,
                "top": [],
                "label": "red",
                **({"group": group} if group else {}),
            }
            for n, (rank, group) in enumerate(zip(firsts, ["a", "a", "a", "b", ""], strict=True))
        ]
        kept.add(PredictionFile(*about, part="image_to_class", facts={"candidates": 20}), samples)
        sides.append(question_outcomes([metric(metric="acc@1")], kept.folder))
    found = compare_outcomes(*sides)
    assert found is not None
    assert found.count == 3
    assert found.difference == pytest.approx(4 / 5 - 1 / 5), "of the images, as in the table"
    expected = paired_test([0, 3 / 5, 0], [9 / 5, 3 / 5, 0])
    assert found.p == pytest.approx(expected.p)
    assert found.interval == pytest.approx(expected.interval)


def test_without_a_common_question_there_is_no_comparison():
    one = {Question(("t", "s", "v"), ("s", "a")): 1.0}
    assert compare_outcomes([one], [{Question(("t", "s", "v"), ("s", "b")): 1.0}]) is None
    assert compare_outcomes([one], []) is None
    assert compare_outcomes([], []) is None


def stored(folder, ranks, candidates=20):
    """Stored predictions about images q0, q1, …, by the variant of their labels."""
    store = PredictionStore(folder)
    store.start()
    for variant, own in ranks.items():
        about = ("classification", "test", variant, "frozen", "ranks", "trained")
        sheet = PredictionFile(*about, part="image_to_class", facts={"candidates": candidates})
        samples = [{"query": f"q{n}", "rank": rank, "right": 1, "label": "a", "top": []} for n, rank in enumerate(own)]
        store.add(sheet, samples)
    return folder


def compared(folder, left, right):
    sides = [stored(folder / name, ranks) for name, ranks in (("left", left), ("right", right))]
    return compare_outcomes(*(question_outcomes([metric(metric="acc@1")], side) for side in sides))


def test_ranks_among_different_numbers_of_candidates_are_not_paired(tmp_path):
    """The dataset got a version with more of them between the evaluations."""
    ranks = {"shape": [1, 2, 2]}
    small, same, large = (
        question_outcomes([metric(metric="acc@1")], stored(tmp_path / name, ranks, candidates))
        for name, candidates in (("small", 20), ("same", 20), ("large", 40))
    )
    assert compare_outcomes(small, large) is None
    assert compare_outcomes([*small, *large], [*same, *large]) is None, "a row has evaluations of both versions"
    paired = compare_outcomes(small, same)
    assert paired is not None
    assert paired.count == 3


def test_a_sample_that_several_files_ask_about_is_one_pair(tmp_path):
    left, right = [1, 2, 2, 2, 1], [1, 1, 1, 2, 2]
    once = compared(tmp_path / "once", {"shape": left}, {"shape": right})
    twice = compared(tmp_path / "twice", {"shape": left, "colour": left}, {"shape": right, "colour": right})
    assert once is not None
    assert once.count == 5
    assert twice == once


def test_the_difference_is_that_of_the_means_of_the_rows(tmp_path):
    """The second label is that of two images alone, and its row of the evaluation counts as much as the first."""
    left = {"shape": [1, 2, 2, 2], "colour": [2, 2]}
    right = {"shape": [1, 1, 2, 2], "colour": [1, 2]}
    found = compared(tmp_path, left, right)
    figures = [fmean(fmean(rank == 1 for rank in ranks) for ranks in side.values()) for side in (left, right)]
    assert found is not None
    assert (found.count, found.difference) == (4, pytest.approx(figures[1] - figures[0]))


def test_questions_of_different_benchmarks_are_different_samples(tmp_path):
    store = PredictionStore(tmp_path)
    store.start()
    for benchmark in ("pope", "vqa"):
        about = ("dialogue", "test", benchmark, "frozen", "ranks", "trained")
        facts = {"candidates": 2, "benchmark": benchmark}
        sheet = PredictionFile(*about, part="image_to_class", facts=facts)
        store.add(sheet, [{"query": "1", "rank": 1, "right": 1, "label": "yes", "top": []}])
    (outcomes,) = question_outcomes([metric(metric="acc@1")], tmp_path)
    found = compare_outcomes([outcomes], [outcomes])
    assert found is not None
    assert found.count == 2
