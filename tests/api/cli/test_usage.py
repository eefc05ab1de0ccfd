"""The command line as such: ``--json`` anywhere, the version, wrong commands and options, confirmation."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

import lcl_core
from api.cli import move_json_first
from api.cli.output import print_table
from api.client import Client
from api.client.payloads import FINAL_STATES, RUN_STATES
from lcl_core.db import complete_run
from lcl_core.db.states import FINISHED, State

ROOT = Path(__file__).resolve().parents[3]
LISTS = (
    *(
        ("runs", "list"),
        ("encoders", "list"),
        ("collections", "list"),
        ("data", "list"),
        ("data", "list", "sample"),
    ),
    *(
        ("keys", "list"),
        ("webhooks", "list"),
        ("study", "list"),
        ("audit",),
        ("spec",),
    ),
)


@pytest.mark.parametrize("command", LISTS)
def test_json_is_accepted_anywhere_and_a_list_has_one_shape(lcl, command):
    status, before, _ = lcl("--json", *command)
    assert (status, lcl(*command, "--json")[1]) == (0, before)
    assert lcl(command[0], "--json", *command[1:])[1] == before
    assert isinstance(json.loads(before)["items"], list)


def test_after_two_dashes_json_is_a_word():
    assert move_json_first(["search", "c", "--json", "-k", "1"]) == ["--json", "search", "c", "-k", "1"]
    assert move_json_first(["search", "c", "--", "--json"]) == ["search", "c", "--", "--json"]
    assert move_json_first(["runs", "list"]) == ["runs", "list"]


def test_the_version_is_printed(lcl):
    assert lcl("--version") == (0, f"lcl {lcl_core.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("serach", "x"), "No such command 'serach'. Did you mean 'search'"),
        (("runs", "lsit"), "No such command 'lsit'. Did you mean 'list'?"),
        (("runs", "list", "--limti", "3"), "No such option: --limti (Possible options: --limit)"),
        (("runs", "list", "--limit"), "'--limit' requires an argument"),
        (("runs", "list", "--limit", "0"), "'--limit': Input should be greater than or equal to 1"),
        (("runs", "list", "--limit", "x"), "'--limit': Input should be a valid integer"),
        (("encoders", "export", "e", "--format", "tensorflow"), "is not one of 'lcl', 'huggingface'"),
        (("search",), "Missing argument 'collection' (lcl search --help)"),
        (("runs", "show", "a", "b"), "unexpected extra argument(s) (b)"),
    ],
)
def test_a_wrong_command_line_is_explained_in_one_line(lcl, arguments, words):
    status, out, err = lcl(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("submit", "pretrain", "--set", "stpes=40"), "did you mean 'steps'?"),
        (("submit", "evaluate", "--set", "encoder=tinny"), "there is no encoder 'tinny'; did you mean 'tiny'?"),
        (("encoders", "show", "tin"), "did you mean 'tiny'?"),
        (("search", "square", "x"), "did you mean 'squares'?"),
        (("data", "stats", "smaple"), "did you mean 'sample'?"),
        (("runs", "list", "--state", "done"), "must be 'waiting', 'queued'"),
        (("spec", "pretrian"), "did you mean 'pretrain'?"),
    ],
)
def test_a_misspelt_name_is_answered_by_the_nearest(lcl, collection, arguments, words):
    status, out, err = lcl(*arguments)
    assert (status, out) == (1, "")
    assert words in err


def _cancelled_run(service):
    return service.finished(complete_run.RunCancelled())


def test_nothing_is_deleted_without_a_yes(lcl, live_service, collection):
    admin = live_service.admin
    hook = admin.create_webhook("https://hooks.example.org/x")["id"]
    for command in (
        ("runs", "delete", _cancelled_run(live_service)),
        ("keys", "revoke", admin.create_key("brief", "viewer")["prefix"]),
        ("webhooks", "delete", hook),
        ("collections", "delete", "squares"),
    ):
        status, out, err = lcl(*command, stdin="y\n")
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert "--yes" in err
    assert admin.runs()["items"]
    assert admin.collections()
    assert any(key["owner"] == "brief" for key in admin.keys())  # noqa: SIM118
    assert on_terminal(live_service, "webhooks", "delete", hook, answer=b"n\n") == 1
    assert admin.webhooks()
    assert on_terminal(live_service, "webhooks", "delete", hook, answer=b"y\n") == 0
    assert not admin.webhooks()


def on_terminal(service, *command, answer):
    """Exit status of a command whose question on the terminal gets this answer."""
    controller, terminal = pty.openpty()
    environment = {**os.environ, "LCL_API_URL": service.url, "LCL_API_KEY": service.keys["admin"]}
    process = subprocess.Popen(
        [Path(sys.executable).parent / "lcl", *command], cwd=ROOT, env=environment, stdin=terminal, stdout=-3, stderr=-3
    )
    os.close(terminal)
    os.write(controller, answer)
    status = process.wait(120)
    os.close(controller)
    return status


def test_the_states_are_those_of_the_service():
    assert set(RUN_STATES) == {state.value for state in State}
    assert set(FINAL_STATES) == {state.value for state in FINISHED}


def test_json_is_all_that_is_printed(lcl, live_service, collection, tmp_path, monkeypatch):
    run_id = _cancelled_run(live_service)
    monkeypatch.setattr(Client, "submit", lambda client, *_, **__: client.run(run_id))
    for command in (("runs", "show", run_id, "--watch"), ("submit", "pretrain", "--watch")):
        status, out, _ = lcl("--json", *command)
        assert (status, json.loads(out)["id"], json.loads(out)["state"]) == (1, run_id, "cancelled")
    for command in (("encoders", "export", "tiny"), ("collections", "export", "squares")):
        file = str(tmp_path / command[0])
        status, out, _ = lcl("--json", *command, file)
        assert (status, json.loads(out)) == (0, {"file": file})
    admin = live_service.admin
    item = admin.vectors("squares")[0][0]
    hook = admin.create_webhook("https://hooks.example.org/x")
    for command, thing in (
        (("runs", "delete", run_id), run_id),
        (("webhooks", "delete", hook["id"]), hook["id"]),
        (("collections", "delete", "squares"), collection["id"]),
        (("encoders", "delete", "tiny"), collection["encoder_id"]),
    ):
        if command[0] == "collections":
            out = lcl("--json", "collections", "remove", "squares", item, "--yes")[1]
            assert json.loads(out) == {"items": [{"id": item, "deleted": True}]}
        status, out, _ = lcl("--json", *command, "--yes")
        assert (status, json.loads(out)) == (0, {"id": thing, "deleted": True})
    prefix = admin.create_key("brief", "viewer")["prefix"]
    assert json.loads(lcl("--json", "keys", "revoke", prefix, "--yes")[1]) == {"prefix": prefix, "revoked": True}


def test_a_cell_is_printed_as_it_is(capsys):
    cells = ["[draft] bird", "see [/b] below", ":red_heart:", "[red]x[/red]"]
    print_table(("name",), [[cell] for cell in cells], "none")
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if line in cells] == cells
