"""One rule of names: what a list shows, every command and call accepts; a run's name is a name of its encoder too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcl_core.common.names import NAME_PATTERN
from lcl_core.db.models import EncoderRow
from lcl_core.specs.base import slug

Json = dict[str, Any]
NAMES_OF_OLDER_VERSIONS = ("ux short", "größe 1 (alt)", "-x", "x.y_z-1", "a" * 100)


@given(st.text(max_size=120))
def test_a_slug_is_a_name_or_empty(text: str) -> None:
    made = slug(text)
    assert made == "" or re.fullmatch(NAME_PATTERN, made)
    assert slug(made) == made


@given(st.from_regex(NAME_PATTERN, fullmatch=True).map(str.strip))
def test_a_name_is_its_own_slug(name: str) -> None:
    assert slug(name) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [("ux short", "ux-short"), (" my run! ", "my-run"), ("Größe 1", "Groe-1"), ("été/2", "ete-2"), ("…", "")],
)
def test_a_slug_is_readable(text: str, name: str) -> None:
    assert slug(text) == name


@pytest.fixture(scope="module")
def old_encoders(live_service: Any, encoder: Json) -> list[str]:
    """Encoders with the names that runs of older versions gave them: their files are those of ``tiny``."""
    with live_service.context.database.session() as session:
        row = session.get(EncoderRow, encoder["id"])
        columns = {column.key: getattr(row, column.key) for column in EncoderRow.__mapper__.column_attrs}
        for number, name in enumerate(NAMES_OF_OLDER_VERSIONS):
            session.add(EncoderRow(**{**columns, "id": f"enc_old{number}", "name": name}))
    return list(NAMES_OF_OLDER_VERSIONS)


def test_every_listed_name_is_accepted(
    lcl: Any,
    live_service: Any,
    old_encoders: list[str],
    collection: Json,
    sample_images: dict[str, bytes],
    tmp_path: Path,
) -> None:
    image = tmp_path / "red.png"
    image.write_bytes(sample_images["red"])
    encoders = [row["name"] for row in live_service.admin.encoders()]
    assert set(old_encoders) < set(encoders)
    for name in encoders:
        assert lcl("encoders", "show", "--json", "--", name)[0] == 0, name
        for kind, more in (
            ("evaluate", {}),
            ("index", {"collection": "new"}),
            ("match", {"dataset": "sample", "name": "m"}),
        ):
            run = live_service.admin.submit(kind, {"encoder": name, **more})
            assert run["spec"]["encoder"] == name
        options = [f"encoder={name}", "collection=new"]
        assert lcl("submit", "index", *(word for option in options for word in ("--set", option)))[0] == 0, name
        assert lcl("embed", "--text", "a red square", "--", name)[0] == 0, name
        assert lcl("caption", "--max-new-tokens", "1", "--", name, str(image))[0] == 0, name
        assert live_service.admin.submit("pretrain", {"preset": "sample", "model": {"init": name}})["id"]
    for row in live_service.admin.collections():
        for reference in (row["id"], row["name"]):
            assert lcl("search", reference, "a red square", "-k", "1")[0] == 0
    for row in live_service.admin.datasets():
        assert lcl("data", "preview", row["name"], "--limit", "1")[0] == 0
        assert live_service.admin.submit("evaluate", {"encoder": "tiny", "dataset": row["name"]})["id"]


def test_runs_are_named_by_id_or_name(lcl: Any, live_service: Any) -> None:
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
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_run")
    assert run_id not in answer.text


def test_a_study_is_named_by_its_name(lcl: Any, live_service: Any) -> None:
    spec = {"preset": "loss_ablation", "seeds": [7]}
    study = live_service.admin.submit_study(spec, "my losses")
    assert live_service.admin.study("my losses")["id"] == study["id"]
    assert lcl("study", "cancel", "my losses")[0] == 0
