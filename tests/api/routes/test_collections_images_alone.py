"""A collection of an encoder that reads images alone, such as DINOv2: by image, and by the words of captions."""

import pytest
from structlog.testing import capture_logs

from api.services.search import warm_next_encoder
from tests.api.sample_assets import make_collection
from tests.lcl_core.encoders.external_samples import save_huggingface


@pytest.fixture(scope="module")
def collection(live_service, data_root, sample_images):
    source = save_huggingface(data_root / "dinov2", "dinov2")
    encoder = live_service.admin.import_encoder("dinov2", str(source))
    return make_collection(live_service, encoder, source, sample_images)


def search(http, **body):
    return http.post("/v1/collections/squares/search", json=body)


def collection_item(client):
    return client.search("squares", text="green", k=1)["hits"][0]["id"]


def captions(found):
    return [hit["caption"] for hit in found["hits"]]


def test_it_is_searched_by_image_and_by_the_words_of_captions(live_service, collection, sample_images):
    client = live_service.admin
    assert (collection["text_vectors"], collection["texts"]) == (False, 4)
    found = client.search("squares", image=sample_images["blue"])
    assert captions(found)[0] == "a blue square"
    found = client.search("squares", text="green", k=2)
    assert captions(found)[0] == "a green square"
    assert found["hits"][0]["score"] == pytest.approx(1, abs=1e-5), "the mean of one image is that image"
    assert client.search("squares", text="elephant")["hits"] == []
    mixed = client.search("squares", text="elephant", image=sample_images["red"])
    assert captions(mixed)[0] == "a red square", "the image alone counts"
    alone = client.search("squares", text="elephant", item=collection_item(client), weights={"item": 0})
    assert alone["hits"] == [], "nothing counts that has a vector"
    near = client.search("squares", text="elephant", image=sample_images["red"], weights={"text": 0})
    assert captions(near)[0] == "a red square", "a text that does not count is no obstacle"
    weights = {"text": 1.0, "image": -1.0}
    away = client.search("squares", text="green", image=sample_images["red"], weights=weights)
    assert captions(away)[0] == "a green square"


def test_what_needs_vectors_of_texts_is_refused_with_the_way_out(http, refused, collection, sample_images):
    error = refused(search(http, text="green", match="looks"), 422, "no_text_encoder", "text")
    assert "search the words of captions (match), or send an image" in error["message"]
    item = http.get("/v1/collections/squares/items").json()["items"][0]["id"]
    refused(search(http, item=item, target="texts"), 422, "no_text_encoder", "target")
    refused(search(http, item="txt_0123456789abcdef"), 422, "no_text_encoder", "item")
    for words in ("green", "elephant"):  # whether a caption has them or not
        query = {"text": words}
        refused(search(http, **query, target="texts"), 422, "no_text_encoder", "target")
        refused(search(http, **query, where={"absent": "x"}), 422, "invalid_value")
        refused(search(http, **query, k=1000, offset=1), 422, "invalid_value", "k")
        refused(search(http, **query, vector=[1.0], weights={"vector": 0}), 422, "invalid_value", "vector")
        refused(search(http, **query, item="img_0000000000000000", weights={"item": 0}), 404, "not_found")
    refused(http.get("/v1/collections/squares/export?target=texts"), 422, "no_text_encoder", "target")


def test_images_are_added_with_captions_that_are_found(live_service, collection, sample_images):
    client = live_service.admin
    new = {"image": sample_images["red"], "name": "cherry.png", "captions": ["a cherry"], "labels": {"hue": "r"}}
    added = client.add_items("squares", [new])
    assert client.collection("squares")["texts"] == 5
    found = client.search("squares", text="cherry")
    assert captions(found)[:2] == ["a cherry", "a red square"]
    assert client.change_labels("squares", added["ids"], labels={"hue": "dark"}) == 1
    found = client.search("squares", text="cherry", where={"hue": "dark"})
    assert captions(found) == ["a cherry"]


def test_words_are_searched_without_the_encoder(live_service, http, refused, collection, monkeypatch):
    def load(*_, **__):
        raise AssertionError("no encoder is needed")

    monkeypatch.setattr("api.services.search.load_encoder", load)
    assert captions(live_service.admin.search("squares", text="green"))[0] == "a green square"
    refused(search(http, text="green", match="looks"), 422, "no_text_encoder", "text")


def test_its_encoder_is_loaded_before_anybody_searches(live_service, collection):
    known = set()
    with capture_logs() as logs:
        while warm_next_encoder(live_service.context, known):
            pass
    assert ("encoder_warmed", collection["id"]) in [(line["event"], line.get("collection")) for line in logs]


def test_the_command_line_says_how_to_search_it(lcl, collection):
    _, shown, _ = lcl("collections", "show", "squares")
    assert "its encoder reads images alone" in shown
    _, found, _ = lcl("search", "squares", "green")
    assert "a green square" in found
    status, _, error = lcl("search", "squares", "green", "--match", "looks")
    assert status != 0
    assert "search the words of captions (match)" in error
