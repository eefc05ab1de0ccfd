"""The linear probe: it fits what is linear, chooses its penalty on held-out images, and reports all three features."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import linear_probe
from benchmarks.__main__ import main
from lcl_core.common.errors import UserError
from tests.lcl_core.saved_encoders import encoder, encoders, sample  # noqa: F401

pytestmark = pytest.mark.extended


def test_the_fit_is_the_minimum_of_its_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, classes = torch.randn(200, 6, generator=generator), torch.randint(0, 3, (200,), generator=generator)
    weights = linear_probe.fit(rows, classes, 3, 1e-2).requires_grad_()
    padded = torch.nn.functional.pad(rows, (0, 1), value=1.0)
    loss = torch.nn.functional.cross_entropy(padded @ weights, classes) + 1e-2 * weights[:-1].square().sum() / 2
    (gradient,) = torch.autograd.grad(loss, weights)
    assert gradient.abs().max() < 1e-3


def test_what_is_separable_is_separated() -> None:
    rows = torch.randn(300, 8, generator=torch.Generator().manual_seed(1))
    classes = (rows[:, 0] > 0).long() + 2 * (rows[:, 1] > 0).long()
    assert linear_probe.accuracy(linear_probe.fit(rows, classes, 4, 1e-5), rows, classes) > 0.98


def test_raw_pixels_are_grey_levels() -> None:
    found = linear_probe.raw_pixels([Image.new("RGB", (9, 7), "white"), Image.new("L", (3, 3))], 4)
    assert torch.equal(found, torch.stack([torch.ones(16), torch.zeros(16)]))


def test_patches_are_averaged_over_the_cells_of_a_grid() -> None:
    patches = torch.arange(2 * 16 * 3, dtype=torch.float32).reshape(2, 16, 3)
    assert torch.allclose(linear_probe.cell_means(patches, 1), patches.mean(1))
    upper_left = patches[:, [0, 1, 4, 5]].mean(1)
    assert torch.allclose(linear_probe.cell_means(patches, 2).reshape(2, 3, 4)[:, :, 0], upper_left)
    for count, cells in ((15, 1), (16, 5)):
        with pytest.raises(UserError, match="no square"):
            linear_probe.cell_means(patches[:, :count], cells)


@pytest.mark.parametrize("cells", [0, 2])
def test_it_reports_encoder_untrained_and_pixels(
    encoder: Path,  # noqa: F811
    sample_zip: Path,
    capsys: pytest.CaptureFixture[str],
    cells: int,
) -> None:
    words = ["--encoder", str(encoder), "--corpus", str(sample_zip), "--label", "group", "--test-split", "test_vendor"]
    words += ["--limit", "120", "--pixels", "8", "--threads", "1", "--cells", str(cells), "--json"]
    assert main(["linear-probe", *words]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["train"], report["test"], report["cells"]) == (120, 120, cells)
    assert report["rows"].keys() == {encoder.name, "untrained", "pixels"}
    for row in report["rows"].values():
        assert 0 <= row["accuracy"] <= 1
        assert row["penalty"] in linear_probe.PENALTIES


def test_a_label_that_no_image_has_is_refused(
    encoder: Path,  # noqa: F811
    sample_zip: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["linear-probe", "--encoder", str(encoder), "--corpus", str(sample_zip), "--label", "size"]) == 2
    assert "no image of split 'train' has a label 'size'" in capsys.readouterr().err
