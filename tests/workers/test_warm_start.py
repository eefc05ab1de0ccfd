"""A run that goes on where another one ended."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import RunDir
from workers.prepare_run import copy_milestone, copy_parent_checkpoint


@pytest.fixture
def parent(tmp_path):
    run_dir = RunDir(tmp_path / "run_parent")
    checkpoint = run_dir.checkpoints / "step_00000010"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    run_dir.metrics_file.write_text('{"step": 10}\n')
    run_dir.tokenizer_file.write_text("{}")
    run_dir.best_encoder.mkdir(parents=True)
    (run_dir.best_encoder / "model.safetensors").write_bytes(b"best weights")
    return run_dir


@pytest.fixture
def heir(tmp_path):
    run_dir = RunDir(tmp_path / "run_heir")
    run_dir.path.mkdir()
    return run_dir


def test_checkpoints_and_metrics_are_there_as_if_it_had_made_them(parent, heir):
    assert copy_parent_checkpoint(parent, heir)
    weights = heir.checkpoints / "step_00000010" / "model.safetensors"
    assert weights.read_bytes() == b"weights"
    assert heir.metrics_file.read_text() == '{"step": 10}\n'
    assert heir.tokenizer_file.read_text() == "{}", "the weights are those of its tokens"
    assert (heir.best_encoder / "model.safetensors").read_bytes() == b"best weights"
    weights.unlink()
    assert (parent.checkpoints / "step_00000010" / "model.safetensors").read_bytes() == b"weights"


def test_without_a_parent_it_begins_anew_and_says_so(heir):
    with capture_logs() as logs:
        assert not copy_parent_checkpoint(RunDir(heir.path.with_name("run_gone")), heir)
    assert not heir.checkpoints.exists()
    assert [(line["event"], line["parent"]) for line in logs] == [("parent_has_no_checkpoint", "run_gone")]


def test_a_parent_without_metrics_will_do(parent, heir):
    parent.metrics_file.unlink()
    parent.tokenizer_file.unlink()  # an older version kept none
    assert copy_parent_checkpoint(parent, heir)
    assert not heir.metrics_file.exists()
    assert not heir.tokenizer_file.exists()


def test_a_branch_gets_the_milestone_and_what_was_before_it(parent, heir):
    later = parent.checkpoints / "step_00000020"
    later.mkdir()
    parent.metrics_file.write_text('{"step": 10}\n{"step": 20}\n')
    copy_milestone(parent, heir, 10)
    assert [path.name for path in heir.checkpoints.iterdir()] == ["step_00000010"]
    assert (heir.checkpoints / "step_00000010" / "model.safetensors").read_bytes() == b"weights"
    assert heir.metrics_file.read_text() == '{"step": 10}\n'
    assert heir.tokenizer_file.read_text() == "{}"
    assert not heir.best_encoder.exists(), "they may be of a later step"


def test_a_branch_of_a_step_without_checkpoint_names_those_that_there_are(parent, heir):
    for step, known in ((20, "of step 10"), (10, "no checkpoint at all")):
        with pytest.raises(UserError, match=known) as caught:
            copy_milestone(parent if step == 20 else RunDir(heir.path.with_name("run_gone")), heir, step)
        assert (caught.value.code, caught.value.field) == ("no_milestone", "branch.step")
        assert not heir.checkpoints.exists()
