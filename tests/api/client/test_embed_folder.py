"""A folder of images becomes vectors, by both clients; what is no image is named and left out."""

import json

import numpy as np
import pytest

from api.client import ApiError, Client, inference
from api.client.payloads import IMAGE_SUFFIXES, list_images
from lcl_core.data.formats.base import IMAGE_EXTENSIONS
from tests.api.sample_assets import png
from tests.api.scripted_server import BUSY, scripted_server


@pytest.fixture
def folder(tmp_path, sample_images):
    for place, (name, data) in enumerate(sorted(sample_images.items())):
        file = tmp_path / f"{'below/' * (place % 2)}{name}.{'PNG' if place else 'png'}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(data)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no more")
    (tmp_path / "below" / "dangling.png").symlink_to("nowhere")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    return tmp_path


@pytest.fixture
def client(live_service):
    with Client(live_service.url, live_service.keys["viewer"], attempts=1) as client:
        yield client


def test_every_image_has_its_vector_and_the_rest_a_reason(client, live_service, encoder, folder, monkeypatch):
    skipped = []
    progress = []
    monkeypatch.setattr(inference, "MAX_REQUEST_BYTES", 150)  # two of them at most
    found = dict(
        client.embed_files(
            "tiny",
            list_images(folder),
            batch=4,
            at_once=2,
            on_skip=skipped.append,
            on_progress=lambda *at: progress.append(at),
        )
    )
    assert list(found) == sorted(found)
    assert sorted(path.stem for path in found) == ["blue", "green", "red", "white"]
    for path, vector in found.items():
        np.testing.assert_allclose(vector, live_service.admin.embed_images("tiny", [path.read_bytes()])[0], atol=1e-5)
    assert {each.path.name: each.reason for each in skipped}.keys() == {"broken.jpg", "dangling.png"}
    assert all("No such file" in each.reason or "input.0" in each.reason for each in skipped)
    assert [at[0] for at in progress] == [4, 6]
    assert {at[1] for at in progress} == {6}


def test_a_refusal_that_is_no_images_fault_ends_it(client, encoder, folder):
    with pytest.raises(ApiError, match="absent"):
        list(client.embed_files("absent", list_images(folder)))
    with pytest.raises(NotADirectoryError):
        list_images(folder / "nowhere")


def test_an_image_that_is_too_large_alone_is_skipped(folder):
    large = 413, {}, json.dumps({"error": {"code": "too_large", "message": "too large"}}).encode()
    skipped = []
    with scripted_server(large) as server, Client(server.url, "k") as client:
        assert list(client.embed_files("tiny", list_images(folder / "below"), on_skip=skipped.append)) == []
    assert {each.reason for each in skipped} == {"too large", "No such file or directory"}


def test_images_of_too_many_pixels_together_are_sent_in_parts(client, encoder, tmp_path):
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(png("red", (490, 490)))  # two of them are all that a request may have
    skipped = []
    found = dict(client.embed_files("tiny", list_images(tmp_path), on_skip=skipped.append))
    assert [path.name for path in found] == [f"{number}.png" for number in range(5)]
    assert not skipped


def test_a_folder_outlasts_a_restart(folder, free_port, monkeypatch):
    fine = (200, {}, json.dumps({"data": [{"embedding": [1.0]}]}).encode())
    pauses = []
    monkeypatch.setattr("api.client.transport.backoff", lambda attempt, _=None: pauses.append(attempt))
    with scripted_server(None, *[BUSY] * 7, fine) as server, Client(server.url, "k") as client:
        assert len(dict(client.embed_files("tiny", [folder / "below" / "green.PNG"]))) == 1
    assert pauses == list(range(1, 9))
    with Client(f"http://127.0.0.1:{free_port}", "k") as client, pytest.raises(ApiError, match="is the service up"):
        dict(client.embed_files("tiny", [folder / "below" / "green.PNG"]))
    assert pauses == [*range(1, 9)] * 2
    with Client(f"http://127.0.0.1:{free_port}", "k") as client, pytest.raises(ApiError):
        client.embed_texts("tiny", ["a"])
    assert len(pauses) == 19, "a single call ends sooner"


@pytest.mark.parametrize("most", [5, 256])  # fewer and more than the service accepts
def test_lists_of_any_length_become_several_requests(client, live_service, encoder, monkeypatch, most):
    monkeypatch.setattr("api.client.inference.INPUTS_PER_REQUEST", most)
    texts = [f"number {place}" for place in range(13)]
    single = [live_service.admin.embed_texts("tiny", [text])[0] for text in texts]
    np.testing.assert_allclose(client.embed_texts("tiny", texts), single, atol=1e-5)
    images = [png("red", (20 + place, 20)) for place in range(9)]
    single = [live_service.admin.embed_images("tiny", [image])[0] for image in images]
    np.testing.assert_allclose(client.embed_images("tiny", images), single, atol=1e-5)
    assert client.embed_texts("tiny", []) == client.embed_images("tiny", []) == []
    texts[11] = "long " * 200
    with pytest.raises(ApiError, match="the text is longer") as caught:
        client.embed_texts("tiny", texts)
    assert caught.value.code == "invalid_value"


def test_images_of_every_format_that_the_service_decodes_are_listed(tmp_path):
    assert set(IMAGE_SUFFIXES) == {f".{extension}" for extension in IMAGE_EXTENSIONS}
    for suffix in IMAGE_SUFFIXES:
        (tmp_path / f"a{suffix}").touch()
    assert len(list_images(tmp_path)) == len(IMAGE_SUFFIXES)
