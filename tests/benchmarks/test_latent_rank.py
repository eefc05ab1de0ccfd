"""The spread of latents: what is parallel has rank 1, and only the images that were asked for count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import latent_rank
from benchmarks.__main__ import main
from lcl_core.data.corpus.base import Corpus
from tests.lcl_core.saved_encoders import encoder, encoders, sample  # noqa: F401

pytestmark = pytest.mark.extended


def test_parallel_latents_have_rank_one_and_orthogonal_ones_all() -> None:
    parallel = torch.ones(6, 4) * torch.arange(1, 7)[:, None]
    assert latent_rank.measure(parallel) == {"effective_rank": 1.0, "mean_cosine": 1.0}
    assert latent_rank.measure(torch.eye(5)) == {"effective_rank": 5.0, "mean_cosine": 0.0}
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    assert latent_rank.measure(opposite)["mean_cosine"] == pytest.approx(-1 / 3, abs=1e-4)


def test_each_encoder_has_a_row(
    encoders: list[Path],  # noqa: F811
    sample_zip: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--encoder", *map(str, encoders[:2]), "--corpus", str(sample_zip), "--split", "test_vendor"]
    assert main(["latent-rank", *words, "--limit", "300", "--threads", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 300
    assert report["rows"].keys() == {str(path) for path in encoders[:2]}
    for row in report["rows"].values():
        assert row["effective_rank"] > 1
        assert -1 <= row["mean_cosine"] <= 1


def test_an_image_counts_once_and_only_of_the_source(sample: Corpus) -> None:  # noqa: F811
    names = latent_rank.image_names(sample, "val", "openclipart", None)
    assert names == list(dict.fromkeys(names))
    assert all(name.startswith("openclipart/") for name in names)
    assert len(names) < len(latent_rank.image_names(sample, "val", None, None))


def test_a_split_without_such_images_is_refused(
    encoder: Path,  # noqa: F811
    sample_zip: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--encoder", str(encoder), "--corpus", str(sample_zip), "--split", "train", "--source", "nobody"]
    assert main(["latent-rank", *words]) == 2
    assert "split 'train' of source 'nobody' has 0 images, two are needed" in capsys.readouterr().err
