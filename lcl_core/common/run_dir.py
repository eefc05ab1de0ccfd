"""RUN_DIR, the file protocol between a supervisor and a job process. Imports no torch and no database.

    RUN_DIR/
      run.json         in:  {"run_id", "kind", "spec", "datasets": {name: path}, "encoders": {id: directory}, "attempt",
                       "dataset_hashes"?: {name: sha256, as registered, or null},
                       "encoder_files"?: {id: {file: sha256, as registered}},
                       "items"?: {"only": [locations] or null, "without": [locations]} of the dataset to convert,
                       "collections"?: {name: {"id", "stored", "path", "changes": directory, "through", "index"}},
                       "cache"?: directory that runs share, "roots"?: [allowed data roots],
                       "restarts"?: how often the run was begun anew}
      changes/         in:  additions to, and removals from, a collection that an index run appends to
      metrics.jsonl    out: one object a line: {"step", "time", "phase"?, "total_steps"?, "seconds_left"?, numbers…}
      log.txt          out: stdout and stderr of the process (the supervisor opens it)
      checkpoints/     out: what a later attempt resumes from
      uploading/       the worker's: links to a checkpoint that it copies to the store
      fetching/        the worker's: a checkpoint of the store, before it is renamed into checkpoints/
      tokenizer.json   out: the tokenizer that a pretrain run learnt or copied; belongs to the checkpoints
      artifacts/       out: files offered for download
      artifacts/encoder/  out: the encoder of a pretrain run (``save_pretrained`` layout)
      artifacts/encoder_best/  out: its best weights so far by held-out data, if it has a monitor
      artifacts/collection/  out: the collection of an index run
      stacks/PID.txt   out: each process that handles STACK_SIGNAL; on that signal it appends its threads' stacks
      agent/           what worker and nodes of an engine's job tell each other: ``workers.executors.job_folder``
      notice.json      out: {"code", "message"}: a problem that the attempt survived, such as a damaged checkpoint
      result.json      out: written last, atomically: the run succeeded and this is its result
      error.json       out: a UserError as JSON: the run failed and a retry cannot help

The supervisor keeps the job's standard input open. When it closes, the supervisor is gone and the job exits too, so
that no orphan writes beside its successor.
"""

from __future__ import annotations

import faulthandler
import fcntl
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import IO, Any

from lcl_core.common.errors import UserError, failure_code
from lcl_core.common.files import write_atomically, write_json_atomically

# a process that waits in native code, as for a collective operation, handles it too
STACK_SIGNAL = signal.SIGUSR1


class ExitCode(IntEnum):
    """Exit status of a job process."""

    OK = 0
    CRASH = 1  # an unexpected exception; the traceback is in log.txt
    USER_ERROR = 65  # error.json says what to mend
    OUT_OF_MEMORY = 71
    DISK_FULL = 73
    READ_ONLY = 74
    CANCELLED = 75  # stopped by SIGTERM, with a checkpoint on disk
    RENDEZVOUS_FAILED = 76  # the processes of the run did not connect to each other in time


class JobCancelled(Exception):
    """Raised by a job that has saved its state after SIGTERM."""


class RendezvousFailed(Exception):
    """The processes of a run did not connect to each other; nothing has been computed."""


class RunDir:
    """Paths and small files of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.run_file = self.path / "run.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.log_file = self.path / "log.txt"
        self.checkpoints = self.path / "checkpoints"
        self.tokenizer_file = self.path / "tokenizer.json"
        self.artifacts = self.path / "artifacts"
        self.best_encoder = self.artifacts / "encoder_best"
        self.changes = self.path / "changes"
        self.stacks = self.path / "stacks"
        self.notice_file = self.path / "notice.json"
        self.result_file = self.path / "result.json"
        self.error_file = self.path / "error.json"
        self._stop = threading.Event()
        self._lock: IO[str] | None = None
        self._stack_file: IO[str] | None = None

    def prepare(self, run: dict[str, Any]) -> None:
        """Prepare the directory for an attempt: the result or error of an earlier attempt is removed."""
        self.artifacts.mkdir(parents=True, exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)
        for stale in (self.result_file, self.error_file, self.notice_file):
            stale.unlink(missing_ok=True)
        shutil.rmtree(self.stacks, ignore_errors=True)
        write_json_atomically(self.run_file, run)

    def read_run(self) -> dict[str, Any]:
        return json.loads(self.run_file.read_text(encoding="utf-8"))

    def append_metrics(self, **values: Any) -> None:
        """Append one line; ``time`` (seconds since the epoch) is added."""
        line = json.dumps({"time": round(time.time(), 3), **values})
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def truncate_metrics(self, step: int) -> None:
        """Drop the lines after ``step``, which will be written again, and an incomplete last line."""
        if not self.metrics_file.exists():
            return
        with self.metrics_file.open("rb") as file:  # a long run has many lines
            write_atomically(self.metrics_file, (line.rstrip(b"\n") + b"\n" for line in file if _is_until(line, step)))

    def last_metrics(self, name: str) -> dict[str, Any]:
        """The last line that has ``name``; empty: none has. All lines are whole (:meth:`truncate_metrics`)."""
        if not self.metrics_file.exists():
            return {}
        found: dict[str, Any] = {}
        with self.metrics_file.open(encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                if name in row:
                    found = row
        return found

    def write_notice(self, code: str, message: str) -> None:
        """Report a problem that does not end the run."""
        write_json_atomically(self.notice_file, {"code": code, "message": message})

    def write_result(self, result: dict[str, Any]) -> None:
        write_json_atomically(self.result_file, result)

    @property
    def stop_requested(self) -> bool:
        """True after SIGTERM; long loops check it between steps."""
        return self._stop.is_set()

    def raise_if_stopped(self) -> None:
        if self._stop.is_set():
            raise JobCancelled

    def lock(self) -> None:
        """Lock the directory for the life of this process."""
        if not self.try_lock():
            raise UserError(f"another process is at work in {self.path}", code="run_dir_busy")

    def try_lock(self) -> bool:
        """Lock the directory until ``unlock`` or the end of this process. False: another one has the lock."""
        lock = (self.path / ".lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        self._lock = lock
        return True

    def unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def watch_signals(self) -> None:
        """Turn SIGTERM and the supervisor's death into ``stop_requested``, and STACK_SIGNAL into stacks."""
        self.stacks.mkdir(exist_ok=True)
        self._stack_file = (self.stacks / f"{os.getpid()}.txt").open("w", encoding="utf-8")
        self._stack_file.write(f"process {os.getpid()}, rank {os.environ.get('RANK', 'none')}\n")
        self._stack_file.flush()
        faulthandler.register(STACK_SIGNAL, file=self._stack_file, all_threads=True)
        signal.signal(signal.SIGTERM, lambda *_: self._stop.set())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if not sys.stdin.isatty() and os.environ.get("LCL_SUPERVISED"):
            threading.Thread(target=self._exit_with_supervisor, daemon=True).start()

    def _exit_with_supervisor(self) -> None:
        # os.read: a thread blocked in sys.stdin would abort the interpreter at its end
        while os.read(0, 4096):
            pass
        if os.getpgrp() == os.getpid():  # our own group: loader processes would outlive us
            os.killpg(0, signal.SIGKILL)
        os._exit(ExitCode.CRASH)


def _is_until(line: bytes, step: int) -> bool:
    """Whether a metric line is whole, and of ``step`` or of an earlier one."""
    try:
        return bool(json.loads(line.decode()).get("step", 0) <= step)
    except ValueError:
        return False


def run_main(work: Callable[[RunDir], dict[str, Any]], argv: list[str] | None = None, *, main: bool = True) -> int:
    """Body of every ``python -m MODULE RUN_DIR``: run ``work``, write its result or its error.

    ``work`` returns the JSON result; it raises UserError for bad input, and JobCancelled after ``stop_requested``.
    ``main``: of several processes in one RUN_DIR, the one that locks the directory and writes the result.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        print("usage: python -m MODULE RUN_DIR", file=sys.stderr)  # noqa: T201
        return ExitCode.USER_ERROR
    run_dir = RunDir(arguments[0])
    try:
        if main:
            run_dir.lock()
        run_dir.watch_signals()
        result = work(run_dir)
        if main:
            run_dir.write_result(result)
    except JobCancelled:
        return ExitCode.CANCELLED
    except RendezvousFailed as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return ExitCode.RENDEZVOUS_FAILED
    except Exception as error:  # the process boundary: the traceback goes to the log, the status to the supervisor
        return _report_failure(error, run_dir)
    return ExitCode.OK


def _report_failure(error: Exception, run_dir: RunDir) -> ExitCode:
    """Write the error, as far as the disk permits. Returns: the exit status."""
    try:
        if isinstance(error, UserError):
            write_json_atomically(run_dir.error_file, error.to_dict())
            print(f"error: {error}", file=sys.stderr)  # noqa: T201
            return ExitCode.USER_ERROR
        traceback.print_exception(error)
    except OSError as other:  # the log is on the same disk
        error = error if failure_code(error, run_dir.path) else other
    code = failure_code(error, run_dir.path)
    return ExitCode.CRASH if code is None else ExitCode[code.name]


EVERY_SECONDS = 0.5
# a long job writes a line every two-thousandth of its time so far, but not less often than this
_LONGEST_INTERVAL_SECONDS = 30.0
_INTERVALS = 2000


class JobProgress:
    """Called with (records done, records in all or None); writes a line now and then and honours a stop request.

    No line repeats the last one: a supervisor takes each line for progress, and a run that hangs would never end.

    Args:
        unit: of the rate.
        start: records that earlier phases have done.
    """

    def __init__(
        self, run_dir: RunDir, phase: str, unit: str = "records", start: int = 0, every: float = EVERY_SECONDS
    ) -> None:
        self._run_dir = run_dir
        self._phase, self._unit, self._start = phase, unit, start
        self._every = every
        self._started = time.monotonic()
        self._last_written = self._started - every
        self._last_line: tuple[int, int | None] | None = None

    def __call__(self, done: int, total: int | None) -> None:
        """Raises: JobCancelled."""
        now = time.monotonic()
        if (done, total) != self._last_line and (now - self._last_written >= self._interval(now) or done == total):
            self._last_written, self._last_line = now, (done, total)
            seconds = now - self._started
            made = done - self._start
            known: dict[str, float] = {"total_steps": total} if total else {}
            if total and made:
                known["seconds_left"] = round(seconds / made * (total - done), 1)
            rate = round(made / max(seconds, 1e-9), 1)
            self._run_dir.append_metrics(step=done, phase=self._phase, **{f"{self._unit}_per_s": rate}, **known)
        self._run_dir.raise_if_stopped()

    def _interval(self, now: float) -> float:
        """Seconds between two lines: a job of weeks would write millions every half second."""
        return max(self._every, min((now - self._started) / _INTERVALS, _LONGEST_INTERVAL_SECONDS))
