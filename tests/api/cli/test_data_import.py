"""``lcl data import``: a folder of this machine becomes a dataset of the service."""

import re
import threading
from pathlib import Path

import pytest

from api.client import Client
from tests.api.routes.test_datasets import sample_image


def write_classes(folder):
    for name in ("fox", "cat"):
        (folder / name).mkdir(parents=True)
        (folder / name / "1.png").write_bytes(sample_image("red" if name == "fox" else "blue"))
    return folder


def test_a_folder_is_sent_converted_and_its_upload_removed(live_service, lcl, tmp_path, eventually):
    folder = write_classes(tmp_path / "animals")

    def work():
        def queued():
            return live_service.admin.runs(kind="convert", state="queued")["items"]

        eventually(queued, "the conversion")
        live_service.work(queued()[0]["id"])

    worker = threading.Thread(target=work)
    worker.start()
    status, out, err = lcl("data", "import", str(folder), "--name", "animals", "--format", "imagefolder")
    worker.join()
    assert (status, err) == (0, "")
    assert "registered animals: 2 records, 2 images" in out
    assert uploads(live_service) == []
    assert live_service.admin.dataset_documents("animals", view="pairs")["total"] == 2


def test_a_folder_with_a_single_folder_keeps_it(live_service, tmp_path):
    """Without its name the classes below ``val`` would be of the training split."""
    write_classes(tmp_path / "animals" / "val")
    upload = live_service.admin.upload_corpus(tmp_path / "animals")
    try:
        assert (Path(upload["path"]) / "val" / "fox" / "1.png").is_file()
    finally:
        live_service.admin.delete_upload(upload["id"])


def uploads(live_service):
    folder = live_service.home / "data" / "uploads"
    return list(folder.iterdir()) if folder.exists() else []


def test_a_name_that_is_refused_costs_no_upload(lcl, tmp_path, monkeypatch):
    monkeypatch.setattr(Client, "upload_corpus", lambda *_: pytest.fail("something was sent"))
    status, out, err = lcl("data", "import", str(write_classes(tmp_path / "animals")), "--name", "two words")
    assert (status, out, "a name starts with" in err) == (1, "", True)


def test_after_a_failure_the_files_are_named(live_service, lcl, tmp_path):
    folder = write_classes(tmp_path / "animals")
    status, out, err = lcl("data", "import", str(folder), "--name", "beasts", "--format", "f" * 41)
    assert (status, out) == (1, "")
    (upload,) = uploads(live_service)
    assert "format" in err
    found = re.search(r"lcl data convert (\S+) --name beasts", err)
    assert found is not None
    assert Path(found[1]).is_relative_to(upload)
    assert (Path(found[1]) / "fox" / "1.png").is_file()
    live_service.admin.delete_upload(upload.name)


def test_what_is_not_there_or_no_zip_is_an_error_of_one_line(lcl, tmp_path):
    status, out, err = lcl("data", "import", str(tmp_path / "nowhere"), "--name", "x")
    assert (status, out) == (1, "")
    assert "nowhere: there is no such folder or zip file" in err
    (tmp_path / "text.zip").write_text("no zip")
    status, out, err = lcl("data", "import", str(tmp_path / "text.zip"), "--name", "x")
    assert (status, out) == (1, "")
    assert "no zip archive" in err
