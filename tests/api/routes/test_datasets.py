"""Datasets: read before they are registered, confined to the data roots, and leafed through."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from api.services import corpora
from api.services.corpora import find_rows


def sample_image(colour="red"):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write_corpus(folder):
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "one image.png").write_bytes(sample_image())
    (folder / "images" / "draw.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>")
    image = {"image_name": "one image.png", "matched_text_index": 1, "matched_sim": 0.5}
    document = {"text_list": ["First.", "Second."], "image_info": [image]}
    (folder / "interleaved.jsonl").write_text(json.dumps(document) + "\n")
    pair = {"image": "one image.png", "captions": ["a red square", "red"], "labels": {"colour": "red"}}
    (folder / "pairs.jsonl").write_text(json.dumps({**pair, "split": "val", "source": "made"}) + "\n")
    return folder


def work(live_service, run_id):
    """Do what a worker does with a run of the data plane; the ended run."""
    live_service.work(run_id)
    run = live_service.admin.run(run_id)
    assert run["state"] == "succeeded", run["reason"]
    return run


@pytest.fixture(scope="module")
def corpus(data_root):
    return write_corpus(data_root / "squares")


@pytest.fixture(scope="module")
def squares(live_service, corpus):
    return live_service.admin.register_dataset("squares", str(corpus))["name"]


def test_the_sample_is_there_from_the_start(live_service, http):
    sample = next(row for row in live_service.admin.datasets() if row["name"] == "sample")
    assert sample["path"].endswith("drawings.zip")
    figures = live_service.admin.dataset_statistics("sample")
    assert figures["documents"] == 531
    assert figures["splits"]["test_vendor"] > 0
    assert len(http.get("/v1/datasets/sample").json()["content_hash"]) == 64, "kept once it was made"


def test_a_corpus_is_counted_and_registered(live_service, squares, http):
    row = http.get("/v1/datasets/squares").json()
    assert row["owner"] == "admin"
    assert row["statistics"]["documents"] == 1
    assert row["statistics"]["sentences"] == 2
    assert row["statistics"]["pairs"] == 1
    assert row["statistics"]["captions"] == 2
    assert row["statistics"]["splits"] == {"val": 1}
    assert row["statistics"]["labels"] == {"colour": {"values": 1, "most_common": {"red": 1}}}
    assert live_service.admin.dataset_statistics("squares") == row["statistics"]


def test_a_name_is_taken_once(squares, corpus, http, refused):
    answer = http.post("/v1/datasets", json={"name": "squares", "path": str(corpus)})
    refused(answer, 409, "conflict", "name")


def test_documents_have_their_images_in_place(live_service, squares, http):
    page = live_service.admin.dataset_documents("squares")
    assert page["total"] == 1
    texts = [segment.get("text") or segment["image"] for segment in page["items"][0]["segments"]]
    assert texts == ["First.", "one image.png", "Second."]
    url = page["items"][0]["segments"][1]["image_url"]
    answer = http.get(url)
    assert answer.content == sample_image()
    assert answer.headers["content-type"] == "image/png"
    assert live_service.admin.dataset_image("squares", "one image.png") == sample_image()


def test_documents_are_found_by_their_words(live_service, squares):
    documents = live_service.admin.dataset_documents
    found = documents("squares", q="SECOND first")
    assert (found["rows"], len(found["items"]), found["next"]) == ([0], 1, None)
    assert documents("squares", q="second third")["items"] == []
    assert documents("squares", q="first", offset=1)["items"] == []
    pairs = documents("squares", view="pairs", q="red square", limit=1)
    assert pairs["rows"] == [0], "in captions and labels"


def test_a_search_for_words_ends_in_time_and_says_where_to_go_on(monkeypatch):
    rows = [{"text_list": [f"number {n}", "even" if n % 2 == 0 else "odd"], "image_info": []} for n in range(10)]
    assert find_rows(rows, "odd", 0, 3) == ([1, 3, 5], 6)
    assert find_rows(rows, "Odd number", 6, 3) == ([7, 9], None)
    assert find_rows(rows, "", 8, 3) == ([8, 9], None)
    monkeypatch.setattr(corpora, "SEARCH_SECONDS", -1.0)
    assert find_rows(rows, "odd", 4, 3) == ([], 4)
    assert find_rows(rows, "", 4, 3) == ([4, 5, 6], 7), "without words nothing is searched"


def test_rows_are_chosen_among_those_of_a_tag():
    rows = [{"text_list": [f"number {n}", "even" if n % 2 == 0 else "odd"], "image_info": []} for n in range(10)]
    assert find_rows(rows, "", 0, 2, [1, 4, 7, 8]) == ([1, 4], 7)
    assert find_rows(rows, "", 7, 2, [1, 4, 7, 8]) == ([7, 8], None)
    assert find_rows(rows, "odd", 2, 2, [1, 4, 7, 8]) == ([7], None)
    assert find_rows(rows, "", 0, 2, []) == ([], None)


@pytest.fixture
def sentences(live_service, data_root, request):
    """Five documents of one sentence each, and two captioned images of two splits."""
    name = request.node.name.replace("_", "-")[:60]
    folder = write_corpus(data_root / name)
    lines = [{"text_list": [f"Sentence {n}."], "image_info": []} for n in range(5)]
    (folder / "interleaved.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pairs = [{"image": "one image.png", "captions": [split], "split": split} for split in ("train", "val")]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    live_service.admin.register_dataset(name, str(folder))
    return name


def test_documents_are_tagged_found_by_their_tag_and_left_out(live_service, sentences):
    admin = live_service.admin
    items = [item["item"] for item in admin.dataset_documents(sentences)["items"]]
    assert items[1] == "interleaved.jsonl:2"
    assert admin.tag_documents(sentences, [items[1], items[3], "pairs.jsonl:2"], add=["dull", "later"]) == 3
    assert admin.tag_documents(sentences, [items[3]], remove=["later"]) == 1
    assert admin.dataset_tags(sentences) == {"dull": 3, "later": 2}
    found = admin.dataset_documents(sentences, tag="dull", limit=1)
    assert (found["rows"], found["next"], found["items"][0]["tags"]) == ([1], 3, ["dull", "later"])
    assert admin.dataset_documents(sentences, tag="dull", offset=3)["rows"] == [3]
    assert admin.dataset_documents(sentences, tag="later", q="sentence 3")["items"] == []
    assert [item["item"] for item in admin.dataset_documents(sentences, view="pairs", tag="dull")["items"]] == [
        "pairs.jsonl:2"
    ]
    assert admin.dataset_documents(sentences, view="pairs", tag="dull", split="train")["items"] == []
    assert admin.dataset_documents(sentences, view="pairs", tag="dull", split="val")["rows"] == [0]
    spec = {"dataset": sentences, "name": f"{sentences}-clean", "without_tags": ["dull"]}
    result = work(live_service, admin.submit("convert", spec)["id"])["result"]
    assert (result["dataset"]["records"], result["skipped"]) == (4, {"left out by tags": 3})
    kept = admin.dataset_documents(f"{sentences}-clean")["items"]
    assert [item["segments"][0]["text"] for item in kept] == ["Sentence 0.", "Sentence 2.", "Sentence 4."]
    assert [item["item"] for item in kept] == ["000000000", "000000001", "000000002"]
    admin.tag_documents(f"{sentences}-clean", ["2", "000000002"], add=["last"])
    assert admin.dataset_tags(f"{sentences}-clean") == {"last": 1}
    assert admin.dataset_documents(f"{sentences}-clean", tag="last")["rows"] == [2]


def test_tags_that_make_no_sense_are_refused(sentences, http, refused):
    url, item = f"/v1/datasets/{sentences}/tags", "interleaved.jsonl:1"
    refused(http.patch(url, json={"items": [item]}), 422, "invalid_value")
    refused(http.patch(url, json={"items": [item], "add": ["a"], "remove": ["a"]}), 422, "invalid_value")
    refused(http.patch(url, json={"items": [item], "add": ["a b"]}), 422, "invalid_value", "add.0")
    refused(
        http.patch(url, json={"items": [item, "interleaved.jsonl:6"], "add": ["a"]}), 422, "invalid_value", "items.1"
    )
    refused(http.patch("/v1/datasets/absent/tags", json={"items": [item], "add": ["a"]}), 404, "not_found")
    assert http.get(f"/v1/datasets/{sentences}").json()["tags"] == {}
    spec = {"dataset": sentences, "name": "x", "only_tags": ["a"]}
    refused(http.post("/v1/runs", json={"kind": "convert", "spec": spec}), 422, "invalid_value", "only_tags.0")
    spec = {"path": "/srv/x", "name": "x", "only_tags": ["a"]}
    refused(http.post("/v1/runs", json={"kind": "convert", "spec": spec}), 422, "bad_spec")


def test_captioned_images_can_be_leafed_through(live_service, squares):
    page = live_service.admin.dataset_documents("squares", view="pairs")
    assert page["items"][0]["labels"] == {"colour": "red"}
    assert [segment.get("text") for segment in page["items"][0]["segments"]] == [None, "a red square", "red"]
    empty = live_service.admin.dataset_documents("squares", offset=5)
    assert (empty["items"], empty["total"], empty["offset"]) == ([], 1, 5)


def test_a_file_that_is_no_image_is_not_given_to_a_browser(squares, http, refused):
    refused(http.get("/v1/datasets/squares/images/draw.svg"), 422, "image_unreadable")


def test_a_path_outside_the_roots_is_refused(data_root, tmp_path, http, refused):
    write_corpus(tmp_path / "elsewhere")
    link = data_root / "link"
    link.symlink_to(tmp_path / "elsewhere")
    for path in (tmp_path / "elsewhere", link, data_root / ".." / "x", Path("/etc"), Path("relative")):
        answer = http.post("/v1/datasets", json={"path": str(path), "name": "escaped"})
        refused(answer, 422, "invalid_value", "path")
        for kind, more in (("validate", {}), ("convert", {"name": "x"})):
            answer = http.post("/v1/runs", json={"kind": kind, "spec": {"path": str(path), **more}})
            refused(answer, 422, "invalid_value", "path")
    absent = {"kind": "validate", "spec": {"path": str(data_root / "absent")}}
    refused(http.post("/v1/runs", json=absent), 422, "file_missing", "path")
    refused(http.get("/v1/datasets/escaped"), 404, "not_found")


def test_a_broken_line_is_named_and_nothing_is_registered(data_root, http, refused):
    broken = write_corpus(data_root / "broken")
    with (broken / "interleaved.jsonl").open("a") as file:
        file.write('{"text_list": 3, "image_info": []}\n')
    facts = refused(http.post("/v1/datasets", json={"name": "broken", "path": str(broken)}), 422, "bad_document")
    assert "interleaved.jsonl:2" in facts["message"]
    refused(http.get("/v1/datasets/broken"), 404, "not_found")


def test_validation_is_a_run_whose_result_is_the_report(live_service, data_root, http):
    folder = write_corpus(data_root / "gap")
    (folder / "images" / "one image.png").unlink()
    run = live_service.admin.submit("validate", {"path": str(folder), "tokens": False, "workers": 0})
    report = work(live_service, run["id"])["result"]["report"]
    assert report["reasons"] == {"missing image": 2, "no usable image": 2}
    names = {row["name"] for row in live_service.admin.artifacts(run["id"])}
    assert {"report.json", "quarantine.jsonl"} <= names
    listed = live_service.admin.artifact(run["id"], "quarantine.jsonl").decode().splitlines()
    assert json.loads(listed[0])["detail"] == "images/one image.png: the file is not in gap"
    lines = live_service.admin.metrics(run["id"])
    assert lines[-1]["step"] == lines[-1]["total_steps"] == 2


def test_a_dataset_is_validated_by_its_name(live_service, squares, http, refused):
    run = live_service.admin.submit("validate", {"dataset": squares, "tokens": False, "workers": 0})
    ended = work(live_service, run["id"])
    assert ended["result"]["dataset_hash"] == live_service.admin.dataset(squares)["content_hash"]
    assert ended["inputs"] == {"datasets": {squares: live_service.admin.dataset(squares)["content_hash"]}}


def test_what_was_converted_is_a_dataset_in_versions(live_service, corpus, data_root):
    first = work(live_service, live_service.admin.submit("convert", {"path": str(corpus), "name": "sharded"})["id"])
    row = live_service.admin.dataset("sharded")
    assert row["content_hash"] == first["result"]["dataset"]["content_hash"]
    assert row["statistics"]["documents"] == row["statistics"]["pairs"] == 1
    page = live_service.admin.dataset_documents("sharded")
    assert [segment.get("text") for segment in page["items"][0]["segments"]] == ["First.", None, "Second."]
    assert live_service.admin.dataset_image("sharded", page["items"][0]["segments"][1]["image"]) == sample_image()
    assert live_service.admin.dataset_documents("sharded", view="pairs", split="val", source="made")["total"] == 1
    assert live_service.admin.dataset_documents("sharded", view="pairs", split="train")["total"] == 0

    work(live_service, live_service.admin.submit("convert", {"path": str(corpus), "name": "sharded"})["id"])
    assert len(live_service.admin.dataset("sharded")["versions"]) == 1, "the same contents"
    other = write_corpus(data_root / "more squares")
    (other / "pairs.jsonl").unlink()
    second = work(live_service, live_service.admin.submit("convert", {"path": str(other), "name": "sharded"})["id"])
    versions = live_service.admin.dataset("sharded")["versions"]
    assert [(row["version"], row["run_id"]) for row in versions] == [(2, second["id"]), (1, first["id"])]
    assert live_service.admin.dataset("sharded")["statistics"]["pairs"] == 0
    assert all((live_service.home / row["path"] / "index.json").is_file() for row in versions), "older ones stay"


def test_a_name_moves_on_when_that_is_asked_for(live_service, data_root, http):
    old, new = write_corpus(data_root / "old"), write_corpus(data_root / "new")
    (new / "pairs.jsonl").unlink()
    live_service.admin.register_dataset("moving", str(old))
    live_service.admin.register_dataset("moving", str(new), new_version=True)
    row = live_service.admin.dataset("moving")
    versions = live_service.admin.dataset("moving")["versions"]
    assert (row["path"], row["statistics"]["pairs"]) == (str(new), 0)
    assert [(version["version"], version["path"]) for version in versions] == [(2, str(new)), (1, str(old))]
    assert versions[0]["content_hash"] == row["content_hash"] != versions[1]["content_hash"]


def test_a_document_that_cannot_be_read_stands_there_with_its_problem(live_service, data_root):
    folder = write_corpus(data_root / "torn")
    live_service.admin.register_dataset("torn", str(folder))
    with (folder / "interleaved.jsonl").open("a") as file:
        file.write('{"text_list": 3, "image_info": []}\n')
    items = live_service.admin.dataset_documents("torn")["items"]
    assert [item.get("problem", "")[:21] for item in items] == ["", "interleaved.jsonl:2: "]


def test_filters_offer_what_there_is(live_service, squares):
    page = live_service.admin.dataset_documents(squares, view="pairs")
    assert (page["splits"], page["sources"]) == (["val"], ["made"])
    assert live_service.admin.dataset_documents(squares, view="pairs", split="test")["items"] == []
