"""The launcher tells of wrong settings in one line."""

from contextlib import nullcontext
from typing import Any

from deploy.local import PREPARATION_SECONDS, SamplePreparation, main


def test_a_data_root_that_opens_the_home_is_explained(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LCL_DATA_ROOTS", str(tmp_path))
    assert main(["up", "--home", str(tmp_path / "home")]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: LCL_DATA_ROOTS: {tmp_path} opens LCL_HOME")
    assert len(said.splitlines()) == 1


def test_a_setting_of_the_wrong_kind_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LCL_LEASE_SECONDS", "soon")
    assert main(["up", "--home", str(tmp_path / "home")]) == 1
    assert capsys.readouterr().err.startswith("error: LCL_LEASE_SECONDS: Input should be a valid number")


class Stack:
    """A launcher whose service answers from memory; without answers it is away."""

    def __init__(self):
        self.answers: dict[str, Any] = {}

    def client(self, *_, **__):
        from api.client import ApiError

        if not self.answers:
            raise ApiError(0, "unreachable", "no answer")
        names = {name: lambda answer=answer, **_: answer for name, answer in self.answers.items()}
        return nullcontext(type("Client", (), {name: staticmethod(call) for name, call in names.items()}))


def index_run(step, left=None):
    progress = {"step": step, "total_steps": 6000, "seconds_left": left}
    return {"state": "running", "spec": {"collection": "sample-drawings"}, "progress": progress if step else None}


def test_what_is_prepared_is_printed_by_quarters_until_it_is_there(monkeypatch):
    clock = 0.0
    monkeypatch.setattr("deploy.local.time.monotonic", lambda: clock)
    lines = []
    stack = Stack()
    preparation = SamplePreparation(stack, lines.append)  # type: ignore[arg-type]
    for step, left in ((None, None), (0, None), (100, 40.0), (2460, 20.4), (2500, 20.0), (6000, 0.0)):
        if step is not None:
            stack.answers = {"collections": [], "runs": {"items": [index_run(step, left)]}}
        preparation.poll()
        preparation.poll()  # too early
        clock += PREPARATION_SECONDS
    stack.answers = {"collections": [{"name": "sample-drawings"}], "runs": {"items": []}}
    preparation.poll()
    clock += PREPARATION_SECONDS
    preparation.poll()
    assert lines == [
        "Preparing sample-drawings: 0 %",
        "Preparing sample-drawings: 41 % - 20 s left",
        "Preparing sample-drawings: 100 % - 0 s left",
        "The collection sample-drawings is ready: search it on the page.",
    ]


def test_nothing_is_printed_where_there_is_a_collection():
    lines = []
    stack = Stack()
    stack.answers = {"collections": [{"name": "mine"}], "runs": {"items": [index_run(5)]}}
    SamplePreparation(stack, lines.append).poll()  # type: ignore[arg-type]
    assert lines == []
