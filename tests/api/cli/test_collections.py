"""``lcl collections …`` against the service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from api.cli import collections
from lcl_core.db import registry
from tests.api.sample_assets import png


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    found = [folder / f"{colour}.png" for colour in ("black", "pink", "grey")]
    for file in found:
        file.write_bytes(png(file.stem))
    return found


def test_images_come_and_go(
    lcl: Any, live_service: Any, collection: Any, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collections, "ITEMS_PER_REQUEST", 2)
    given = [str(file) for file in files]
    facts = ("--caption", "by hand", "--label", "hue=new", "--label", "by=hand", "--split", "val")
    status, out, _ = lcl("collections", "add", "squares", *given, *facts)
    assert status == 0
    ids = dict(line.split("\t") for line in out.splitlines())
    assert list(ids) == given, "each with its id, though they were sent in two requests"
    (hit,) = live_service.admin.search("squares", image=files[0].read_bytes(), k=1)["hits"]
    assert hit["id"] == ids[given[0]]
    assert (hit["image"], hit["labels"], hit["captions"]) == ("black.png", {"hue": "new", "by": "hand"}, ["by hand"])
    shown = lcl("collections", "show", "squares")[1]
    assert "7 images, 5 texts" in shown
    assert "by" in shown
    assert "searched by PostgreSQL" not in shown
    with live_service.context.database.session() as session:
        registry.get_collection(session, "squares").vectors = "vec_1"
    assert "searched by PostgreSQL in vec_1_images and vec_1_texts" in lcl("collections", "show", "squares")[1]
    for vectors, where in (("lancedb", "LanceDB in its directory"), ("qdrant_1", "Qdrant in qdrant_1_images")):
        with live_service.context.database.session() as session:
            registry.get_collection(session, "squares").vectors = vectors
        assert f"searched by {where}" in lcl("collections", "show", "squares")[1]
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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "absent"), "absent"),
        (("add", "squares", "/absent.png"), "/absent.png is no file"),
        (("add", "squares", "FILE", "FILE"), "has the name of"),
        (("add", "squares", "FILE", "--label", "hue"), "label=value"),
        (("remove", "squares", "img_x"), "img_x"),
        (("export", "squares", "/absent/out.jsonl"), "cannot be written"),
        (("delete", "absent"), "absent"),
    ],
)
def test_what_is_wrong_is_reported_in_one_line(
    lcl: Any, collection: Any, files: list[Path], arguments: tuple[str, ...], words: str
) -> None:
    given = [str(files[0]) if word == "FILE" else word for word in arguments]
    status, _, err = lcl("collections", *given)
    assert status == 1
    assert words in err
    assert len(err.splitlines()) == 1


def test_a_collection_is_deleted(lcl: Any, collection: Any) -> None:
    assert lcl("collections", "delete", "squares", "--yes") == (0, "squares is deleted\n", "")
    assert "no collections yet" in lcl("collections", "list")[1]
