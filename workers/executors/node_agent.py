"""The job's process of one node of an engine's job: ``python -m workers.executors.node_agent FOLDER``.

It starts the process as the local executor does, executes the commands of the worker that FOLDER has, and reports the
exit status there. It needs no connection to the worker: the file system is enough. Without a heartbeat of a worker it
has the process save its state and end.

Engines send SIGTERM when a job is preempted, evicted, requeued or cancelled, or before its time limit. The process
writes its checkpoint then, as it does on a worker's command.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from lcl_core.common.files import file_age
from lcl_core.common.gpus import visible_devices_env
from lcl_core.common.processes import NodeInfo, reserve_port
from lcl_core.common.run_dir import ExitCode, RunDir
from workers.executors.base import node_log_name, node_stacks_name
from workers.executors.job_folder import CommandReader, JobFolder
from workers.executors.local import JobProcess

_POLL_SECONDS = 0.25
_REPEAT_SECONDS = 1.0  # SIGTERM that comes before the process has its handler would be lost
_CRASH_GRACE_SECONDS = 5.0  # for other nodes to write their errors, before the engine ends them
_SIGNAL_STATUS = 128
_NUMBER_VARIABLES = ("SLURM_NODEID", "JOB_COMPLETION_INDEX")  # of the node among those of the run


class NodeAgent:
    """The process of node ``number``, from its start to its end.

    Args:
        host: where the other nodes reach this one.
        terminated: set when the engine ends the job.
    """

    def __init__(self, folder: JobFolder, number: int, host: str, terminated: threading.Event) -> None:
        self._folder, self._number, self._host, self._terminated = folder, number, host, terminated
        self._start, self._commands = folder.read_start(), CommandReader(folder.control_file)
        self._renewed: tuple[int, int] = (0, 0)  # time and size of the control file
        self._renewed_at = time.monotonic()
        self._terminated_at = float("-inf")
        self._kill_at = float("inf")

    def run(self) -> int:
        """Returns: the exit status of the process. Raises: OSError, TimeoutError.

        A job may have waited in the engine's queue since its worker was lost: it does not start then.
        """
        start, number = self._start, self._number
        if file_age(self._folder.control_file) > start.orphan_seconds:
            print("no worker has shown itself since long before the start: nothing is started", flush=True)  # noqa: T201
            self._folder.report(number, status=int(ExitCode.CANCELLED))
            return ExitCode.CANCELLED
        with reserve_port() if start.nodes > 1 and number == 0 else socket.socket() as reserved:
            environment = self._rendezvous(reserved) | ({} if start.gpus else visible_devices_env(()))
            run_dir = RunDir(start.run_dir)
            run_dir.log_file = run_dir.path / node_log_name(number)
            title = start.title if number == 0 else f"{start.title}, node {number} of {start.nodes}"
            with JobProcess(start.module, run_dir, title, start.protocols, environment) as process:
                self._folder.report(number, log_start=process.log_start)
                while (status := process.wait(_POLL_SECONDS)) is None:
                    self._control(process)
        self._folder.report(number, status=status)
        return status

    def _rendezvous(self, reserved: socket.socket) -> dict[str, str]:
        """Environment that says where the ranks connect, which node 0 reports to the others. Raises: TimeoutError."""
        start = self._start
        if start.nodes == 1:
            return {}
        if self._number == 0:
            address = NodeInfo(0, start.nodes, self._host, reserved.getsockname()[1]).address
            self._folder.report(0, address=address)
        deadline = time.monotonic() + start.rendezvous_seconds
        while not (address := self._folder.read_report(0).address):
            if time.monotonic() > deadline:
                raise TimeoutError(f"node 0 has not reported an address within {start.rendezvous_seconds:g} s")
            time.sleep(_POLL_SECONDS)
        return NodeInfo.at(address, self._number, start.nodes, start.rendezvous_seconds).to_env()

    def _control(self, process: JobProcess) -> None:
        """Execute what the worker or the engine wants of the process now."""
        moment = time.monotonic()
        try:
            for command in self._commands.read():
                if command == "terminate":
                    process.terminate()
                elif command == "kill":
                    process.kill()
                else:
                    answer = process.dump_stacks(node_stacks_name(self._number))
                    self._folder.report(self._number, stacks=answer, stacks_command=command)
            control = self._folder.control_file.stat()
        except FileNotFoundError:  # a later attempt has begun
            process.kill()
            return
        if (renewed := (control.st_mtime_ns, control.st_size)) != self._renewed:
            self._renewed, self._renewed_at = renewed, moment
            self._kill_at = float("inf")
        orphaned = moment > self._renewed_at + self._start.orphan_seconds
        if orphaned and self._kill_at == float("inf"):
            print("no worker has shown itself: the process saves its state and ends", flush=True)  # noqa: T201
            self._kill_at = moment + self._start.grace_seconds
        if moment > self._kill_at:
            process.kill()
        elif (orphaned or self._terminated.is_set()) and moment > self._terminated_at + _REPEAT_SECONDS:
            self._terminated_at = moment
            process.terminate()


def run_agent(folder: JobFolder, number: int, host: str, terminated: threading.Event) -> int:
    """Returns: an exit status that is not 0 if the engine has to end the other nodes."""
    status = NodeAgent(folder, number, host, terminated).run()
    if status in (ExitCode.OK, ExitCode.CANCELLED):
        return ExitCode.OK
    if status == ExitCode.CRASH and folder.read_start().nodes > 1:
        time.sleep(_CRASH_GRACE_SECONDS)
    return status if status > 0 else _SIGNAL_STATUS - status


def main(folder: JobFolder) -> int:
    """Returns: exit status of this program, which is one process of Slurm or Kubernetes."""
    if int(os.environ.get("SLURM_RESTART_COUNT", "0")):
        print("Slurm has started the job again; its worker starts another one", flush=True)  # noqa: T201
        return ExitCode.OK
    number = next((int(os.environ[name]) for name in _NUMBER_VARIABLES if name in os.environ), 0)
    terminated = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: terminated.set())
    # where srun runs: by Slurm's rule on the first node. A pod's host name has its address
    host = os.environ.get("SLURM_LAUNCH_NODE_IPADDR") or socket.gethostbyname(socket.gethostname())
    return run_agent(folder, number, host, terminated)


if __name__ == "__main__":
    sys.exit(main(JobFolder(Path(sys.argv[1]))))
