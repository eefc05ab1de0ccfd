"""Studies over REST: submit once, look, page, extend, and whose they are."""

import json
from typing import Any

import pytest

from lcl_core.db import datasets, runs
from lcl_core.db.models import Dataset, Metric

Json = dict[str, Any]
LOSSES = {
    "name": "loss",
    "variants": [{"name": "both"}, {"name": "contrastive", "spec": {"objective.generation_weight": 0.0}}],
}
SPEC = {
    "question": "What does generation do?",
    "pretrain": {"preset": "sample", "steps": 11},
    "axes": [LOSSES],
    "metrics": [{"name": "IR@5", "metric": "IR@5"}],
}


def spec(**changes):
    return {**SPEC, **changes}


def post(http, key=None, name=None, **changes):
    headers = {"idempotency-key": key} if key else {}
    return http.post("/v1/studies", json={"spec": spec(**changes), "name": name}, headers=headers)


@pytest.fixture
def finished(live_service):
    """A study whose cells have ended, with a figure for each; the seeds make its runs its own."""

    def make(values):
        study = live_service.admin.submit_study(spec(seeds=sorted({seed for _, seed in values})), "finished")
        return live_service.end_study(
            study["id"], {(f"loss={loss}", seed): value for (loss, seed), value in values.items()}
        )

    return make


VALUES = {("both", 901): 0.20, ("both", 902): 0.22, ("contrastive", 901): 0.10, ("contrastive", 902): 0.11}


def test_a_submission_queues_its_cells_and_is_found(http):
    answer = post(http, name="losses", seeds=[11, 12])
    assert answer.status_code == 202
    study = answer.json()
    assert answer.headers["location"] == f"/v1/studies/{study['id']}"
    assert (study["name"], study["state"], study["owner"]) == ("losses", "queued", "someone")
    assert (study["counts"], study["question"]) == ({"queued": 4}, SPEC["question"])
    whole = http.get(answer.headers["location"]).json()
    assert [(cell["labels"]["loss"], cell["seed"], cell["state"]) for cell in whole["cells"]] == [
        ("both", 11, "queued"),
        ("contrastive", 11, "queued"),
        ("both", 12, "queued"),
        ("contrastive", 12, "queued"),
    ]
    run = http.get(f"/v1/runs/{whole['cells'][3]['run']['id']}").json()
    assert (run["study_id"], run["spec"]["steps"]) == (study["id"], 11)
    assert run["spec"]["objective"]["generation_weight"] == 0
    assert whole["spec"]["axes"][0]["name"] == "loss"
    assert [row["states"] for row in whole["table"]["rows"]] == [{"queued": 2}] * 2
    assert whole["notes"] == []


def test_the_same_key_and_body_give_the_same_study(http, refused):
    first, second = post(http, key="s-1").json(), post(http, key="s-1").json()
    assert first["id"] == second["id"]
    assert post(http, key="s-2").json()["id"] != first["id"]
    refused(post(http, key="s-1", name="other"), 409, "conflict")


def test_a_repeat_gets_its_study_whatever_has_changed_since(live_service, http, refused):
    changes = {"seeds": [13], "pretrain": {"steps": 12, "data": {"sources": [{"dataset": "brief"}]}}}
    with live_service.context.database.session() as session:
        sample = datasets.get_dataset(session, "sample")
        columns = {column.name: getattr(sample, column.name) for column in Dataset.__table__.columns}
        session.add(Dataset(**columns | {"name": "brief"}))
    made = post(http, key="s-brief", **changes).json()
    with live_service.context.database.session() as session:
        session.delete(datasets.get_dataset(session, "brief"))
    refused(post(http, **changes), 422, "not_found")
    repeated = post(http, key="s-brief", **changes)
    assert (repeated.status_code, repeated.json()["id"]) == (202, made["id"])
    refused(post(http, key="s-brief", name="other", **changes), 409, "conflict")


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"metrics": []}, "bad_spec", "metrics"),
        ({"nonsense": 1}, "bad_spec", "nonsense"),
        ({"preset": "nope"}, "bad_spec", None),
        ({"baseline": {"loss": "absent"}}, "bad_spec", None),
        ({"axes": [LOSSES, LOSSES]}, "bad_spec", None),
        ({"axes": [{"name": "seed", "variants": [{"name": "a"}]}]}, "bad_spec", "axes.0"),
        ({"axes": [{"name": "a", "variants": [{"name": "x", "spec": {"steps": 0}}]}]}, "bad_spec",
         "axes.0.variants.0.spec.steps"),
        ({"pretrain": {"data": {"sources": [{"dataset": "absent"}]}}}, "not_found",
         "pretrain.data.sources.0.dataset"),
        ({"pretrain": {"data": {"max_images": 0}}}, "bad_spec", "pretrain.data.max_images"),
        ({"evaluate": {"dataset": "absent"}}, "not_found", "evaluate.dataset"),
        ({"pretrain": {"tokenizer": {"path": "/etc/passwd"}}}, "invalid_value", "pretrain.tokenizer.path"),
        ({"pretrain": {"monitor": {"dataset": "sample", "split": "test_vendor", "export": "best"}}}, "bad_spec",
         "pretrain.monitor.split"),
        ({"pretrain": {"tokenizer": {"path": "../x"}}}, "invalid_value", "pretrain.tokenizer.path"),
        ({"axes": [{"name": "a", "variants": [{"name": "x"}, {"name": "y", "spec": {"tokenizer.path": "runs/x"}}]}]},
         "invalid_value", "pretrain.tokenizer.path"),
        ({"axes": [{"name": "a", "variants": [{"name": "x"}, {"name": "y"}]}]}, "invalid_value", "axes"),
    ],
)  # fmt: skip
def test_a_bad_study_names_its_field_and_queues_nothing(http, refused, changes, code, field):
    before = http.get("/v1/runs").json()["items"], http.get("/v1/studies").json()["items"]
    refused(post(http, **changes), 422, code, field)
    refused(http.post("/v1/studies/plan", json={"spec": spec(**changes)}), 422, code, field)
    assert (http.get("/v1/runs").json()["items"], http.get("/v1/studies").json()["items"]) == before


def test_the_plan_counts_honestly(http):
    counted = ("rows", "seeds", "cells", "reused")
    plan = http.post("/v1/studies/plan", json={"spec": {"preset": "table1"}}).json()
    assert [plan[name] for name in counted] == [7, 3, 21, 0]
    post(http, seeds=[21])
    found = http.post("/v1/studies/plan", json={"spec": spec(seeds=[21, 22, 23])}).json()
    assert [found[name] for name in counted] == [2, 3, 6, 2]


def test_the_plan_tells_the_time_of_the_trainings_that_are_new(http, live_service):
    one, three = (
        http.post("/v1/studies/plan", json={"spec": spec(seeds=seeds)}).json() for seeds in ([31], [31, 32, 33])
    )
    assert one["certainty"] in ("measured", "scaled", "assumed")
    assert one["seconds"]["low"] < one["seconds"]["expected"] < one["seconds"]["high"]
    assert three["seconds"]["expected"] == pytest.approx(3 * one["seconds"]["expected"])
    post(http, seeds=[31])
    rest = http.post("/v1/studies/plan", json={"spec": spec(seeds=[31, 32, 33])}).json()
    assert rest["seconds"]["expected"] == pytest.approx(2 * one["seconds"]["expected"])
    assert http.post("/v1/studies/plan", json={"spec": spec(seeds=[31])}).json()["seconds"] is None, "nothing is new"


def test_pages_continue(http, refused):
    made = [post(http).json()["id"] for _ in range(3)]
    first = http.get("/v1/studies", params={"limit": 2}).json()
    assert [item["id"] for item in first["items"]] == made[:0:-1]
    post(http)  # shifts nothing
    second = http.get("/v1/studies", params={"limit": 1, "cursor": first["next_cursor"]}).json()
    assert second["items"][0]["id"] == made[0]
    refused(http.get("/v1/studies", params={"cursor": "nonsense"}), 422, "invalid_value")
    refused(http.get("/v1/studies", params={"limit": 0}), 422, field="limit")


def test_a_table_in_both_forms(http, finished):
    study = finished(VALUES)
    assert study["state"] == "succeeded"
    path = f"/v1/studies/{study['id']}/table"
    table = http.get(f"{path}.json").json()
    assert table["rows"] == study["table"]["rows"]
    assert table["title"] == f"finished: {SPEC['question']}"
    assert table["rows"][0]["figures"]["IR@5"]["mean"] == pytest.approx(0.21)
    (comparison,) = table["comparisons"]["IR@5"]
    assert comparison["difference"] == pytest.approx(-0.105)
    csv = http.get(f"{path}.csv")
    assert csv.headers["content-type"].startswith("text/csv")
    assert csv.text.splitlines()[1].startswith("both,11,IR@5,0.21,")
    assert http.get(f"{path}.exe").status_code == 422


def test_curves(live_service, http, finished):
    study = finished({("both", 911): 0.2, ("contrastive", 911): 0.1})
    path = f"/v1/studies/{study['id']}"
    run_id = study["cells"][0]["run"]["id"]
    with live_service.context.database.session() as session:
        session.add_all(
            [Metric(run_id=run_id, phase="", step=n, values={"step": n, "loss": 9 / n, "lr": 0.1}) for n in (1, 3)]
        )
    curves = http.get(f"{path}/curves").json()
    assert (curves["value"], curves["values"]) == ("loss", ["loss", "lr"])
    assert [row["points"] for row in curves["rows"]] == [[[1, 9, 9, 9], [3, 3, 3, 3]], []]


def test_two_rows_over_seeds_and_over_samples(live_service, http, finished, refused):
    study = finished({**VALUES, ("both", 903): 0.3, ("contrastive", 903): 0.1})
    path = f"/v1/studies/{study['id']}/compare"
    found = http.get(path, params={"left": 0, "right": 1}).json()
    assert (found["left"], found["right"]) == ({"loss": "both"}, {"loss": "contrastive"})
    assert (found["seeds"]["IR@5"]["count"], found["samples"]["IR@5"]) == (3, None)
    ranks = {"both": [1, 2, 3, 9], "contrastive": [1, 9, 9, 9]}
    for cell in study["cells"]:
        folder = live_service.run_dir(cell["evaluation"]["id"]).artifacts / "records"
        folder.mkdir(exist_ok=True)
        sheet = {"file": "s.jsonl", "task": "retrieval", "split": "test", "variant": "captions[0]",
                 "transfer": "zero_shot", "kind": "ranks", "encoder": "trained", "part": "text_to_image",
                 "facts": {"candidates": 10}}  # fmt: skip
        (folder / "index.json").write_text(json.dumps([sheet]))
        lines = [{"query": f"q{n}", "rank": rank, "right": 1} for n, rank in enumerate(ranks[cell["labels"]["loss"]])]
        (folder / "s.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    over = http.get(path, params={"left": 0, "right": 1}).json()["samples"]["IR@5"]
    assert (over["count"], over["difference"]) == (4, -0.5)
    refused(http.get(path, params={"left": 0, "right": 2}), 404, "not_found")
    refused(http.get(path, params={"left": -1, "right": 0}), 422, field="left")


def test_a_comparison_of_rows_names_datasets_whose_contents_differ(live_service, http, finished):
    study = finished({("both", 907): 0.3, ("contrastive", 907): 0.1})
    path, rows = f"/v1/studies/{study['id']}/compare", {"left": 0, "right": 1}
    assert http.get(path, params=rows).json()["notes"] == []
    with live_service.context.database.session() as session:
        for cell, digest in zip(study["cells"], ("a" * 64, "b" * 64), strict=True):
            runs.get_run(session, cell["evaluation"]["id"]).inputs = {"datasets": {"sample": digest}}
    (note,) = http.get(path, params=rows).json()["notes"]
    assert note.startswith("Evaluations read different contents of sample (aaaaaaaaaaaa, bbbbbbbbbbbb): ")
    assert http.get(path, params={"left": 0, "right": 0}).json()["notes"] == []


def test_extending_adds_and_repeats_nothing(http, refused):
    study = post(http, seeds=[31]).json()
    path = f"/v1/studies/{study['id']}/extend"
    heavy = {"name": "loss", "variants": [{"name": "heavy", "spec": {"objective.contrastive_weight": 9}}]}
    for _ in range(2):
        more = http.post(path, json={"seeds": [32], "axes": [heavy]})
        assert (more.status_code, more.json()["counts"]) == (200, {"queued": 6})
    refused(http.post(path, json={"axes": [{"name": "size", "variants": [{"name": "x"}]}]}), 422, "bad_spec")
    refused(http.post(path, json={"steps": 5}), 422, field="steps")
    refused(http.post(path, json={"seeds": [1, 2, 3] * 100}), 422, field="seeds")
    absent = {"name": "loss", "variants": [{"name": "y", "spec": {"data": {"sources": [{"dataset": "absent"}]}}}]}
    refused(http.post(path, json={"axes": [absent]}), 422, "not_found")
    assert http.get(f"/v1/studies/{study['id']}").json()["counts"] == {"queued": 6}


def test_verbs_follow_from_the_runs(http, finished, refused):
    study = post(http, seeds=[41]).json()
    path = f"/v1/studies/{study['id']}"
    refused(http.delete(path), 409, "conflict")
    refused(http.post(f"{path}/resume"), 409, "conflict")
    cancelled = http.post(f"{path}/cancel").json()
    assert (cancelled["state"], cancelled["counts"]) == ("cancelled", {"cancelled": 2})
    assert cancelled["cancelled_at"] is not None
    refused(http.post(f"{path}/cancel"), 409, "conflict")
    refused(http.post(f"{path}/extend", json={"seeds": [1]}), 409, "conflict")
    assert http.post(f"{path}/resume").json()["counts"] == {"queued": 2}
    http.post(f"{path}/cancel")
    run_id = http.get(path).json()["cells"][0]["run"]["id"]
    refused(http.delete(f"/v1/runs/{run_id}"), 409, "conflict")
    assert http.delete(path).status_code == 204
    refused(http.get(path), 404, "not_found")
    assert http.delete(f"/v1/runs/{run_id}").status_code == 204


def test_a_resumed_study_names_the_runs_that_have_used_up_their_time(live_service, http):
    study = post(http, seeds=[43], pretrain={"preset": "sample", "steps": 11, "timeout_seconds": 60}).json()
    path = f"/v1/studies/{study['id']}"
    late, other = (cell["run"]["id"] for cell in http.get(path).json()["cells"])
    with live_service.context.database.session() as session:
        for run_id, seconds in ((late, 61.0), (other, 59.0)):
            run = runs.get_run(session, run_id)
            run.state, run.ran_seconds = "failed", seconds
    answer = http.post(f"{path}/resume").json()
    assert (answer["state"], answer["counts"]) == ("running", {"queued": 1, "failed": 1})
    (named,) = answer["not_resumed"]
    assert (named["id"], named["code"]) == (late, "timeout_reached")
    assert f"lcl runs resume {late} --timeout SECONDS" in named["message"]
    assert http.post(f"/v1/runs/{late}/resume", json={"timeout_seconds": 120}).is_success
