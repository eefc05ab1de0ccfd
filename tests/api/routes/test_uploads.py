"""Corpora that clients send: in chunks, resumed, unpacked inside the home folder, converted, collected as garbage."""

from __future__ import annotations

import base64
import io
import zipfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.client import ApiError
from api.core.settings import ApiSettings
from api.services import corpus_uploads
from api.services.corpus_uploads import CorpusUploads
from lcl_core.db import quotas, submit
from lcl_core.db.artifacts import home_id
from lcl_core.db.models import Garbage, StoredBytes, new_id
from lcl_core.db.session import Database, now
from tests.api.routes.test_datasets import sample_image

PAGE = "# Squares\n\nA red square is drawn below.\n\n![red](images/red.png)\n\nIt is red.\n"


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """A folder of Markdown with an image."""
    (tmp_path / "notes" / "images").mkdir(parents=True)
    (tmp_path / "notes" / "images" / "red.png").write_bytes(sample_image())
    for name in ("one", "two"):
        (tmp_path / "notes" / f"{name}.md").write_text(PAGE.replace("Squares", name))
    return tmp_path / "notes"


def packed(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def chunk(offset: int, data: bytes) -> dict[str, Any]:
    return {"offset": offset, "data": base64.b64encode(data).decode()}


def started(http: httpx.Client, data: bytes) -> str:
    answer = http.post("/v1/uploads", json={"bytes": len(data)})
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/uploads/{answer.json()['id']}"
    return str(answer.headers["location"])


def sent(http: httpx.Client, data: bytes) -> str:
    """A complete upload that is not unpacked; its address."""
    where = started(http, data)
    assert http.post(f"{where}/chunks", json=chunk(0, data)).json()["received"] == len(data)
    return where


def test_uploads_are_counted_outside_of_any_transaction(live_service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process can write while the folders of all uploads are read."""
    count, database = CorpusUploads._count, live_service.context.database

    def write_and_count(self: CorpusUploads, owner: str) -> int:
        with database.session() as session:
            submit.submit(session, "pretrain", {})
        return count(self, owner)

    monkeypatch.setattr(CorpusUploads, "_count", write_and_count)
    with live_service.http() as http:
        assert http.post("/v1/uploads", json={"bytes": 10}).status_code == 201


def test_a_folder_becomes_a_dataset(live_service: Any, pages: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    (pages / ".hidden").write_text("not sent")
    client = live_service.admin
    upload = client.upload_corpus(pages, lambda done, total: seen.append((done, total)))
    assert upload["files"] == 3
    assert Path(upload["path"]).is_relative_to(live_service.home.resolve() / "data" / "uploads")
    assert seen[-1] == (upload["bytes"], upload["bytes"])
    assert {path.name for path in Path(upload["path"]).iterdir()} == {"images", "one.md", "two.md"}
    check = client.validate_path(upload["path"], tokens=False)
    convert = client.submit("convert", {"path": upload["path"], "name": "notes"}, after=[check["id"]])
    for run in (check, convert):
        with live_service.context.database.session() as session:
            submit.release_dependents(session)
        live_service.work(run["id"])
    assert client.run(convert["id"])["result"]["dataset"]["records"] == 2
    assert client.dataset_documents("notes")["total"] == 2
    client.delete_upload(upload["id"])
    assert not Path(upload["path"]).exists()
    with pytest.raises(ApiError, match="no upload"):
        client.delete_upload(upload["id"])


def test_how_far_an_archive_is_unpacked_is_told_while_it_is(
    live_service: Any, pages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_uploads, "_PROGRESS_SECONDS", 0.0)
    client, seen = live_service.admin, []
    whole = corpus_uploads.unpack_zip

    def unpack(*paths: Path, on_member: Any, **bounds: int) -> Any:
        def look(done: int, total: int) -> None:
            on_member(done, total)
            with live_service.http() as http:
                view = http.get(f"/v1/uploads/{paths[0].parent.name}").json()
            seen.append((view["unpacked"], view["members"], view["path"]))

        return whole(*paths, on_member=look, **bounds)

    monkeypatch.setattr(corpus_uploads, "unpack_zip", unpack)
    told: list[str] = []
    upload = client.upload_corpus(pages, on_sent=lambda upload: told.append(upload["id"]))
    assert told == [upload["id"]]
    total = seen[0][1]
    assert seen == [(done, total, None) for done in range(total)]
    after = client.upload(upload["id"])
    assert (after["unpacked"], after["members"], after["path"]) == (None, None, upload["path"])
    client.delete_upload(upload["id"])


def test_one_that_is_being_unpacked_is_not_deleted(
    live_service: Any, http: httpx.Client, refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, whole, answers = sent(http, packed({"a.md": b"A"})), corpus_uploads.unpack_zip, []

    def unpack(*paths: Path, on_member: Any, **bounds: int) -> Any:
        def delete(done: int, total: int) -> None:
            on_member(done, total)
            with live_service.http() as other:
                answers.append(other.delete(where))

        return whole(*paths, on_member=delete, **bounds)

    monkeypatch.setattr(corpus_uploads, "unpack_zip", unpack)
    corpus = Path(http.post(f"{where}/unpack").json()["path"])
    refused(answers[0], 409, "upload_busy")
    assert corpus.is_dir()
    assert http.delete(where).status_code == 204
    refused(http.delete(where), 404, "unknown_upload")
    assert not corpus.parent.exists()


def test_a_zip_is_sent_as_it_is_and_its_one_folder_is_the_corpus(live_service: Any, tmp_path: Path) -> None:
    (tmp_path / "c.zip").write_bytes(packed({"wrapped/cat/1.png": sample_image(), "wrapped/dog/1.png": sample_image()}))
    upload = live_service.admin.upload_corpus(tmp_path / "c.zip")
    assert upload["bytes"] == (tmp_path / "c.zip").stat().st_size
    assert {path.name for path in Path(upload["path"]).iterdir()} == {"cat", "dog"}


def test_large_ones_come_in_chunks_and_go_on_after_a_break(http: httpx.Client, refused: Any) -> None:
    data = packed({"a.bin": bytes(3_000_000)})
    where = started(http, data)
    step = http.get(where).json()["chunk_bytes"]
    assert http.post(f"{where}/chunks", json=chunk(0, data[:step])).json()["received"] == step
    refused(http.post(f"{where}/chunks", json=chunk(step + 1, data[step + 1 :][:step])), 409, "upload_offset")
    refused(http.post(f"{where}/unpack"), 409, "upload_incomplete")
    # a chunk whose answer was lost is sent again, and one that overlaps
    assert http.post(f"{where}/chunks", json=chunk(0, data[:step])).json()["received"] == step
    half = step // 2
    assert http.post(f"{where}/chunks", json=chunk(half, data[half:][:step])).json()["received"] == step + half
    while (received := http.get(where).json()["received"]) < len(data):
        http.post(f"{where}/chunks", json=chunk(received, data[received:][:step])).raise_for_status()
    unpacked = http.post(f"{where}/unpack").json()
    assert Path(unpacked["path"], "a.bin").read_bytes() == bytes(3_000_000)
    assert http.post(f"{where}/unpack").json()["path"] == unpacked["path"], "a repeated call changes nothing"
    refused(http.post(f"{where}/chunks", json=chunk(0, b"more")), 409, "upload_offset")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"offset": 0, "data": "%%%"}, "data"),
        ({"offset": 0, "data": ""}, "data"),
        ({"offset": -1, "data": "QQ=="}, "offset"),
        ({"offset": 0, "data": base64.b64encode(bytes((1 << 20) + 1)).decode()}, "data"),
    ],
)
def test_bad_chunks(http: httpx.Client, refused: Any, body: dict[str, Any], field: str) -> None:
    where = started(http, bytes(10))
    assert refused(http.post(f"{where}/chunks", json=body), 422)["field"] == field
    assert http.get(where).json()["received"] == 0


def test_more_than_was_announced(http: httpx.Client, refused: Any) -> None:
    where = started(http, bytes(10))
    refused(http.post(f"{where}/chunks", json=chunk(0, bytes(11))), 422, "upload_exceeded")
    assert http.get(where).json()["received"] == 0


@pytest.mark.parametrize("data", [b"this is no zip", packed({}), packed({"../../evil.md": b"x"})])
def test_archives_that_cannot_be_unpacked(live_service: Any, http: httpx.Client, refused: Any, data: bytes) -> None:
    where = sent(http, data)
    refused(http.post(f"{where}/unpack"), 422, "bad_archive")
    folder = live_service.home / "data" / "uploads" / where.rpartition("/")[2]
    assert {path.name for path in folder.iterdir()} == {"upload.json", "archive.zip"}
    assert not list(live_service.home.rglob("evil.md"))


def test_bounds_on_bytes_and_on_uploads(
    serve: Any, tmp_path: Path, refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.services.corpus_uploads.MAX_UPLOADS_PER_OWNER", 2)
    settings = ApiSettings(home=tmp_path, welcome=False, max_upload_bytes=2000, warm_encoders=False)
    with serve(settings) as url:
        key = (tmp_path / "key").read_text().strip()
        with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}) as http:
            refused(http.post("/v1/uploads", json={"bytes": 2001}), 413, "archive_too_large")
            out = io.BytesIO()
            with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("bomb", bytes(2001))
            where = sent(http, out.getvalue())
            refused(http.post(f"{where}/unpack"), 413, "archive_too_large")
            started(http, b"x")
            refused(http.post("/v1/uploads", json={"bytes": 1}), 429, "too_many_uploads")
            assert http.delete(where).status_code == 204
            started(http, b"x")


def test_uploads_count_in_the_bytes_of_their_owner(serve: Any, tmp_path: Path, refused: Any) -> None:
    settings = ApiSettings(home=tmp_path, welcome=False, bytes_per_owner=3000, warm_encoders=False)
    database = Database(settings.resolved_database_url)
    with serve(settings) as url:
        key = (tmp_path / "key").read_text().strip()
        with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}) as http:

            def kept() -> int:
                with database.reading() as session:
                    return sum(size for _, size in quotas.usage_by_owner(session).values())

            refused(http.post("/v1/uploads", json={"bytes": 3001}), 403, "quota_exceeded")
            assert not list((tmp_path / "data" / "uploads").glob("upl_*"))
            small, large = packed({"a.md": bytes(100)}), io.BytesIO()
            with zipfile.ZipFile(large, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("a.bin", bytes(2950))
            first, second = sent(http, small), sent(http, large.getvalue())
            assert kept() == len(small) + len(large.getvalue())
            assert http.post(f"{first}/unpack").status_code == 200
            assert kept() == 100 + len(large.getvalue())
            refused(http.post(f"{second}/unpack"), 403, "quota_exceeded")
            folder = tmp_path / "data" / "uploads" / second.rpartition("/")[2]
            assert {path.name for path in folder.iterdir()} == {"upload.json", "archive.zip"}
            assert http.delete(first).status_code == 204
            assert http.post(f"{second}/unpack").status_code == 200, "the archive was kept"
            assert kept() == 2950
            assert http.delete(second).status_code == 204
            assert kept() == 0
    database.engine.dispose()


def test_others_do_not_see_it(live_service: Any, refused: Any) -> None:
    with live_service.http("submitter") as mine, live_service.http("viewer") as viewer:
        where = sent(mine, packed({"a.md": b"A"}))
        refused(viewer.get(where), 403)
        refused(viewer.post("/v1/uploads", json={"bytes": 1}), 403)
        key = live_service.admin.create_key("bob", "submitter")["key"]
        with httpx.Client(base_url=live_service.url, headers={"authorization": f"Bearer {key}"}) as other:
            for method, path in (("GET", where), ("POST", f"{where}/unpack"), ("DELETE", where)):
                refused(other.request(method, path), 404, "unknown_upload")
        with live_service.http("admin") as admin:
            assert admin.get(where).status_code == 200
        for bad in (new_id("upl"), "upl_..", "..", "upl_%2e%2e"):
            assert mine.get(f"/v1/uploads/{bad}").status_code == 404


def test_those_that_nothing_names_are_collected(live_service: Any, pages: Path, eventually: Any) -> None:
    client, database = live_service.admin, live_service.context.database
    forgotten, registered, awaited = (client.upload_corpus(pages) for _ in range(3))
    run = client.submit("convert", {"path": awaited["path"], "name": "later"})
    corpus = Path(registered["path"])
    (corpus / "pairs.jsonl").write_text('{"image": "red.png", "captions": ["a red square"]}\n')
    client.register_dataset("from-an-upload", str(corpus))

    def age() -> None:
        client.collect_garbage()  # which records what is garbage
        with database.session() as session:
            for upload in (forgotten, registered, awaited):
                row = session.get(Garbage, (home_id(live_service.home), f"data/uploads/{upload['id']}"))
                if row is not None:
                    row.seen_at = now(session) - timedelta(days=2)

    age()
    client.collect_garbage()
    eventually(lambda: not Path(forgotten["path"]).exists(), "the removal of the forgotten one")
    with database.reading() as session:
        assert session.get(StoredBytes, f"data/uploads/{forgotten['id']}") is None
        assert session.get(StoredBytes, f"data/uploads/{awaited['id']}") is not None
    assert corpus.exists()
    assert Path(awaited["path"]).exists()
    client.cancel(run["id"])
    client.delete_dataset("from-an-upload")
    age()
    client.collect_garbage()
    eventually(lambda: not corpus.exists() and not Path(awaited["path"]).exists(), "the removal of the others")
