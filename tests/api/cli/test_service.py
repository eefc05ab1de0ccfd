"""``lcl status``, ``lcl spec`` and the artifacts of runs against a real service."""

import json

import pytest

import lcl_core
from lcl_core.db import complete_run


def test_status_reports_the_service_and_fails_while_a_part_is_missing(lcl, live_service):
    live_service.submit()
    status, out, err = lcl("status")
    assert (status, err) == (1, ""), "the fixture has no broker"
    for words in (live_service.url, lcl_core.__version__, "sqlite", "queued", "workers"):
        assert words in out
    found = json.loads(lcl("status", "--json")[1])
    assert found["address"] == live_service.url
    assert found["worker_list"] == []
    assert found["runs"]["queued"] >= 1
    assert (found["ready"], found["checks"]["broker"]["ok"]) == (False, False)


def test_status_counts_the_runs_of_the_key(live_service):
    live_service.submit()
    with live_service.http("viewer") as http:  # of an owner without runs
        assert sum(http.get("/v1/status").json()["runs"].values()) == 0
    with live_service.http(None) as http:
        assert http.get("/v1/status").status_code == 401


@pytest.fixture
def evaluated(live_service):
    """A run with two tables and a figure in a folder."""
    run_id = live_service.submit(name="with files")
    claim = live_service.claim(run_id)
    folder = live_service.run_dir(run_id).path / "artifacts"
    (folder / "figures").mkdir(parents=True)
    for name in ("table.csv", "table.json", "figures/a.png"):
        (folder / name).write_text(name)
    live_service.settle(claim, complete_run.RunCancelled())
    return run_id


def test_artifacts_are_listed_and_downloaded(lcl, evaluated, tmp_path):
    out = lcl("runs", "download", evaluated, "--list")[1]
    assert all(name in out for name in ("table.csv", "table.json", "figures/a.png"))
    listed = json.loads(lcl("runs", "download", evaluated, "--list", "--json")[1])["items"]
    assert {file["name"] for file in listed} >= {"table.csv", "figures/a.png"}
    status, out, _ = lcl("runs", "download", evaluated, "table.csv", "figures", "--out", str(tmp_path / "some"))
    assert (status, sorted(out.split())) == (
        0,
        sorted(str(tmp_path / "some" / name) for name in ("table.csv", "figures/a.png")),
    )
    assert (tmp_path / "some" / "figures" / "a.png").read_text() == "figures/a.png"
    lcl("runs", "download", evaluated, "--out", str(tmp_path / "all"))
    assert (tmp_path / "all" / "table.json").read_text() == "table.json"
    status, _, err = lcl("runs", "download", evaluated, "table.cvs")
    assert (status, "did you mean 'table.csv'?" in err) == (1, True)


def test_specs_are_listed_and_shown(lcl):
    status, out, _ = lcl("spec")
    assert (status, "pretrain" in out, "sample_pairs" in out) == (0, True, True)
    status, out, _ = lcl("spec", "pretrain")
    assert status == 0
    (line,) = [line for line in out.splitlines() if line.split()[:1] == ["optimizer.lr"]]
    assert "number" in line
    assert "schema" in json.loads(lcl("spec", "pretrain", "--json")[1])
    status, out, _ = lcl("spec", "sample_pairs")
    assert (status, "steps" in json.loads(out)) == (0, True)
    shown = json.loads(lcl("--json", "spec", "sample", "--kind", "evaluate")[1])
    assert (shown["kind"], shown["preset"]) == ("evaluate", "sample")
    status, _, err = lcl("spec", "sample")
    assert (status, "--kind" in err) == (1, True)
