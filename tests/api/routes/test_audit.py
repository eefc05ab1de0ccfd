"""Every change leaves an entry that says who asked for what, and nothing else does."""

import pytest
from fastapi.routing import APIRoute

from api.app import ROUTERS
from api.client import data_url
from api.deps import get_write_transaction
from lcl_core.db import complete_run
from tests.api.routes.test_uploads import packed
from tests.api.sample_assets import images_by_colour, make_collection, png

ONLY_LOOK = {
    "POST /v1/collections/{name}/search",
    "POST /v1/embeddings",
    "POST /v1/captions",
    "POST /v1/continuations",
    "POST /v1/studies/plan",
    "POST /v1/specs/{kind}/estimate",
}
STUDY = {"metrics": [{"name": "IR@5", "metric": "IR@5"}], "pretrain": {"steps": 7}}


def routes():
    return [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]


def writes(dependant):
    return dependant.call is get_write_transaction or any(map(writes, dependant.dependencies))


def actions():
    names = {f"{route.tags[0]}.{route.name.rstrip('_')}" for route in routes() if writes(route.dependant)}
    return names - {"runs.act"} | {"runs.cancel", "runs.pause", "runs.resume", "runs.retry"}


def test_whatever_may_change_something_writes_through_the_audited_session():
    changing = {f"{verb} {route.path}" for route in routes() for verb in route.methods if verb != "GET"}
    audited = {f"{verb} {route.path}" for route in routes() for verb in route.methods if writes(route.dependant)}
    assert changing - audited == ONLY_LOOK
    assert audited <= changing


def entries(http, **query):
    found = http.get("/v1/audit", params={"limit": 200, **query})
    assert found.status_code == 200, found.text
    return found.json()["items"]


def ok(answer):
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


def live(live_service, http, data_root, sample_zip, encoder_dir):
    """Do everything once that changes something. Returns: {action: the object's id or name}."""
    done = {}
    run = {"kind": "pretrain", "spec": {"preset": "sample"}}
    done["runs.submit"] = run_id = ok(http.post("/v1/runs", json=run))["id"]
    for verb in ("pause", "resume", "cancel", "resume", "cancel", "retry", "cancel"):
        ok(http.post(f"/v1/runs/{run_id}/{verb}"))
        done[f"runs.{verb}"] = run_id
    ok(http.patch(f"/v1/runs/{run_id}", json={"notes": "the first"}))
    ok(http.delete(f"/v1/runs/{run_id}"))
    done |= dict.fromkeys(("runs.annotate", "runs.delete"), run_id)
    done["studies.submit"] = study_id = ok(http.post("/v1/studies", json={"spec": STUDY}))["id"]
    for verb, body in (("cancel", None), ("resume", None), ("extend", {"seeds": [1]}), ("cancel", None)):
        ok(http.post(f"/v1/studies/{study_id}/{verb}", json=body))
        done[f"studies.{verb}"] = study_id
    ok(http.delete(f"/v1/studies/{study_id}"))
    done["studies.delete"] = study_id
    (data_root / "audited.zip").write_bytes(sample_zip.read_bytes())
    corpus = {"name": "audited", "path": str(data_root / "audited.zip")}
    done["datasets.register"] = ok(http.post("/v1/datasets", json=corpus))["name"]
    upload = ok(http.post("/v1/uploads", content=packed({"a.md": b"A"})))["id"]
    ok(http.delete(f"/v1/uploads/{upload}"))
    done |= dict.fromkeys(("uploads.create", "uploads.delete"), upload)
    imported = {"name": "audited", "path": str(encoder_dir)}
    encoder = ok(http.post("/v1/encoders", json=imported))
    ok(http.patch(f"/v1/encoders/{encoder['id']}", json={"pinned": True}))
    done |= dict.fromkeys(("encoders.import", "encoders.change"), encoder["id"])
    make_collection(live_service, encoder, encoder_dir, images_by_colour())
    added = ok(http.post("/v1/collections/squares/items", json={"items": [{"image": data_url(png("black"))}]}))
    ok(http.patch("/v1/collections/squares/items", json={"ids": added["ids"], "add": {"tags": ["kept"]}}))
    ok(http.delete(f"/v1/collections/squares/items/{added['ids'][0]}"))
    ok(http.delete("/v1/collections/squares"))
    done |= dict.fromkeys(("collections.add", "collections.update_labels"), "squares")
    done |= dict.fromkeys(("collections.remove", "collections.delete"), "squares")
    ok(http.delete(f"/v1/encoders/{encoder['id']}"))
    done["encoders.delete"] = encoder["id"]
    tagged = {"items": [ok(http.get("/v1/datasets/audited/documents"))["items"][0]["item"]], "add": ["kept"]}
    ok(http.patch("/v1/datasets/audited/tags", json=tagged))
    ok(http.delete("/v1/datasets/audited"))
    done |= dict.fromkeys(("datasets.change_tags", "datasets.delete"), "audited")
    hook = {"url": "https://hooks.example.org/lcl"}
    done["webhooks.create"] = done["webhooks.remove"] = ok(http.post("/v1/webhooks", json=hook))["id"]
    ok(http.delete(f"/v1/webhooks/{done['webhooks.remove']}"))
    done["keys.create"] = prefix = ok(http.post("/v1/keys", json={"owner": "x", "role": "viewer"}))["prefix"]
    ok(http.delete(f"/v1/keys/{prefix}"))
    return done | {"keys.revoke": prefix}


def test_every_change_leaves_its_entry(live_service, http, data_root, sample_zip, encoder_dir):
    http.headers["x-request-id"] = "find-me"
    done = live(live_service, http, data_root, sample_zip, encoder_dir)
    found = [row for row in entries(http) if row["request_id"] == "find-me"]
    assert {row["action"] for row in found} == actions() == set(done)
    assert {row["action"]: row["object"] for row in found} == done
    assert {(row["owner"], row["prefix"]) for row in found} == {
        ("someone", live_service.keys["admin"].partition(".")[0])
    }
    assert [row["action"] for row in found][:2] == ["keys.revoke", "keys.create"], "newest first"
    count = len(entries(http))
    http.get("/v1/runs")
    http.post("/v1/studies/plan", json={"spec": STUDY})
    assert len(entries(http)) == count, "who only looks leaves nothing"
    text = str(entries(http))
    assert not [key for key in live_service.keys.values() if key.partition(".")[2] in text], "no secret"


def test_what_was_refused_leaves_nothing(live_service, http):
    run_id = live_service.finished(complete_run.RunSucceeded({"encoder": None}))
    before = entries(http)
    with live_service.http("viewer") as viewer:
        assert viewer.post(f"/v1/runs/{run_id}/cancel").status_code == 403
    assert http.post(f"/v1/runs/{run_id}/cancel").status_code == 409
    assert http.post("/v1/runs", json={"kind": "pretrain", "spec": {"nonsense": 1}}).status_code == 422
    assert http.post("/v1/runs/run_absent/cancel").status_code == 404
    assert entries(http) == before


def test_pages_and_filters(live_service, http, refused):
    run_id = live_service.submit()
    http.post(f"/v1/runs/{run_id}/cancel")
    assert [row["action"] for row in entries(http, object=run_id)] == ["runs.cancel", "runs.submit"]
    assert {row["owner"] for row in entries(http, owner="someone")} == {"someone"}
    assert {row["action"] for row in entries(http, action="runs.cancel")} == {"runs.cancel"}
    assert entries(http, owner="nobody") == []
    assert list(pages(http)) == entries(http)
    for wrong in ("x", "-1", "٣"):
        refused(http.get("/v1/audit", params={"cursor": wrong}), 422, "invalid_value")
    refused(http.get("/v1/audit", params={"limit": 201}), 422, field="limit")


def pages(http):
    cursor = None
    while True:
        found = http.get("/v1/audit", params={"limit": 7, **({"cursor": cursor} if cursor else {})}).json()
        assert len(found["items"]) <= 7
        yield from found["items"]
        cursor = found["next_cursor"]
        if cursor is None:
            return


def test_the_first_key_is_noted_too(http, live_service):
    first = (live_service.home / "key").read_text().partition(".")[0]
    (entry,) = entries(http, action="keys.configure")
    assert (entry["owner"], entry["object"], entry["request_id"]) == ("admin", first, "")


@pytest.mark.parametrize("role", ["viewer", "submitter"])
def test_admins_alone_read_it(live_service, refused, role):
    with live_service.http(role) as client:
        refused(client.get("/v1/audit"), 403, "forbidden")
