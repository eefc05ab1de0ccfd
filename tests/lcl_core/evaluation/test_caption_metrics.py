"""Caption metrics by hand, their tokenizer, bootstrap and baselines, and the Java reference where it is installed."""

import importlib
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from lcl_core.common.errors import UserError
from lcl_core.evaluation.caption_metrics import (
    bleu_counts,
    bleu_scores,
    caption_metrics,
    cider,
    mismatched_captions,
    rouge_l,
    score_captions,
    tokenize_all,
    treebank_tokens,
)

# Pairs of a caption and the tokens that Stanford's PTBTokenizer (CoreNLP 3.4.1) printed, punctuation removed.
RECORDED = json.loads((Path(__file__).parent / "treebank.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("caption", "tokens"), RECORDED)
def test_tokens_are_the_references(caption, tokens):
    assert tokenize_all([caption]) == [tokens.split(" ")]


def test_punctuation_is_spelled_as_the_treebank_spells_it():
    found = " ".join(treebank_tokens("He said: \"No\" (twice) … then—'yes'."))
    assert found == "He said : `` No '' -LRB- twice -RRB- ... then -- ` yes ' ."


def test_a_letter_at_the_end_depends_on_the_next_caption():
    """As recorded: the reference reads a file of captions as one text."""
    captions = ["Vitamin C.", "The sun.", "Vitamin C.", "a dog\nruns", "...!"]
    assert tokenize_all(captions) == [["vitamin", "c"], ["the", "sun"], ["vitamin", "c."], ["a", "dog", "runs"], []]


@pytest.mark.parametrize("stretch", ["a-", "a.", "1,", "a/", "'n", ". "])
def test_long_odd_text_takes_no_long_time(stretch):
    assert tokenize_all([stretch * 400 + "end"])


def counts_of(hypothesis, *references):
    return bleu_counts(hypothesis.split(), [reference.split() for reference in references])


def test_counts_are_clipped_by_the_best_single_reference():
    """The classic: seven times "the"; one reference has it twice, the other once."""
    counts = counts_of("the the the the the the the", "the cat is on the mat", "there is a cat on the mat")
    assert counts[:2].tolist() == [2, 0]
    assert counts[4:].tolist() == [7, 6, 5, 4, 7, 7]
    assert counts_of("a b c d", "a b c", "a b c d e", "a")[-1] == 3, "the closest length is the shorter of two"


def test_bleu_by_hand():
    """Hits 3/4, 2/3, 1/2, 0/1; as long as its reference."""
    one, two, three, four = bleu_scores(counts_of("a b c x", "a b c d"))
    assert one == pytest.approx(3 / 4)
    assert two == pytest.approx(math.sqrt(3 / 4 * 2 / 3))
    assert three == pytest.approx((3 / 4 * 2 / 3 * 1 / 2) ** (1 / 3))
    assert four < 1e-3
    assert bleu_scores(counts_of("a b", "a b c d"))[0] == pytest.approx(math.exp(1 - 4 / 2)), "a short one pays"
    assert bleu_scores(counts_of("a b c d e", "a b c d"))[0] == pytest.approx(4 / 5)
    # 4 of 6 words hit, which is not the mean of 1 and 1/3
    assert bleu_scores(counts_of("a b c", "a b c") + counts_of("a x y", "a b c"))[0] == pytest.approx(4 / 6)
    assert bleu_scores(counts_of("", "a b")) == pytest.approx(np.zeros(4), abs=1e-6)


@pytest.mark.parametrize(
    ("own", "references", "score"),
    [
        ("abx", ["aqbr"], 2.44 / 3 / (0.5 + 0.96)),  # precision 2/3, recall 2/4: 2.44 x 1/3 / (0.5 + 1.44 x 2/3)
        ("ab", ["abcd", "a"], 1),  # precision 2/2 from the long one, recall 1/1 from the short one
        ("axbyc", ["abc"], 2.44 * 0.6 / (1 + 1.44 * 0.6)),
        ("a", ["b"], 0),
        ("", ["b"], 0),
    ],
)
def test_rouge_by_hand(own, references, score):
    assert rouge_l(list(own), [list(each) for each in references]) == pytest.approx(score)


def test_one_word_of_cider_by_hand():
    """Four images; "a" is in two of them, "b" and "c" in one each: weights log 2, log 4, log 4."""
    references = [[["a", "b"]], [["a", "c"]], [["p"]], [["q"]]]
    first = cider([["a"], ["b"], ["x"], ["y"]], references)
    a, b = math.log(2), math.log(4)
    # of unigrams only: the cosine of (a) with (a, b), one 2-gram fewer; a mean over four lengths, times ten
    assert first[0] == pytest.approx(10 / 4 * a / math.hypot(a, b) * math.exp(-1 / 72))
    assert first[1:].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("hypotheses", "references", "scores"),
    [
        (["abcde", "z"], [["abcde"], ["fghij"]], [10, 0]),
        # "a a" for "a": weight 2w against w, so clipped w² / (2w · w) = 1/2; one 2-gram more: exp(-1 / 72)
        (["aa", "b"], [["a"], ["b"]], [10 / 4 * 0.5 * math.exp(-1 / 72), 10 / 4]),
        (["a", "b"], [["a", "z"], ["b"]], [10 / 4 / 2, 10 / 4]),  # several references are averaged
        (["a", "a"], [["a"], ["a"]], [0, 0]),  # words of every image are worth nothing
    ],
)
def test_cider_by_hand(hypotheses, references, scores):
    found = cider([list(each) for each in hypotheses], [[list(one) for one in each] for each in references])
    assert found.tolist() == pytest.approx(scores)


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


def test_scores_of_a_corpus():
    perfect = score_captions({key: captions[0] for key, captions in REFERENCES.items()}, REFERENCES)
    for name in ("BLEU-1", "BLEU-4", "ROUGE-L"):
        assert perfect.values[name] == pytest.approx(1)
    found = score_captions(HYPOTHESES, REFERENCES)
    for name in ("ROUGE-L", "CIDEr"):
        assert found.values[name] == pytest.approx(found.per_image[name].mean())
    assert found.values["BLEU-2"] == pytest.approx(bleu_scores(found.bleu_counts.sum(axis=0))[1])
    some = {key: text for key, text in HYPOTHESES.items() if key != "3"}
    lacking = score_captions({**some, "unknown": "a dog"}, REFERENCES)
    assert lacking.per_image["CIDEr"][2] == lacking.per_image["ROUGE-L"][2] == 0


@pytest.mark.parametrize("references", [{}, {"1": []}])
def test_references_are_needed(references):
    with pytest.raises(UserError, match="no reference captions") as caught:
        score_captions(HYPOTHESES, references)
    assert caught.value.code == "no_data"


@pytest.mark.extended
def test_every_metric_is_the_java_references():
    pytest.importorskip("pycocoevalcap", reason="the Java reference is not installed: pip install pycocoevalcap")
    if shutil.which("java") is None:
        pytest.skip("the Java reference needs java on the path")
    tokenizer = importlib.import_module("pycocoevalcap.tokenizer.ptbtokenizer").PTBTokenizer()
    known = tokenizer.tokenize({key: [{"caption": each} for each in texts] for key, texts in REFERENCES.items()})
    made = tokenizer.tokenize({key: [{"caption": text}] for key, text in HYPOTHESES.items()})

    def ask(module, name, *args):
        return getattr(importlib.import_module(f"pycocoevalcap.{module}"), name)(*args).compute_score(known, made)

    four, each_of_four = ask("bleu.bleu", "Bleu", 4)
    reference = {f"BLEU-{n + 1}": (four[n], np.array(each_of_four[n])) for n in range(4)}
    reference["ROUGE-L"], reference["CIDEr"] = ask("rouge.rouge", "Rouge"), ask("cider.cider", "Cider")
    found = score_captions(HYPOTHESES, REFERENCES)
    for name, (value, each) in reference.items():
        assert found.values[name] == pytest.approx(value, rel=1e-6), name
        assert found.per_image[name] == pytest.approx(np.array(each), rel=1e-6), name


WORDS = ("a cat on a mat", "two dogs run home", "a red car in the rain", "an old man reads a book", "blue birds sing")
TRUTHS = {f"{n}.png": [truth, f"it is {truth}"] for n, truth in enumerate(WORDS)}
SAID = (WORDS[0], "two dogs", "a red car", "a man reads", "birds sing")


def measures(captions=WORDS, **facts):
    samples = [
        {"query": query, "caption": caption, "references": truths}
        for caption, (query, truths) in zip(captions, TRUTHS.items(), strict=True)
    ]
    return {each.metric: each for each in caption_metrics({"seed": 0, **facts}, samples)}


def test_metrics_have_the_values_of_the_corpus_and_intervals_of_what_was_drawn():
    found = measures(SAID)
    expected = score_captions(dict(zip(TRUTHS, SAID, strict=True)), TRUTHS).values
    assert found.keys() == expected.keys()
    for metric, value in expected.items():
        assert found[metric].value == pytest.approx(value), metric
        low, high = found[metric].interval(0)
        assert low <= value <= high
        assert low < high
    drawn = [0, 0, 3, 4, 4]
    picked = score_captions(
        {str(n): SAID[place] for n, place in enumerate(drawn)},
        {str(n): TRUTHS[f"{place}.png"] for n, place in enumerate(drawn)},
    )
    bleu, counts = found["BLEU-2"], np.bincount(drawn, minlength=len(WORDS))[None]
    assert bleu.statistic(bleu.values, counts)[0] == pytest.approx(picked.values["BLEU-2"])


def test_a_caption_of_another_image_is_never_ones_own_and_each_is_given_once():
    references = {f"{n}.png": [f"caption {n}", f"other {n}"] for n in range(50)}
    found = mismatched_captions(references, seed=3)
    assert all(found[name] not in references[name] for name in references)
    assert len({caption.split()[1] for caption in found.values()}) == 50
    assert mismatched_captions(references, seed=3) == found != mismatched_captions(references, seed=4)
    assert mismatched_captions({"a": ["x"]}, seed=0) == {"a": "x"}


def test_chance_and_the_most_frequent_caption_stand_beside_the_value():
    alike = score_captions(dict.fromkeys(TRUTHS, WORDS[0]), TRUTHS)
    others = score_captions(mismatched_captions(TRUTHS, 0), TRUTHS)
    for metric, found in measures(common=WORDS[0]).items():
        assert found.chance == pytest.approx(others.values[metric])
        assert found.majority == pytest.approx(alike.values[metric])
        assert found.chance < found.value > found.majority
    assert all(found.majority is None for found in measures().values())
