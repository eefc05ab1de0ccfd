"""Which files of a session are there, and which were deleted."""

from __future__ import annotations

from pathlib import Path

from ui.session_files import MAX_DROPPED, MIN_FILE_BYTES, SessionFiles, UploadLimits


def store(files: SessionFiles, session: str, name: str) -> str:
    path = files.new_folder() / name
    path.write_bytes(b"x")
    files.keep(session, session, path)
    return str(path)


def test_a_deleted_file_is_known_to_its_session_alone_until_it_ends(tmp_path: Path) -> None:
    files = SessionFiles(tmp_path, UploadLimits(session=2 * MIN_FILE_BYTES), lambda session: True)
    oldest, kept, newest = (store(files, "vic", f"{place}.png") for place in range(3))
    Path(kept).unlink()
    assert [files.was_deleted("vic", path) for path in (oldest, kept, newest)] == [True, True, False]
    assert [files.find("vic", path) for path in (oldest, kept, newest)] == [None, None, Path(newest)]
    assert not files.was_deleted("bob", oldest)
    assert not files.was_deleted("vic", str(tmp_path / "never.png"))
    Path(kept).symlink_to(newest)
    assert not files.was_deleted("vic", kept), "something else is there"
    files.close("vic")
    assert not files.was_deleted("vic", oldest)


def test_a_session_remembers_so_many_deleted_files(tmp_path: Path) -> None:
    files = SessionFiles(tmp_path, UploadLimits(session=MIN_FILE_BYTES), lambda session: True)
    paths = [store(files, "vic", "x.png") for _ in range(MAX_DROPPED + 3)]
    assert [files.was_deleted("vic", path) for path in (*paths[:3], paths[-1])] == [False, False, True, False]
