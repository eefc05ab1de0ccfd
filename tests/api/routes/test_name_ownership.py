"""A name belongs to who had it first: nobody else registers, trains, converts or indexes under it."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from lcl_core.db import complete_run, seed
from lcl_core.db.models import CollectionRow, Dataset, EncoderRow

Json = dict[str, Any]
Refused = Callable[..., Json]


def client(live_service, owner, role="submitter"):
    headers = {"authorization": f"Bearer {live_service.admin.create_key(owner, role)['key']}"}
    return httpx.Client(base_url=live_service.url, headers=headers, timeout=180, trust_env=False)


@pytest.fixture(scope="module")
def clients(live_service):
    """A submitter each of two owners, and an admin."""
    with ExitStack() as stack:
        roles = {"alice": "submitter", "mallory": "submitter", "root": "admin"}
        yield {owner: stack.enter_context(client(live_service, owner, role)) for owner, role in roles.items()}


@pytest.fixture(scope="module")
def hers(clients, encoder_dir, data_root, sample_zip):
    """Alice's encoder and dataset, both called ``hers``."""
    (data_root / "hers.zip").write_bytes(sample_zip.read_bytes())
    dataset = {"name": "hers", "path": str(data_root / "hers.zip")}
    assert clients["alice"].post("/v1/datasets", json=dataset).status_code == 201
    made = clients["alice"].post("/v1/encoders", json={"name": "hers", "path": str(encoder_dir)})
    assert made.status_code == 201, made.text
    return {"encoder": made.json(), "dataset": dataset, "path": str(encoder_dir)}


@pytest.fixture(scope="module")
def her_collection(live_service, hers, encoder_dir, sample_images):
    """A collection ``squares`` of Alice's."""
    from tests.api.sample_assets import make_collection

    made = make_collection(live_service, hers["encoder"], encoder_dir, sample_images)
    with live_service.context.database.session() as session:
        session.get_one(CollectionRow, made["id"]).owner = "alice"
    return made


def test_an_encoders_name_is_its_first_owners(clients, hers, refused):
    body = {"name": "hers", "path": hers["path"]}
    message = refused(clients["mallory"].post("/v1/encoders", json=body), 409, "conflict", "name")["message"]
    assert "alice" in message
    assert "another name" in message
    assert clients["mallory"].get("/v1/encoders/hers").json()["id"] == hers["encoder"]["id"]
    run = {"kind": "pretrain", "name": "hers", "spec": {"preset": "sample"}}
    refused(clients["mallory"].post("/v1/runs", json=run), 409, "conflict", "name")
    assert clients["alice"].post("/v1/runs", json=run).status_code == 202
    newer = clients["alice"].post("/v1/encoders", json=body)
    assert newer.status_code == 201, "her own name, for a newer one"
    assert clients["mallory"].get("/v1/encoders/hers").json()["id"] == newer.json()["id"]


@pytest.mark.parametrize("name", ["enc_x", "enc_00c0ffee00000000", "the id of another"])
def test_an_id_is_no_name(clients, hers, refused, name):
    name = hers["encoder"]["id"] if name == "the id of another" else name
    body = {"name": name, "path": hers["path"]}
    for owner in ("mallory", "alice", "root"):
        refused(clients[owner].post("/v1/encoders", json=body), 422, "invalid_value", "name")
        run = {"kind": "pretrain", "name": name, "spec": {"preset": "sample"}}
        refused(clients[owner].post("/v1/runs", json=run), 422, "invalid_value", "name")
    index = {"encoder": hers["encoder"]["id"], "collection": name.replace("enc_", "col_")}
    answer = clients["mallory"].post("/v1/runs", json={"kind": "index", "spec": index})
    refused(answer, 422, "invalid_value", "collection")


def test_other_kinds_of_runs_are_called_as_they_like(clients, hers):
    """Only a pre-training's name becomes an encoder's."""
    spec = {"encoder": hers["encoder"]["id"], "dataset": "sample"}
    answer = clients["mallory"].post("/v1/runs", json={"kind": "evaluate", "name": "hers", "spec": spec})
    assert answer.status_code == 202, answer.text


@pytest.mark.parametrize("new_version", [False, True])
def test_a_datasets_name_is_its_first_owners(clients, hers, refused, data_root, sample_zip, new_version):
    (data_root / "other.zip").write_bytes(sample_zip.read_bytes())
    body = {"name": "hers", "path": str(data_root / "other.zip"), "new_version": new_version}
    refused(clients["mallory"].post("/v1/datasets", json=body), 409, "conflict", "name")
    for kind, spec in (
        ("convert", {"path": str(data_root / "other.zip"), "name": "hers"}),
        ("match", {"path": str(data_root / "other.zip"), "name": "hers", "encoder": hers["encoder"]["id"]}),
    ):
        refused(clients["mallory"].post("/v1/runs", json={"kind": kind, "spec": spec}), 409, "conflict", "name")
    assert clients["mallory"].get("/v1/datasets/hers").json()["path"] == hers["dataset"]["path"]


def test_documents_of_a_dataset_are_tagged_by_its_owner_and_admins(clients, hers, refused):
    items = [clients["mallory"].get("/v1/datasets/hers/documents").json()["items"][0]["item"]]
    change = {"items": items, "add": ["kept"]}
    refused(clients["mallory"].patch("/v1/datasets/hers/tags", json=change), 403, "forbidden")
    for owner, changed in (("alice", 1), ("root", 0)):
        assert clients[owner].patch("/v1/datasets/hers/tags", json=change).json() == {"changed": changed}
    assert clients["mallory"].get("/v1/datasets/hers").json()["tags"] == {"kept": 1}


def test_what_comes_with_the_product_keeps_its_name(live_service, clients, hers, refused, data_root):
    with live_service.context.database.session() as session:
        seed.seed_database(session)
    shipped = next(row["name"] for row in live_service.admin.encoders() if row["owner"] == "lcl")
    body = {"name": shipped, "path": hers["path"]}
    refused(clients["alice"].post("/v1/encoders", json=body), 409, "conflict", "name")
    body = {"name": "sample", "path": str(data_root / "hers.zip"), "new_version": True}
    refused(clients["alice"].post("/v1/datasets", json=body), 409, "conflict", "name")
    index = {"kind": "index", "spec": {"encoder": shipped, "collection": "sample-drawings"}}
    for owner in ("alice", "root"):
        refused(clients[owner].post("/v1/runs", json=index), 409, "conflict", "collection")


def test_a_collections_name_is_its_first_owners(clients, hers, her_collection, refused):
    index = {"kind": "index", "spec": {"encoder": hers["encoder"]["id"], "collection": "squares"}}
    refused(clients["mallory"].post("/v1/runs", json=index), 409, "conflict", "collection")
    message = refused(clients["alice"].post("/v1/runs", json=index), 409, "conflict", "collection")["message"]
    assert all(words in message for words in ("'squares'", "another name", "mode to add", "replace"))
    replacing = {"kind": "index", "spec": {**index["spec"], "mode": "replace"}}
    refused(clients["mallory"].post("/v1/runs", json=replacing), 409, "conflict", "collection")
    assert clients["alice"].post("/v1/runs", json=replacing).status_code == 202
    adding = {"kind": "index", "spec": {**index["spec"], "mode": "add"}}
    assert clients["mallory"].post("/v1/runs", json=adding).status_code == 202, "to add is everybody's"


def test_an_admin_may_use_any_name(clients, hers):
    made = clients["root"].post("/v1/encoders", json={"name": "hers", "path": hers["path"]})
    assert made.status_code == 201, made.text
    again = clients["alice"].post("/v1/encoders", json={"name": "hers", "path": hers["path"]})
    assert again.status_code == 201, "it is hers still"


def test_a_run_whose_name_was_taken_meanwhile_succeeds_under_another(
    live_service, clients, encoder_dir, data_root, sample_zip
):
    run = {"kind": "pretrain", "name": "raced", "spec": {"preset": "sample"}}
    run_id = clients["mallory"].post("/v1/runs", json=run).json()["id"]
    taken = clients["alice"].post("/v1/encoders", json={"name": "raced", "path": str(encoder_dir)}).json()
    claim = live_service.claim(run_id)
    folder = live_service.run_dir(run_id).artifacts / "encoder"
    folder.mkdir(parents=True)
    for file in encoder_dir.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    live_service.settle(
        claim, complete_run.RunSucceeded({"encoder": {"path": "artifacts/encoder", "hash": taken["hash"]}})
    )
    row = clients["mallory"].get(f"/v1/runs/{run_id}").json()
    assert row["state"] == "succeeded", row["reason"]
    made = clients["mallory"].get(f"/v1/encoders/{row['encoder_id']}").json()
    assert (made["name"], made["owner"]) == (f"raced-{run_id}", "mallory")
    assert clients["mallory"].get("/v1/encoders/raced").json()["id"] == taken["id"]


def test_a_conversion_whose_name_was_taken_meanwhile_succeeds_under_another(
    live_service, clients, data_root, sample_zip
):
    (data_root / "raced.zip").write_bytes(sample_zip.read_bytes())
    path = str(data_root / "raced.zip")
    run = {"kind": "convert", "spec": {"path": path, "name": "raced-data"}}
    answer = clients["mallory"].post("/v1/runs", json=run)
    assert answer.status_code == 202, answer.text
    run_id = answer.json()["id"]
    assert clients["alice"].post("/v1/datasets", json={"name": "raced-data", "path": path}).status_code == 201
    live_service.work(run_id)
    row = clients["mallory"].get(f"/v1/runs/{run_id}").json()
    assert row["state"] == "succeeded", row["reason"]
    with live_service.context.database.reading() as session:
        owners = {each.name: each.owner for each in session.query(Dataset) if each.name.startswith("raced-data")}
    assert owners == {"raced-data": "alice", f"raced-data-{run_id}": "mallory"}


def test_an_index_whose_name_was_taken_meanwhile_succeeds_under_another(live_service, clients, encoder):
    spec = {"encoder": encoder["id"], "collection": "raced-pictures", "dataset": "sample"}
    run_id = clients["mallory"].post("/v1/runs", json={"kind": "index", "spec": spec}).json()["id"]
    with live_service.context.database.session() as session:
        facts = {
            "encoder_hash": "e" * 64,
            "encoder_identity": "e" * 64,
            "owner": "alice",
            "images": 0,
            "texts": 0,
            "dim": 24,
        }
        moment = session.get_one(EncoderRow, encoder["id"]).created_at
        session.add(
            CollectionRow(id="col_raced", name="raced-pictures", path="collections/x", created_at=moment, **facts)
        )
    live_service.work(run_id)
    row = clients["mallory"].get(f"/v1/runs/{run_id}").json()
    assert row["state"] == "succeeded", row["reason"]
    with live_service.context.database.session() as session:
        owners = {each.name: each.owner for each in session.query(CollectionRow) if each.name.startswith("raced-pic")}
        assert owners == {"raced-pictures": "alice", f"raced-pictures-{run_id}": "mallory"}
        session.delete(session.get_one(CollectionRow, "col_raced"))


def test_an_encoder_is_renamed_by_its_owner_to_a_free_name(clients, encoder_dir, hers, refused):
    made = clients["alice"].post("/v1/encoders", json={"name": "draft", "path": str(encoder_dir)}).json()
    address = f"/v1/encoders/{made['id']}"
    refused(clients["mallory"].patch(address, json={"name": "mine"}), 403, "forbidden")
    refused(clients["alice"].patch(address, json={"name": "hers"}), 409, "conflict", "name")
    refused(clients["alice"].patch(address, json={"name": "drawings-v5"}), 409, "conflict", "name")
    refused(clients["alice"].patch(address, json={"name": "enc_1"}), 422, "invalid_value", "name")
    spec = {"encoder": "draft", "dataset": "hers"}
    run = clients["alice"].post("/v1/runs", json={"kind": "evaluate", "spec": spec}).json()
    answer = refused(clients["alice"].patch(address, json={"name": "final"}), 409, "conflict")
    assert run["id"] in answer["message"]
    clients["alice"].post(f"/v1/runs/{run['id']}/cancel")
    assert clients["alice"].patch(address, json={"name": "final"}).json()["name"] == "final"
    assert clients["alice"].get("/v1/encoders/final").json()["id"] == made["id"]
    assert clients["alice"].get("/v1/encoders/draft").status_code == 404


def test_an_encoder_is_pinned_by_its_owner(clients, hers, refused):
    address = f"/v1/encoders/{hers['encoder']['id']}"
    assert hers["encoder"]["pinned"] is False
    assert clients["root"].patch(address, json={"pinned": True}).json()["pinned"] is True
    assert clients["alice"].get(address).json()["pinned"] is True
    refused(clients["mallory"].patch(address, json={"pinned": False}), 403, "forbidden")
    assert clients["alice"].patch(address, json={"pinned": False}).json()["pinned"] is False
