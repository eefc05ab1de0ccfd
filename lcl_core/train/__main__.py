"""``python -m lcl_core.train RUN_DIR``: pre-train as ``RUN_DIR/run.json`` says.

With ``engine.processes`` or ``engine.nodes`` above 1 it starts the ranks of this machine. Started by torchrun, it is
a rank.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn, cast

from lcl_core.common.run_dir import RunDir, run_main
from lcl_core.specs.parsing import parse_spec
from lcl_core.specs.pretrain import PretrainSpec


def pretrain(run_dir: RunDir) -> dict[str, Any]:
    run = run_dir.read_run()
    spec = cast(PretrainSpec, parse_spec("pretrain", run["spec"]))
    if _rank() == 0:
        run_dir.append_metrics(step=0, total_steps=spec.steps, phase="preparing")
    # torch is imported after the spec has been checked and the run has a first metric line
    from lcl_core.train.trainer import train

    return train(spec, run_dir, run["datasets"])


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _processes(run_dir: str) -> int:
    """Ranks to start on this machine; a spec that cannot be read is reported by ``pretrain``."""
    try:
        run = RunDir(Path(run_dir)).read_run()
        return int(run["spec"].get("engine", {}).get("processes", 1))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return 1


def main() -> int:
    processes = _processes(sys.argv[1]) if len(sys.argv) == 2 else 1
    several = processes > 1 or int(os.environ.get("LCL_NODES", "1")) > 1
    if several and "RANK" not in os.environ:
        from lcl_core.train.launch import launch, node_from_env

        return launch(sys.argv[1], processes, node_from_env())
    return run_main(pretrain, main=_rank() == 0)


def end_process(code: int) -> NoReturn:
    """End with the status ``code``, or by the signal ``-code``, for the supervisor."""
    sys.stdout.flush()
    sys.stderr.flush()
    if code < 0:  # a rank was killed from outside
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    # Not sys.exit: threads of libraries must not turn a finished run into a failed one at interpreter shutdown.
    os._exit(code)


if __name__ == "__main__":
    end_process(main())
