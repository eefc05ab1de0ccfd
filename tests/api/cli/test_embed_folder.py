"""``lcl embed-folder``, and the bar that long commands show."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from api.cli.output import progress_bar


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
