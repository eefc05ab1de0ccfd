"""All caption metrics of a small corpus, and the Java reference where it is installed."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcl_core.common.errors import UserError
from lcl_core.evaluation.metrics import caption_metrics
from lcl_core.evaluation.metrics.caption_metrics import score_captions

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


def test_perfect_captions_reach_the_top() -> None:
    found = score_captions({key: captions[0] for key, captions in REFERENCES.items()}, REFERENCES, with_meteor=False)
    for name in ("BLEU-1", "BLEU-4", "ROUGE-L"):
        assert found.values[name] == pytest.approx(1)
    assert found.left_out == {"METEOR": "METEOR is left out: not asked for"}


def test_values_are_those_of_their_samples() -> None:
    found = score_captions(HYPOTHESES, REFERENCES, with_meteor=False)
    for name in ("ROUGE-L", "CIDEr", "CIDEr (first form)"):
        assert found.values[name] == pytest.approx(found.per_image[name].mean())
    assert found.values["BLEU-2"] == pytest.approx(caption_metrics.bleu_scores(found.bleu_counts.sum(axis=0))[1])
    assert all(each.shape == (4,) for each in found.per_image.values())


def test_missing_captions_count_as_empty_and_are_named() -> None:
    some = {key: text for key, text in HYPOTHESES.items() if key != "3"}
    found = score_captions({**some, "unknown": "a dog"}, REFERENCES, with_meteor=False)
    assert found.missing == ["3"]
    assert found.per_image["CIDEr"][2] == found.per_image["ROUGE-L"][2] == 0


@pytest.mark.parametrize("references", [{}, {"1": []}])
def test_references_are_needed(references: dict[str, list[str]]) -> None:
    with pytest.raises(UserError, match="no reference captions") as caught:
        score_captions(HYPOTHESES, references)
    assert caught.value.code == "no_references"


def test_meteor_says_why_it_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert caption_metrics.find_meteor() == "METEOR is left out: there is no java on the path"
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/java")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install pycocoevalcap" in caption_metrics.find_meteor()


@pytest.mark.parametrize("script", ["exit 1", "echo nonsense; exec cat >/dev/null", "exec 1>&-; cat >/dev/null"])
def test_a_meteor_that_fails_is_a_user_error(script: str, tmp_path: Path) -> None:
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\n{script}\n")
    java.chmod(0o755)
    program = caption_metrics.MeteorProgram(str(java), tmp_path / "meteor-1.5.jar")
    captions = [["a", "dog"]] * 2 if "nonsense" not in script else []
    with pytest.raises(UserError, match="METEOR's Java program gave up") as caught:
        caption_metrics.meteor(program, captions, [[each] for each in captions])
    assert caught.value.code == "meteor_failed"


@pytest.fixture(scope="module")
def reference() -> dict[str, tuple[float, np.ndarray]]:
    """What pycocoevalcap with Java says of the small corpus."""
    pytest.importorskip("pycocoevalcap", reason="the Java reference is not installed: pip install pycocoevalcap")
    if shutil.which("java") is None:
        pytest.skip("the Java reference needs java on the path")
    tokenizer = importlib.import_module("pycocoevalcap.tokenizer.ptbtokenizer").PTBTokenizer()
    known = tokenizer.tokenize({key: [{"caption": each} for each in texts] for key, texts in REFERENCES.items()})
    made = tokenizer.tokenize({key: [{"caption": text}] for key, text in HYPOTHESES.items()})

    def ask(module: str, name: str, *args: Any) -> Any:
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


def test_every_metric_is_the_java_references(reference: dict[str, tuple[float, np.ndarray]]) -> None:
    found = score_captions(HYPOTHESES, REFERENCES)
    for name, (value, each) in reference.items():
        assert found.values[name] == pytest.approx(value, rel=1e-6), name
        assert found.per_image[name] == pytest.approx(each, rel=1e-6), name
