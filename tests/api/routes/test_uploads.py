"""Corpora that clients send: a zip in one request, unpacked inside the home folder, and converted."""

import io
import zipfile
from pathlib import Path

import httpx
import pytest

from api.client import ApiError
from api.core.settings import ApiSettings
from lcl_core.db import submit
from lcl_core.db.models import new_id
from tests.api.routes.test_datasets import sample_image

PAGE = "# Squares\n\nA red square is drawn below.\n\n![red](images/red.png)\n\nIt is red.\n"


def packed(members, method=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def send(http, data):
    return http.post("/v1/uploads", content=data, headers={"content-type": "application/zip"})


def uploads(home):
    return list((home / "data" / "uploads").glob("upl_*"))


@pytest.fixture
def pages(tmp_path):
    """A folder of Markdown with an image."""
    (tmp_path / "notes" / "images").mkdir(parents=True)
    (tmp_path / "notes" / "images" / "red.png").write_bytes(sample_image())
    for name in ("one", "two"):
        (tmp_path / "notes" / f"{name}.md").write_text(PAGE.replace("Squares", name))
    return tmp_path / "notes"


def test_a_folder_becomes_a_dataset(live_service, pages):
    seen = []
    (pages / ".hidden").write_text("not sent")
    client = live_service.admin
    upload = client.upload_corpus(pages, lambda done, total: seen.append((done, total)))
    assert upload["files"] == 3
    assert seen[-1][0] == seen[-1][1]
    assert Path(upload["path"]).is_relative_to(live_service.home.resolve() / "data" / "uploads")
    assert {path.name for path in Path(upload["path"]).iterdir()} == {"images", "one.md", "two.md"}
    check = client.submit("validate", {"path": upload["path"], "tokens": False})
    convert = client.submit("convert", {"path": upload["path"], "name": "notes"}, after=[check["id"]])
    for run in (check, convert):
        with live_service.context.database.session() as session:
            submit.release_dependents(session)
        live_service.work(run["id"])
    assert client.dataset_documents("notes")["total"] == 2
    client.delete_upload(upload["id"])
    assert not Path(upload["path"]).exists()
    with pytest.raises(ApiError, match="no upload"):
        client.delete_upload(upload["id"])


def test_a_zip_is_sent_as_it_is_and_its_one_folder_is_the_corpus(live_service, tmp_path):
    (tmp_path / "c.zip").write_bytes(packed({"wrapped/cat/1.png": sample_image(), "wrapped/dog/1.png": sample_image()}))
    upload = live_service.admin.upload_corpus(tmp_path / "c.zip")
    assert {path.name for path in Path(upload["path"]).iterdir()} == {"cat", "dog"}


@pytest.mark.parametrize("data", [b"", b"this is no zip", packed({}), packed({"../../evil.md": b"x"})])
def test_archives_that_cannot_be_unpacked(live_service, http, refused, data):
    before = uploads(live_service.home)
    refused(send(http, data), 422)
    assert uploads(live_service.home) == before
    assert not list(live_service.home.rglob("evil.md"))


def test_bounds_of_bytes(serve, tmp_path, refused):
    settings = ApiSettings(home=tmp_path, welcome=False, max_upload_bytes=5000, warm_encoders=False)
    with serve(settings) as url:
        headers = {"authorization": f"Bearer {(tmp_path / 'key').read_text().strip()}"}
        with httpx.Client(base_url=url, headers=headers) as http:
            refused(send(http, packed({"a.bin": bytes(5000)})), 413, "too_large")
            refused(send(http, packed({"bomb": bytes(5001)}, zipfile.ZIP_DEFLATED)), 413, "too_large")
            assert uploads(tmp_path) == []


def test_others_do_not_see_it(live_service, refused):
    with live_service.http("submitter") as mine, live_service.http("viewer") as viewer:
        where = send(mine, packed({"a.md": b"A"})).headers["location"]
        refused(send(viewer, packed({"a.md": b"A"})), 403)
        key = live_service.admin.create_key("bob", "submitter")["key"]
        refused(mine.delete(where, headers={"authorization": f"Bearer {key}"}), 404, "not_found")
        for bad in (new_id("upl"), "upl_..", "upl_%2e%2e"):
            refused(mine.delete(f"/v1/uploads/{bad}"), 404, "not_found")
        assert mine.delete(where).status_code == 204
