"""``python -m lcl_core.train RUN_DIR``: pre-train as ``RUN_DIR/run.json`` says."""

from __future__ import annotations

import os
import sys
from typing import Any, cast

from lcl_core.rundir import RunDir, run_main
from lcl_core.specs import PretrainSpec, parse_spec


def pretrain(run_dir: RunDir) -> dict[str, Any]:
    run = run_dir.read_run()
    spec = cast(PretrainSpec, parse_spec("pretrain", run["spec"]))
    run_dir.append_metrics(step=0, total_steps=spec.steps, phase="preparing")
    # The heavy imports come after the spec has been checked and the page has something to show.
    from lcl_core.train.trainer import Trainer

    return Trainer(spec, run_dir, run["datasets"]).run()


if __name__ == "__main__":
    code = run_main(pretrain)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: threads of libraries must not turn a finished run into a failed one at interpreter shutdown.
    os._exit(code)
