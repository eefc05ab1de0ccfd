"""Runs over REST: submit once, look, page, and the verbs of the state machine."""

import pytest

from lcl_core.db import complete_run, datasets, leases
from lcl_core.db import runs as db_runs
from lcl_core.db.models import Dataset, Metric
from lcl_core.db.workers import WorkerIdentity, deregister, record_heartbeat

SPEC = {"preset": "sample", "steps": 7}


def post(http, key=None, **body):
    headers = {"idempotency-key": key} if key else {}
    return http.post("/v1/runs", json={"kind": "pretrain", "spec": SPEC, **body}, headers=headers)


def test_a_submission_is_queued_and_found(http):
    answer = post(http, name="first try", tags=["b", "a"])
    assert answer.status_code == 202
    run = answer.json()
    assert answer.headers["location"] == f"/v1/runs/{run['id']}"
    assert run["state"] == "queued"
    assert run["owner"] == "someone"
    assert run["name"] == "first try"
    assert run["tags"] == ["a", "b"]
    assert run["spec"]["steps"] == 7
    assert run["spec"]["data"]["piece_images"] is not None, "the preset filled in what was not given"
    assert run["created_at"].endswith("Z")
    assert http.get(answer.headers["location"]).json() == run


def test_the_same_key_and_body_give_the_same_run(http, refused):
    first, second = post(http, key="k-1").json(), post(http, key="k-1").json()
    assert first["id"] == second["id"]
    assert post(http, key="k-2").json()["id"] != first["id"]
    refused(post(http, key="k-1", name="other"), 409, "conflict")


def test_a_repeat_gets_its_run_whatever_has_changed_since(live_service, http, refused):
    body = {"spec": SPEC | {"data": {"sources": [{"dataset": "brief"}]}}, "after": ["the-first"]}
    with live_service.context.database.session() as session:
        dataset = datasets.get_dataset(session, "sample")
        session.add(Dataset(**{column.name: getattr(dataset, column.name) for column in Dataset.__table__.columns}
                            | {"name": "brief"}))  # fmt: skip
    post(http, name="the-first")
    made = post(http, key="k-brief", **body).json()
    post(http, name="the-first")
    with live_service.context.database.session() as session:
        session.delete(datasets.get_dataset(session, "brief"))
    refused(post(http, **body), 422, "not_found")
    refused(post(http, after=body["after"]), 422, "conflict", "after.0")
    assert post(http, key="k-brief", **body).json()["id"] == made["id"]
    refused(post(http, key="k-brief", **body, name="other"), 409, "conflict")


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"kind": "pretrain", "spec": {"steps": 0}}, "bad_spec", "steps"),
        ({"kind": "pretrain", "spec": {"model": {"patch_size": 7}}}, "bad_spec", "model"),
        ({"kind": "pretrain", "spec": {"nonsense": 1}}, "bad_spec", "nonsense"),
        ({"kind": "pretrain", "spec": {"objective": {"name": "clip"}}}, "bad_spec", "data.sources.0.view"),
        ({"kind": "pretrain", "spec": {"preset": "nope"}}, "bad_spec", None),
        ({"kind": "pretrain", "spec": {"optimizer": {"lr": "NaN"}}}, "bad_spec", "optimizer.lr"),
        (
            {"kind": "pretrain", "spec": {"data": {"sources": [{}, {"dataset": "absent"}]}}},
            "not_found",
            "data.sources.1.dataset",
        ),
        ({"kind": "pretrain", "spec": {"monitor": {"dataset": "absent"}}}, "not_found", "monitor.dataset"),
        ({"kind": "pretrain", "spec": {"branch": {"run": "run_0", "step": 5}}}, "invalid_value", "branch.run"),
        ({"kind": "evaluate", "spec": {"encoder": "absent"}}, "not_found", "encoder"),
        ({"kind": "pretrain", "spec": {"model": {"init": "absent"}}}, "not_found", "model.init"),
        ({"kind": "pretrain", "spec": {"tokenizer": {"path": "../x"}}}, "invalid_value", "tokenizer.path"),
        ({"kind": "pretrain", "spec": {"tokenizer": {"path": "runs/x"}}}, "invalid_value", "tokenizer.path"),
        ({"kind": "pretrain", "spec": {"tokenizer": {"path": "~/x"}}}, "invalid_value", "tokenizer.path"),
        ({"kind": "evaluate", "spec": {"encoder": "e", "dataset": "absent"}}, "not_found", "dataset"),
        ({"kind": "evaluate", "spec": {}}, "bad_spec", "encoder"),
        ({"kind": "index", "spec": {"encoder": "e", "collection": "../up"}}, "bad_spec", "collection"),
        ({"kind": "bake", "spec": {}}, "invalid_value", "kind"),
        ({"kind": "pretrain"}, "invalid_value", "spec"),
        ({"kind": "pretrain", "spec": [1]}, "invalid_value", "spec"),
        ({"kind": "pretrain", "spec": {}, "surprise": 1}, "invalid_value", "surprise"),
        ({"kind": "pretrain", "spec": {}, "gpus": 0}, "invalid_value", "gpus"),
        ({"kind": "pretrain", "spec": {"engine": {"processes": 4}}, "gpus": 2}, "invalid_value", "gpus"),
        ({"kind": "pretrain", "spec": {}, "name": "two\nlines"}, "invalid_value", "name"),
        ({"kind": "pretrain", "spec": {}, "name": "nul\x00"}, "invalid_value", "name"),
        ({"kind": "pretrain", "spec": {}, "tags": ["ok", "not ok"]}, "invalid_value", "tags.1"),
    ],
)
def test_a_bad_submission_names_its_field(http, refused, body, code, field):
    before = http.get("/v1/runs").json()["items"]
    facts = refused(http.post("/v1/runs", json=body), 422, code, field)
    if body.keys() == {"kind", "spec"} and body["kind"] == "pretrain":
        requested = http.post("/v1/specs/pretrain/estimate", json={"spec": body["spec"]})
        assert refused(requested, 422, code, field) == facts, "an estimate is refused in the same words"
    assert http.get("/v1/runs").json()["items"] == before


def test_pages_filter_and_continue(live_service, http, refused):
    made = [live_service.submit(tags=["paged"]) for _ in range(5)]
    first = http.get("/v1/runs", params={"tag": "paged", "limit": 2}).json()
    assert [run["id"] for run in first["items"]] == made[:-3:-1]
    live_service.submit(tags=["paged"])  # shifts nothing
    second = http.get("/v1/runs", params={"tag": "paged", "limit": 2, "cursor": first["next_cursor"]}).json()
    assert [run["id"] for run in second["items"]] == [made[2], made[1]]
    last = http.get("/v1/runs", params={"tag": "paged", "limit": 2, "cursor": second["next_cursor"]}).json()
    assert [run["id"] for run in last["items"]] == [made[0]]
    assert last["next_cursor"] is None
    assert http.get("/v1/runs", params={"tag": "paged", "kind": "index"}).json()["items"] == []
    assert http.get("/v1/runs", params={"tag": "paged", "state": "running"}).json()["items"] == []
    refused(http.get("/v1/runs", params={"cursor": "nonsense"}), 422, "invalid_value")
    refused(http.get("/v1/runs", params={"state": "asleep"}), 422, field="state")
    refused(http.get("/v1/runs", params={"limit": 0}), 422, field="limit")


def test_runs_are_found_by_a_part_of_their_name(live_service, http, refused):
    made = live_service.admin.submit("pretrain", {"preset": "sample"}, name="Named 50%")["id"]
    assert [run["id"] for run in http.get("/v1/runs", params={"name": "named 50%"}).json()["items"]] == [made]
    assert [run["id"] for run in live_service.admin.runs(name="NAMED")["items"]] == [made]
    assert http.get("/v1/runs", params={"name": "named 5_%"}).json()["items"] == []
    refused(http.get("/v1/runs", params={"name": ""}), 422, field="name")


def test_a_run_is_resumed_with_another_limit_of_its_time(live_service, http, refused):
    run_id = live_service.admin.submit("pretrain", {"preset": "sample", "timeout_seconds": 60})["id"]
    for body, limit in (({"timeout_seconds": 90.5}, 90.5), ({}, 90.5), ({"timeout_seconds": None}, None)):
        http.post(f"/v1/runs/{run_id}/cancel")
        refused(http.post(f"/v1/runs/{run_id}/resume", json={"timeout_seconds": 0}), 422, field="timeout_seconds")
        refused(http.post(f"/v1/runs/{run_id}/resume", json={"steps": 1}), 422)
        assert http.post(f"/v1/runs/{run_id}/resume", json=body).json()["spec"]["timeout_seconds"] == limit
    with live_service.context.database.session() as session:
        run = db_runs.get_run(session, run_id)
        run.state, run.ran_seconds = "failed", 7.0
    refused(http.post(f"/v1/runs/{run_id}/resume", json={"timeout_seconds": 7}), 409, "timeout_reached")


def test_verbs_follow_the_state_machine(live_service, http, refused):
    run_id = live_service.submit()
    refused(http.post(f"/v1/runs/{run_id}/resume"), 409, "conflict")
    refused(http.delete(f"/v1/runs/{run_id}"), 409, "conflict")
    assert http.post(f"/v1/runs/{run_id}/cancel").json()["state"] == "cancelled"
    refused(http.post(f"/v1/runs/{run_id}/cancel"), 409, "conflict")
    assert http.post(f"/v1/runs/{run_id}/resume").json()["state"] == "queued"
    live_service.claim(run_id)
    assert http.get(f"/v1/runs/{run_id}").json()["state"] == "running"
    assert http.post(f"/v1/runs/{run_id}/cancel").json()["state"] == "cancelling"
    refused(http.post(f"/v1/runs/{run_id}/retry"), 409, "conflict")


def test_a_run_is_paused_and_goes_on(live_service, http, refused):
    run_id = live_service.submit()
    assert http.post(f"/v1/runs/{run_id}/pause").json()["state"] == "paused"
    refused(http.post(f"/v1/runs/{run_id}/pause"), 409, "conflict")
    assert http.post(f"/v1/runs/{run_id}/resume").json()["state"] == "queued"
    claim = live_service.claim(run_id)
    assert http.post(f"/v1/runs/{run_id}/pause").json()["state"] == "pausing"
    refused(http.post(f"/v1/runs/{run_id}/resume"), 409, "conflict")
    with live_service.context.database.session() as session:
        leases.release_lease(session, claim, cause="it was paused")
    run = http.get(f"/v1/runs/{run_id}").json()
    assert (run["state"], run["attempt"], run["interruption"]["code"]) == ("paused", 0, "handed_back")
    with live_service.http("viewer") as viewer:
        refused(viewer.post(f"/v1/runs/{run_id}/resume"), 403, "forbidden")
    assert http.post(f"/v1/runs/{run_id}/cancel").json()["state"] == "cancelled"


def test_a_run_may_come_after_others(live_service, http, refused):
    first = live_service.submit()
    run = post(http, after=[first], priority=7, max_attempts=5).json()
    assert (run["state"], run["after"], run["priority"], run["max_attempts"]) == ("waiting", [first], 7, 5)
    assert http.get("/v1/runs", params={"state": "waiting"}).json()["items"][0]["id"] == run["id"]
    refused(post(http, after=[first, "run_none"]), 422, "invalid_value", "after.1")
    http.post(f"/v1/runs/{first}/cancel")
    refused(post(http, after=[first]), 422, "predecessor_failed", "after.0")
    refused(http.delete(f"/v1/runs/{first}"), 409, "conflict")
    http.post(f"/v1/runs/{run['id']}/cancel")
    for field, value in (
        ("priority", 101),
        ("max_attempts", 0),
        ("resource", "tpu"),
        ("after", "run_x"),
        ("after", [""]),
    ):
        refused(post(http, **{field: value}), 422, "invalid_value")


def test_a_failed_run_tells_why_and_can_be_retried(live_service, http):
    reason = {"code": "corpus_unreadable", "message": "line 3 is not JSON", "field": "data.sources.0.dataset"}
    run_id = live_service.finished(complete_run.RunFailed(reason))
    run = http.get(f"/v1/runs/{run_id}").json()
    assert (run["state"], run["reason"]) == ("failed", reason)
    assert run["finished_at"] is not None
    again = http.post(f"/v1/runs/{run_id}/retry").json()
    assert (again["state"], again["reason"]) == ("queued", None)


def test_deleting_takes_the_folder_too(live_service, http, eventually, refused):
    run_id = live_service.finished()
    folder = live_service.run_dir(run_id).path
    assert http.delete(f"/v1/runs/{run_id}").status_code == 204
    refused(http.get(f"/v1/runs/{run_id}"), 404, "not_found")
    eventually(lambda: not folder.exists())
    refused(http.delete(f"/v1/runs/{run_id}"), 404, "not_found")


def test_metrics_come_after_a_step_or_a_number(live_service, http):
    run_id = live_service.submit()
    live_service.record(
        live_service.claim(run_id), *[{"step": step, "loss": 1 / step, "total_steps": 30} for step in (10, 20, 30)]
    )
    lines = http.get(f"/v1/runs/{run_id}/metrics").json()["items"]
    assert [(line["step"], line["loss"]) for line in lines] == [(10, 0.1), (20, 0.05), (30, 1 / 30)]
    after = http.get(f"/v1/runs/{run_id}/metrics", params={"after": 10}).json()["items"]
    assert [line["step"] for line in after] == [20, 30]
    by_id = http.get(f"/v1/runs/{run_id}/metrics", params={"after_id": lines[1]["id"]}).json()["items"]
    assert [line["step"] for line in by_id] == [30]
    assert http.get(f"/v1/runs/{run_id}").json()["progress"]["step"] == 30


def test_a_metric_line_is_answered_as_it_is_stored(live_service, http):
    run_id = live_service.submit()
    values = [
        {"step": 1, "loss": 1e-7, "by_view": {"a": [1, 2.5, None, {"b": True}]}, "text": 'é "id": {'},
        {"id": "of the job", "step": 2, "loss": float("nan"), "worst": [float("inf"), -float("inf")]},
        {},
    ]
    with live_service.context.database.session() as session:
        rows = [Metric(run_id=run_id, step=step, values=line) for step, line in enumerate(values, start=1)]
        session.add_all(rows)
        session.flush()
        ids = [row.id for row in rows]
    answer = http.get(f"/v1/runs/{run_id}/metrics")
    lines = [
        f'{{"step":1,"loss":1e-7,"by_view":{{"a":[1,2.5,null,{{"b":true}}]}},"text":"é \\"id\\": {{","id":{ids[0]}}}',
        f'{{"id":{ids[1]},"step":2,"loss":null,"worst":[null,null]}}',
        f'{{"id":{ids[2]}}}',
    ]
    assert answer.text == f'{{"items":[{",".join(lines)}]}}'
    assert answer.headers["content-type"] == "application/json"
    some = http.get(f"/v1/runs/{run_id}/metrics", params={"after_id": ids[0], "limit": 1}).text
    assert some == f'{{"items":[{lines[1]}]}}'
    assert http.get(f"/v1/runs/{run_id}/metrics", params={"after_id": ids[2]}).text == '{"items":[]}'


def test_a_specs_schema_and_presets(http, refused):
    found = http.get("/v1/specs/pretrain").json()
    assert found["schema"]["properties"]["steps"]["minimum"] == 1
    assert found["presets"]["sample"]["steps"] > 0
    assert http.get("/v1/specs/index").json()["schema"]["required"] == ["encoder", "collection"]
    refused(http.get("/v1/specs/bake"), 404, "not_found")


def test_a_run_that_no_worker_can_serve_says_so(http, live_service):
    with live_service.context.database.session() as session:
        record_heartbeat(session, WorkerIdentity("small", "host", 1, 1, ("cpu (2 cores)",), ("cpu",)))
    run = post(http, resource="gpu").json()
    assert (run["state"], run["resource"], run["obstacle"]["code"]) == ("queued", "gpu", "no_resource")
    assert run["obstacle"]["message"].startswith("no worker offers gpu; start one")
    listed = {each["id"]: each for each in http.get("/v1/runs").json()["items"]}
    assert listed[run["id"]]["obstacle"] == run["obstacle"]
    other = post(http).json()
    assert (other["resource"], other["obstacle"]) == ("accelerator", None)
    assert http.get("/v1/workers").json()["items"][0]["offers"] == ["cpu"]
    for each in (run, other):
        cancelled = http.post(f"/v1/runs/{each['id']}/cancel").json()
        assert cancelled["obstacle"] is None
    with live_service.context.database.session() as session:
        deregister(session, "small")


def test_only_an_admin_may_go_before_everybody(live_service, http, refused):
    with live_service.http("submitter") as submitter:
        refused(post(submitter, priority=1), 403, "forbidden", "priority")
        assert post(submitter, priority=-5).json()["priority"] == -5
    assert post(http, priority=100).json()["priority"] == 100


def test_tags_and_notes_are_replaced_in_any_state(http, refused):
    run = post(http, name="annotated", tags=["a", "b"]).json()
    assert run["notes"] is None
    address = f"/v1/runs/{run['id']}"
    answer = http.patch(address, json={"tags": ["c", "a"], "notes": "loss diverged\nat 4,000"})
    assert (answer.status_code, answer.json()["tags"]) == (200, ["a", "c"])
    assert http.get(address).json() == answer.json()
    assert [each["id"] for each in http.get("/v1/runs", params={"tag": "c"}).json()["items"]] == [run["id"]]
    assert run["id"] not in {each["id"] for each in http.get("/v1/runs", params={"tag": "b"}).json()["items"]}
    http.post(f"{address}/cancel")
    answer = http.patch(address, json={"notes": None}).json()
    assert (answer["notes"], answer["tags"], answer["state"]) == (None, ["a", "c"], "cancelled")
    refused(http.patch(address, json={"tags": ["no blanks"]}), 422, field="tags.0")
    refused(http.patch(address, json={"name": "x"}), 422, field="name")
    refused(http.patch("/v1/runs/run_absent", json={"notes": "x"}), 404, "not_found")
