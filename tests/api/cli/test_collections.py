"""``lcl collections …`` against the service."""

import json
import shutil
from pathlib import Path

import pytest

from lcl_core.db import registry
from tests.api.sample_assets import make_collection, png


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    found = [folder / f"{colour}.png" for colour in ("black", "pink", "grey")]
    for file in found:
        file.write_bytes(png(file.stem))
    return found


def test_images_come_and_go(lcl, live_service, collection, files, tmp_path, monkeypatch):
    given = [str(file) for file in files]
    facts = ("--caption", "by hand", "--label", "hue=new", "--label", "by=hand", "--split", "val")
    status, out, _ = lcl("collections", "add", "squares", *given, *facts)
    assert status == 0
    ids = dict(line.split("\t") for line in out.splitlines())
    assert list(ids) == given, "each with its id"
    (hit,) = live_service.admin.search("squares", image=files[0].read_bytes(), k=1)["hits"]
    assert hit["id"] == ids[given[0]]
    assert (hit["image"], hit["labels"], hit["captions"]) == ("black.png", {"hue": "new", "by": "hand"}, ["by hand"])
    shown = lcl("collections", "show", "squares")[1]
    assert "7 images, 5 texts" in shown
    assert "by" in shown
    assert "searched by" not in shown
    with live_service.context.database.session() as session:
        registry.get_collection(session, "squares").vectors = "qdrant_1"
    assert "searched by Qdrant in qdrant_1_images" in lcl("collections", "show", "squares")[1]
    with live_service.context.database.session() as session:
        registry.get_collection(session, "squares").vectors = None
    assert "squares" in lcl("collections", "list")[1]
    assert json.loads(lcl("--json", "collections", "list")[1])["items"][0]["changes"] == 3

    status, _, err = lcl("collections", "add", "squares", given[1])
    assert (status, "pink.png" in err) == (1, True)
    again = json.loads(lcl("--json", "collections", "add", "squares", given[1], "--replace")[1])
    assert again == {"items": [{"file": given[1], "id": ids[given[1]]}]}

    gone = [ids[given[0]], ids[given[2]]]
    status, out, err = lcl("collections", "remove", "squares", *gone, "--yes")
    assert (status, out, err) == (0, "".join(f"{item} is removed\n" for item in gone), "")
    file = tmp_path / "out.jsonl"
    assert lcl("collections", "export", "squares", str(file))[1] == f"{file}\n"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [line["image"] for line in lines][4:] == ["pink.png"]
    assert lcl("search", "squares", "a red square", "-k", "1", "--offset", "4")[1].count("img_") == 1
    assert "a blue square" in lcl("search", "squares", "blue", "-k", "1")[1]


def copies(files, folder, prefix):
    """The images under names that the collection does not have."""
    return [Path(shutil.copy(file, folder / f"{prefix}-{file.name}")) for file in files]


def test_what_was_added_before_an_error_is_printed(lcl, collection, files, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    given = [str(file) for file in (*copies(files, tmp_path, "printed"), broken)]
    status, out, err = lcl("collections", "add", "squares", *given)
    assert status == 1
    assert [line.split("\t")[0] for line in out.splitlines()] == given[:3]
    assert f"error: {broken}: " in err
    assert "items." not in err


def test_images_are_labelled_by_ids_of_a_file(lcl, live_service, collection, files, tmp_path, monkeypatch):
    monkeypatch.setattr("api.client.client.ITEMS_PER_CHANGE", 2)
    added = json.loads(lcl("--json", "collections", "add", "squares", *map(str, files), "--replace")[1])["items"]
    ids = [item["id"] for item in added]
    chosen = tmp_path / "selected-ids.txt"
    chosen.write_text("".join(f"{item}\n" for item in ids))
    label = ("collections", "label", "squares")
    given = ("--add", "tags=dark", "--add", "tags=plain", "--set", "year=1990")
    assert lcl(*label, "--ids", str(chosen), *given) == (0, "3 of 3 images changed\n", "")
    assert lcl(*label, ids[0], "--remove", "tags=dark", "--unset", "year")[1] == "1 of 1 images changed\n"
    assert json.loads(lcl("--json", *label, ids[0], "--unset", "year")[1]) == {"changed": 0}
    found = json.loads(lcl("--json", "search", "squares", "grey", "--where", "tags=dark", "--where", "year<2000")[1])
    assert {hit["id"] for hit in found["hits"]} == set(ids[1:])
    live_service.admin.change_labels("squares", ids, labels={"tags": None, "year": None})
    for item in ids:
        live_service.admin.remove_item("squares", item)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "absent"), "absent"),
        (("add", "squares", "/absent.png"), "/absent.png: No such file"),
        (("add", "squares", "FILE", "--label", "hue"), "label=value"),
        (("label", "squares"), "--ids FILE"),
        (("label", "squares", "img_x"), "--set, --unset, --add or --remove"),
        (("label", "squares", "img_x", "--add", "tags"), "label=value"),
        (("label", "squares", "img_x", "--add", "tags=x"), "img_x"),
        (("label", "squares", "--ids", "/absent.txt", "--add", "tags=x"), "/absent.txt"),
        (("remove", "squares", "img_x"), "img_x"),
        (("export", "squares", "/absent/out.jsonl"), "No such file"),
        (("delete", "absent"), "absent"),
    ],
)
def test_what_is_wrong_is_reported_in_one_line(lcl, collection, files, arguments, words):
    given = [str(files[0]) if word == "FILE" else word for word in arguments]
    status, _, err = lcl("collections", *given)
    assert status == 1
    assert words in err
    assert len(err.splitlines()) == 1


def test_a_collection_is_deleted(lcl, collection):
    assert lcl("collections", "delete", "squares", "--yes") == (0, "squares is deleted\n", "")
    assert "no collections yet" in lcl("collections", "list")[1]


def test_filters_by_type(lcl, live_service, encoder, encoder_dir, sample_images, files):
    make_collection(live_service, encoder, encoder_dir, sample_images, "typed")
    for file, labels in zip(files, (("year=1985",), ("year=1990", "tags=red", "tags=round")), strict=False):
        options = [part for label in labels for part in ("--label", label)]
        assert lcl("collections", "add", "typed", str(file), *options)[0] == 0

    def found(*where):
        options = [part for each in where for part in ("--where", each)]
        answer = json.loads(lcl("--json", "search", "typed", "a square", *options)[1])
        return sorted(hit["image"] for hit in answer["hits"])

    assert found("year>=1985") == ["black.png", "pink.png"]
    assert found("year>1985", "year<=1990") == ["pink.png"]
    assert found("year<1990") == ["black.png"]
    assert found("year=1985", "year=1990") == ["black.png", "pink.png"]
    assert found("tags+=red", "tags+=round") == ["pink.png"]
    assert found("tags+=red", "tags=blue") == []
    shown = lcl("collections", "show", "typed")[1]
    assert [line.split()[:3] for line in shown.splitlines() if line.split()[:1] in (["year"], ["tags"])] == [
        ["year", "number", "2"],
        ["tags", "set", "2"],
    ]
    status, _, err = lcl("search", "typed", "x", "--where", "year>=soon")
    assert (status, "'year' is a number" in err, "gte" in err) == (1, True, True)
    assert lcl("collections", "delete", "typed", "--yes")[0] == 0
