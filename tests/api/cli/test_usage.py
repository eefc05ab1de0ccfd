"""The command line as such: ``--json`` anywhere, the version, wrong commands and options, confirmation, completion."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lcl_core
from api.cli.usage import move_json_first
from api.client import Client
from api.client.payloads import FINAL_STATES, RUN_STATES
from lcl_core.db import complete_run
from lcl_core.db.states import FINISHED, State

ROOT = Path(__file__).resolve().parents[3]
TYPER_WORDS = re.compile(
    r"No such|Missing (argument|option)|Invalid value|unexpected extra|requires an argument|Aborted"
)
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
        ("workers",),
        ("quota",),
        ("audit",),
        ("spec",),
    ),
)


@pytest.mark.parametrize("command", LISTS)
def test_json_is_accepted_anywhere_and_a_list_has_one_shape(lcl: Any, command: tuple[str, ...]) -> None:
    status, before, _ = lcl("--json", *command)
    assert (status, lcl(*command, "--json")[1]) == (0, before)
    assert lcl(command[0], "--json", *command[1:])[1] == before
    assert isinstance(json.loads(before)["items"], list)


def test_after_two_dashes_json_is_a_word() -> None:
    assert move_json_first(["search", "c", "--json", "-k", "1"]) == ["--json", "search", "c", "-k", "1"]
    assert move_json_first(["search", "c", "--", "--json"]) == ["search", "c", "--", "--json"]
    assert move_json_first(["runs", "list"]) == ["runs", "list"]


def test_the_version_is_printed(lcl: Any) -> None:
    assert lcl("--version") == (0, f"lcl {lcl_core.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("serach", "x"), "there is no command 'serach'; did you mean 'search'?"),
        (("runs", "lsit"), "there is no command 'lsit'; did you mean 'list'?"),
        (("runs", "list", "--limti", "3"), "there is no option --limti; did you mean '--limit'?"),
        (("runs", "list", "--limit"), "--limit needs a value"),
        (("runs", "list", "--limit", "0"), "--limit: must be greater than or equal to 1"),
        (("runs", "list", "--limit", "x"), "--limit: must be a whole number (got 'x')"),
        (("caption", "e", "f", "--top-p", "x"), "--top-p: must be a number"),
        (("encoders", "export", "e", "--format", "tensorflow"), "--format: choose from 'lcl', 'huggingface'"),
        (("search",), "COLLECTION is missing (lcl search --help)"),
        (("runs", "show", "a", "b"), "'b' is more than the command takes"),
    ],
)
def test_a_wrong_command_line_is_explained_in_one_line(lcl: Any, arguments: tuple[str, ...], words: str) -> None:
    status, out, err = lcl(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert words in err
    assert err.count("\n") == 1
    assert not TYPER_WORDS.search(err)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("submit", "pretrain", "--set", "stpes=40"), "did you mean 'steps'?"),
        (("submit", "evaluate", "--set", "encoder=tinny"), "encoder 'tinny' is not registered; did you mean 'tiny'?"),
        (("encoders", "show", "tin"), "did you mean 'tiny'?"),
        (("search", "square", "x"), "did you mean 'squares'?"),
        (("data", "stats", "smaple"), "did you mean 'sample'?"),
        (("runs", "list", "--state", "done"), "must be 'waiting', 'queued'"),
        (("spec", "pretrian"), "did you mean 'pretrain'?"),
    ],
)
def test_a_misspelt_name_is_answered_by_the_nearest(
    lcl: Any, collection: Any, arguments: tuple[str, ...], words: str
) -> None:
    status, out, err = lcl(*arguments)
    assert (status, out) == (1, "")
    assert words in err


DELETIONS: dict[str, Callable[[Any], tuple[tuple[str, ...], Callable[[Any], bool]]]] = {
    "run": lambda service: (("runs", "delete", _cancelled_run(service)), lambda client: bool(client.runs()["items"])),
    "key": lambda service: (
        ("keys", "revoke", service.admin.create_key("brief", "viewer")["prefix"]),
        lambda client: any(key["owner"] == "brief" for key in client.keys()),  # noqa: SIM118
    ),
    "webhook": lambda service: (
        ("webhooks", "delete", service.admin.create_webhook("https://hooks.example.org/x")["id"]),
        lambda client: bool(client.webhooks()),
    ),
    "collection": lambda _: (("collections", "delete", "squares"), lambda client: bool(client.collections())),
}


def _cancelled_run(service: Any) -> str:
    return service.finished(complete_run.RunCancelled())


@pytest.mark.parametrize("what", DELETIONS)
def test_nothing_is_deleted_without_a_yes(lcl: Any, live_service: Any, collection: Any, what: str) -> None:
    command, remains = DELETIONS[what](live_service)
    status, out, err = lcl(*command, stdin="y\n")
    assert (status, out) == (1, "")
    assert "--yes" in err
    assert err.count("\n") == 1
    assert remains(live_service.admin)
    assert on_terminal(live_service, *command, answer=b"n\n") == 1
    assert remains(live_service.admin)
    if what != "collection":  # which others need
        assert on_terminal(live_service, *command, answer=b"y\n") == 0


def on_terminal(service: Any, *command: str, answer: bytes) -> int:
    """Exit status of a command whose question on the terminal gets this answer."""
    controller, terminal = pty.openpty()
    environment = {**os.environ, "LCL_API_URL": service.url, "LCL_API_KEY": service.keys["admin"]}
    process = subprocess.Popen(
        [sys.executable, "-m", "api.cli", *command], cwd=ROOT, env=environment, stdin=terminal, stdout=-3, stderr=-3
    )
    os.close(terminal)
    os.write(controller, answer)
    status = process.wait(120)
    os.close(controller)
    return status


def test_the_states_are_those_of_the_service() -> None:
    assert set(RUN_STATES) == {state.value for state in State}
    assert set(FINAL_STATES) == {state.value for state in FINISHED}


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("lcl submit ", {"pretrain", "evaluate", "index"}),
        ("lcl submit pretrain --preset ", {"sample", "sample_pairs", "sample_resnet"}),
        ("lcl runs list --state can", {"cancelled", "cancelling"}),
        ("lcl caption ti", {"tiny"}),
        ("lcl search ", {"squares"}),
        ("lcl data stats ", {"sample"}),
        ("lcl runs show number-", {"number-one"}),
        ("lcl spec scal", {"scaling"}),
    ],
)
def test_the_shell_completes_names(
    lcl: Any, live_service: Any, collection: Any, monkeypatch: pytest.MonkeyPatch, line: str, offered: set[str]
) -> None:
    if "number" in line:
        live_service.submit(name="number-one")
    words = line.split(" ")
    monkeypatch.setenv("_LCL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    status, out, err = lcl()
    assert (status, err) == (0, "")
    found = {word.strip() for word in out.splitlines()}
    assert offered <= found
    assert all(word.startswith(words[-1]) for word in found)


def test_nothing_is_completed_where_no_service_answers(
    lcl: Any, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.setenv("LCL_API_URL", f"http://127.0.0.1:{free_port}")
    monkeypatch.setenv("_LCL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "lcl caption ")
    monkeypatch.setenv("COMP_CWORD", "2")
    status, out, err = lcl()
    assert (status, out.strip(), err) == (0, "", "")


def test_json_is_all_that_is_printed(
    lcl: Any, live_service: Any, collection: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = _cancelled_run(live_service)
    monkeypatch.setattr(Client, "submit", lambda client, *_, **__: client.run(run_id))
    for command in (("runs", "watch", run_id), ("submit", "pretrain", "--watch")):
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
