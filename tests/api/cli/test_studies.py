"""``lcl study`` against a real service."""

import csv
import io
import json
import re
from typing import Any

import pytest

from lcl_core.db import runs

Json = dict[str, Any]
SPEC = {
    "question": "What does generation do?",
    "pretrain": {"preset": "sample", "steps": 11},
    "axes": [
        {
            "name": "loss",
            "variants": [{"name": "both"}, {"name": "contrastive", "spec": {"objective.generation_weight": 0.0}}],
        }
    ],
    "metrics": [{"name": "IR@5", "metric": "IR@5"}],
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "study.json"
    path.write_text(json.dumps(SPEC))
    return str(path)


HOURS = re.compile(r"hours of pre-training in one slot: \S+ \(\S+ to \S+, [a-z ]+\)")


def ended(live_service, seeds, **changes):
    study = live_service.admin.submit_study({**SPEC, "seeds": seeds, **changes}, "ended")
    values = {(f"loss={loss}", seed): value for seed in seeds for loss, value in (("both", 0.2), ("contrastive", 0.1))}
    return live_service.end_study(study["id"], values)


def test_a_built_in_study_is_run_with_changes(lcl, live_service):
    changes = ("--seed", "61", "--seed", "62", "--set", "pretrain.steps=9")
    status, out, err = lcl("study", "run", "loss_ablation", *changes)
    counts, hours = err.splitlines()
    assert (status, counts) == (0, "rows: 3, seeds: 2, pre-trainings to run: 6, encoders to evaluate: 6")
    assert HOURS.fullmatch(hours)
    study = live_service.admin.study(out.strip())
    assert (study["name"], study["counts"]) == ("loss_ablation", {"queued": 6})
    run = live_service.admin.run(study["cells"][0]["run"]["id"])
    assert (run["spec"]["steps"], run["name"]) == (9, "loss_ablation-contrastive-s61")


def test_a_dry_run_only_counts(lcl, live_service, file):
    lcl("study", "run", "--spec", file, "--seed", "63")
    before = len(live_service.admin.studies()["items"])
    _, out, _ = lcl("study", "run", "--spec", file, "--seed", "63", "--seed", "64", "--dry-run")
    counts, hours = out.splitlines()
    assert counts == (
        "rows: 2, seeds: 2, pre-trainings to run: 2, encoders to evaluate: 4; 2 of the pre-trainings are there already"
    )
    assert HOURS.fullmatch(hours)
    _, out, _ = lcl("--json", "study", "run", "--spec", file, "--seed", "65", "--dry-run")
    plan = json.loads(out)
    assert {name: plan[name] for name in ("rows", "seeds", "cells", "reused")} == {
        "rows": 2,
        "seeds": 1,
        "cells": 2,
        "reused": 0,
    }
    assert 0 < plan["seconds"]["low"] <= plan["seconds"]["expected"] <= plan["seconds"]["high"]
    assert len(live_service.admin.studies()["items"]) == before


def test_list_and_show(lcl, live_service):
    study = ended(live_service, [66, 67])
    _, out, _ = lcl("study", "list", "--limit", "1")
    assert study["id"] in out
    assert "4 succeeded" in out
    assert "older ones: --cursor study_" in out
    assert json.loads(lcl("--json", "study", "list", "--limit", "1")[1])["items"][0]["id"] == study["id"]
    _, out, _ = lcl("study", "show", study["id"])
    assert SPEC["question"] in out
    assert "0.2 ± 0" in out
    assert "2 succeeded" in out
    assert json.loads(lcl("--json", "study", "show", study["id"])[1])["table"] == study["table"]


def test_the_table_as_a_file(lcl, live_service, tmp_path):
    study = ended(live_service, [68])
    target = tmp_path / "table.csv"
    _, out, _ = lcl("study", "show", study["id"], "--format", "csv", "--out", str(target))
    assert out == f"{target}\n"
    assert [line["mean"] for line in csv.DictReader(io.StringIO(target.read_text()))] == ["0.2", "0.1"]


def test_a_study_is_watched_to_its_end(lcl, live_service):
    study = ended(live_service, [69])
    status, out, _ = lcl("study", "show", study["id"], "--watch")
    assert status == 0
    assert out.startswith(f"{study['id']} succeeded, 2 succeeded\n")
    assert "contrastive" in out
    assert json.loads(lcl("--json", "study", "show", study["id"], "--watch")[1])["id"] == study["id"]
    with live_service.context.database.session() as session:
        run = runs.get_run(session, study["cells"][0]["evaluation"]["id"])
        run.state, run.reason = "failed", {"code": "crash", "message": "it fell over"}
    status, out, err = lcl("study", "show", study["id"], "--watch")
    assert (status, err) == (1, f"error: {run.id} failed: it fell over\n")


def test_extend_cancel_resume_and_delete(lcl, live_service, file):
    study_id = lcl("study", "run", "--spec", file, "--seed", "70")[1].strip()
    heavy = 'loss:heavy={"objective.contrastive_weight": 5}'
    _, out, _ = lcl("study", "extend", study_id, "--seed", "71", "--variant", heavy)
    assert out == f"{study_id} is queued, 6 queued\n"
    assert json.loads(lcl("--json", "study", "cancel", study_id)[1])["state"] == "cancelled"
    with live_service.context.database.session() as session:
        late = next(run for run in runs.list_runs(session, limit=20).items if run.study_id == study_id)
        late.spec, late.ran_seconds = {**late.spec, "timeout_seconds": 60}, 61.0
    _, out, _ = lcl("study", "resume", study_id)
    assert out.startswith(f"{study_id} is running, ")
    assert f"\nnot resumed: run {late.id} has been at work for 61 s" in out
    assert lcl("runs", "resume", late.id, "--timeout", "0")[0] == 0
    assert lcl("study", "cancel", study_id)[1] == f"{study_id} is cancelled, 6 cancelled\n"
    assert lcl("study", "delete", study_id, "--yes")[1] == f"{study_id} is deleted\n"
    again = lcl("study", "run", "--spec", file, "--seed", "72")[1].strip()
    lcl("study", "cancel", again)
    assert json.loads(lcl("--json", "study", "delete", again, "--yes")[1]) == {"id": again, "deleted": True}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run",), "name a built-in study"),
        (("run", "absent"), "choose from data_ablation"),
        (("run", "--spec", "/absent.json"), "/absent.json: No such file"),
        (("show", "study_none"), "study_none"),
        (("show", "study_none", "--watch"), "study_none"),
        (("show", "study_none", "--out", "x"), "--format"),
        (("cancel", "study_none"), "study_none"),
        (("extend", "study_none"), "say what to add"),
        (("extend", "study_none", "--variant", "loss=5"), "AXIS:NAME"),
        (("extend", "study_none", "--variant", "loss:heavy=5"), "AXIS:NAME"),
        (("delete", "study_none"), "study_none"),
    ],
)
def test_what_is_wrong_is_reported_in_one_line(lcl, arguments, words):
    status, out, err = lcl("study", *arguments)
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert words in err
    assert err.count("\n") == 1
