"""Which files of a session are there, and which were deleted."""

from __future__ import annotations

from ui.session_files import MIN_FILE_BYTES, SessionFiles, UploadLimits


def store(files, session, name):
    with files.receive(session, session, 1) as folder:
        received = folder / "part"
        received.write_bytes(b"x")
        return str(files.store(session, session, received, name))


def test_a_file_is_found_by_its_session_alone_until_it_is_deleted(tmp_path):
    files = SessionFiles(tmp_path, UploadLimits(session=2 * MIN_FILE_BYTES), lambda session: True)
    oldest, kept, newest = (store(files, "vic", f"{place}.png") for place in range(3))
    assert [str(files.find("vic", path)) for path in (oldest, kept, newest)] == ["None", kept, newest]
    assert files.find("bob", newest) is None
    around = newest.replace("2.png", "../2.png"), newest.replace("/2.png", "//2.png"), newest + "/.", newest + "\0"
    assert [files.find("vic", path) for path in around] == [None] * len(around)
    files.close("vic")
    assert list(tmp_path.iterdir()) == []
