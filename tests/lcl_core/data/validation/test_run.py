"""The validate run as a worker starts it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import ExitCode, JobCancelled, RunDir
from lcl_core.data.validation.__main__ import validate_run

ROOT = Path(__file__).parents[4]


@pytest.fixture
def run_dir(tmp_path):
    return RunDir(tmp_path / "run")


def ask(run_dir, spec, **datasets):
    run_dir.path.mkdir(exist_ok=True)
    run_dir.prepare({"run_id": "run_1", "kind": "validate", "spec": spec, "datasets": datasets})


def test_it_leaves_report_list_and_progress(kit, run_dir):
    corpus = kit.corpus(pairs=[kit.pair("red.png", "one red square"), kit.pair("absent.png", "x")])
    ask(run_dir, {"dataset": "mine", "workers": 0}, mine=str(corpus.path))
    result = validate_run(run_dir)
    assert result["report"]["reasons"] == {"missing image": 1, "no usable image": 1}
    assert result["report"]["length_unit"] == "tokens"
    assert result["dataset_hash"] == corpus.content_hash()
    assert json.loads((run_dir.artifacts / "report.json").read_text()) == result["report"]
    assert len((run_dir.artifacts / "quarantine.jsonl").read_text().splitlines()) == 2
    lines = [json.loads(line) for line in run_dir.metrics_file.read_text().splitlines()]
    assert (lines[-1]["step"], lines[-1]["total_steps"]) == (2, 2)


def test_a_corpus_at_a_path_needs_no_name(kit, run_dir):
    corpus = kit.corpus(pairs=[kit.pair("red.png", "x")])
    ask(run_dir, {"path": str(corpus.path), "workers": 0, "tokens": False})
    result = validate_run(run_dir)
    assert result["report"]["documents"] == 1
    assert "dataset_hash" not in result


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text_list": ["a"], "image_info": [{"image_name": "gone\\ud800.png", "matched_text_index": 0, '
         '"matched_sim": 1}]}', "missing image"),
        ('{"text_list": ["a"], "image_info": [{"image_name": "red.png", "matched_text_index": 0, '
         f'"matched_sim": 1{"0" * 400}}}]}}', "bad image reference"),
    ],
    ids=["half a surrogate pair", "a similarity of 401 digits"],
)  # fmt: skip
@pytest.mark.parametrize("file", ["a", os.fsdecode(b"\xff")], ids=["plain", "stray bytes"])
def test_odd_values_are_issues(kit, run_dir, line, reason, file):
    kit.write(f"interleaved/{file}.jsonl", line + "\n")
    ask(run_dir, {"path": str(kit.corpus(pairs=[kit.pair("red.png", "x")]).path), "workers": 0, "tokens": False})
    report = validate_run(run_dir)["report"]
    assert report["first"][0]["reason"] == reason
    assert json.loads((run_dir.artifacts / "report.json").read_text()) == report


@pytest.mark.parametrize(
    ("spec", "code", "field"),
    [
        ({"dataset": "absent"}, "not_found", "dataset"),
        ({"path": "/absent"}, "not_found", "path"),
        ({"dataset": "mine", "path": "/x"}, "bad_spec", None),
    ],
)
def test_what_is_wrong_is_reported(run_dir, spec, code, field):
    ask(run_dir, spec)
    with pytest.raises(UserError) as caught:
        validate_run(run_dir)
    assert (caught.value.code, caught.value.field) == (code, field)


def test_a_stop_request_is_honoured(kit, run_dir):
    corpus = kit.corpus(pairs=[kit.pair("red.png", "x")] * 200)
    ask(run_dir, {"path": str(corpus.path), "workers": 0, "tokens": False})
    run_dir._stop.set()
    with pytest.raises(JobCancelled):
        validate_run(run_dir)


def test_as_a_process_it_leaves_with_a_result_and_on_sigterm_without(kit, run_dir):
    corpus = kit.corpus(pairs=[kit.pair("red.png", "x")] * 40)
    ask(run_dir, {"path": str(corpus.path), "workers": 2})
    command = [sys.executable, "-m", "lcl_core.data.validation", str(run_dir.path)]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (ExitCode.OK, "")
    assert json.loads(run_dir.result_file.read_text())["report"]["documents"] == 40

    kit.corpus(pairs=[kit.pair("red.png", "x")] * 20_000)
    ask(run_dir, {"path": str(corpus.path), "workers": 2})
    run_dir.metrics_file.unlink()
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL)
    try:
        while not run_dir.metrics_file.exists():
            assert process.poll() is None, "it left by itself"
        process.send_signal(signal.SIGTERM)
        assert process.wait(180) == ExitCode.CANCELLED
    finally:
        process.kill()
        process.wait()
