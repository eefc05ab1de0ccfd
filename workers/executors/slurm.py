"""Slurm executor: a run is one batch job, whose step has one node agent on each node.

Slurm allocates all nodes of the job or none. The job outlives the worker, and is found again by its name, which the
run's row has. Column formats of its commands are the same in all versions, and need no plugin, which ``--json`` does.
Partition, account, quality of service and time limit are those of sbatch's own variables, such as ``SBATCH_PARTITION``.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import structlog

from lcl_core.common.errors import UserError
from lcl_core.common.gpus import VISIBLE_DEVICES
from lcl_core.common.processes import allowed_environment
from lcl_core.db.queue import EngineCapacity
from workers.executors.base import EngineRefused, EngineUnreachable, JobRequest, NoCapacity
from workers.executors.folder_job import END_SECONDS, KILL_SECONDS, POLL_SECONDS, FolderExecutor, JobPhase, JobState
from workers.executors.job_folder import JobFolder
from workers.settings import WorkerSettings

PROGRAMS = ("sbatch", "squeue", "scancel", "sinfo")
# for a command; Slurm's own MessageTimeout is 10 s, and it tries again. A job that is submitted twice is found
_ANSWER_SECONDS = 30.0
_CONNECT_SECONDS = 60.0  # for a controller that starts together with the worker
WARNING_SECONDS = 60  # before the time limit for a checkpoint, at least; Slurm may signal so much sooner
# The first node runs srun, which starts one process on each node. Arguments come after the script's name.
BATCH_SCRIPT = '#!/bin/sh\nexec "$@"\n'
_SEPARATOR = "|"
_QUEUE_COLUMNS = _SEPARATOR.join(("%i", "%T", "%r", "%N", "%j"))
_QUEUE_SHARE = 0.6  # of the time between two queries about one job, for which an answer of squeue counts
_CLUSTER = ("SLURM_CONF",)  # where the commands find their cluster
_UNKNOWN_JOB = "Invalid job id"
# a limit that other jobs use up at present
_POLICY = re.compile(r"violates accounting/QOS policy|\w+Limit\b|temporarily unable to accept")
_UNREACHABLE = re.compile(
    r"Unable to contact slurm controller|Socket timed out|Connection refused|Connection timed out|Zero Bytes"
    r"|Unexpected message received|Communication .*failure|Transport endpoint|temporarily unavailable"
    r"|backup controller|Unable to establish|Protocol authentication error|Resource temporarily"
)
log = structlog.get_logger(__name__)


_PHASES = {
    JobPhase.PENDING: "PENDING CONFIGURING REQUEUED REQUEUE_FED REQUEUE_HOLD RESV_DEL_HOLD SPECIAL_EXIT",
    JobPhase.RUNNING: "RUNNING SUSPENDED STOPPED RESIZING SIGNALING STAGE_OUT POWER_UP_NODE UPDATE_DB",
    JobPhase.ENDING: "COMPLETING",
    JobPhase.ENDED: "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED LAUNCH_FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED "
    "RECONFIG_FAIL REVOKED TIMEOUT",
}
PHASES = {state: phase for phase, states in _PHASES.items() for state in states.split()}
_PAUSED = ("SUSPENDED", "STOPPED")  # by an operator, or for jobs of a higher priority
# not ended by its own processes: another attempt continues from the last checkpoint
HANDED_BACK = {
    "BOOT_FAIL": "a node did not boot",
    "CANCELLED": "it was cancelled in Slurm",
    "DEADLINE": "its deadline in Slurm has passed",
    "LAUNCH_FAILED": "Slurm could not launch it",
    "NODE_FAIL": "a node failed",
    "PREEMPTED": "it was preempted",
    "RECONFIG_FAIL": "a node was reconfigured",
    "REVOKED": "it was revoked",
    "TIMEOUT": "it reached its time limit in Slurm",
}


def job_state(state: str, reason: str = "", nodes: str = "") -> JobState:
    """Of one job, as ``squeue`` has it: its nodes as Slurm abbreviates them."""
    phase = PHASES.get(state, JobPhase.RUNNING)
    loss = "Slurm has queued it again" if phase is JobPhase.PENDING else ""
    if state in HANDED_BACK:
        loss = f"{HANDED_BACK[state]} ({state}, nodes {nodes or 'none'})"
    return JobState(phase, reason, loss, is_paused=state in _PAUSED, out_of_memory=state == "OUT_OF_MEMORY")


@dataclass(frozen=True)
class NodeCapacity:
    """A node that accepts jobs: its CPUs and GPUs, and how many of each are free."""

    name: str
    cpus: int
    free_cpus: int
    gpus: int
    free_gpus: int


class SlurmExecutor(FolderExecutor):
    """Submits jobs to the cluster of the worker's ``slurm.conf``."""

    name, title = "slurm", "Slurm"

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(settings)
        if settings.slurm_queue:
            self.wait_seconds = float("inf")
        self.query_seconds = max(5.0, settings.watch_seconds)
        self._lock = threading.Lock()  # of the answer of squeue, which all jobs of the worker share
        self._answer: dict[str, tuple[str, JobState]] | EngineUnreachable = {}
        self._asked_at = float("-inf")

    @contextlib.contextmanager
    def serving(self, modules: Collection[str]) -> Iterator[None]:
        """Raises (on entry): UserError ``executor_missing``, ``executor_unreachable``."""
        if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
            raise UserError(
                f"LCL_EXECUTOR is slurm, but this machine has no {', '.join(missing)}; install Slurm's client "
                "programs, or leave LCL_EXECUTOR at local",
                code="executor_missing",
            )
        try:
            nodes = self.answer(self.nodes, patience=_CONNECT_SECONDS)
        except (EngineUnreachable, EngineRefused) as error:
            raise UserError(
                f"Slurm does not answer ({error}); is slurmctld running?", code="executor_unreachable"
            ) from error
        if not nodes:
            log.warning("slurm_has_no_nodes")
        yield

    def capacity(self) -> EngineCapacity | None:
        """Nodes that can take a part of a run now; where runs wait in Slurm's queue, all that ever can."""
        try:
            nodes = self.nodes()
        except (EngineUnreachable, EngineRefused) as error:
            log.warning("engine_unreachable", problem=str(error))
            return None
        cpus, queued = self.settings.least_cpus, self.settings.slurm_queue
        free = [(node.cpus, node.gpus) if queued else (node.free_cpus, node.free_gpus) for node in nodes]
        free = [(free_cpus, gpus) for free_cpus, gpus in free if free_cpus >= cpus]
        has_gpus = any(node.gpus for node in nodes)
        total_cpus, total_gpus = sum(cpus for cpus, _ in free), sum(gpus for _, gpus in free)
        return EngineCapacity("slurm", len(free), float(total_cpus), float(total_gpus), has_gpus, float(cpus))

    def nodes(self) -> list[NodeCapacity]:
        """Nodes that take jobs, of the partitions to which jobs are submitted.

        Partition and reservation may be those of the worker's environment, which sbatch reads too.
        """
        columns = ",".join(f"{column}:{_SEPARATOR}" for column in _NODE_COLUMNS)
        partition = os.environ.get("SBATCH_PARTITION", "")
        chosen = [f"--partition={partition}"] if partition else []
        lines = _query(["sinfo", "--noheader", "--Node", *chosen, f"--Format={columns}"])
        return parse_nodes(lines, chosen=bool(partition), reserved=bool(os.environ.get("SBATCH_RESERVATION")))

    def gpus_of(self, request: JobRequest) -> int:
        nodes = self.answer(self.nodes, request.check)
        return request.gpus if any(node.gpus for node in nodes) else 0

    def submit(self, request: JobRequest, name: str, gpus: int, folder: JobFolder) -> str:
        """Slurm stores the environment, where administrators can read it: it has no secrets."""
        script = folder.path / "batch.sh"
        script.write_text(BATCH_SCRIPT, encoding="ascii")
        needed, nodes = self.settings.resources_of(request.kind, gpus), request.nodes
        warning = max(WARNING_SECONDS, round(self.settings.cancel_grace_seconds))
        job = [
            *("--parsable", f"--job-name={name}", f"--nodes={nodes}", "--ntasks-per-node=1"),
            *(f"--cpus-per-task={needed.cpus}", f"--chdir={folder.path}", f"--output={folder.output_file}"),
            # SIGTERM to the processes of the step, without the batch script: srun would end the step at once
            *("--open-mode=append", f"--signal=TERM@{warning}", "--requeue", "--export=ALL"),
            *([f"--mem={needed.memory}G"] if needed.memory else []),
            *([f"--gpus-per-node={gpus}"] if gpus else []),
        ]
        step = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--mpi=none", "--input=none"]
        step += [f"--cpus-per-task={needed.cpus}", "--kill-on-bad-exit=1", "--wait=0", "--label"]
        agent = [sys.executable, "-P", "-m", "workers.executors.node_agent", str(folder.path)]
        environment, tried = job_environment(os.environ, request.env), False

        def submit() -> str:
            nonlocal tried
            if tried and (known := self.find(name)) is not None:
                return known
            tried = True
            answer = _run(["sbatch", *job, str(script), "srun", *step, *agent], environment)
            return answer.strip().splitlines()[-1].partition(";")[0]

        try:
            job_id = self.answer(submit, request.check)
        except EngineRefused as error:
            if _POLICY.search(str(error)):
                raise NoCapacity(f"Slurm does not accept a job at present: {error}") from error
            raise
        self._asked_at = float("-inf")
        return job_id

    def find(self, name: str) -> str | None:
        lines = _query(["squeue", "--noheader", "--states=all", f"--name={name}", "--format=%i"])
        return lines[-1].strip() if lines else None

    def read_state(self, job_id: str, name: str) -> JobState | None:
        """One ``squeue`` answers for all jobs of the worker. None also where another job has the id."""
        with self._lock:
            if time.monotonic() > self._asked_at + _QUEUE_SHARE * self.query_seconds:
                try:
                    arguments = ["squeue", "--noheader", "--me", "--states=all", f"--format={_QUEUE_COLUMNS}"]
                    jobs = {}
                    for line in _query(arguments):
                        number, reported, reason, nodes, job_name = line.strip().split(_SEPARATOR, 4)
                        jobs[number] = job_name, job_state(reported, reason, nodes)
                    self._answer = jobs
                except EngineUnreachable as error:
                    self._answer = error
                self._asked_at = time.monotonic()
            if isinstance(self._answer, EngineUnreachable):
                raise EngineUnreachable(str(self._answer))
            found_name, state = self._answer.get(job_id, ("", None))
        return state if found_name == name else None

    def remove(self, job_id: str, name: str) -> None:
        """A job that ends by itself gets the time to do so, and is no cancelled one in Slurm's accounts then."""
        started, cancelled = time.monotonic(), False
        while (moment := time.monotonic()) < started + END_SECONDS:
            try:
                state = self.read_state(job_id, name)
                if state is None or state.phase is JobPhase.ENDED:
                    return
                if not cancelled and (state.phase is JobPhase.PENDING or moment > started + KILL_SECONDS):
                    _cancel(["--signal=KILL", f"{job_id}.0"])
                    _cancel([job_id])
                    cancelled = True
            except EngineUnreachable as error:
                log.warning("engine_unreachable", problem=str(error))
                if time.monotonic() > started + KILL_SECONDS:
                    return  # the command in the folder, or the folder's removal, ends the processes
            time.sleep(POLL_SECONDS)
        log.warning("slurm_job_not_ended", job=job_id)


def _cancel(arguments: Sequence[str]) -> None:
    """Raises: EngineUnreachable."""
    try:
        _run(["scancel", *arguments])
    except EngineRefused as error:  # it has ended
        log.debug("scancel_refused", problem=str(error))


def _query(arguments: Sequence[str]) -> list[str]:
    return [line for line in _run(arguments).splitlines() if line.strip()]


def _run(arguments: Sequence[str], env: Mapping[str, str] | None = None) -> str:
    """Raises: EngineUnreachable, EngineRefused; FileNotFoundError without the program."""
    cluster = {name: os.environ[name] for name in _CLUSTER if name in os.environ}
    environment = allowed_environment(os.environ) if env is None else env  # without a user's own SQUEUE_… defaults
    try:
        done = subprocess.run(
            arguments,
            env={**environment, **cluster},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_ANSWER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineUnreachable(f"{arguments[0]} did not answer within {_ANSWER_SECONDS:g} s") from error
    if done.returncode == 0:
        return done.stdout
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    problem = "; ".join(lines) or f"{arguments[0]} ended with status {done.returncode}"
    if _UNKNOWN_JOB in done.stderr or not (arguments[0] == "squeue" or _UNREACHABLE.search(done.stderr)):
        raise EngineRefused(problem)
    raise EngineUnreachable(problem)


def job_environment(environment: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """Environment of a job: what it may have of the worker's, without what is true on that machine alone."""
    kept = {name: value for name, value in allowed_environment(environment).items() if name != VISIBLE_DEVICES}
    return {**kept, **more}


_NODE_COLUMNS = ("NodeList", "Partition", "StateLong", "CPUsState", "Gres", "GresUsed")
_TAKES_JOBS = re.compile(r"(idle|mixed|allocated|completing|planned)[~#%^+-]?$")
# nodes of a reservation; $: of one for maintenance, while the node has jobs. A node that does not respond is maint*
_RESERVED = re.compile(r"(reserved|maint|(idle|mixed|allocated|completing)\$)$")
_GPUS = re.compile(r"\bgpu(?::(?:\(null\)|[^:,()]+))?:(\d+)")


def parse_nodes(lines: Collection[str], *, chosen: bool = False, reserved: bool = False) -> list[NodeCapacity]:
    """Of ``sinfo --Node --Format=…`` with the columns of _NODE_COLUMNS, and a separator after each.

    A node that is in several partitions comes several times.

    Args:
        chosen: jobs go to any of these partitions; else to the default one, if there is one: its name ends with ``*``.
        reserved: jobs may use nodes of a reservation.
    """
    rows = [[column.strip() for column in line.split(_SEPARATOR)[: len(_NODE_COLUMNS)]] for line in lines]
    if not chosen:
        rows = [row for row in rows if row[1].endswith("*")] or rows
    nodes = {}
    for name, _, state, cpus, gres, used in rows:
        if not (_TAKES_JOBS.match(state.lower()) or (reserved and _RESERVED.match(state.lower()))):
            continue
        _, idle, _, total = (int(count) for count in cpus.split("/"))
        gpus = _count_gpus(gres)
        nodes[name] = NodeCapacity(name, total, idle, gpus, max(0, gpus - _count_gpus(used)))
    return list(nodes.values())


def _count_gpus(gres: str) -> int:
    """``gpu:2``, ``gpu:a100:4(S:0-1),nic:1``, ``gpu:a100:2(IDX:0-1)``, ``gpu:(null):3(IDX:0-2)``, ``(null)``."""
    return sum(int(count) for count in _GPUS.findall(gres))
