"""Collections that change over REST: added to, removed from, folded, exported and deleted."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from anyio import to_thread
from sqlalchemy import select

from api.client import ApiError, Client
from api.services import collection_items
from lcl_core.db import collections, registry
from lcl_core.db.models import CollectionChange, EncoderRow
from tests.api.sample_assets import make_collection, png

Json = dict[str, Any]
PATH = "/v1/collections/squares"
BLACK, PINK, GREY = png("black"), png("pink"), png("grey")


@pytest.fixture
def squares(live_service, encoder, encoder_dir, sample_images):
    """A collection of four images of its own for each test."""
    yield make_collection(live_service, encoder, encoder_dir, sample_images)
    with live_service.context.database.session() as session:
        for row in registry.list_collections(session):
            collections.delete_collection(session, row)


def url(data):
    return "data:image/png;base64," + base64.b64encode(data).decode()


def add(http, *items, replace=False):
    return http.post(f"{PATH}/items", json={"items": list(items), "replace": replace})


def names(found):
    return [hit["image"] for hit in found["hits"]]


def test_an_added_image_is_found_at_once(live_service, http, squares):
    item = {"name": "black.png", "captions": ["a black square", "night"], "labels": {"hue": "k", "new": "yes"}}
    answer = add(http, {**item, "image": url(BLACK), "split": "val", "source": "camera"})
    assert answer.status_code == 201
    (identity,) = answer.json()["ids"]
    assert answer.json()["images"] == 5
    (hit,) = live_service.admin.search("squares", image=BLACK, k=1)["hits"]
    assert (hit["id"], hit["caption"], hit["source"]) == (identity, "a black square", "camera")
    assert hit["score"] == pytest.approx(1, abs=1e-5)
    assert http.get(hit["image_url"]).content == BLACK
    (words,) = live_service.admin.search("squares", text="night", target="texts", k=1)["hits"]
    assert (words["text"], words["items"]) == ("night", [identity])
    assert words["score"] == pytest.approx(1, abs=1e-5)
    shown = live_service.admin.collection("squares")
    assert (shown["images"], shown["texts"], shown["changes"]) == (5, 6, 1)
    assert shown["labels"]["new"] == ["yes"]
    assert live_service.admin.collections()[0]["images"] == 5
    assert [record["image"] for record in http.get(f"{PATH}/items?offset=3").json()["items"]] == [
        "white.png",
        "black.png",
    ]


def test_a_filter_comes_before_the_best_of_both(live_service, http, squares):
    news = {"black": BLACK, "pink": PINK, "grey": GREY}
    items = [{"name": name, "image": url(data), "labels": {"hue": "new"}} for name, data in news.items()]
    assert add(http, *items).status_code == 201
    everything = names(live_service.admin.search("squares", image=BLACK, k=7))
    for name in news:
        assert name in everything
    worst = [name for name in everything if name in news][-1]
    assert names(live_service.admin.search("squares", image=news[worst], k=1, where={"hue": "new"})) == [worst]
    assert set(names(live_service.admin.search("squares", image=BLACK, k=3, where={"hue": "new"}))) == set(news)
    assert names(live_service.admin.search("squares", image=BLACK, k=1, where={"hue": "r"})) == ["red.png"]


def test_an_image_that_was_removed_is_gone(live_service, http, refused, squares):
    (hit,) = live_service.admin.search("squares", text="a red square", k=1, where={"hue": "r"})["hits"]
    (added,) = live_service.admin.add_items("squares", [{"image": BLACK}])["ids"]
    for identity in (hit["id"], added):
        assert http.delete(f"{PATH}/items/{identity}").status_code == 204
        refused(http.delete(f"{PATH}/items/{identity}"), 404, "not_found")
        refused(http.get(f"{PATH}/items/{identity}/image"), 404, "not_found")
        assert identity not in live_service.admin.vectors("squares")[0]
        assert identity not in [found["id"] for found in live_service.admin.search("squares", image=BLACK)["hits"]]
    assert "a red square" not in [
        hit["text"] for hit in live_service.admin.search("squares", text="red", target="texts")["hits"]
    ]
    refused(http.delete(f"{PATH}/items/img_x"), 404, "not_found")
    refused(http.delete("/v1/collections/absent/items/img_x"), 404, "not_found")
    assert live_service.admin.collection("squares")["images"] == 3


def test_the_same_name_again_replaces_only_on_request(live_service, http, refused, squares):
    for name in ("red.png", "black.png"):
        given = {"name": name, "image": url(BLACK), "captions": ["night"], "split": "new"}
        if name == "black.png":
            assert add(http, given).status_code == 201
        other = {**given, "image": url(PINK)}
        facts = refused(add(http, {"image": url(PINK)}, other), 409, "conflict", "items.1.name")
        assert name in facts["message"]
        assert add(http, given, replace=True).status_code == 201
        (hit,) = live_service.admin.search("squares", image=BLACK, k=1, where={"split": "new"})["hits"]
        assert live_service.admin.item_image("squares", hit["id"]) == BLACK
    assert live_service.admin.collection("squares")["images"] == 5


@pytest.mark.parametrize(
    ("bad", "status", "code", "field"),
    [
        ({"image": "https://example.org/x.png"}, 422, "invalid_value", "items.1.image"),
        ({"image": url(b"no image")}, 422, "image_unreadable", "items.1.image"),
        ({"image": url(BLACK[:40])}, 422, "image_unreadable", "items.1.image"),
        ({"captions": ["x" * 501]}, 422, "invalid_value", "items.1.captions.0"),
        ({"captions": ["\x00"]}, 422, "invalid_value", "items.1.captions.0"),
        ({"captions": ["x"] * 9}, 422, "invalid_value", "items.1.captions"),
        ({"labels": {"split": "val"}}, 422, "invalid_value", "items.1.labels"),
        ({"name": "first"}, 422, "invalid_value", "items.1.name"),
        ({"name": "x\n"}, 422, "invalid_value", "items.1.name"),
        ({"vector": [1.0] * 24}, 422, "invalid_value", "items.1.vector"),
    ],
)
def test_one_bad_item_names_its_field_and_nothing_is_kept(
    live_service, http, refused, squares, bad, status, code, field
):
    answer = add(http, {"name": "first", "image": url(BLACK)}, {"image": url(PINK), **bad})
    refused(answer, status, code, field)
    assert live_service.admin.collection("squares")["changes"] == 0


def test_other_bad_calls(live_service, http, refused, squares, encoder_dir):
    refused(add(http), 422, "invalid_value", "items")
    refused(add(http, *({"image": url(BLACK)} for _ in range(9))), 422, "too_many_items", "items")
    refused(http.post("/v1/collections/absent/items", json={"items": [{"image": url(BLACK)}]}), 404)
    with live_service.http("viewer") as viewer:
        refused(add(viewer, {"image": url(BLACK)}), 403, "forbidden")
        refused(viewer.delete(f"{PATH}/items/img_x"), 403, "forbidden")
    with live_service.context.database.session() as session:
        gone = [(row, session.delete(row))[0] for row in session.query(EncoderRow)]
    refused(add(http, {"image": url(BLACK)}), 409, "conflict")
    with live_service.context.database.session() as session:
        session.add_all(
            EncoderRow(**{c.key: getattr(row, c.key) for c in EncoderRow.__table__.columns}) for row in gone
        )
    assert add(http, {"image": url(BLACK)}).status_code == 201


def test_a_repeated_request_adds_once(live_service, http, refused, squares):
    item = {"name": "black.png", "image": url(BLACK), "captions": ["night"], "labels": {"hue": "k"}}
    first, again = add(http, item), add(http, item)
    assert (again.status_code, again.json()) == (201, first.json())
    refused(add(http, {**item, "image": url(PINK)}), 409, "conflict")
    assert live_service.admin.collection("squares")["changes"] == 1


def test_two_services_on_one_database_see_each_others_changes(live_service, serve, squares):
    with (
        serve(live_service.context.settings) as address,
        Client(address, live_service.keys["submitter"], attempts=1) as other,
    ):
        assert len(other.search("squares", image=BLACK)["hits"]) == 4, "both have it open"
        assert len(live_service.admin.search("squares", image=BLACK)["hits"]) == 4
        (black,) = other.add_items("squares", [{"image": BLACK, "name": "black.png"}])["ids"]
        assert names(live_service.admin.search("squares", image=BLACK, k=1)) == ["black.png"]
        assert live_service.admin.item_image("squares", black) == BLACK
        live_service.admin.add_items("squares", [{"image": PINK, "name": "black.png"}], replace=True)
        assert other.item_image("squares", black) == PINK
        assert len(other.search("squares", image=BLACK)["hits"]) == 5
        live_service.admin.remove_item("squares", black)
        assert len(other.search("squares", image=BLACK)["hits"]) == 4
        with pytest.raises(ApiError) as caught:
            other.item_image("squares", black)
        assert caught.value.code == "not_found"
        fold(live_service, squares)
        other.add_items("squares", [{"image": GREY, "name": "grey.png"}])
        assert names(live_service.admin.search("squares", image=GREY, k=1)) == ["grey.png"]
        assert len(other.search("squares", image=BLACK)["hits"]) == 5


def fold(live_service, squares, **more):
    """An index run that adds to the collection, done as a worker does it; the run."""
    spec = {"encoder": squares["encoder_id"], "collection": "squares", "mode": "add", "dataset": None, **more}
    run_id = live_service.admin.submit("index", spec)["id"]
    live_service.work(run_id)
    run = live_service.admin.run(run_id)
    assert run["state"] == "succeeded", run["reason"]
    return run


def test_a_fold_changes_nothing_that_is_seen(live_service, squares, sample_images):
    live_service.admin.add_items(
        "squares",
        [{"image": BLACK, "captions": ["night"], "name": "black.png"}, {"image": PINK, "name": "red.png"}],
        replace=True,
    )
    live_service.admin.remove_item(
        "squares", live_service.admin.search("squares", image=sample_images["blue"], k=1)["hits"][0]["id"]
    )
    before = [
        live_service.admin.search("squares", image=BLACK, target=target)["hits"] for target in ("images", "texts")
    ]
    records = exported(live_service, "images")
    folder = live_service.home / "collections" / squares["id"]
    assert folder.is_dir()
    run = fold(live_service, squares)
    assert run["collection_id"] == squares["id"], "it is the same collection as before"
    after = [live_service.admin.search("squares", image=BLACK, target=target)["hits"] for target in ("images", "texts")]
    for old, new in zip(before[0] + before[1], after[0] + after[1], strict=True):
        assert {**old, "score": 0} == {**new, "score": 0}
        assert old["score"] == pytest.approx(new["score"], abs=1e-6)
    assert exported(live_service, "images") == records
    assert live_service.admin.collection("squares")["images"] == 4
    with live_service.context.database.reading() as session:
        assert (
            collections.changes_since(session, squares["id"], registry.get_collection(session, "squares").path, 0) == []
        )
    assert live_service.admin.item_image("squares", after[0][0]["id"]) == BLACK


def test_a_corpus_is_added_to_what_is_there(live_service, squares):
    live_service.admin.add_items("squares", [{"image": BLACK, "name": "black.png"}])
    run = fold(live_service, squares, dataset="sample", splits=["val"])
    assert run["result"]["kept"] == 5
    shown = live_service.admin.collection("squares")
    assert shown["images"] == 5 + run["result"]["added"] == run["result"]["collection"]["images"]
    assert names(live_service.admin.search("squares", image=BLACK, k=1)) == ["black.png"]


def exported(live_service, target):
    path = live_service.home / "export.jsonl"
    live_service.admin.export_collection("squares", path, target)
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_an_export_is_what_it_holds_now(live_service, http, refused, squares):
    (black,) = live_service.admin.add_items("squares", [{"image": BLACK, "captions": ["night ☃"]}])["ids"]
    live_service.admin.remove_item("squares", live_service.admin.vectors("squares")[0][0])
    for target in ("images", "texts"):
        lines = exported(live_service, target)
        ids, rows = live_service.admin.vectors("squares", target)
        assert [line["id"] for line in lines] == ids
        for line, row in zip(lines, rows, strict=True):
            assert np.array_equal(np.float32(line["vector"]), np.float32(row)), "to the last bit"
            assert line["encoder_hash"] == squares["encoder_hash"]
    images, texts = exported(live_service, "images"), exported(live_service, "texts")
    assert (images[-1]["id"], images[-1]["captions"]) == (black, ["night ☃"])
    assert (texts[-1]["text"], texts[-1]["items"]) == ("night ☃", [black])
    assert len(images) == len(texts) == 4
    assert http.get(f"{PATH}/export").headers["content-type"].startswith("application/x-ndjson")
    refused(http.get("/v1/collections/absent/export"), 404, "not_found")


def test_a_download_of_vectors_is_of_one_state_while_images_are_tagged(live_service, squares, monkeypatch):
    monkeypatch.setattr("api.client.client.VECTORS_PER_PAGE", 2)
    ids, rows = live_service.admin.vectors("squares")
    pages = live_service.admin.vector_pages("squares")
    found = [next(pages)]
    live_service.admin.change_labels("squares", [ids[0]], add={"tags": ["checked"]})
    found += pages
    assert [page["total"] for page in found] == [4, 4]
    assert [item for page in found for item in page["ids"]] == ids
    assert [row for page in found for row in page["vectors"]] == rows
    assert live_service.admin.vectors("squares")[0] == [*ids[1:], ids[0]]


def change(http, ids, **given):
    return http.patch(f"{PATH}/items", json={"ids": ids, **given})


def test_tags_of_images_are_a_filter_at_once_and_after_a_fold(live_service, http, squares):
    live_service.admin.add_items("squares", [{"image": BLACK, "name": "black.png", "captions": ["night"]}])
    before = exported(live_service, "images")
    texts = exported(live_service, "texts")
    ids = {line["image"]: line["id"] for line in before}
    chosen = [ids["red.png"], ids["black.png"]]
    answer = change(http, chosen, add={"tags": ["checked", "warm; bright"]}, labels={"year": "1990", "hue": None})
    assert (answer.status_code, answer.json()) == (200, {"changed": 2})
    assert change(http, chosen, add={"tags": ["checked"]}).json() == {"changed": 0}, "they have it"
    assert change(http, [chosen[1]], remove={"tags": ["checked"]}).json() == {"changed": 1}

    def check():
        shown = live_service.admin.collection("squares")
        assert shown["label_types"] == {**shown["label_types"], "tags": "set", "year": "number", "hue": "text"}
        assert sorted(shown["labels"]["tags"]) == ["checked", "warm; bright"]
        assert (shown["images"], shown["texts"]) == (5, len(texts))
        found = [
            set(names(live_service.admin.search("squares", text="red", where=where)))
            for where in (
                {"tags": "checked"}, {"tags": {"all": ["warm; bright"]}}, {"year": {"lt": 2000}}, {"hue": "r"}
            )
        ]  # fmt: skip
        assert found == [{"red.png"}, {"red.png", "black.png"}, {"red.png", "black.png"}, set()]
        after = {line["image"]: line for line in exported(live_service, "images")}
        for line in before:
            same = after[line["image"]]
            assert same["vector"] == line["vector"]
            assert (same["captions"], same["media_type"]) == (line["captions"], line["media_type"])
        assert {line["text"]: line["vector"] for line in exported(live_service, "texts")} == {
            line["text"]: line["vector"] for line in texts
        }

    check()
    data = {item: live_service.admin.item_image("squares", item) for item in chosen}
    fold(live_service, squares)
    check()
    assert {item: live_service.admin.item_image("squares", item) for item in chosen} == data
    assert change(http, [ids["red.png"]], remove={"tags": ["checked", "warm; bright"]}).json() == {"changed": 1}
    assert "tags" not in live_service.admin.item("squares", ids["red.png"])["labels"], "an empty set is none"


def test_a_change_of_labels_stores_no_bytes_that_the_directory_has(live_service, http, squares, sample_images):
    (black,) = live_service.admin.add_items("squares", [{"image": BLACK, "name": "black.png"}])["ids"]
    red, blue = (
        live_service.admin.search("squares", image=sample_images[hue], k=1)["hits"][0]["id"] for hue in ("red", "blue")
    )

    def stored():
        query = select(CollectionChange.item, CollectionChange.picture)
        with live_service.context.database.reading() as session:
            return dict(session.execute(query.where(CollectionChange.collection_id == squares["id"])).tuples().all())

    for tag in ("one", "two"):
        assert change(http, [black, red, blue], add={"tags": [tag]}).json() == {"changed": 3}
        assert stored() == {black: BLACK, red: None, blue: None}
    expected = {black: BLACK, red: sample_images["red"], blue: sample_images["blue"]}
    for _ in range(2):
        assert {item: live_service.admin.item_image("squares", item) for item in expected} == expected
        fold(live_service, squares)
    assert stored() == {}


@pytest.mark.parametrize(
    ("given", "status", "code", "field"),
    [
        ({}, 422, "invalid_value", None),
        ({"add": {"tags": []}}, 422, "invalid_value", "add.tags"),
        ({"add": {"split": ["val"]}}, 422, "invalid_value", "add"),
        ({"labels": {"source": "x"}}, 422, "invalid_value", "labels"),
        ({"labels": {"tags": None}, "add": {"tags": ["x"]}}, 422, "invalid_value", None),
        ({"add": {"hue": ["x"]}}, 422, "invalid_value", "add.hue"),
        ({"labels": {f"label {n}": "x" for n in range(32)}}, 422, "invalid_value", "ids.0"),
        ({"ids": ["img_0000000000000000"], "add": {"tags": ["x"]}}, 404, "not_found", "ids.0"),
        ({"ids": ["FIRST", "no id"], "add": {"tags": ["x"]}}, 404, "not_found", "ids.1"),
        ({"ids": [], "add": {"tags": ["x"]}}, 422, "invalid_value", "ids"),
    ],
)
def test_a_bad_change_of_labels_names_its_field_and_changes_nothing(
    live_service, http, refused, squares, given, status, code, field
):
    first = live_service.admin.search("squares", text="a red square", k=1)["hits"][0]["id"]
    ids = [first if item == "FIRST" else item for item in given.get("ids", [first])]
    refused(change(http, **{**given, "ids": ids}), status, code, field)
    with live_service.http("viewer") as viewer:
        refused(change(viewer, ids, add={"tags": ["x"]}), 403, "forbidden")
    assert live_service.admin.collection("squares")["changes"] == 0


def test_a_label_that_another_changes_meanwhile_is_kept(live_service, http, squares, monkeypatch):
    (item,) = [hit["id"] for hit in live_service.admin.search("squares", text="a red square", k=1)["hits"]]
    relabel, calls = collection_items._relabel, []

    def meanwhile(*given):
        changed = relabel(*given)
        calls.append(changed)
        if len(calls) == 1:
            live_service.admin.change_labels("squares", [item], add={"tags": ["of another"]})
        return changed

    monkeypatch.setattr(collection_items, "_relabel", meanwhile)
    assert change(http, [item], add={"tags": ["mine"]}).json() == {"changed": 1}
    assert json.loads(live_service.admin.item("squares", item)["labels"]["tags"]) == ["of another", "mine"]


def test_a_collection_goes_with_its_folder(live_service, http, refused, squares):
    key = live_service.admin.create_key("a-stranger", "submitter")["key"]
    with Client(live_service.url, key, attempts=1) as anonymous, pytest.raises(ApiError) as caught:
        anonymous.delete_collection("squares")
    assert (caught.value.status, caught.value.code) == (403, "forbidden")
    live_service.admin.add_items("squares", [{"image": BLACK}])
    live_service.admin.delete_collection("squares")
    refused(http.get(PATH), 404, "not_found")
    refused(http.delete(PATH), 404, "not_found")
    assert not (live_service.home / "collections" / squares["id"]).exists()


def test_a_fold_while_images_are_embedded_loses_nothing(live_service, http, squares, monkeypatch):
    embed, folds = collection_items._text_vectors, [fold]

    async def meanwhile(*given):
        while folds:
            await to_thread.run_sync(folds.pop(), live_service, squares)
        return await embed(*given)

    monkeypatch.setattr(collection_items, "_text_vectors", meanwhile)
    older = live_service.admin.collection("squares")["run_id"]
    assert add(http, {"image": url(BLACK), "name": "black.png"}).status_code == 201
    assert live_service.admin.collection("squares")["run_id"] != older
    assert names(live_service.admin.search("squares", image=BLACK, k=1)) == ["black.png"]
    assert live_service.admin.collection("squares")["images"] == 5


def test_labels_have_types(live_service, http, refused, squares):
    assert squares["label_types"] == {"hue": "text", "split": "text", "source": "text"}
    for name, data, labels in (
        ("a", BLACK, {"year": "1985", "taken": "2020-02-28", "tags": ["red", "round"], "hue": "k"}),
        ("b", PINK, {"year": "1990", "taken": "2020-02-29T12:00:00Z", "tags": ["red"]}),
    ):
        assert add(http, {"image": url(data), "name": name, "labels": labels}).status_code == 201
    facts = live_service.admin.collection("squares")
    assert facts["label_types"].items() >= {"year": "number", "taken": "date", "tags": "set"}.items()
    assert facts["labels"]["tags"] == ["red", "round"]
    expected = [
        ({"year": {"gte": 1985, "lt": 1990}}, ["a"]),
        ({"year": 1990}, ["b"]),
        ({"year": "1990"}, ["b"]),
        ({"taken": {"gt": "2020-02-28"}}, ["b"]),
        ({"taken": {"lte": "2020-02-29"}}, ["a", "b"]),
        ({"tags": {"all": ["red", "round"]}}, ["a"]),
        ({"tags": {"any": ["round", "red"]}, "hue": ["k", "r"]}, ["a"]),
        ({"tags": "red"}, ["a", "b"]),
        ({"tags": {"none": ["round"]}, "year": {"gte": 1985}}, ["b"]),
    ]
    for where, found in expected:
        assert sorted(names(live_service.admin.search("squares", text="a square", where=where))) == found, where
    item = {"image": url(GREY), "name": "c"}
    message = refused(add(http, {**item, "labels": {"hue": ["k"]}}), 422, "invalid_value", "items.0.labels.hue")[
        "message"
    ]
    assert "'hue' is text" in message
    assert add(http, {**item, "labels": {"hue": "k", "year": "about 1990"}}).status_code == 201
    assert live_service.admin.collection("squares")["label_types"]["year"] == "text", "mixed values"


@pytest.mark.parametrize(
    ("where", "code", "field"),
    [
        ({"hue": {"gte": 1}}, "invalid_value", "where.hue"),
        ({"hue": 1}, "invalid_value", "where.hue"),
        ({"hue": {}}, "invalid_value", "where.hue"),
        ({"hue": {"from": 1}}, "invalid_value", "where.hue.from"),
        ({"hue": {"gte": True}}, "invalid_value", "where.hue.gte"),
        ({"hue": {"any": "r"}}, "invalid_value", "where.hue.any"),
        ({"hue": True}, "invalid_value", "where.hue"),
        ({"hue": [1]}, "invalid_value", "where.hue.0"),
        ({"hue": None}, "invalid_value", "where.hue"),
    ],
)
def test_a_filter_that_does_not_fit_names_its_field(http, squares, refused, where, code, field):
    refused(http.post(f"{PATH}/search", json={"text": "x", "where": where}), 422, code, field)
