"""``lcl zero-shot``: predictions, accuracy where folders are labels, and what is wrong."""

import csv
import json
from pathlib import Path

import pytest

from tests.api.sample_assets import png


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for label, colour in (("red_square", "red"), ("blue-circle", "blue")):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "photos" / label / f"{number}.png").write_bytes(png(colour, (20 + number, 20)))
    (tmp_path / "photos" / "broken.png").write_bytes(b"nothing")
    (tmp_path / "names.txt").write_text("red square\n\n  blue circle \n")
    return Path("photos")


def test_a_folder_is_classified_with_its_accuracy(lcl, encoder, photos):
    arguments = ("zero-shot", "tiny", str(photos), "--classes", "names.txt", "--template", "a {}", "--template", "{}")
    status, out, err = lcl(*arguments, "--out", "predictions.csv")
    assert status == 0
    assert "photos/red_square/0.png" in out
    assert "on 4 images with a label, chance 0.500" in out
    assert err.startswith("skipped photos/broken.png: ")
    answer = json.loads(lcl("--json", *arguments)[1])
    accuracy = answer["accuracy"]
    assert f"accuracy {accuracy['value']:.3f} [{accuracy['interval'][0]:.3f}" in out
    assert (accuracy["count"], accuracy["chance"], len(answer["items"])) == (4, 0.5, 4)
    assert [each["file"] for each in answer["skipped"]] == ["photos/broken.png"]
    rows = list(csv.DictReader(Path("predictions.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["image"] for row in rows] == [item["file"] for item in answer["items"]]
    assert [row["label"] for row in rows] == [item["class"] for item in answer["items"]]
    for row, item in zip(rows, answer["items"], strict=True):
        assert float(row["p: red square"]) == pytest.approx(item["probabilities"]["red square"], abs=1e-5)


def test_single_images_have_no_accuracy(lcl, encoder, photos):
    Path("one.png").write_bytes(png("red"))
    status, out, err = lcl("zero-shot", "tiny", "one.png", "absent.png", "--class", "a", "--class", "b", "--batch", "8")
    assert (status, "one.png" in out, "accuracy" in out) == (0, True, False)
    assert err == "skipped absent.png: No such file or directory\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("photos",), "give at least two classes"),
        (("photos", "--classes", "absent.txt"), "absent.txt: No such file"),
        (("empty", "--class", "a", "--class", "b"), "there is no image in empty"),
    ],
)
def test_what_is_wrong_is_reported_in_one_line(lcl, encoder, photos, arguments, words):
    Path("empty").mkdir()
    status, out, err = lcl("zero-shot", "tiny", *arguments)
    assert (status, out) == (1, "")
    assert words in err
    assert err.count("\n") == 1
