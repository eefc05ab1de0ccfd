"""Datasets: read before they are registered, confined to the data roots, and leafed through."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from api.client import ApiError
from api.services import corpora
from api.services.corpora import find_rows
from lcl_core.data.formats import open_reader
from lcl_core.data.shards.convert import convert
from lcl_core.data.shards.storage import LocalShardStorage
from lcl_core.data.tokenizer import load_tokenizer
from lcl_core.db import registry


def sample_image(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write_corpus(folder: Path) -> Path:
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "one image.png").write_bytes(sample_image())
    (folder / "images" / "draw.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>")
    image = {"image_name": "one image.png", "matched_text_index": 1, "matched_sim": 0.5}
    document = {"text_list": ["First.", "Second."], "image_info": [image]}
    (folder / "interleaved.jsonl").write_text(json.dumps(document) + "\n")
    pair = {"image": "one image.png", "captions": ["a red square", "red"], "labels": {"colour": "red"}}
    (folder / "pairs.jsonl").write_text(json.dumps({**pair, "split": "val", "source": "made"}) + "\n")
    return folder


def work(live_service: Any, run_id: str) -> dict[str, Any]:
    """Do what a worker does with a run of the data plane; the ended run."""
    live_service.work(run_id)
    run = live_service.admin.run(run_id)
    assert run["state"] == "succeeded", run["reason"]
    return run


@pytest.fixture(scope="module")
def corpus(data_root: Path) -> Path:
    return write_corpus(data_root / "squares")


@pytest.fixture(scope="module")
def squares(live_service: Any, corpus: Path) -> str:
    return live_service.admin.register_dataset("squares", str(corpus))["name"]


def test_the_sample_is_there_from_the_start(live_service: Any, http: httpx.Client) -> None:
    sample = next(row for row in live_service.admin.datasets() if row["name"] == "sample")
    assert sample["path"].endswith("drawings.zip")
    figures = live_service.admin.dataset_statistics("sample")
    assert figures["documents"] == 531
    assert figures["splits"]["test_vendor"] > 0
    assert figures["image_check"]["unreadable"] == 0
    assert len(http.get("/v1/datasets/sample").json()["content_hash"]) == 64, "kept once it was made"


def test_a_corpus_is_counted_and_registered(live_service: Any, squares: str, http: httpx.Client) -> None:
    row = http.get("/v1/datasets/squares").json()
    assert row["owner"] == "admin"
    assert row["statistics"]["documents"] == 1
    assert row["statistics"]["sentences"] == 2
    assert row["statistics"]["pairs"] == 1
    assert row["statistics"]["captions"] == 2
    assert row["statistics"]["splits"] == {"val": 1}
    assert row["statistics"]["labels"] == {"colour": {"values": 1, "most_common": {"red": 1}}}
    assert live_service.admin.dataset_statistics("squares") == row["statistics"]


def test_statistics_list_the_largest_of_very_many(
    live_service: Any, data_root: Path, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Splits, sources, labels and values, of which each line may bring another."""
    monkeypatch.setattr("api.services.corpora._PENDING_NAMES", 8)
    folder = write_corpus(data_root / "diverse")
    lines = [
        {"image": "red.png", "captions": ["red"], "split": f"s{n // 2}", "source": f"o{n // 2}",
         "labels": {f"l{n // 2}": "x", "all": f"v{n}"}}
        for n in range(59)
    ]  # fmt: skip
    lines += [{"image": f"gone-{n}.png", "captions": ["gone"], "split": "s0", "source": "o0"} for n in range(300)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    live_service.admin.register_dataset("diverse", str(folder))
    figures = http.get("/v1/datasets/diverse").json()["statistics"]
    assert figures["values"] == {"splits": 30, "sources": 30, "labels": 31}
    assert [len(figures[name]) for name in figures["values"]] == [20, 20, 20]
    assert figures["splits"]["s0"] == figures["sources"]["o0"] == 302
    assert figures["labels"]["all"]["values"] == 59
    assert len(figures["labels"]["all"]["most_common"]) == 20
    assert "l29" not in figures["labels"], "it has one record, the others two"
    assert figures["images"] == 302
    assert figures["image_check"]["tried"] == 200
    assert figures["image_check"]["unreadable"] in (199, 200), "one image of all is there"
    live_service.admin.delete_dataset("diverse")


def test_a_sequence_is_counted_by_its_segments(live_service: Any, data_root: Path) -> None:
    folder = write_corpus(data_root / "sequences")
    (folder / "pairs.jsonl").unlink()
    segments = [{"text": "First."}, {"image": "one image.png"}, {"text": "Second."}, {"text": "Third."}]
    line = {"text_list": [], "image_info": [], "segments": segments}
    (folder / "interleaved.jsonl").write_text(json.dumps(line) + "\n")
    live_service.admin.register_dataset("sequences", str(folder))
    figures = live_service.admin.dataset_statistics("sequences")
    assert (figures["documents"], figures["sentences"], figures["images"]) == (1, 3, 1)
    with (folder / "interleaved.jsonl").open("a") as file:
        file.write(json.dumps({**line, "segments": [{"film": "x"}]}) + "\n")
    with pytest.raises(ApiError, match=r"interleaved\.jsonl:2.*segments"):
        live_service.admin.register_dataset("torn-sequences", str(folder))


def test_a_name_is_taken_once(squares: str, corpus: Path, http: httpx.Client, refused: Any) -> None:
    answer = http.post("/v1/datasets", json={"name": "squares", "path": str(corpus)})
    refused(answer, 409, "dataset_exists", "name")


def test_documents_have_their_images_in_place(live_service: Any, squares: str, http: httpx.Client) -> None:
    page = live_service.admin.dataset_documents("squares")
    assert page["total"] == 1
    texts = [segment.get("text") or segment["image"] for segment in page["items"][0]["segments"]]
    assert texts == ["First.", "one image.png", "Second."]
    url = page["items"][0]["segments"][1]["image_url"]
    answer = http.get(url)
    assert answer.content == sample_image()
    assert answer.headers["content-type"] == "image/png"
    assert live_service.admin.dataset_image("squares", "one image.png") == sample_image()


class _CountedImage(dict[str, Any]):
    """An image of a document, which counts how often its sentence is read."""

    reads = 0

    def __getitem__(self, key: str) -> Any:
        self.reads += key == "matched_text_index"
        return super().__getitem__(key)


def test_a_long_document_reads_the_sentence_of_each_image_once() -> None:
    places = [2, 0, 2, 7, -1, 1]
    images = [
        _CountedImage(image_name=f"{number}.png", matched_text_index=place, matched_sim=0.5)
        for number, place in enumerate(places)
    ]
    document = {"text_list": ["a", "b", "c"], "image_info": images}
    assert find_rows([document], "b", 0, 1) == ([0], None)  # a search makes the view of each document
    assert [image.reads for image in images] == [1] * len(places)
    segments = corpora._document_view("d", 0, document)["segments"]
    order = [segment.get("text") or segment["image"] for segment in segments]
    assert order == ["1.png", "a", "5.png", "b", "0.png", "2.png", "c", "3.png", "4.png"]


def test_documents_are_found_by_their_words(live_service: Any, squares: str) -> None:
    documents = live_service.admin.dataset_documents
    found = documents("squares", q="SECOND first")
    assert (found["rows"], len(found["items"]), found["next"]) == ([0], 1, None)
    assert documents("squares", q="second third")["items"] == []
    assert documents("squares", q="first", offset=1)["items"] == []
    pairs = documents("squares", view="pairs", q="red square", limit=1)
    assert pairs["rows"] == [0], "in captions and labels"


def test_a_search_for_words_ends_in_time_and_says_where_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text_list": [f"number {n}", "even" if n % 2 == 0 else "odd"], "image_info": []} for n in range(10)]
    assert find_rows(rows, "odd", 0, 3) == ([1, 3, 5], 6)
    assert find_rows(rows, "Odd number", 6, 3) == ([7, 9], None)
    assert find_rows(rows, "", 8, 3) == ([8, 9], None)
    monkeypatch.setattr(corpora, "SEARCH_SECONDS", -1.0)
    assert find_rows(rows, "odd", 4, 3) == ([], 4)
    assert find_rows(rows, "", 4, 3) == ([4, 5, 6], 7), "without words nothing is searched"


def test_rows_are_chosen_among_those_of_a_tag() -> None:
    rows = [{"text_list": [f"number {n}", "even" if n % 2 == 0 else "odd"], "image_info": []} for n in range(10)]
    assert find_rows(rows, "", 0, 2, [1, 4, 7, 8]) == ([1, 4], 7)
    assert find_rows(rows, "", 7, 2, [1, 4, 7, 8]) == ([7, 8], None)
    assert find_rows(rows, "odd", 2, 2, [1, 4, 7, 8]) == ([7], None)
    assert find_rows(rows, "", 0, 2, []) == ([], None)


@pytest.fixture
def sentences(live_service: Any, data_root: Path, request: pytest.FixtureRequest) -> str:
    """Five documents of one sentence each, and two captioned images of two splits."""
    name = request.node.name.replace("_", "-")[:60]
    folder = write_corpus(data_root / name)
    lines = [{"text_list": [f"Sentence {n}."], "image_info": []} for n in range(5)]
    (folder / "interleaved.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pairs = [{"image": "one image.png", "captions": [split], "split": split} for split in ("train", "val")]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    live_service.admin.register_dataset(name, str(folder))
    return name


def test_documents_are_tagged_found_by_their_tag_and_left_out(live_service: Any, sentences: str) -> None:
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


def test_tags_that_make_no_sense_are_refused(sentences: str, http: httpx.Client, refused: Any) -> None:
    url, item = f"/v1/datasets/{sentences}/tags", "interleaved.jsonl:1"
    refused(http.patch(url, json={"items": [item]}), 422, "bad_request")
    refused(http.patch(url, json={"items": [item], "add": ["a"], "remove": ["a"]}), 422, "bad_request")
    refused(http.patch(url, json={"items": [item], "add": ["a b"]}), 422, "bad_request", "add.0")
    refused(
        http.patch(url, json={"items": [item, "interleaved.jsonl:6"], "add": ["a"]}), 422, "unknown_item", "items.1"
    )
    refused(http.patch("/v1/datasets/absent/tags", json={"items": [item], "add": ["a"]}), 404, "unknown_dataset")
    assert http.get(url).json()["items"] == []
    spec = {"dataset": sentences, "name": "x", "only_tags": ["a"]}
    refused(http.post("/v1/runs", json={"kind": "convert", "spec": spec}), 422, "unknown_tag", "only_tags.0")
    spec = {"path": "/srv/x", "name": "x", "only_tags": ["a"]}
    refused(http.post("/v1/runs", json={"kind": "convert", "spec": spec}), 422, "bad_spec")


def test_captioned_images_can_be_leafed_through(live_service: Any, squares: str) -> None:
    page = live_service.admin.dataset_documents("squares", view="pairs")
    assert page["items"][0]["labels"] == {"colour": "red"}
    assert [segment.get("text") for segment in page["items"][0]["segments"]] == [None, "a red square", "red"]
    empty = live_service.admin.dataset_documents("squares", offset=5)
    assert (empty["items"], empty["total"], empty["offset"]) == ([], 1, 5)


@pytest.mark.parametrize("name", ["absent.png", "..%2Finterleaved.jsonl", "%2Fetc%2Fpasswd", "a%5Cb"])
def test_only_images_of_the_corpus_come_out(squares: str, http: httpx.Client, refused: Any, name: str) -> None:
    refused(http.get(f"/v1/datasets/squares/images/{name}"), 404)


def test_a_file_that_is_no_image_is_not_given_to_a_browser(squares: str, http: httpx.Client, refused: Any) -> None:
    refused(http.get("/v1/datasets/squares/images/draw.svg"), 422, "image_unreadable")


def test_a_path_outside_the_roots_is_refused(data_root: Path, tmp_path: Path, http: httpx.Client, refused: Any) -> None:
    write_corpus(tmp_path / "elsewhere")
    link = data_root / "link"
    link.symlink_to(tmp_path / "elsewhere")
    for path in (tmp_path / "elsewhere", link, data_root / ".." / "x", Path("/etc"), Path("relative")):
        for url, more in (("/v1/datasets/validate", {}), ("/v1/datasets", {"name": "escaped"})):
            answer = http.post(url, json={"path": str(path), **more})
            refused(answer, 422, "path_forbidden", "path")
        for kind, more in (("validate", {}), ("convert", {"name": "x"})):
            answer = http.post("/v1/runs", json={"kind": kind, "spec": {"path": str(path), **more}})
            refused(answer, 422, "path_forbidden", "path")
    refused(http.post("/v1/datasets/validate", json={"path": str(data_root / "absent")}), 422, "missing_files", "path")
    refused(http.post("/v1/datasets/validate", json={"path": "nul\x00"}), 422, "bad_request", "path")
    refused(http.get("/v1/datasets/escaped"), 404, "unknown_dataset")


def test_a_broken_line_is_named_and_nothing_is_registered(data_root: Path, http: httpx.Client, refused: Any) -> None:
    broken = write_corpus(data_root / "broken")
    with (broken / "interleaved.jsonl").open("a") as file:
        file.write('{"text_list": 3, "image_info": []}\n')
    facts = refused(http.post("/v1/datasets", json={"name": "broken", "path": str(broken)}), 422, "bad_line")
    assert "interleaved.jsonl:2" in facts["message"]
    refused(http.get("/v1/datasets/broken"), 404, "unknown_dataset")


def test_validation_is_a_run_whose_result_is_the_report(live_service: Any, data_root: Path, http: httpx.Client) -> None:
    folder = write_corpus(data_root / "gap")
    (folder / "images" / "one image.png").unlink()
    answer = http.post("/v1/datasets/validate", json={"path": str(folder), "tokens": False, "workers": 0})
    assert answer.status_code == 202
    run = answer.json()
    assert answer.headers["location"] == f"/v1/runs/{run['id']}"
    assert (run["kind"], run["state"], run["spec"]["path"]) == ("validate", "queued", str(folder))
    report = work(live_service, run["id"])["result"]["report"]
    assert report["reasons"] == {"missing image": 2, "no usable image": 2}
    names = {row["name"] for row in live_service.admin.artifacts(run["id"])}
    assert {"report.json", "quarantine.jsonl", "pictures/length.png"} <= names
    listed = live_service.admin.artifact(run["id"], "quarantine.jsonl").decode().splitlines()
    assert json.loads(listed[0])["detail"] == "images/one image.png: the file is not in gap"
    lines = live_service.admin.metrics(run["id"])
    assert lines[-1]["step"] == lines[-1]["total_steps"] == 2


def test_a_dataset_is_validated_by_its_name(live_service: Any, squares: str, http: httpx.Client, refused: Any) -> None:
    run = live_service.admin.validate_dataset(squares, tokens=False, workers=0, min_image_side=9)
    ended = work(live_service, run["id"])
    assert ended["result"]["report"]["reasons"]["image too small"] == 2
    assert ended["result"]["dataset_hash"] == live_service.admin.dataset(squares)["content_hash"]
    assert ended["inputs"] == {"datasets": {squares: live_service.admin.dataset(squares)["content_hash"]}}
    refused(http.post("/v1/datasets/absent/validate"), 404, "unknown_dataset")
    refused(http.post(f"/v1/datasets/{squares}/validate", json={"workers": -1}), 422, "bad_spec", "workers")
    refused(http.post(f"/v1/datasets/{squares}/validate", json={"wrokers": 1}), 422, "bad_request")
    for switch in ({"workers": True}, {"tokens": "yes"}, {"workers": "1"}):
        refused(http.post(f"/v1/datasets/{squares}/validate", json=switch), 422, "bad_request", *switch)


def test_a_viewer_may_not_start_one(live_service: Any, squares: str, refused: Any) -> None:
    with live_service.http("viewer") as http:
        refused(http.post(f"/v1/datasets/{squares}/validate"), 403, "forbidden")


def test_what_was_converted_is_a_dataset_in_versions(live_service: Any, corpus: Path, data_root: Path) -> None:
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
    assert len(live_service.admin.dataset_versions("sharded")) == 1, "the same contents"
    other = write_corpus(data_root / "more squares")
    (other / "pairs.jsonl").unlink()
    second = work(live_service, live_service.admin.submit("convert", {"path": str(other), "name": "sharded"})["id"])
    versions = live_service.admin.dataset_versions("sharded")
    assert [(row["version"], row["run_id"]) for row in versions] == [(2, second["id"]), (1, first["id"])]
    assert live_service.admin.dataset("sharded")["statistics"]["pairs"] == 0
    assert all((live_service.home / row["path"] / "index.json").is_file() for row in versions), "older ones stay"


def test_shards_are_registered_from_their_index_alone(
    live_service: Any, corpus: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a record was read")

    folder = data_root / "indexed"
    convert(open_reader(corpus).records(), folder)
    monkeypatch.setattr(LocalShardStorage, "read_range", refuse)
    live_service.admin.register_dataset("indexed", str(folder))
    figures = live_service.admin.dataset_statistics("indexed")
    assert (figures["documents"], figures["pairs"], figures["images"]) == (1, 1, 2)
    assert (figures["splits"], figures["sources"], figures["left_out"]) == ({"val": 1}, {"made": 1}, {})


def test_a_name_moves_on_when_that_is_asked_for(live_service: Any, data_root: Path, http: httpx.Client) -> None:
    old, new = write_corpus(data_root / "old"), write_corpus(data_root / "new")
    (new / "pairs.jsonl").unlink()
    live_service.admin.register_dataset("moving", str(old))
    live_service.admin.register_dataset("moving", str(new), new_version=True)
    row = live_service.admin.dataset("moving")
    versions = live_service.admin.dataset_versions("moving")
    assert (row["path"], row["statistics"]["pairs"]) == (str(new), 0)
    assert [(version["version"], version["path"]) for version in versions] == [(2, str(new)), (1, str(old))]
    assert versions[0]["content_hash"] == row["content_hash"] != versions[1]["content_hash"]


def test_a_document_that_cannot_be_read_stands_there_with_its_problem(live_service: Any, data_root: Path) -> None:
    folder = write_corpus(data_root / "torn")
    live_service.admin.register_dataset("torn", str(folder))
    with (folder / "interleaved.jsonl").open("a") as file:
        file.write('{"text_list": 3, "image_info": []}\n')
    items = live_service.admin.dataset_documents("torn")["items"]
    assert [item.get("problem", "")[:21] for item in items] == ["", "interleaved.jsonl:2: "]


def test_segments_are_measured_when_asked(live_service: Any, squares: str) -> None:
    """Without an encoder as the preset ``sample``: 64 pixels in patches of 16, two marks, a context of 256."""
    page = live_service.admin.dataset_documents(squares, tokens=True)
    assert [segment["tokens"] for segment in page["items"][0]["segments"]] == [2, 18, 2]
    assert (page["tokens_of"]["image"], page["tokens_of"]["row"]) == (18, 256)
    bare = live_service.admin.dataset_documents(squares)
    assert "tokens" not in bare["items"][0]["segments"][0]
    assert bare["tokens_of"] is None


def test_segments_are_measured_in_the_tokens_of_an_encoder(
    live_service: Any, squares: str, encoder: Any, encoder_dir: Path
) -> None:
    """One trained here: 32 pixels in patches of 16, a context of 48. The same files, imported, are not read here."""
    with pytest.raises(ApiError) as refused:
        live_service.admin.dataset_documents(squares, tokens=True, encoder=encoder["name"])
    assert (refused.value.status, refused.value.code) == (422, "no_tokens")
    with live_service.context.database.session() as session:
        row = registry.get_encoder(session, encoder["id"])
        row.info = {name: value for name, value in row.info.items() if name != "imported_from"}
    page = live_service.admin.dataset_documents(squares, tokens=True, encoder=encoder["name"])
    assert page["tokens_of"] == {"name": encoder["name"], "image": 6, "row": 48}
    tokenizer = load_tokenizer(encoder_dir / "tokenizer.json")
    for segment in page["items"][0]["segments"]:
        assert segment["tokens"] == (len(tokenizer.encode(segment["text"])) if "text" in segment else 6)
    assert live_service.admin.dataset_documents(squares, tokens=True)["tokens_of"]["name"] == encoder["name"]


def test_filters_offer_what_there_is(live_service: Any, squares: str) -> None:
    page = live_service.admin.dataset_documents(squares, view="pairs")
    assert (page["splits"], page["sources"]) == (["val"], ["made"])
    assert live_service.admin.dataset_documents(squares, view="pairs", split="test")["items"] == []


@pytest.mark.parametrize("name", ["", "../x", "a/b", "x" * 101, ".hidden"])
def test_a_bad_name_is_refused(corpus: Path, http: httpx.Client, refused: Any, name: str) -> None:
    refused(http.post("/v1/datasets", json={"name": name, "path": str(corpus)}), 422, "bad_request", "name")
