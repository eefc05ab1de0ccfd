"""``lcl embed``, and the bar that long commands show."""

import io
import json
import os
import sys

import pytest

from api.cli.output import progress_bar
from api.client import ApiError, Client


@pytest.fixture
def photos(sample_images, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, data in sample_images.items():
        (folder / f"{name}.png").write_bytes(data)
    return folder


def inputs(file):
    return [json.loads(line)["input"] for line in file.read_text(encoding="utf-8").splitlines()]


def test_folders_files_and_texts_become_lines_and_what_is_skipped_is_named(lcl, encoder, photos, tmp_path):
    (photos / "broken.png").write_bytes(b"no image")
    given = ("embed", "tiny", str(photos), str(tmp_path / "absent.png"), "--text", "a red square", "--batch", "3")
    status, out, err = lcl(*given)
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 1
    images = sorted(str(file) for file in photos.iterdir() if file.name != "broken.png")
    assert [row["input"] for row in rows] == [*images, "a red square"]
    assert all((len(row["embedding"]), row["encoder"]) == (24, encoder["id"]) for row in rows)
    skipped = sorted(line.partition(":")[0] for line in err.splitlines())
    assert skipped == [f"skipped {tmp_path / 'absent.png'}", f"skipped {photos / 'broken.png'}"]
    file = tmp_path / "vectors.jsonl"
    assert lcl(*given, "--out", str(file))[1] == f"{len(rows)} vectors in {file}\n"
    assert inputs(file) == [row["input"] for row in rows]


def test_vectors_before_an_error_are_kept(lcl, encoder, photos, tmp_path, monkeypatch):
    out, embed = tmp_path / "vectors.jsonl", Client.embed_files

    def fail_late(self, encoder, files, **options):
        yield next(embed(self, encoder, files, **options))
        raise ApiError(503, "overloaded", "it is busy")

    monkeypatch.setattr(Client, "embed_files", fail_late)
    status, _, err = lcl("embed", "tiny", str(photos), "--out", str(out))
    assert (status, "it is busy" in err, len(inputs(out))) == (1, True, 1)


def test_what_cannot_be_read_or_written_is_reported_in_a_sentence(lcl, encoder, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    status, _, err = lcl("embed", "tiny", str(tmp_path / "empty"))
    assert (status, "there is no image in" in err) == (1, True)
    status, _, err = lcl("embed", "tiny", str(photos), "--out", "/absent/file")
    assert (status, err) == (1, "error: /absent/file: No such file or directory\n")


@pytest.mark.parametrize("watched", [True, False])
def test_a_bar_is_shown_to_those_who_look(monkeypatch, watched):
    class Terminal(io.StringIO):
        def isatty(self):
            return watched

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("my images", unit="images") as tell:
        tell(3, 4)
        tell(4, None)
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert ("my images" in shown) is watched
    assert bool(shown) is watched


def test_names_that_are_not_utf_8_are_readable(lcl, encoder, photos, tmp_path):
    name = str(photos / "caf\\xe9.png")
    (photos / "red.png").rename(os.fsdecode(os.fsencode(photos) + b"/caf\xe9.png"))
    (photos / os.fsdecode(b"\xff.png")).write_bytes(b"no image")
    out = tmp_path / "vectors.jsonl"
    status, printed, err = lcl("--json", "embed", "tiny", str(photos), "--out", str(out))
    assert status == 1, "an image was skipped"
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert name in [row["input"] for row in rows]
    answer = json.loads(printed)
    assert (answer["file"], answer["vectors"]) == (str(out), 4)
    assert [each["file"] for each in answer["skipped"]] == [str(photos / "\\xff.png")]
    assert f"skipped {photos}/\\xff.png: " in err
    assert name in [json.loads(line)["input"] for line in lcl("embed", "tiny", str(photos))[1].splitlines()]
    predictions = tmp_path / "predictions.csv"
    given = ("zero-shot", "tiny", str(photos), "--class", "a", "--class", "b", "--out", str(predictions))
    assert name in lcl(*given)[1]
    assert name in predictions.read_text(encoding="utf-8")
    assert name in [item["file"] for item in json.loads(lcl("--json", *given)[1])["items"]]
