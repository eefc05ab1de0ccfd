"""The benchmark of ranking, on little: one object, embeddings from the seed, figures that mean what they say."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import retrieval
from lcl_core.common.errors import UserError

pytestmark = pytest.mark.extended


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    retrieval.add_arguments(parser)
    return parser.parse_args(arguments)


def test_one_object_with_recalls_of_the_embeddings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    retrieval.main(options("--images", "300", "--texts", "700", "--width", "64", "--block", "128", "--json"))
    report = json.loads(capsys.readouterr().out)
    assert (report["images"], report["texts"], report["block"]) == (300, 700, 128)
    assert report["seconds"] >= 0
    assert 0.05 < report["peak_rss_gib"] < 100
    images, texts = retrieval.embeddings(tmp_path, 300, 700, 64, seed=0)
    best = (texts @ images.T).argmax(axis=1)
    assert report["IR@1"] == pytest.approx(float((best == np.arange(700) % 300).mean()), abs=1e-4)
    assert 1 / 300 < report["IR@1"] < report["IR@10"] < 1


def test_embeddings_are_unit_vectors_of_the_seed(tmp_path: Path) -> None:
    first, _ = retrieval.embeddings(tmp_path, 20, 30, 8, seed=1)
    kept = np.array(first)
    again, texts = retrieval.embeddings(tmp_path, 20, 30, 8, seed=1)
    assert np.array_equal(kept, again)
    assert isinstance(texts, np.memmap)
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-6)
    assert not np.array_equal(kept, retrieval.embeddings(tmp_path, 20, 30, 8, seed=2)[0])


@pytest.mark.parametrize("arguments", [("--images", "10", "--texts", "5"), ("--images", "0", "--texts", "5")])
def test_sizes_that_make_no_sense_are_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        retrieval.main(options(*arguments))
    assert caught.value.code == "bad_option"
