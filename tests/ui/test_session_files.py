"""Which files of a session are there, and which were deleted."""

from __future__ import annotations

from ui.session_files import MIN_FILE_BYTES, SessionFiles
from ui.sessions import SessionStore
from ui.settings import UiSettings


def store(files, session, name):
    with files.receive(session, 1) as folder:
        path = folder / "0" / name
        path.parent.mkdir()
        path.write_bytes(b"x")
        return str(path)


def test_a_file_is_found_by_its_session_alone_until_it_is_deleted(tmp_path):
    sessions = SessionStore(60)
    limits = UiSettings(max_upload=1, max_upload_request=1, session_uploads=2 * MIN_FILE_BYTES, _env_file=None)
    files = SessionFiles(tmp_path, limits, sessions)
    vic, bob, again = (sessions.find(sessions.open(key, key, "viewer")) for key in ("vic", "bob", "vic"))
    oldest, kept, newest = (store(files, vic, f"{number}.png") for number in range(3))
    assert [str(files.find(vic, path)) for path in (oldest, kept, newest)] == ["None", kept, newest]
    assert [files.find(other, newest) for other in (bob, again)] == [None, None]
    around = newest.replace("2.png", "../0/2.png"), newest.replace("/2.png", "//2.png"), newest + "/.", newest + "\0"
    assert [files.find(vic, path) for path in around] == [None] * len(around)
    sessions.close(vic.token)
    assert list(tmp_path.iterdir()) == []
