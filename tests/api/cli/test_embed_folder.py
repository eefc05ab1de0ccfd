"""``lcl embed-folder``, and the bar that long commands show."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from api.cli.output import progress_bar
from api.client import ApiError, Client


def test_a_folder_becomes_lines_and_what_is_skipped_is_named(
    lcl: Any, encoder: Any, live_service: Any, sample_images: dict[str, bytes], tmp_path: Path
) -> None:
    for name, data in (*sample_images.items(), ("broken", b"no image")):
        (tmp_path / f"{name}.png").write_bytes(data)
    status, out, err = lcl("embed-folder", "tiny", str(tmp_path), "--batch", "3")
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [Path(row["input"]).stem for row in rows] == sorted(sample_images)
    assert all(len(row["embedding"]) == 24 for row in rows)
    assert err.startswith(f"skipped {tmp_path / 'broken.png'}: input.")
    file = tmp_path / "vectors.jsonl"
    assert lcl("embed-folder", "tiny", str(tmp_path), "--out", str(file))[1] == f"4 vectors in {file}\n"
    written = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [row["input"] for row in written] == [row["input"] for row in rows]


def test_what_cannot_be_read_or_written_is_reported_in_a_sentence(lcl: Any, encoder: Any, tmp_path: Path) -> None:
    status, _, err = lcl("embed-folder", "tiny", str(tmp_path / "absent"))
    assert (status, "absent: there is no such folder" in err) == (1, True)
    status, _, err = lcl("embed-folder", "tiny", str(tmp_path), "--out", "/absent/file")
    assert (status, "/absent/file: No such file" in err) == (1, True)


def test_vectors_are_kept_whatever_follows_them(
    lcl: Any, encoder: Any, sample_images: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = []
    for name, data in (*sample_images.items(), ("broken", b"no image")):
        files.append(tmp_path / f"{name}.png")
        files[-1].write_bytes(data)
    out = tmp_path / "vectors.jsonl"
    given = [*map(str, files), str(tmp_path / "absent.png"), "--out", str(out)]

    def written() -> list[str]:
        return [json.loads(line)["input"] for line in out.read_text(encoding="utf-8").splitlines()]

    status, printed, err = lcl("embed", "tiny", *given, "--text", "a red square")
    assert (status, printed) == (1, f"{len(sample_images) + 1} vectors in {out}\n")
    assert written() == [*map(str, files[:-1]), "a red square"]
    assert [line.partition(":")[0] for line in err.splitlines()] == [
        f"skipped {tmp_path / 'absent.png'}",
        f"skipped {files[-1]}",
    ]

    def fail(*_: Any) -> Any:
        raise ApiError(503, "overloaded", "it is busy")

    monkeypatch.setattr(Client, "embed_texts", fail)
    status, _, err = lcl("embed", "tiny", *given, "--text", "a red square")
    partial = tmp_path / "vectors.jsonl.part"
    assert (status, "it is busy" in err, f"the vectors until then are in {partial}" in err) == (1, True, True)
    assert written() == [*map(str, files[:-1]), "a red square"]  # those of the run before
    assert [json.loads(line)["input"] for line in partial.read_text(encoding="utf-8").splitlines()] == [
        *map(str, files[:-1])
    ]


def test_a_present_file_is_kept_where_no_vector_comes(lcl: Any, encoder: Any, tmp_path: Path) -> None:
    out = tmp_path / "vectors.jsonl"
    out.write_text("of an earlier run\n", encoding="utf-8")
    status, _, err = lcl("embed", "no-such-encoder", "--text", "a red square", "--out", str(out))
    assert (status, "no-such-encoder" in err) == (1, True)
    assert out.read_text(encoding="utf-8") == "of an earlier run\n"
    assert [file.name for file in tmp_path.iterdir()] == ["vectors.jsonl"]


def test_a_file_that_cannot_be_written_is_found_before_the_work(
    lcl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for call in ("embed_files", "zero_shot"):
        monkeypatch.setattr(Client, call, lambda *_, **__: pytest.fail("a request was sent"))
    (tmp_path / "a.png").write_bytes(b"no image")
    classes = ("--class", "a", "--class", "b")
    for command in (("embed", "tiny", str(tmp_path / "a.png")), ("zero-shot", "tiny", str(tmp_path), *classes)):
        for out in (tmp_path / "absent" / "file", tmp_path):
            status, printed, err = lcl(*command, "--out", str(out))
            assert (status, printed) == (1, "")
            assert str(out) in err
            assert len(err.splitlines()) == 1


def test_a_present_file_is_kept_until_there_are_predictions(
    lcl: Any, encoder: Any, sample_images: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(sample_images["red"])
    out = tmp_path / "predictions.csv"
    for content in (None, "before"):
        if content is not None:
            out.write_text(content)
        assert lcl("zero-shot", "absent", str(tmp_path), "--class", "a", "--class", "b", "--out", str(out))[0] == 1
        assert (out.read_text() if out.exists() else None) == content


@pytest.mark.parametrize("watched", [True, False])
def test_a_bar_is_shown_to_those_who_look(monkeypatch: pytest.MonkeyPatch, watched: bool) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return watched

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("my images", unit="images") as tell:
        tell(3, 4)
        tell(4, None)
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert ("my images" in shown) is watched
    assert bool(shown) is watched


@pytest.fixture
def photos(sample_images: dict[str, bytes], tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, data in sample_images.items():
        (folder / f"{name}.png").write_bytes(data)
    return folder


def test_an_interrupted_folder_is_continued(
    lcl: Any, encoder: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, partial = tmp_path / "vectors.jsonl", tmp_path / "vectors.jsonl.part"
    assert lcl("embed-folder", "tiny", str(photos), "--out", str(out))[0] == 0
    lines = out.read_bytes().splitlines(keepends=True)
    assert {json.loads(line)["encoder"] for line in lines} == {encoder["id"]}
    monkeypatch.setattr("api.client.transport.backoff", lambda *_: None)
    for half in (b"", lines[2][:9], lines[2][:-1]):  # what was written of the next line
        partial.write_bytes(b"".join(lines[:2]) + half)
        status, printed, err = lcl(
            "--url", "http://127.0.0.1:1", "embed-folder", "tiny", str(photos), "--out", str(out)
        )
        assert (status, "is the service up" in err) == (1, True)
        assert partial.read_bytes() == b"".join(lines[:2]), "kept"
        sent: list[Path] = []
        original = Client.embed_files

        def embed_files(self: Client, encoder: str, files: Any, original: Any = original, **options: Any) -> Any:
            sent.extend(files)  # noqa: B023
            return original(self, encoder, files, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Client, "embed_files", embed_files)
            status, printed, err = lcl("embed-folder", "tiny", str(photos), "--out", str(out))
        assert (status, printed) == (0, f"4 vectors in {out}\n")
        assert err == f"2 vectors are in {partial} already; 2 inputs are missing\n"
        assert [json.loads(line)["input"] for line in lines[2:]] == [str(path) for path in sent]
        found = out.read_bytes().splitlines(keepends=True)
        assert found[:2] == lines[:2]
        assert [json.loads(line)["input"] for line in found] == [json.loads(line)["input"] for line in lines]
        assert not partial.exists()


def test_images_and_texts_that_are_there_already_are_not_embedded_again(
    lcl: Any, encoder: Any, photos: Path, tmp_path: Path
) -> None:
    out, partial = tmp_path / "vectors.jsonl", tmp_path / "vectors.jsonl.part"
    given = ("embed", "tiny", str(photos / "red.png"), "--text", "a", "--text", "b", "--out", str(out))
    assert lcl(*given)[0] == 0
    lines = out.read_bytes().splitlines(keepends=True)
    partial.write_bytes(b"".join(lines[:2]))
    assert lcl(*given)[:2] == (0, f"3 vectors in {out}\n")
    assert [json.loads(line)["input"] for line in out.open()] == [str(photos / "red.png"), "a", "b"]


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        ('{"input": "other.png", "encoder": "ENCODER", "embedding": [1.0]}\n', "'other.png', which is no input"),
        ('{"input": "red.png", "encoder": "enc_other", "embedding": [1.0]}\n', "of encoder enc_other"),
        ('{"input": "red.png", "embedding": [1.0]}\n', "line 1 of"),
        ("my notes\n", "line 1 of"),
        ("my notes", "line 1 of"),
    ],
)
def test_vectors_of_another_command_are_not_overwritten(
    lcl: Any, encoder: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str, words: str
) -> None:
    monkeypatch.chdir(photos)
    partial = tmp_path / "vectors.jsonl.part"
    content = kept.replace("ENCODER", encoder["id"]).encode()
    partial.write_bytes(content)
    status, printed, err = lcl("embed-folder", "tiny", ".", "--out", str(tmp_path / "vectors.jsonl"))
    assert (status, printed, len(err.splitlines())) == (1, "", 1)
    assert words in err
    assert "or remove it" in err
    assert partial.read_bytes() == content
    assert not (tmp_path / "vectors.jsonl").exists()


def test_names_that_are_not_utf_8_are_readable(lcl: Any, encoder: Any, photos: Path, tmp_path: Path) -> None:
    name = str(photos / "caf\\xe9.png")
    (photos / "red.png").rename(os.fsdecode(os.fsencode(photos) + b"/caf\xe9.png"))
    (photos / os.fsdecode(b"\xff.png")).write_bytes(b"no image")
    out = tmp_path / "vectors.jsonl"
    status, printed, err = lcl("--json", "embed-folder", "tiny", str(photos), "--out", str(out))
    assert status == 0
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert name in [row["input"] for row in rows]
    answer = json.loads(printed)
    assert (answer["file"], answer["vectors"]) == (str(out), 4)
    assert [each["file"] for each in answer["skipped"]] == [str(photos / "\\xff.png")]
    assert f"skipped {photos}/\\xff.png: " in err
    assert name in [json.loads(line)["input"] for line in lcl("embed-folder", "tiny", str(photos))[1].splitlines()]
    predictions = tmp_path / "predictions.csv"
    given = ("zero-shot", "tiny", str(photos), "--class", "a", "--class", "b", "--out", str(predictions))
    assert name in lcl(*given)[1]
    assert name in predictions.read_text(encoding="utf-8")
    assert name in [item["file"] for item in json.loads(lcl("--json", *given)[1])["items"]]
