"""An encoder is all of its files: what shares its weights alone does not stand in for it, and damage is noticed."""

import json
import shutil
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from lcl_core.common.errors import UserError
from lcl_core.db import complete_run, registry, submit
from lcl_core.specs.parsing import parse_spec

QUERIES = ("a red square", "a blue square", "a green square")
BEGINNINGS = ("re", "bl", "gre")  # of the colours, as the tokenizer cuts them
Json = dict[str, Any]


def twin_of(encoder_dir, target, shift=1):
    """The same weights with a tokenizer of the same form that takes each colour for another."""
    shutil.copytree(encoder_dir, target)
    file = target / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    ids = [vocabulary[token] for token in BEGINNINGS]
    vocabulary |= dict(zip(BEGINNINGS, ids[shift:] + ids[:shift], strict=True))
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    return target


def as_owner(live_service, owner, role="submitter"):
    key = live_service.admin.create_key(owner, role)["key"]
    headers = {"authorization": f"Bearer {key}"}
    return httpx.Client(base_url=live_service.url, headers=headers, timeout=180, trust_env=False)


def hits(http):
    """By query, ids and scores."""
    found = {}
    for query in QUERIES:
        answer = http.post("/v1/collections/squares/search", json={"text": query, "k": 4})
        assert answer.status_code == 200, answer.text
        found[query] = [(hit["id"], round(hit["score"], 5)) for hit in answer.json()["hits"]]
    return found


def import_twin(live_service, source, name):
    with as_owner(live_service, "mallory") as mallory:
        answer = mallory.post("/v1/encoders", json={"name": name, "path": str(source)})
    assert answer.status_code == 201, answer.text
    return answer.json()


@pytest.fixture(scope="module")
def twin(live_service, encoder_dir, data_root, collection):
    return import_twin(live_service, twin_of(encoder_dir, data_root / "twin", shift=2), "mine")


@contextmanager
def flipped(file, at=-64):
    """One bit of a file turned, and turned back."""
    whole = file.read_bytes()
    changed = bytearray(whole)
    changed[at] ^= 1
    file.write_bytes(changed)
    try:
        yield
    finally:
        file.write_bytes(whole)


def test_the_same_weights_with_another_tokenizer_do_not_take_a_search_over(
    live_service, http, encoder_dir, data_root, collection
):
    before = hits(http)
    assert len({tuple(found) for found in before.values()}) == len(QUERIES), "the queries differ by their text"
    made = import_twin(live_service, twin_of(encoder_dir, data_root / "taking-over"), "takes-over")
    assert made["hash"] == collection["encoder_hash"], "the weights are the collection's"
    assert hits(http) == before


def test_images_are_added_with_the_collections_own_encoder(http, twin, sample_images):
    from api.client import data_url

    item = {"image": data_url(sample_images["red"]), "name": "one-more.png", "captions": ["a red square"]}
    answer = http.post("/v1/collections/squares/items", json={"items": [item]})
    assert answer.status_code == 201, answer.text
    (added,) = answer.json()["ids"]
    found = http.post("/v1/collections/squares/search", json={"text": '"a red square"', "target": "texts", "k": 1})
    assert round(found.json()["hits"][0]["score"], 5) == 1
    assert http.delete(f"/v1/collections/squares/items/{added}").status_code == 204


def test_an_index_run_does_not_add_to_a_collection_with_a_twin(http, twin, refused):
    spec = {"encoder": twin["id"], "collection": "squares", "mode": "add", "dataset": "sample"}
    answer = http.post("/v1/runs", json={"kind": "index", "spec": spec})
    assert "other files" in refused(answer, 409, "encoder_mismatch", "encoder")["message"]


def test_a_copy_that_is_equal_in_all_files_stands_in_for_one_whose_files_are_gone(
    live_service, http, encoder, encoder_dir, collection
):
    before = hits(http)
    assert http.post("/v1/encoders", json={"name": "again", "path": str(encoder_dir)}).status_code == 201
    kept, away = live_service.home / "encoders" / encoder["id"], live_service.home / "encoders" / "away"
    kept.rename(away)
    try:
        assert hits(http) == before
    finally:
        away.rename(kept)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "processor_config.json", "config.json"])
def test_a_file_that_changed_on_the_server_is_named(live_service, http, encoder_dir, refused, name):
    made = live_service.admin.import_encoder(f"to-be-changed-{name}", str(encoder_dir))
    file = live_service.home / "encoders" / made["id"] / name
    body = {"model": made["id"], "input": "a red square"}
    at = -64 if name.endswith(".safetensors") else 0
    assert http.post("/v1/embeddings", json=body).status_code == 200
    with flipped(file, at):  # while it is in memory: it is loaded anew
        facts = refused(http.post("/v1/embeddings", json=body), 409, "encoder_changed")
        assert name in facts["message"]
        assert made["name"] in facts["message"]
        assert str(live_service.home) not in facts["message"]
        refused(http.post("/v1/embeddings", json=body), 409, "encoder_changed")
    assert http.post("/v1/embeddings", json=body).status_code == 200, "restored, it serves again"


@pytest.mark.parametrize("kind", ["index", "evaluate"])
def test_a_run_does_not_go_on_with_files_that_changed(live_service, encoder_dir, kind):
    made = live_service.admin.import_encoder(f"changed-before-{kind}", str(encoder_dir))
    spec = {"encoder": made["id"], "dataset": "sample"}
    spec |= {"collection": "never"} if kind == "index" else {"tasks": ["retrieval"]}
    run_id = live_service.admin.submit(kind, spec)["id"]
    with flipped(live_service.home / "encoders" / made["id"] / "tokenizer.json", 0):
        live_service.work(run_id)
    reason = live_service.admin.run(run_id)["reason"]
    assert reason["code"] == "encoder_changed"
    assert "tokenizer.json" in reason["message"]


def test_an_index_run_looks_once_more_when_it_begins(live_service, http, encoder, twin):
    """What a spec names may be another encoder by then."""
    spec = {"encoder": twin["id"], "collection": "squares", "mode": "add", "dataset": "sample"}
    with live_service.context.database.session() as session:
        run_id = submit.submit(session, "index", spec).id
    claim = live_service.claim(run_id)
    parsed = parse_spec("index", claim.spec)
    with live_service.context.database.session() as session, pytest.raises(UserError) as caught:
        registry.resolve_inputs(session, parsed, live_service.home, live_service.context.settings.roots)
    assert caught.value.code == "encoder_mismatch"
    live_service.settle(claim, complete_run.RunCancelled())


@pytest.mark.parametrize("how", ["cut", "gone", "no config"])
def test_damage_on_the_server_is_reported_by_the_encoders_name(live_service, http, encoder_dir, refused, how):
    made = live_service.admin.import_encoder(f"damaged-{how.replace(' ', '-')}", str(encoder_dir))
    kept = live_service.home / "encoders" / made["id"]
    if how == "cut":
        weights = kept / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-10])
    elif how == "gone":
        shutil.rmtree(kept)
    else:
        (kept / "config.json").unlink()
    answer = http.post("/v1/embeddings", json={"model": made["name"], "input": "a red square"})
    code = "encoder_changed" if how == "cut" else "encoder_unreadable"
    message = refused(answer, 409, code)["message"]
    assert made["name"] in message
    assert "import" in message
    assert str(live_service.home) not in message
    assert "give the directory" not in message
    export = http.get(f"/v1/encoders/{made['id']}/export?format=huggingface")
    assert export.status_code in (409, 410)
    assert str(live_service.home) not in export.text


def test_what_an_import_that_fails_has_copied_is_removed(live_service, http, encoder_dir, monkeypatch, eventually):
    folder = live_service.home / "encoders"
    before = sorted(path.name for path in folder.iterdir())
    rows = len(live_service.admin.encoders())
    monkeypatch.setattr("api.deps.audit.record_action", _broken)  # the last rows of the transaction
    answer = http.post("/v1/encoders", json={"name": "half-way", "path": str(encoder_dir)})
    assert answer.status_code == 500
    monkeypatch.undo()
    assert sorted(path.name for path in folder.iterdir()) == before
    assert len(live_service.admin.encoders()) == rows


def _broken(*_, **__):
    raise RuntimeError("nothing can be written")
