"""A collection searched by text, image and vector."""

import json

import numpy as np
import pytest
from safetensors.numpy import load

from lcl_core.db.models import EncoderRow


def search(http, **body):
    return http.post("/v1/collections/squares/search", json=body)


def test_a_collection_is_found_by_id_and_name(live_service, encoder, collection):
    assert live_service.admin.collection(collection["id"]) == collection
    assert (collection["images"], collection["texts"], collection["dim"]) == (4, 4, 24)
    assert collection["encoder_id"] == encoder["id"]
    assert collection["labels"]["hue"] == ["r", "g", "b", "w"]
    assert [row["id"] for row in live_service.admin.collections()] == [collection["id"]]


def test_an_image_finds_itself_first(live_service, collection, sample_images):
    found = live_service.admin.search("squares", image=sample_images["blue"], k=3)
    assert len(found["hits"]) == 3
    assert found["took_ms"] > 0
    best = found["hits"][0]
    assert best["score"] == pytest.approx(1, abs=1e-5)
    assert best["caption"] == "a blue square"
    assert best["labels"] == {"hue": "b"}
    assert [hit["score"] for hit in found["hits"]] == sorted((hit["score"] for hit in found["hits"]), reverse=True)
    assert live_service.admin.item_image("squares", best["id"]) == sample_images["blue"]
    assert live_service.admin.item("squares", best["id"]).items() <= best.items()


def test_the_images_address_works_and_may_be_kept(live_service, http, collection, sample_images):
    hit = live_service.admin.search("squares", image=sample_images["red"], k=1)["hits"][0]
    answer = http.get(hit["image_url"])
    assert answer.content == sample_images["red"]
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["cache-control"].startswith("private")


def test_a_text_that_does_not_fit_is_said_to_be_cut(live_service, collection):
    assert live_service.admin.search("squares", text="a green square")["text_limit"] is None
    assert live_service.admin.search("squares", text="a green square " * 30)["text_limit"] > 0


def test_a_text_is_compared_with_captions_too_unless_looks_alone_are_asked_for(live_service, collection):
    find = live_service.admin.search
    for hue in ("red", "green", "blue", "white"):
        hits = find("squares", text=f"a {hue}", k=4)["hits"]
        assert (hits[0]["caption"], hits[0]["rank_captions"], hits[0]["found"]) == (f"a {hue} square", 1, [hue])
        assert len({hit["id"] for hit in hits}) == 4
        plain = find("squares", text=hue, k=4, match="looks")["hits"]
        assert {hit["id"]: hit["score"] for hit in hits} == pytest.approx({hit["id"]: hit["score"] for hit in plain})
        assert [hit["rank_looks"] for hit in plain] == [1, 2, 3, 4]
        (alone,) = find("squares", text=hue, match="captions")["hits"]
        assert (alone["id"], alone["rank_looks"]) == (hits[0]["id"], None)
    page = find("squares", text="white", k=3, offset=1)["hits"]
    assert [hit["id"] for hit in page] == [hit["id"] for hit in hits[1:]]
    away = find("squares", text="white", weights={"text": -1}, k=4)["hits"]
    assert {hit["rank_captions"] for hit in away} == {None}


def test_the_answer_says_how_the_text_is_read(live_service, collection):
    found = live_service.admin.search("squares", text="show me a picture of a square without the red")
    assert (found["read_as"], found["not_understood"]) == ("square without red", ["without"])


def test_a_filter_comes_before_the_best(live_service, http, refused, collection):
    hits = live_service.admin.search("squares", text="a red square", k=4, where={"hue": "w"})["hits"]
    assert [hit["caption"] for hit in hits] == ["a white square"]
    both = search(http, text="a red square", k=4, where={"hue": ["w", "g"], "split": "val"}).json()["hits"]
    assert {hit["labels"]["hue"] for hit in both} == {"w", "g"}
    refused(search(http, text="x", where={"size": "big"}), 422, "invalid_value", "where.size")


def test_a_vector_searches_without_an_encoder(live_service, collection):
    ids, rows = live_service.admin.vectors("squares")
    assert np.array(rows).shape == (4, 24)
    for item, row in zip(ids, rows, strict=True):
        assert live_service.admin.search("squares", vector=row, k=1)["hits"][0]["id"] == item


def test_an_item_finds_its_neighbours_and_itself_first(live_service, collection, sample_images):
    by_bytes = live_service.admin.search("squares", image=sample_images["blue"])["hits"]
    by_item = live_service.admin.search("squares", item=by_bytes[0]["id"])["hits"]
    assert [hit["id"] for hit in by_item] == [hit["id"] for hit in by_bytes]
    text = live_service.admin.search("squares", text="a blue square", target="texts", k=1)["hits"][0]
    assert live_service.admin.search("squares", item=text["id"], target="texts", k=1)["hits"][0]["id"] == text["id"]


def test_a_mixture_is_the_weighted_sum_of_its_directions(live_service, collection, sample_images):
    client, words = live_service.admin, "red square"
    item = client.search("squares", image=sample_images["white"], k=1)["hits"][0]["id"]
    (red,), (blue,) = client.embed_texts("tiny", [words]), client.embed_images("tiny", [sample_images["blue"]])
    rows = dict(zip(*client.vectors("squares"), strict=True))
    given = [0.0] * 23 + [7.0]  # its length does not count
    weights = {"text": 0.5, "image": 1.0, "item": -0.25, "vector": 0.1}
    total = 0.5 * np.array(red) + np.array(blue) - 0.25 * np.array(rows[item]) + 0.1 * np.eye(24)[23]
    found = client.search("squares", text=words, image=sample_images["blue"], item=item, vector=given, weights=weights)
    expected = {name: float(np.dot(row, total) / np.linalg.norm(total)) for name, row in rows.items()}
    assert {hit["id"]: hit["score"] for hit in found["hits"]} == pytest.approx(expected, abs=1e-5)
    away = client.search("squares", item=item, weights={"item": -1})["hits"]
    assert away[-1]["id"] == item


def test_a_mixture_that_cancels_out_or_names_nothing_is_refused(live_service, http, refused, collection, sample_images):
    item = live_service.admin.search("squares", image=sample_images["red"], k=1)["hits"][0]["id"]
    row = dict(zip(*live_service.admin.vectors("squares"), strict=True))[item]
    body = {"item": item, "vector": row, "weights": {"item": -3, "vector": 3}}
    assert "cancels out" in refused(search(http, **body), 422, "invalid_value", "weights")["message"]
    refused(search(http, item="img_0000000000000000"), 404, "not_found", "item")
    refused(search(http, item="../manifest.json"), 404, "not_found", "item")


def test_near_duplicates_come_in_groups_and_pages(live_service, http, refused, collection):
    ids, rows = live_service.admin.vectors("squares")
    near = np.array(rows) @ np.array(rows).T
    left, right = sorted(divmod(int(np.triu(near, 1).argmax()), 4))
    found = live_service.admin.duplicates("squares", threshold=float(near[left, right]) - 1e-5)
    (group,) = found["groups"]
    assert (found["total"], group["size"], found["offset"]) == (1, 2, 0)
    assert [item["id"] for item in group["items"]] == [ids[left], ids[right]]
    assert [item["score"] for item in group["items"]] == pytest.approx([1.0, near[left, right]], abs=1e-5)
    assert http.get(group["items"][0]["image_url"]).status_code == 200
    beyond = live_service.admin.duplicates("squares", threshold=found["threshold"], offset=1)
    assert (beyond["groups"], beyond["total"]) == ([], 1)
    assert live_service.admin.duplicates("squares", threshold=1.0)["total"] == 0
    path = "/v1/collections/squares/duplicates"
    refused(http.get(path, params={"threshold": 1.5}), 422, "invalid_value", "threshold")
    refused(http.get(path, params={"limit": 0}), 422, "invalid_value", "limit")
    refused(http.get("/v1/collections/absent/duplicates"), 404, "not_found")


def test_items_come_in_pages(http, collection):
    items = http.get("/v1/collections/squares/items", params={"offset": 1, "limit": 2}).json()["items"]
    assert [item["caption"] for item in items] == ["a green square", "a blue square"]


def test_the_map_has_the_images_within_its_bounds(live_service, http, collection):
    answer = http.get("/v1/collections/squares/map.safetensors", params={"method": "pca"})
    assert answer.headers["content-type"] == "application/octet-stream"
    tensors, metadata = read_safetensors(answer.content)
    items = live_service.admin.items("squares")
    assert [f"img_{key:016x}" for key in tensors["ids"].tolist()] == [item["id"] for item in items]
    assert np.abs(tensors["points"]).max() <= 1
    labels = json.loads(metadata["labels"])
    assert labels["hue"] == ["r", "g", "b", "w"]
    codes = tensors["label.hue"].tolist()
    assert [labels["hue"][code] for code in codes] == [item["labels"]["hue"] for item in items]
    assert (metadata["method"], metadata["total"], metadata["neighbours_kept"]) == ("pca", "4", "")
    assert 0 < float(metadata["variance"]) <= 1
    two, _ = read_safetensors(live_service.admin.collection_map_file("squares", limit=2))
    assert two["points"].shape == (2, 2)


def test_a_map_without_places_has_principal_axes(live_service, http, collection, refused):
    _, metadata = read_safetensors(live_service.admin.collection_map_file("squares"))
    assert metadata["method"] == "pca"
    answer = http.get("/v1/collections/squares/map.safetensors", params={"method": "other"})
    refused(answer, 422, "invalid_value", "method")


def read_safetensors(data):
    """Tensors and metadata."""
    length = int.from_bytes(data[:8], "little")
    return load(data), json.loads(data[8 : 8 + length])["__metadata__"]


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({}, "invalid_value", None),
        ({"text": "x", "vector": [1.0]}, "invalid_value", "vector"),
        ({"weights": {"text": 1}}, "invalid_value", None),
        ({"text": "x", "weights": {"image": 1}}, "invalid_value", "weights.image"),
        ({"text": "x", "weights": {"text": 1e6}}, "invalid_value", "weights.text"),
        ({"text": "x", "weights": {"words": 1}}, "invalid_value", "weights.words"),
        ({"text": "x", "weights": {"text": 0}}, "invalid_value", "weights"),
        ({"text": "x", "item": ""}, "invalid_value", "item"),
        ({"text": ""}, "invalid_value", "text"),
        ({"text": "x" * 501}, "invalid_value", "text"),
        ({"text": "x", "k": 0}, "invalid_value", "k"),
        ({"vector": [1.0] * 24, "match": "captions"}, "invalid_value", "match"),
        ({"text": "x", "weights": {"text": -1}, "match": "captions"}, "invalid_value", "match"),
        ({"text": "x", "target": "texts", "match": "captions"}, "invalid_value", "match"),
        ({"text": "x", "match": "hybrid"}, "invalid_value", "match"),
        ({"text": "x", "k": 1000, "offset": 1}, "invalid_value", "k"),
        ({"text": "x", "k": 10**6}, "invalid_value", "k"),
        ({"text": "x", "target": "sounds"}, "invalid_value", "target"),
        ({"image": "https://x.example/a.png"}, "invalid_value", "image"),
        ({"image": "data:image/png;base64,aGVsbG8="}, "image_unreadable", "image"),
        ({"vector": [1.0, 2.0]}, "invalid_value", "vector"),
        ({"vector": [0.0] * 24}, "invalid_value", "vector"),
        ({"vector": ["x"] * 24}, "invalid_value", "vector.0"),
    ],
)
def test_a_bad_search_names_its_field(http, collection, refused, body, code, field):
    refused(search(http, **body), 422, code, field)


@pytest.mark.parametrize("path", ["", "/items", "/map.safetensors", "/items/img_0000000000000000/image"])
def test_an_unknown_collection_is_404(http, refused, path):
    refused(http.get(f"/v1/collections/absent{path}"), 404, "not_found")


@pytest.mark.parametrize("item", ["img_0000000000000000", "img_x", "..%2Fmanifest.json", "txt_0000000000000000"])
def test_an_unknown_item_is_404(http, collection, refused, item):
    refused(http.get(f"/v1/collections/squares/items/{item}"), 404)
    refused(http.get(f"/v1/collections/squares/items/{item}/image"), 404)


def test_an_index_that_this_service_cannot_make_is_refused_at_once(live_service, http, refused, encoder, collection):
    assert collection["vectors"] is None
    spec = {"encoder": encoder["id"], "collection": "squares", "index": "qdrant"}
    refused(http.post("/v1/runs", json={"kind": "index", "spec": spec}), 422, "qdrant_failed", "index")


def test_without_its_encoder_only_vectors_search(live_service, http, refused, collection, encoder, encoder_dir):
    with live_service.context.database.session() as session:
        session.delete(session.get_one(EncoderRow, encoder["id"]))
    refused(search(http, text="x"), 409, "conflict")
    assert search(http, vector=[1.0] + [0.0] * 23).status_code == 200
    live_service.admin.import_encoder("same-weights", str(encoder_dir))
    assert search(http, text="x").status_code == 200
