"""Tiny runs on the sample corpus, in this process or in some of their own."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

import torch

from lcl_core.common.fork_server import start_module
from lcl_core.common.run_dir import RunDir
from lcl_core.data.corpus.open import open_corpus
from lcl_core.data.sampling.loader import LoaderPool
from lcl_core.specs.parsing import parse_spec
from lcl_core.specs.pretrain import PretrainSpec
from lcl_core.train.distributed import RankGroup
from lcl_core.train.factory import build_tokenizer, open_corpora, open_resident
from lcl_core.train.trainer import Trainer
from tests.module_process import SERVER
from workers.executors.local import sanitized_env

TINY = {
    "model": {
        "image_size": 32,
        "vision_width": 32,
        "vision_layers": 1,
        "vision_head_width": 16,
        "text_width": 32,
        "text_layers": 1,
        "text_heads": 2,
    },
    "tokenizer": {"vocab_size": 500},
    "data": {
        "sources": [{"view": "interleaved"}, {"view": "pairs"}],
        "piece_images": 2,
    },
    "batch": {"tokens": 512, "images": 16},
    "optimizer": {"lr": 2e-3, "warmup_steps": 2},
    "steps": 12,
    "log_every": 4,
    "checkpoint_every": 5,
    "precision": "fp32",
}
VOLATILE = {
    "time",
    "images_per_s",
    "tokens_per_s",
    "seconds_left",
    "mfu",
    "data_wait",
    "memory_gib",
    "rss_gib",
    "cpu_cores",
}


@cache
def tokenizer_of(corpus):
    """Learnt once from a corpus: learning it takes longer than the steps of a run."""
    return build_tokenizer(PretrainSpec.model_validate(TINY), {"sample": open_corpus(corpus)}).to_json()


def prepared(path, sample_zip, **changes):
    """A directory ready for an attempt at ``TINY`` with these changes."""
    path.mkdir(parents=True, exist_ok=True)
    run_dir = RunDir(path)
    spec = {**TINY, **changes}
    run_dir.prepare({"run_id": "run_1", "kind": "pretrain", "spec": spec, "datasets": {"sample": str(sample_zip)}})
    if "tokenizer" not in changes:
        run_dir.tokenizer_file.write_text(tokenizer_of(str(sample_zip)))
    return run_dir


class _OneRun(Trainer):
    """Its loader processes end with it, and its resident images are free to be evicted."""

    resources: ExitStack

    def run(self):
        with self.resources, self.loaders:
            return super().run()


def trainer(run_dir, workers=0):
    run = run_dir.read_run()
    spec = parse_spec("pretrain", run["spec"])
    assert isinstance(spec, PretrainSpec)
    corpora = open_corpora(spec, run["datasets"])
    resources = ExitStack()
    ranks = RankGroup()
    resident = resources.enter_context(open_resident(spec, corpora, run_dir, ranks))
    found = _OneRun(spec, run_dir, corpora, LoaderPool(corpora, workers), ranks, resident)
    found.resources = resources
    return found


def curve(run_dir):
    """The metric lines, without what a clock or the memory says."""
    lines = [json.loads(line) for line in run_dir.metrics_file.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in VOLATILE} for line in lines if line["step"]]


def weights(run_dir):
    return hashlib.sha256((run_dir.artifacts / "encoder" / "model.safetensors").read_bytes()).hexdigest()


def logged_steps(run_dir):
    """The last step of which there is a whole metric line."""
    text = run_dir.metrics_file.read_text() if run_dir.metrics_file.exists() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()
    return int(json.loads(lines[-1])["step"]) if lines else 0


@contextmanager
def started(run_dir, *command, supervised=False):
    """``python -m lcl_core.train RUN_DIR``, or another module, in a group of its own, of which nothing stays.

    What it says goes to ``log.txt``.

    Args:
        command: the module and its arguments.
        supervised: it leaves when its standard input, a pipe, is closed.
    """
    # One thread by default, as in this process: sums in another order would differ in the last bit.
    environment = sanitized_env({**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())})
    if not supervised:
        del environment["LCL_SUPERVISED"]
    stdin = subprocess.PIPE if supervised else subprocess.DEVNULL
    with run_dir.log_file.open("ab") as log:
        process = start_module(command or ("lcl_core.train", str(run_dir.path)), environment, log, None, stdin, SERVER)
    try:
        yield process
    finally:
        kill_group(process)
        if process.stdin is not None:
            process.stdin.close()


def finished(run_dir, *command):
    """The exit status of the command that ``started`` runs."""
    with started(run_dir, *command) as process:
        return process.wait(timeout=240)


def killed_after(run_dir, step, eventually, *command):
    """Run until the line of ``step`` is there, then kill every process by SIGKILL."""
    with started(run_dir, *command) as process:
        eventually(lambda: logged_steps(run_dir) >= step or process.poll() is not None, f"step {step}")
        kill_group(process)
        assert process.wait() == -signal.SIGKILL, run_dir.log_file.read_text()


def kill_group(process):
    """Returns when none of the group is left: a loader process has the lock of the run directory too."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 180
    while group(process.pid):
        assert time.monotonic() < deadline, "a process outlives SIGKILL"
        time.sleep(0.01)


def group(leader):
    """The processes of a process group that may have open files.

    A process whose first thread has ended is shown as a zombie while its other threads, and so its files, are open.
    """
    members = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # pid (name) state parent group … threads (the 20th); a name may hold blanks
            fields = status.read_text().rpartition(")")[2].split()
            state, number, threads = fields[0], int(fields[2]), int(fields[17])
            if number == leader and (state not in "ZX" or threads > 1):
                members.append(int(status.parent.name))
    return members
