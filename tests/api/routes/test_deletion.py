"""Encoders and datasets go for good: for their owner and admins, when nothing needs them, with the service's files."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from lcl_core.db import seed
from lcl_core.db.models import CollectionRow, Run
from lcl_core.pretrained import pretrained_encoders
from tests.api.sample_assets import make_collection

Json = dict[str, Any]
Refused = Callable[..., Json]
Import = Callable[[str, str], Json]


@pytest.fixture(scope="module")
def clients(live_service):
    with ExitStack() as stack:
        found = {}
        for owner, role in {"alice": "submitter", "bob": "submitter", "carl": "viewer", "root": "admin"}.items():
            headers = {"authorization": f"Bearer {live_service.admin.create_key(owner, role)['key']}"}
            made = httpx.Client(base_url=live_service.url, headers=headers, timeout=180, trust_env=False)
            found[owner] = stack.enter_context(made)
        yield found


@pytest.fixture
def imported(clients, encoder_dir):
    """``imported(owner, name)``: an encoder of that owner's."""

    def make(owner, name):
        answer = clients[owner].post("/v1/encoders", json={"name": name, "path": str(encoder_dir)})
        assert answer.status_code == 201, answer.text
        return answer.json()

    return make


@pytest.mark.parametrize("who", ["alice", "root"])
def test_an_encoder_goes_with_its_files(live_service, clients, imported, refused, eventually, who):
    made = imported("alice", f"goes-by-{who}")
    folder = live_service.home / "encoders" / made["id"]
    requested = {"model": made["id"], "input": "a red square"}
    assert clients["bob"].post("/v1/embeddings", json=requested).status_code == 200
    refused(clients["carl"].delete(f"/v1/encoders/{made['id']}"), 403, "forbidden")
    message = refused(clients["bob"].delete(f"/v1/encoders/{made['id']}"), 403, "forbidden")["message"]
    assert "alice" in message
    assert folder.is_dir()
    assert clients[who].delete(f"/v1/encoders/{made['id']}").status_code == 204
    refused(clients[who].delete(f"/v1/encoders/{made['id']}"), 404, "not_found")
    refused(clients["bob"].post("/v1/embeddings", json=requested), 404, "not_found")
    eventually(lambda: not folder.exists(), "the end of its files")
    eventually(lambda: not list(folder.parent.glob(".removed-*")), "the end of what was hidden first")


@pytest.mark.parametrize("state", ["queued", "paused", "running"])
def test_an_encoder_that_a_run_reads_stays(live_service, clients, imported, refused, state):
    made = imported("alice", f"read-by-{state}")
    spec = {"encoder": made["name"], "dataset": "sample"}
    run_id = clients["bob"].post("/v1/runs", json={"kind": "evaluate", "spec": spec}).json()["id"]
    with live_service.context.database.session() as session:
        session.get_one(Run, run_id).state = state
    facts = refused(clients["alice"].delete(f"/v1/encoders/{made['id']}"), 409, "conflict")
    assert "bob" not in facts["message"], "another owner's run is not told of by its owner"
    assert "run" in facts["message"]
    with live_service.context.database.session() as session:
        session.get_one(Run, run_id).state = "cancelled"
    assert clients["alice"].delete(f"/v1/encoders/{made['id']}").status_code == 204


def test_the_runs_that_are_in_the_way_are_named_to_who_may_see_them(live_service, clients, imported, refused):
    made = imported("alice", "read-by-two")
    runs = {}
    for owner in ("alice", "bob"):
        body = {"kind": "evaluate", "spec": {"encoder": made["id"], "dataset": "sample"}}
        runs[owner] = clients[owner].post("/v1/runs", json=body).json()["id"]
    hers = refused(clients["alice"].delete(f"/v1/encoders/{made['id']}"), 409, "conflict")["message"]
    assert runs["alice"] in hers
    assert runs["bob"] not in hers
    everybodys = refused(clients["root"].delete(f"/v1/encoders/{made['id']}"), 409, "conflict")["message"]
    assert runs["alice"] in everybodys
    assert runs["bob"] in everybodys
    for owner, run_id in runs.items():
        assert clients[owner].post(f"/v1/runs/{run_id}/cancel").status_code == 200
    assert clients["alice"].delete("/v1/encoders/read-by-two").status_code == 204


def test_an_encoder_that_a_collection_was_made_with_stays(
    live_service, clients, imported, refused, encoder_dir, sample_images
):
    made = imported("alice", "of-a-collection")
    collection = make_collection(live_service, made, encoder_dir, sample_images)
    message = refused(clients["alice"].delete(f"/v1/encoders/{made['id']}"), 409, "conflict")["message"]
    assert "squares" in message
    assert "delete" in message
    with live_service.http() as admin:
        assert admin.delete("/v1/collections/squares").status_code == 204
    with live_service.context.database.reading() as session:
        assert session.get(CollectionRow, collection["id"]) is None
    assert clients["alice"].delete(f"/v1/encoders/{made['id']}").status_code == 204


def test_what_comes_with_the_product_stays(live_service, clients, refused, monkeypatch):
    monkeypatch.setattr(live_service.context.settings, "welcome", True)
    with live_service.context.database.session() as session:
        seed.seed_database(session)
    shipped = next(row for row in live_service.admin.encoders() if row["owner"] == "lcl")
    refused(clients["alice"].delete(f"/v1/encoders/{shipped['id']}"), 403, "forbidden")
    message = refused(clients["root"].delete(f"/v1/encoders/{shipped['id']}"), 409, "conflict")["message"]
    assert "LCL_WELCOME" in message
    refused(clients["alice"].delete("/v1/datasets/sample"), 403, "forbidden")
    refused(clients["root"].delete("/v1/datasets/sample"), 409, "conflict")
    assert live_service.admin.dataset("sample")["owner"] == "lcl"
    files = Path(pretrained_encoders()[0].directory)
    monkeypatch.setattr(live_service.context.settings, "welcome", False)
    (run,) = [row for row in live_service.admin.runs()["items"] if row["owner"] == "lcl"]
    live_service.admin.cancel(run["id"])
    assert clients["root"].delete(f"/v1/encoders/{shipped['id']}").status_code == 204, "it is not registered again"
    assert (files / "model.safetensors").is_file(), "the installation's files are not the service's to remove"


@pytest.fixture
def corpus(clients, data_root, sample_zip):
    def register(name):
        place = data_root / f"{name}.zip"
        place.write_bytes(sample_zip.read_bytes())
        body = {"name": name, "path": str(place)}
        assert clients["alice"].post("/v1/datasets", json=body).status_code == 201
        return place

    return register


@pytest.mark.parametrize("who", ["alice", "root"])
def test_a_dataset_goes_and_the_corpus_stays(clients, corpus, refused, who):
    name = f"corpus-of-{who}"
    place = corpus(name)
    before = place.read_bytes()
    refused(clients["carl"].delete(f"/v1/datasets/{name}"), 403, "forbidden")
    refused(clients["bob"].delete(f"/v1/datasets/{name}"), 403, "forbidden")
    assert clients[who].delete(f"/v1/datasets/{name}").status_code == 204
    refused(clients[who].delete(f"/v1/datasets/{name}"), 404, "not_found")
    refused(clients["bob"].get(f"/v1/datasets/{name}"), 404, "not_found")
    assert place.read_bytes() == before
    body = {"name": name, "path": str(place)}
    assert clients["bob"].post("/v1/datasets", json=body).status_code == 201, "the name is free"


def test_what_the_service_made_of_a_dataset_goes_with_every_version(
    live_service, clients, data_root, sample_zip, eventually
):
    source = data_root / "source.zip"
    source.write_bytes(sample_zip.read_bytes())
    body = {"kind": "convert", "spec": {"path": str(source), "name": "converted"}}
    answer = clients["alice"].post("/v1/runs", json=body)
    assert answer.status_code == 202, answer.text
    live_service.work(answer.json()["id"])
    newer = {"name": "converted", "path": str(source), "new_version": True}
    assert clients["alice"].post("/v1/datasets", json=newer).status_code == 201
    folders = [path for path in (live_service.home / "datasets").iterdir() if not path.name.startswith(".")]
    assert len(folders) == 1
    assert clients["alice"].delete("/v1/datasets/converted").status_code == 204
    eventually(
        lambda: not any((live_service.home / "datasets").iterdir()), "the end of its files, renamed ones included"
    )
    assert not [folder for folder in folders if folder.exists()]
    assert source.is_file()


def test_a_dataset_that_a_run_or_a_study_reads_stays(live_service, clients, corpus, refused):
    corpus("wanted")
    run_id = clients["alice"].post("/v1/runs", json={"kind": "validate", "spec": {"dataset": "wanted"}}).json()["id"]
    message = refused(clients["alice"].delete("/v1/datasets/wanted"), 409, "conflict")["message"]
    assert run_id in message
    assert clients["alice"].post(f"/v1/runs/{run_id}/cancel").status_code == 200
    study = {
        "metrics": [{"name": "IR@5", "metric": "IR@5"}],
        "pretrain": {"steps": 7},
        "evaluate": {"dataset": "wanted"},
    }
    answer = clients["bob"].post("/v1/studies", json={"spec": study})
    assert answer.status_code == 202, answer.text
    refused(clients["alice"].delete("/v1/datasets/wanted"), 409, "conflict")
    assert clients["bob"].post(f"/v1/studies/{answer.json()['id']}/cancel").status_code == 200
    assert clients["alice"].delete("/v1/datasets/wanted").status_code == 204


def test_the_clients_and_the_command_line_delete(live_service, lcl, imported, clients, corpus):
    made = imported("alice", "by-hand")
    status, out, err = lcl("encoders", "delete", "by-hand", stdin="n\n")
    assert status == 1
    assert made["id"] in out + err
    assert live_service.admin.encoder("by-hand")["id"] == made["id"], "not confirmed, it stays"
    assert lcl("encoders", "delete", "by-hand", "--yes")[:2] == (0, f"{made['id']} is deleted\n")
    assert lcl("encoders", "delete", "by-hand", "--yes")[0] == 1
    corpus("by-hand")
    assert lcl("data", "delete", "by-hand", stdin="y\n")[0] == 1, "a pipe is no terminal"
    assert lcl("data", "delete", "by-hand", "--yes")[0] == 0
    assert "by-hand" not in [row["name"] for row in live_service.admin.datasets()]
    again = imported("alice", "by-client")
    live_service.admin.delete_encoder(again["id"])
    corpus("by-client")
    live_service.admin.delete_dataset("by-client")
    assert "by-client" not in {row["name"] for row in (*live_service.admin.encoders(), *live_service.admin.datasets())}
