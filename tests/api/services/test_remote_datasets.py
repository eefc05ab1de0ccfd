"""Corpora on object storage, through the whole service: made there, registered, examined, trained and indexed from."""

import io
import json

import fsspec
import pytest
from PIL import Image
from sqlalchemy import select

from api.client import ApiError
from api.core.settings import ApiSettings
from api.services.state import AppState
from lcl_core.common.errors import UserError
from lcl_core.db.models import Base

SECRET = "sesame"  # the fixture's AWS_SECRET_ACCESS_KEY
COLOURS = ("red", "green", "blue", "yellow", "black", "grey", "white", "purple")
TINY = {
    "model": {
        "image_size": 32, "vision_width": 32, "vision_layers": 1, "vision_head_width": 16,
        "text_width": 32, "text_layers": 1, "text_heads": 2,
    },
    "tokenizer": {"vocab_size": 300}, "batch": {"tokens": 256, "images": 8}, "steps": 2, "log_every": 1,
    "checkpoint_every": 2, "precision": "fp32",
}  # fmt: skip


@pytest.fixture
def distant(tmp_path, s3_bucket, serve, house_of, monkeypatch):
    """A service that may read and write below a prefix of the bucket."""
    home = tmp_path / "home"
    monkeypatch.setenv("LCL_HOME", str(home))
    monkeypatch.delenv("LCL_DATA_CACHE", raising=False)
    settings = ApiSettings(home=home, data_roots=[tmp_path / "data", f"{s3_bucket}/team"])
    context = AppState(settings)
    with serve(settings) as url:
        yield house_of(url, home, context, (home / "key").read_text().strip())
    context.close()


@pytest.fixture
def folder(tmp_path):
    """Documents and captioned images of one colour each."""
    folder = tmp_path / "data" / "squares"
    (folder / "images").mkdir(parents=True)
    documents, pairs = [], []
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (40, 40), colour).save(folder / "images" / f"{colour}.png")
        image = {"image_name": f"{colour}.png", "matched_text_index": 1, "matched_sim": 0.5}
        documents.append({"text_list": ["Look here.", f"A {colour} square."], "image_info": [image]})
        pairs.append({"image": f"{colour}.png", "captions": [f"{colour} it is"], "split": ("train", "val")[number % 2]})
    (folder / "interleaved.jsonl").write_text("".join(json.dumps(line) + "\n" for line in documents))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in pairs))
    return folder


def done(live_service, kind, spec):
    """The run, once it has succeeded."""
    run_id = live_service.admin.submit(kind, spec)["id"]
    live_service.work(run_id)
    run = live_service.admin.run(run_id)
    assert run["state"] == "succeeded", run["reason"]
    return run


def objects(url):
    files, path = fsspec.core.url_to_fs(url)
    files.invalidate_cache()
    return [name[len(path) + 1 :] for name in files.find(path)]


def curve(live_service, run_id):
    lines = live_service.admin.metrics(run_id)
    return [(line["step"], line.get("contrastive_loss"), line.get("generation_loss")) for line in lines]


def traces(live_service):
    """Everything that the service keeps: rows and files."""
    with live_service.context.database.reading() as session:
        rows = [str(row) for table in Base.metadata.sorted_tables for row in session.execute(select(table))]
    files = [file.read_bytes().decode("latin-1") for file in live_service.home.rglob("*") if file.is_file()]
    return "\n".join(rows + files)


def test_a_corpus_on_s3_serves_like_one_on_disk(distant, folder, s3_bucket):
    url, admin = f"{s3_bucket}/team/squares", distant.admin
    done(distant, "convert", {"path": str(folder), "name": "near"})
    made = done(distant, "convert", {"path": str(folder), "name": "far", "to": f"{url}/"})
    assert sorted(objects(url)) == sorted(
        ["index.json", "quarantine.jsonl", "shards/00000-00000-000.tar", "shards/00001-00000-000.tar"]
        + [f"index/{name}.bin" for name in ("rows", "groups", "blocks", "similarities", "starts")]
    )
    row, near = admin.dataset("far"), admin.dataset("near")
    assert (row["path"], row["content_hash"], row["statistics"]) == (url, near["content_hash"], near["statistics"])
    (version,) = admin.dataset("far")["versions"]
    assert (version["path"], version["run_id"]) == (url, made["id"])
    assert list((distant.home / "runs" / made["id"] / "artifacts").iterdir()) == [], "nothing is kept twice"

    again = admin.register_dataset("again", f"{url}/")
    assert (again["path"], again["content_hash"]) == (url, near["content_hash"])
    assert admin.dataset_statistics("again")["documents"] == len(COLOURS)

    for spec in ({"dataset": "far"}, {"path": url}):
        report = done(distant, "validate", {**spec, "workers": 0, "tokens": False})["result"]["report"]
        assert report["kinds"] == {"matched": len(COLOURS), "pair": len(COLOURS)}

    for view in ("interleaved", "pairs"):
        far, local = admin.dataset_documents("far", view=view), admin.dataset_documents("near", view=view)
        assert json.dumps(far).replace("/far/", "/near/") == json.dumps(local)
    name = admin.dataset_documents("far")["items"][2]["segments"][1]["image"]
    assert Image.open(io.BytesIO(admin.dataset_image("far", name))).convert("RGB").getpixel((9, 9)) == (0, 0, 255)

    sources = {name: [{"dataset": name}, {"dataset": name, "view": "pairs"}] for name in ("far", "near")}
    runs = {name: done(distant, "pretrain", {**TINY, "data": {"sources": sources[name]}}) for name in sources}
    assert len(curve(distant, runs["far"]["id"])) >= 2
    assert curve(distant, runs["far"]["id"]) == curve(distant, runs["near"]["id"]), "the same documents and pixels"
    assert runs["far"]["inputs"] == {"datasets": {"far": near["content_hash"]}}

    encoder = runs["far"]["encoder_id"]
    requested = {"encoder": encoder, "dataset": "far", "splits": ["val"], "tasks": ["retrieval"]}
    assert done(distant, "evaluate", requested)["result"]["dataset_hash"] == near["content_hash"]
    indexed = done(distant, "index", {"encoder": encoder, "dataset": "far", "collection": "c"})
    assert indexed["result"]["collection"]["images"] == len(COLOURS)
    assert SECRET not in traces(distant)
    assert "ranges" in {path.name for path in (distant.home / "cache").iterdir()}


ELSEWHERE = (
    "BUCKET/other/squares",
    "BUCKET/team/../other",
    "s3://key:sesame@bucket/team",
    "simplecache::BUCKET/team/x",
    "https://example.org/x?sesame",
    "memory://x",
)


def test_a_url_elsewhere_is_refused_in_every_field(distant, s3_bucket, refused):
    reported = []
    with distant.http() as http:
        for path in (place.replace("BUCKET", s3_bucket) for place in ELSEWHERE):
            answers = [
                http.post("/v1/datasets", json={"name": "x", "path": path}),
                http.post("/v1/runs", json={"kind": "validate", "spec": {"path": path}}),
                http.post("/v1/runs", json={"kind": "convert", "spec": {"name": "x", "path": path}}),
            ]
            reported += [refused(answer, 422, "invalid_value", "path")["message"] for answer in answers]
            body = {"kind": "convert", "spec": {"name": "x", "dataset": "sample", "to": path}}
            reported.append(refused(http.post("/v1/runs", json=body), 422, "invalid_value", "to")["message"])
    assert not any(SECRET in words for words in reported)
    assert SECRET not in traces(distant)


def test_what_is_no_corpus_of_shards_is_reported(distant, folder, s3_bucket, refused):
    url = f"{s3_bucket}/team/raw"
    fsspec.filesystem("s3").put(f"{folder}/", f"{url}/", recursive=True)
    with distant.http() as http:
        facts = refused(http.post("/v1/datasets", json={"name": "x", "path": url}), 422, "not_found", "path")
        assert "lcl data convert" in facts["message"]
        body = {"kind": "validate", "spec": {"path": url, "format": "native"}}
        refused(http.post("/v1/runs", json=body), 422, "bad_spec")
        body = {"kind": "convert", "spec": {"name": "x", "dataset": "sample", "to": "/srv/x"}}
        assert "s3://" in refused(http.post("/v1/runs", json=body), 422, "bad_spec", "to")["message"]
    run = distant.admin.submit("convert", {"dataset": "sample", "name": "x", "to": url})["id"]
    distant.work(run)
    reason = distant.admin.run(run)["reason"]
    assert (reason["code"], reason["field"]) == ("conflict", "to")
    assert len(objects(url)) == len(COLOURS) + 2


def test_files_of_a_format_are_converted_from_a_url(distant, folder, s3_bucket):
    images = distant.home / "data" / "images"
    images.mkdir(parents=True)
    for name in ("red", "blue"):
        (images / f"{name}.png").write_bytes((folder / "images" / f"{name}.png").read_bytes())
    url = f"{s3_bucket}/team/tables"
    fsspec.filesystem("s3").pipe_file(f"{url}/a.csv", b"image,caption\nred.png,a red square\nblue.png,a blue one\n")
    spec = {"path": url, "format": "table", "options": {"images": str(images)}, "name": "tables"}
    done(distant, "convert", spec)
    assert distant.admin.dataset_statistics("tables")["captions"] == 2


def test_a_root_that_was_taken_away_is_read_no_more(distant, folder, s3_bucket, serve, house_of):
    done(distant, "convert", {"path": str(folder), "name": "far", "to": f"{s3_bucket}/team/squares"})
    settings = ApiSettings(home=distant.home)
    context = AppState(settings)
    with serve(settings) as url:
        later = house_of(url, distant.home, context, (distant.home / "key").read_text().strip())
        with pytest.raises(ApiError, match="LCL_DATA_ROOTS"):
            later.admin.dataset_documents("far")
        run_id = later.admin.submit("validate", {"dataset": "far"})["id"]
        with pytest.raises(UserError, match="LCL_DATA_ROOTS") as caught:
            later.work(run_id)
    context.close()
    assert (caught.value.code, caught.value.field) == ("invalid_value", "dataset")


def test_the_embedded_default_allows_no_url(http, refused):
    refused(http.post("/v1/datasets", json={"name": "x", "path": "s3://bucket/x"}), 422, "invalid_value", "path")
