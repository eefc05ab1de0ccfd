"""A run that goes on where another one ended."""

from __future__ import annotations

import pytest

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import RunDir
from workers.supervisor import copy_milestone


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


def test_a_branch_gets_the_milestone_and_what_was_before_it(parent, heir):
    later = parent.checkpoints / "step_00000020"
    later.mkdir()
    parent.metrics_file.write_text('{"step": 10}\n{"step": 20}\n')
    copy_milestone(parent, heir, 10)
    assert [path.name for path in heir.checkpoints.iterdir()] == ["step_00000010"]
    weights = heir.checkpoints / "step_00000010" / "model.safetensors"
    assert weights.read_bytes() == b"weights"
    weights.unlink()
    assert (parent.checkpoints / "step_00000010" / "model.safetensors").exists()
    assert heir.metrics_file.read_text() == '{"step": 10}\n'
    assert heir.tokenizer_file.read_text() == "{}"
    assert not heir.best_encoder.exists(), "they may be of a later step"


def test_a_branch_of_a_step_without_checkpoint_names_those_that_there_are(parent, heir):
    for step, known in ((20, "of step 10"), (10, "no checkpoint at all")):
        with pytest.raises(UserError, match=known) as caught:
            copy_milestone(parent if step == 20 else RunDir(heir.path.with_name("run_gone")), heir, step)
        assert (caught.value.code, caught.value.field) == ("invalid_value", "branch.step")
        assert not heir.checkpoints.exists()
