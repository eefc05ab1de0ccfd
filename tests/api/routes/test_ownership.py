"""Whose is what: over every route, another owner's runs and studies are as if they were not there."""

import re
from pathlib import Path
from typing import get_args

import httpx
import pytest
from fastapi.routing import APIRoute

from api.app import ROUTERS
from api.deps import OWNED
from lcl_core.db import complete_run

# What a path may name that is the whole team's, and why. A route that names anything else belongs in OWNED.
SHARED = {
    "kind": "of a spec, a table's form or a picture's: part of the product",
    "encoder": "an encoder that came out is for everybody to examine and to serve",
    "model": "an encoder, under the name that OpenAI's clients give it",
    "action": "a word: cancel, pause or retry",
    "name": "a dataset, a collection, or (below a run or study) a file of what the id has named already",
    "item": "of a collection",
    "image": "of a dataset",
    "prefix": "of a key: for admins alone",
    "webhook_id": "of a webhook: for admins alone",
    "upload_id": "of an upload, whose owner is in its folder: test_uploads.py",
}
HERS = "ada-trains-in-secret"
STUDY = {"metrics": [{"name": "IR@5", "metric": "IR@5"}], "pretrain": {"steps": 7}}
FILLED = {"name": "report.json", "kind": "json", "action": "cancel"}


def routes():
    return [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]


def names_in(path):
    return re.findall(r"\{(\w+)", path)


def calls(owned):
    """``VERB path`` of the routes that name something owned, or of those that name nothing at all and only read."""
    if owned:
        chosen = [route for route in routes() if set(names_in(route.path)) & set(OWNED)]
    else:
        chosen = [route for route in routes() if not names_in(route.path) and "GET" in route.methods]
    return sorted(f"{verb} {route.path}" for route in chosen for verb in route.methods)


def test_every_name_in_a_path_is_owned_or_shared():
    unknown = {name for route in routes() for name in names_in(route.path)} - set(OWNED) - set(SHARED)
    assert not unknown, f"say in api.deps.OWNED or in SHARED whose these are: {unknown}"
    assert len(calls(owned=True)) >= 17
    assert len(calls(owned=False)) >= 10


def test_what_is_owned_is_named_in_the_path_alone():
    """There the caller's sight is looked at; a query or a body that named it would go past."""
    found = []
    for route in routes():
        requested = [field.name for field in route.dependant.query_params]
        for field in route.dependant.body_params:
            given = field.field_info.annotation
            for model in (given, *get_args(given)):  # also of an optional one
                requested += getattr(model, "model_fields", {})
        found += [f"{route.path}: {name}" for name in requested if name in ("run", "study", *OWNED)]
    assert found == ["/v1/runs: study"], "of the runs that the caller sees, those of a study"


@pytest.fixture(scope="module")
def hers(live_service):
    """A finished run with a log and an artifact, and a study, of an owner called Ada."""
    key = live_service.admin.create_key("ada", "submitter")["key"]
    with client(live_service, key) as ada:
        body = {"kind": "pretrain", "name": HERS, "tags": [HERS], "spec": {"preset": "sample"}}
        run_id = ada.post("/v1/runs", json=body).json()["id"]
        study_id = ada.post("/v1/studies", json={"name": HERS, "spec": STUDY}).json()["id"]
    claim = live_service.claim(run_id)
    live_service.record(claim, {"step": 1, "loss": 2.0, "note": HERS})
    folder = live_service.run_dir(run_id)
    folder.log_file.write_text(HERS, encoding="utf-8")
    Path(folder.artifacts, "report.json").write_text(HERS, encoding="utf-8")
    live_service.settle(claim, complete_run.RunFailed({"code": "crash", "message": HERS}))
    return {"run_id": run_id, "study_id": study_id}


@pytest.fixture(scope="module")
def keys(live_service):
    """A key of each role of an owner called Bob."""
    return {role: live_service.admin.create_key("bob", role)["key"] for role in ("viewer", "submitter", "admin")}


def client(live_service, key):
    headers = {"authorization": f"Bearer {key}"}
    return httpx.Client(base_url=live_service.url, headers=headers, timeout=180, trust_env=False)


def ask(caller, which, ids):
    verb, path = which.split(" ")
    url = re.sub(r"\{(\w+)[^}]*\}", lambda found: {**FILLED, **ids}[found[1]], path)
    params = {"left": "0", "right": "0"} if path.endswith("/compare") else {}
    return caller.request(verb, url, params=params, json={} if verb == "POST" else None)


@pytest.mark.parametrize("role", ["viewer", "submitter"])
@pytest.mark.parametrize("which", calls(owned=True))
def test_what_is_anothers_is_as_if_it_were_not_there(live_service, hers, keys, refused, which, role):
    absent = {"run_id": "run_absent", "study_id": "study_absent"}
    with client(live_service, keys[role]) as bob:
        answer, nothing = ask(bob, which, hers), ask(bob, which, absent)
    assert HERS not in answer.text
    assert answer.status_code in (403, 404)
    refused(answer, answer.status_code, "forbidden" if answer.status_code == 403 else None)
    for name, given in hers.items():
        answered = answer.text.replace(given, absent[name])
        if name in names_in(which):
            assert answered == nothing.text, "the answer tells whether there is such a thing"
    assert live_service.admin.run(hers["run_id"])["state"] == "failed"
    assert live_service.admin.study(hers["study_id"])["state"] in ("queued", "running")


def test_runs_of_anothers_study_are_not_listed(live_service, hers, keys, lookers):
    for key, some in ((keys["submitter"], False), (lookers["ada"], True)):
        with client(live_service, key) as caller:
            assert bool(caller.get("/v1/runs", params={"study": hers["study_id"]}).json()["items"]) == some


@pytest.mark.parametrize("which", [which for which in calls(owned=True) if which.startswith("GET")])
def test_an_admin_and_the_owner_see_it(live_service, hers, keys, which, lookers):
    for key in (keys["admin"], lookers["ada"]):
        with client(live_service, key) as caller:
            assert ask(caller, which, hers).status_code not in (401, 403), which
            assert ask(caller, which, hers).status_code == 200


@pytest.fixture(scope="module")
def lookers(live_service):
    return {"ada": live_service.admin.create_key("ada", "viewer")["key"]}


@pytest.mark.parametrize("which", calls(owned=False))
def test_no_list_shows_what_is_anothers(live_service, hers, keys, which):
    with client(live_service, keys["submitter"]) as bob:
        text = ask(bob, which, {}).text
        text += bob.get(which.split(" ")[1], params={"tag": HERS, "state": "failed", "kind": "pretrain"}).text
    assert HERS not in text
    assert not [given for given in hers.values() if given in text]


def test_lists_show_an_owners_own_and_an_admin_everything(live_service, hers, keys):
    with client(live_service, keys["submitter"]) as bob:
        own = bob.post("/v1/runs", json={"kind": "pretrain", "spec": {"preset": "sample"}}).json()["id"]
        assert [row["id"] for row in bob.get("/v1/runs").json()["items"]] == [own]
        assert bob.get("/v1/studies").json()["items"] == []
    with client(live_service, keys["admin"]) as admin:
        assert {own, hers["run_id"]} <= {row["id"] for row in admin.get("/v1/runs").json()["items"]}
        assert hers["study_id"] in {row["id"] for row in admin.get("/v1/studies").json()["items"]}


def test_one_idempotency_key_of_two_owners_makes_two_runs(live_service, keys, lookers):
    body, headers = {"kind": "pretrain", "spec": {"preset": "sample"}}, {"idempotency-key": "same"}
    ada = live_service.admin.create_key("ada", "submitter")["key"]
    made = []
    for key in (ada, keys["submitter"]):
        with client(live_service, key) as caller:
            made.append(caller.post("/v1/runs", json=body, headers=headers).json()["id"])
    assert made[0] != made[1]
