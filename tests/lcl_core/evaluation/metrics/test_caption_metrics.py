"""Caption metrics by hand, their bootstrap and baselines, and the Java reference where it is installed."""

import importlib
import math
import shutil

import numpy as np
import pytest

from lcl_core.common.errors import UserError
from lcl_core.evaluation.metrics.caption_metrics import (
    MeteorProgram,
    bleu_counts,
    bleu_scores,
    caption_metrics,
    cider,
    longest_common,
    meteor,
    mismatched_captions,
    rouge_l,
    score_captions,
)


def counts_of(hypothesis, *references):
    return bleu_counts(hypothesis.split(), [reference.split() for reference in references])


def test_counts_are_clipped_by_the_best_single_reference():
    """The classic: seven times "the"; one reference has it twice, the other once."""
    counts = counts_of("the the the the the the the", "the cat is on the mat", "there is a cat on the mat")
    assert counts[:2].tolist() == [2, 0]
    assert counts[4:].tolist() == [7, 6, 5, 4, 7, 7]


def test_the_closest_length_is_the_shorter_of_two():
    assert counts_of("a b c d", "a b c", "a b c d e", "a")[-1] == 3


def test_scores_by_hand():
    """Hits 3/4, 2/3, 1/2, 0/1; as long as its reference."""
    one, two, three, four = bleu_scores(counts_of("a b c x", "a b c d"))
    assert one == pytest.approx(3 / 4)
    assert two == pytest.approx(math.sqrt(3 / 4 * 2 / 3))
    assert three == pytest.approx((3 / 4 * 2 / 3 * 1 / 2) ** (1 / 3))
    assert four < 1e-3


def test_a_short_caption_pays():
    assert bleu_scores(counts_of("a b", "a b c d"))[0] == pytest.approx(math.exp(1 - 4 / 2))
    assert bleu_scores(counts_of("a b c d e", "a b c d"))[0] == pytest.approx(4 / 5)


def test_the_corpus_is_scored_from_summed_counts():
    """4 of 6 words hit, which is not the mean of 1 and 1/3; lengths 6 and 6."""
    both = counts_of("a b c", "a b c") + counts_of("a x y", "a b c")
    assert bleu_scores(both)[0] == pytest.approx(4 / 6)


def test_many_draws_at_once():
    counts = np.stack([counts_of("a b c", "a b c"), counts_of("a x y", "a b c")])
    drawn = bleu_scores(np.array([[2, 0], [1, 1]]) @ counts)
    assert drawn[:, 0] == pytest.approx([1, 4 / 6])


def test_an_empty_caption_scores_nothing():
    assert bleu_scores(counts_of("", "a b")) == pytest.approx(np.zeros(4), abs=1e-6)


@pytest.mark.parametrize(
    ("one", "other", "length"),
    [("abcbdab", "bdcaba", 4), ("abc", "abc", 3), ("abc", "cba", 1), ("abc", "", 0), ("axbyc", "abc", 3)],
)
def test_longest_common_subsequence(one, other, length):
    assert longest_common(list(one), list(other)) == longest_common(list(other), list(one)) == length


def test_score_by_hand():
    """2 words in common; precision 2/3, recall 2/4: 2.44 x 1/3 / (0.5 + 1.44 x 2/3)."""
    assert rouge_l(list("abx"), [list("aqbr")]) == pytest.approx(2.44 / 3 / (0.5 + 0.96))


def test_precision_and_recall_may_come_from_different_references():
    """Precision 2/2 from the long one, recall 1/1 from the short one."""
    assert rouge_l(["a", "b"], [["a", "b", "c", "d"], ["a"]]) == pytest.approx(1)


def test_nothing_in_common():
    assert rouge_l(["a"], [["b"]]) == rouge_l([], [["b"]]) == 0


def test_one_word_by_hand():
    """Four images; "a" is in two of them, "b" and "c" in one each: weights log 2, log 4, log 4."""
    hypotheses = [["a"], ["b"], ["x"], ["y"]]
    references = [[["a", "b"]], [["a", "c"]], [["p"]], [["q"]]]
    first = cider(hypotheses, references)
    a, b = math.log(2), math.log(4)
    # of unigrams only: the cosine of (a) with (a, b), one 2-gram fewer; a mean over four lengths, times ten
    assert first[0] == pytest.approx(10 / 4 * a / math.hypot(a, b) * math.exp(-1 / 72))
    assert first[1:].tolist() == [0, 0, 0]


def test_equal_captions_score_ten_when_their_words_are_rare():
    references = [[list("abcde")], [list("fghij")]]
    assert cider([list("abcde"), ["z"]], references).tolist() == pytest.approx([10, 0])


def test_clipping_and_length_penalty():
    """Caption "a a" for "a": weight 2w against w, so clipped w² / (2w · w) = 1/2; one 2-gram more: exp(-1 / 72)."""
    hypotheses, references = [["a", "a"], ["b"]], [[["a"]], [["b"]]]
    assert cider(hypotheses, references)[0] == pytest.approx(10 / 4 * 0.5 * math.exp(-1 / 72))


def test_several_references_are_averaged():
    references = [[["a"], ["z"]], [["b"]]]
    assert cider([["a"], ["b"]], references)[0] == pytest.approx(10 / 4 / 2)


def test_words_of_every_image_are_worth_nothing():
    assert cider([["a"], ["a"]], [[["a"]], [["a"]]]).tolist() == [0, 0]
    assert cider([["a"]], [[["a"]]]).tolist() == [0]  # of a single image everything is common


REFERENCES = {
    "1": ["A man's dog can't sit on the mat.", "The dog (a big one) won't sit."],
    "2": ['A "red" bus drives by a well-known shop.', "Red bus, shop & street."],
    "3": ["3 1/2 cups of flour", "Some cups with flour in the U.S."],
    "4": ["Two birds on a wire", "birds sitting on wires..."],
}
HYPOTHESES = {
    "1": "a dog sits on the mat",
    "2": "A red bus by a shop",
    "3": "3 1/2 cups in the U.S.",
    "4": "birds on a wire!",
}


def test_perfect_captions_reach_the_top():
    found = score_captions({key: captions[0] for key, captions in REFERENCES.items()}, REFERENCES, with_meteor=False)
    for name in ("BLEU-1", "BLEU-4", "ROUGE-L"):
        assert found.values[name] == pytest.approx(1)


def test_values_are_those_of_their_samples():
    found = score_captions(HYPOTHESES, REFERENCES, with_meteor=False)
    for name in ("ROUGE-L", "CIDEr"):
        assert found.values[name] == pytest.approx(found.per_image[name].mean())
    assert found.values["BLEU-2"] == pytest.approx(bleu_scores(found.bleu_counts.sum(axis=0))[1])
    assert all(each.shape == (4,) for each in found.per_image.values())


def test_missing_captions_count_as_empty():
    some = {key: text for key, text in HYPOTHESES.items() if key != "3"}
    found = score_captions({**some, "unknown": "a dog"}, REFERENCES, with_meteor=False)
    assert found.per_image["CIDEr"][2] == found.per_image["ROUGE-L"][2] == 0


@pytest.mark.parametrize("references", [{}, {"1": []}])
def test_references_are_needed(references):
    with pytest.raises(UserError, match="no reference captions") as caught:
        score_captions(HYPOTHESES, references)
    assert caught.value.code == "no_references"


@pytest.mark.parametrize("script", ["exit 1", "echo nonsense; exec cat >/dev/null", "exec 1>&-; cat >/dev/null"])
def test_a_meteor_that_fails_is_a_user_error(script, tmp_path):
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\n{script}\n")
    java.chmod(0o755)
    program = MeteorProgram(str(java), tmp_path / "meteor-1.5.jar")
    captions = [["a", "dog"]] * 2 if "nonsense" not in script else []
    with pytest.raises(UserError, match="METEOR's Java program gave up") as caught:
        meteor(program, captions, [[each] for each in captions])
    assert caught.value.code == "meteor_failed"


@pytest.fixture(scope="module")
def reference():
    """What pycocoevalcap with Java says of the small corpus."""
    pytest.importorskip("pycocoevalcap", reason="the Java reference is not installed: pip install pycocoevalcap")
    if shutil.which("java") is None:
        pytest.skip("the Java reference needs java on the path")
    tokenizer = importlib.import_module("pycocoevalcap.tokenizer.ptbtokenizer").PTBTokenizer()
    known = tokenizer.tokenize({key: [{"caption": each} for each in texts] for key, texts in REFERENCES.items()})
    made = tokenizer.tokenize({key: [{"caption": text}] for key, text in HYPOTHESES.items()})

    def ask(module, name, *args):
        return getattr(importlib.import_module(f"pycocoevalcap.{module}"), name)(*args).compute_score(known, made)

    four, each_of_four = ask("bleu.bleu", "Bleu", 4)
    found = {f"BLEU-{n + 1}": (four[n], np.array(each_of_four[n])) for n in range(4)}
    for label, module, name in (
        ("ROUGE-L", "rouge.rouge", "Rouge"),
        ("CIDEr", "cider.cider", "Cider"),
        ("METEOR", "meteor.meteor", "Meteor"),
    ):
        value, each = ask(module, name)
        found[label] = (value, np.array(each))
    return found


def test_every_metric_is_the_java_references(reference):
    found = score_captions(HYPOTHESES, REFERENCES)
    for name, (value, each) in reference.items():
        assert found.values[name] == pytest.approx(value, rel=1e-6), name
        assert found.per_image[name] == pytest.approx(each, rel=1e-6), name


WORDS = ("a cat on a mat", "two dogs run home", "a red car in the rain", "an old man reads a book", "blue birds sing")


def samples(captions=WORDS):
    return [
        {"query": f"{n}.png", "caption": caption, "references": [truth, f"it is {truth}"]}
        for n, (caption, truth) in enumerate(zip(captions, WORDS, strict=True))
    ]


def measures(captions=WORDS, **facts):
    return {each.metric: each for each in caption_metrics({"seed": 0, **facts}, samples(captions))}


def test_values_are_those_of_the_metrics():
    said = (WORDS[0], WORDS[1], "a red car", "a man reads", "nothing")
    expected = score_captions(
        {f"{n}.png": each for n, each in enumerate(said)},
        {each["query"]: each["references"] for each in samples()}, with_meteor=False,
    )  # fmt: skip
    got = measures(said)
    for metric in ("CIDEr", "ROUGE-L", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"):
        assert got[metric].value == pytest.approx(expected.values[metric]), metric
        low, high = got[metric].interval(0)
        assert low <= got[metric].value <= high
        assert low < high


def test_a_bootstrap_of_bleu_is_bleu_of_what_was_drawn():
    said = (WORDS[0], "two dogs", "a red car", "a man reads", "birds sing")
    measure = measures(said)["BLEU-2"]
    drawn = [0, 0, 3, 4, 4]
    counts = np.zeros((1, len(WORDS)), np.int64)
    np.add.at(counts[0], drawn, 1)
    picked = [samples(said)[place] for place in drawn]
    expected = score_captions(
        {str(n): each["caption"] for n, each in enumerate(picked)},
        {str(n): each["references"] for n, each in enumerate(picked)}, with_meteor=False,
    )  # fmt: skip
    assert measure.statistic(measure.values, counts)[0] == pytest.approx(expected.values["BLEU-2"])


def test_an_anonymous_user_is_never_ones_own_and_everybody_gets_one():
    references = {f"{n}.png": [f"caption {n}", f"other {n}"] for n in range(50)}
    found = mismatched_captions(references, seed=3)
    assert set(found) == set(references)
    assert all(found[name] not in references[name] for name in references)
    givers = {caption.split()[1] for caption in found.values()}
    assert len(givers) == 50  # a circle: each image gives once
    assert mismatched_captions(references, seed=3) == found
    assert mismatched_captions(references, seed=4) != found
    assert mismatched_captions({"a": ["x"]}, seed=0) == {"a": "x"}


def test_chance_and_the_most_frequent_caption_stand_beside_the_value():
    got = measures(common=WORDS[0])
    truths = {each["query"]: each["references"] for each in samples()}
    alike = score_captions(dict.fromkeys(truths, WORDS[0]), truths, with_meteor=False)
    others = score_captions(mismatched_captions(truths, 0), truths, with_meteor=False)
    for metric, measure in got.items():
        assert measure.chance == pytest.approx(others.values[metric])
        assert measure.majority == pytest.approx(alike.values[metric])
        assert measure.chance < measure.value > measure.majority
    assert all(measure.majority is None for measure in measures().values())
