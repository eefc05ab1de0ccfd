"""Where the metric lines go: ``metrics.jsonl`` always, TensorBoard on request."""

from __future__ import annotations

from typing import Any

from lcl_core.errors import UserError
from lcl_core.rundir import RunDir


class Journal:
    """Written by the first rank alone.

    Raises: UserError when TensorBoard is asked for and not installed.
    """

    def __init__(self, run_dir: RunDir, tensorboard: bool) -> None:
        self._run_dir = run_dir
        self._writer = _summary_writer(run_dir) if tensorboard else None

    def write(self, line: dict[str, Any]) -> None:
        self._run_dir.append_metrics(**line)
        if self._writer is None:
            return
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(name, value, line["step"])
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _summary_writer(run_dir: RunDir) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "TensorBoard is not installed; pip install 'lcl[tensorboard]', or leave engine.tensorboard off",
            code="extra_missing",
            field="engine.tensorboard",
        ) from error
    return SummaryWriter(str(run_dir.artifacts / "tensorboard"))
