"""A worker removes what no row names any more, by itself, and goes on after a folder that it cannot remove."""

from lcl_core.db import artifacts
from lcl_core.db.garbage import remove_tree
from workers.maintenance import garbage_task


def test_a_worker_removes_what_is_due(database, settings, eventually, monkeypatch):
    settings.gc_grace_seconds = 0.1
    monkeypatch.setattr("lcl_core.db.garbage.ROUND_SECONDS", 0.05)
    folders = [settings.runs_dir / f"run_{number}" for number in range(2)]
    for folder in folders:
        folder.mkdir(parents=True)
        with database.session() as session:
            artifacts.discard_folder(session, f"runs/{folder.name}")
    tried = []

    def refuse_first(path):
        tried.append(path)
        if tried.count(folders[0]) == 1 and path == folders[0]:
            raise PermissionError(13, "Permission denied", str(path))
        remove_tree(path)

    monkeypatch.setattr("lcl_core.db.garbage.remove_tree", refuse_first)
    task = garbage_task(database, settings)
    task.start()
    eventually(lambda: not any(folder.exists() for folder in folders), "the removal")
    task.stop()
