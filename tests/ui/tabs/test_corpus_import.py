"""A dataset from the browser: files as they are sent, names, and what is shown of the runs."""

from __future__ import annotations

import zipfile
from itertools import count
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from api.client import ApiError, UserError
from api.routes.uploads import corpus_folder
from ui.common import PageSelection
from ui.tabs.corpus_import import (
    CorpusImport,
    ImportedCorpus,
    draw_import,
    pack_files,
    suggest_name,
    upload_names,
)

CORPUS = ImportedCorpus("notes", 7, 1658, "run_check", "run_convert")
ISSUE = {"file": "<b>.md", "line": 5, "reason": "missing image", "detail": "there is no gone.png"}
REPORT = {"documents": 4, "images": 3, "reasons": {"missing image": 1}, "first": [ISSUE]}
DATASET = {"name": "notes", "records": 4, "pictures": 3}


def run(state: str, **fields: Any) -> dict[str, Any]:
    return {"id": f"run_{state}", "state": state, **fields}


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Files as a browser's upload leaves them, each in a folder with a random name."""
    monkeypatch.setattr("ui.tabs.corpus_import.get_upload_folder", lambda: str(tmp_path))

    numbers = count()

    def call(**files: str) -> list[str]:
        paths = []
        for name, text in files.items():
            path = (
                tmp_path / "key" / "session" / "upload" / str(next(numbers)) / name.replace("__", "/").replace("_", ".")
            )
            path.parent.mkdir(parents=True)
            path.write_text(text)
            paths.append(str(path))
        return paths

    return call


def test_files_of_a_folder_are_packed_at_their_paths(uploads: Any, tmp_path: Path) -> None:
    files = uploads(a_md="A", images__deep__one_png="png")
    assert upload_names(files) == ["a.md", "images/deep/one.png"]
    pack_files(files, tmp_path / "c.zip")
    with zipfile.ZipFile(tmp_path / "c.zip") as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {
            "corpus/a.md": b"A",
            "corpus/images/deep/one.png": b"png",
        }
    twin = tmp_path / "key" / "session" / "upload" / "99" / "a.md"
    twin.parent.mkdir()
    twin.write_text("another")
    with pytest.raises(UserError, match=r"a\.md"):
        pack_files([*files, str(twin)], tmp_path / "d.zip")


def test_the_only_folder_of_a_corpus_stays_a_folder_of_it(uploads: Any, tmp_path: Path) -> None:
    """A split or a class is the only one in the folder that was chosen."""
    pack_files(uploads(test__robin__1_jpg="r", test__wren__1_jpg="w"), tmp_path / "c.zip")
    with zipfile.ZipFile(tmp_path / "c.zip") as archive:
        archive.extractall(tmp_path / "corpus")
    root = corpus_folder(tmp_path)
    assert sorted(str(file.relative_to(root)) for file in root.rglob("*.jpg")) == [
        "test/robin/1.jpg",
        "test/wren/1.jpg",
    ]


def test_a_name_is_suggested_where_none_was_typed(service: Any, uploads: Any, away: Exception) -> None:
    assert suggest_name(["/tmp/x/a.md", "/tmp/y/b.md"]) == "my-data"
    panel = CorpusImport(service(datasets=[{"name": "birds"}]))
    files, name, status = panel.use_files(uploads(birds_zip="1"), "")
    assert (len(files), name) == (1, "birds")
    assert "1 file, " in status
    assert panel.use_files(uploads(a_md="A"), "mine")[1] == gr.skip()
    assert panel.use_files(None, "")[-1] == ""
    assert "gets a new version" in panel.describe_version(" birds ")
    assert panel.describe_version("") == CorpusImport(service(datasets=away)).describe_version("birds") == ""


def test_it_is_checked_then_converted(service: Any, uploads: Any) -> None:
    runs = [run("queued"), run("waiting")]
    client = service(
        upload_corpus={"path": "/data/x", "files": 2, "bytes": 300},
        submit=lambda kind, spec, **more: {"id": f"run_{kind}"},
        run=lambda run_id: runs[run_id == "run_convert"],
    )
    imported: PageSelection[ImportedCorpus | None] = PageSelection(None)
    name, status, _, clock = CorpusImport(client).start(imported, uploads(a_md="A", b_md="B"), "My notes")
    assert name == "My-notes"
    assert clock.active
    assert "2 files" in status
    assert "Queued" in status
    assert "Waiting" in status
    assert imported.current == ImportedCorpus("My-notes", 2, 300, "run_validate", "run_convert")
    check, convert = [(args, more) for name, args, more in client.calls if name == "submit"]
    assert check == (("validate", {"path": "/data/x", "tokens": False}), {"name": "check My-notes"})
    assert convert == (
        ("convert", {"path": "/data/x", "name": "My-notes"}),
        {"name": "convert My-notes", "after": ["run_validate"]},
    )


def test_polling_ends_with_the_runs(service: Any, away: Exception) -> None:
    imported: PageSelection[ImportedCorpus | None] = PageSelection(CORPUS)
    client = service(run=run("running"))
    panel = CorpusImport(client)
    status, step, clock = panel.tick(imported, True)
    assert ("Running" in status, step.selected, clock.active) == (True, 1, True)
    client.answers["run"] = run("succeeded", result={"dataset": DATASET})
    status, step, clock = panel.poll(imported)
    assert ("Train on it" in status, step.selected, clock.active) == (True, 3, False)
    client.answers["run"] = away
    assert panel.poll(imported)[-1].active, "the service may answer again"
    client.answers["run"] = ApiError(404, "not_found", "there is no such run")
    assert not panel.poll(imported)[-1].active
    calls = len(client.calls)
    assert panel.tick(imported, None) == (gr.skip(),) * 3
    assert len(client.calls) == calls, "another tab is looked at"


def test_without_files_and_with_an_error_of_the_service(
    service: Any, uploads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported: PageSelection[ImportedCorpus | None] = PageSelection(None)
    client = service(upload_corpus=ApiError(413, "too_large", "the archive has more than 5 bytes"))
    assert "Choose a folder" in CorpusImport(client).start(imported, None, "x")[1]
    _, status, *_ = CorpusImport(client).start(imported, uploads(a_md="A"), "x")
    assert "more than 5 bytes" in status
    assert imported.current is None
    gone = [*uploads(b_md="B"), "/gone/a.md"]
    monkeypatch.setattr("ui.tabs.corpus_import.upload_names", lambda files: ["b.md", "a.md"])
    _, status, *_ = CorpusImport(client).start(imported, gone, "x")
    assert "choose them again" in status


def test_problems_are_listed_with_file_and_line_and_no_markup() -> None:
    check, convert = run("succeeded", result={"report": REPORT}), run("running")
    drawn = draw_import(CORPUS, check, convert)
    assert "4 documents, 3 images, 1 problem" in drawn
    assert "&lt;b&gt;.md:5: missing image" in drawn
    assert "Train on it" not in drawn
    failed = run("failed", reason={"message": "there is <nothing>"})
    assert "there is &lt;nothing&gt;" in draw_import(CORPUS, failed, run("cancelled"))


def test_the_name_under_which_it_was_registered_leads_on() -> None:
    result = {"dataset": DATASET, "registered_as": "notes-2"}
    drawn = draw_import(CORPUS, run("succeeded", result={"report": REPORT}), run("succeeded", result=result))
    assert "?tab=runs&amp;new=pretrain&amp;dataset=notes-2" in drawn
    assert "?dataset=notes-2" in drawn
    assert "?tab=runs&amp;new=index&amp;dataset=notes-2" in drawn
