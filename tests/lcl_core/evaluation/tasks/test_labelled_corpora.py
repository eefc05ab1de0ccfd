"""Labels arrive from the layouts that labelled images are distributed in."""

from typing import Any

import pytest
from PIL import Image

from lcl_core.data.formats import open_reader
from lcl_core.data.shards.convert import convert
from lcl_core.evaluation.evaluate import evaluate

COLOURS = {"n01440764": (220, 30, 30), "n01443537": (30, 200, 40), "n01484850": (30, 40, 220)}
WORDS = {"n01440764": "tench, Tinca tinca", "n01443537": "goldfish", "n01484850": "great white shark"}


def image(file, synset, number):
    file.parent.mkdir(parents=True, exist_ok=True)
    shade = tuple(min(255, channel + number) for channel in COLOURS[synset])
    Image.new("RGB", (20, 18), shade).save(file)
    return file.name


def imagenet(folder):
    """Folders of synsets, and a file of their words."""
    for synset in COLOURS:
        for number in range(8):
            split = "train" if number < 6 else "val"
            image(folder / split / synset / f"{synset}_{number}.JPEG", synset, number)
    (folder / "LOC_synset_mapping.txt").write_text("".join(f"{name} {words}\n" for name, words in WORDS.items()))


def table(folder, write):
    rows = []
    for synset, words in WORDS.items():
        for number in range(8):
            name = image(folder / "images" / f"{synset}-{number}.png", synset, number)
            rows.append({"image": name, "class": words, "split": "train" if number < 6 else "val"})
    write(rows)


def csv_table(folder):
    def write(rows):
        lines = [",".join(f'"{value}"' for value in row.values()) for row in rows]
        (folder / "labels.csv").write_text("\n".join(["image,class,split", *lines]) + "\n")

    table(folder, write)


@pytest.mark.parametrize("layout", [imagenet, csv_table])
def test_each_layout_can_be_learnt_and_examined(layout, new_run, tmp_path):
    layout(tmp_path / "given")
    convert(open_reader(tmp_path / "given").records(), tmp_path / "shards")
    own: dict[str, Any] = {"labels": ["class"], "steps": 25, "batch_size": 9, "lr": 5e-3}
    result = evaluate(
        new_run(
            corpus=tmp_path / "shards", splits=["val"], tasks=["classification", "zero_shot_classification"],
            classification=own, zero_shot_classification={"labels": ["class"]}, untrained_baseline=False,
        )
    )  # fmt: skip
    learnt, *_ = (row for row in result["rows"] if row["task"] == "classification")
    assert (learnt["count"], learnt["candidates"], learnt["left_out"]) == (6, 3, {})
    assert learnt["value"] == 1
    named, *_ = (row for row in result["rows"] if row["task"] == "zero_shot_classification")
    assert (named["count"], named["candidates"]) == (6, 3)
