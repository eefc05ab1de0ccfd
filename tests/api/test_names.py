"""One rule of names: what a list shows, every command and call accepts; a run's name is a name of its encoder too."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcl_core.common.paths import NAME_PATTERN
from lcl_core.specs.base import slug


@given(st.text(max_size=120))
def test_a_slug_is_a_name_or_empty(text):
    made = slug(text)
    assert made == "" or re.fullmatch(NAME_PATTERN, made)
    assert slug(made) == made


@given(st.from_regex(NAME_PATTERN, fullmatch=True).map(str.strip))
def test_a_name_is_its_own_slug(name):
    assert slug(name) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [("ux short", "ux-short"), (" my run! ", "my-run"), ("Größe 1", "Groe-1"), ("été/2", "ete-2"), ("…", "")],
)
def test_a_slug_is_readable(text, name):
    assert slug(text) == name


def test_runs_are_named_by_id_or_name(lcl, live_service):
    run_id = live_service.submit(name="the only one")
    assert lcl("runs", "cancel", "the only one")[1] == "the only one is cancelled\n"
    assert live_service.admin.run("the only one")["id"] == run_id
    assert live_service.admin.metrics("the only one") == []
    assert lcl("runs", "resume", "the only one")[0] == 0
    after = lcl("submit", "pretrain", "--preset", "sample", "--after", "the only one")[1].strip()
    assert live_service.admin.run(after)["after"] == [run_id]
    second = live_service.submit(name="the only one")
    status, _, err = lcl("runs", "cancel", "the only one")
    assert (status, run_id in err, second in err) == (1, True, True)
    with live_service.http("submitter") as http:  # of another owner
        answer = http.get("/v1/runs/the only one")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert run_id not in answer.text


def test_a_study_is_named_by_its_name(lcl, live_service):
    spec = {"preset": "loss_ablation", "seeds": [7]}
    study = live_service.admin.submit_study(spec, "my losses")
    assert live_service.admin.study("my losses")["id"] == study["id"]
    assert lcl("study", "cancel", "my losses")[0] == 0
