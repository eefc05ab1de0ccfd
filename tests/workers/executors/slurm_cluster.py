"""A Slurm cluster on this machine: munged, slurmctld, and a slurmd for each of several nodes, all on loopback."""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo", "scontrol", "srun")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]
_START_SECONDS = 60.0
# KillWait is short: a test waits for it. A node that is DOWN comes back when its slurmd is started again
_CONFIGURATION = """
ClusterName=lcl
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
GresTypes=gpu
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=5
SchedulerParameters=batch_sched_delay=0
SlurmdTimeout=60
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=main Nodes=ALL Default=YES PriorityTier=1
PartitionName=urgent Nodes=ALL PriorityTier=10
"""


class SlurmCluster:
    """Nodes ``n1``, ``n2``, … of one processor each.

    Args:
        gpus: of each node, none of which exists.
    """

    def __init__(self, folder, nodes, gpus=0):
        self.folder = folder
        self.configuration = folder / "slurm.conf"
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._controller: subprocess.Popen[bytes] | None = None
        (folder / "state").mkdir()
        self._write_configuration(f" Gres=gpu:{gpus}" if gpus else "")
        (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n" if gpus else "")

    def start(self):
        options = [f"--{name}={self.folder / name}" for name in ("key-file", "log-file", "pid-file", "seed-file")]
        socket_file = self.folder / "munge.socket"
        self._daemons.append(
            # --force: the folder is the user's own, where munged wants one that all users may enter
            self._spawn("munged", "--foreground", "--force", f"--socket={socket_file}", *options, name="munged")
        )
        self._await(socket_file.exists, "munged")
        self.start_controller()
        for node in self.nodes:
            self._daemons.append(self._spawn("slurmd", "-D", "-N", node, name=node))
        self._await(lambda: self.states() == ["idle"] * len(self.nodes), "idle nodes")

    def start_controller(self):
        self._controller = self._spawn("slurmctld", "-D", name="slurmctld")
        self._await(lambda: self.run("scontrol", "ping").returncode == 0, "slurmctld")

    def stop_controller(self):
        assert self._controller is not None
        self._controller.send_signal(signal.SIGTERM)  # which saves the state
        self._controller.wait(_START_SECONDS)

    def states(self):
        return self.run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T").stdout.split()

    def jobs(self):
        """``ID STATE NODES`` of those that have not ended."""
        return self.run("squeue", "--noheader", "--format=%i %T %N").stdout.splitlines()

    def run(self, *arguments):
        environment = {**os.environ, "SLURM_CONF": str(self.configuration)}
        return subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)

    def update(self, node, state):
        done = self.run("scontrol", "update", f"NodeName={node}", f"State={state}", "Reason=test")
        assert done.returncode == 0, done.stderr

    def resume(self, node):
        """Slurm refuses where the node has come back by itself."""
        self.run("scontrol", "update", f"NodeName={node}", "State=RESUME")

    def close(self):
        """End the jobs, then the daemons."""
        self.run("scancel", f"--user={getpass.getuser()}")
        with contextlib.suppress(TimeoutError):
            self._await(lambda: not self.jobs(), "the end of the jobs")
        processes = [*((self._controller,) if self._controller else ()), *reversed(self._daemons)]
        for process in processes:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _write_configuration(self, resources):
        ports = free_ports(len(self.nodes) + 1)
        lines = [
            f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=1{resources}"
            for node, port in zip(self.nodes, ports[1:], strict=True)
        ]
        values = {"port": ports[0], "user": getpass.getuser(), "folder": self.folder, "nodes": "\n".join(lines)}
        self.configuration.write_text(_CONFIGURATION.format(**values))
        key = self.folder / "key-file"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))

    def _spawn(self, *command, name):
        environment = {**os.environ, "SLURM_CONF": str(self.configuration)}
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _await(self, condition, what):
        deadline = time.monotonic() + _START_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} did not come within {_START_SECONDS:g} s")
            time.sleep(0.1)


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def slurm_cluster(folder, nodes, gpus=0):
    """Skips the test where Slurm is not installed, or does not start."""
    if MISSING:
        pytest.skip(f"Slurm is not installed: there is no {', '.join(MISSING)}")
    cluster = SlurmCluster(folder, nodes, gpus)
    try:
        try:
            cluster.start()
        except TimeoutError as error:
            logs = "\n".join(log.read_text(errors="replace")[-1000:] for log in sorted(folder.glob("*.log")))
            pytest.skip(f"Slurm does not start on this machine: {error}\n{logs}")
        yield cluster
    finally:
        cluster.close()
