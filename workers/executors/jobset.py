"""A run as a JobSet of Kubernetes: the object, and what the main process of each of its containers does.

The object is one Indexed Job with a pod for each node of the run, which is never restarted: a further attempt is
another JobSet. A container runs ``python -m workers.executors.jobset TASK``, which starts the job's module as the local
executor does, passes SIGTERM on, and ends with the module's exit status (128 + the signal that killed it).

The API server sends no messages to a process. Those of a worker are in RUN_DIR, which worker and pods share:
``worker.json`` has its heartbeats, without which the job saves its state and exits, and requests for stacks.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lcl_core.common.disk_cache import DEFAULT_DATA_CACHE_BYTES, data_cache_bytes
from lcl_core.common.files import file_age, write_json_atomically
from lcl_core.common.gpus import POD_GPUS, visible_devices_env
from lcl_core.common.process_env import without_secrets
from lcl_core.common.rendezvous import NodeInfo
from lcl_core.common.run_dir import ExitCode, RunDir
from lcl_core.db.leases import REATTACH_SECONDS
from workers.executors.base import JobRequest, node_log_name, node_stacks_name
from workers.executors.local import FORK_SERVER, JobProcess
from workers.settings import NodeResources, WorkerSettings

API_VERSION = "jobset.x-k8s.io/v1alpha2"
JOB_LABEL = "lcl/job"  # on JobSet, Job and pods: the JobSet's name
MANAGER_LABELS = {"app.kubernetes.io/managed-by": "lcl-worker"}
OWNER_ANNOTATION = "lcl/owner"  # token of the worker that may stop the job
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
GROUP = "node"  # name of the replicated job and of its container, and part of the names of pods
_PORT = 29_500  # where the ranks meet: a pod has its ports for itself
_USER = 10_001  # of the image
_KEPT_SECONDS = 86_400  # for which a finished JobSet waits for a worker that reads its end
# of data fetched from URLs. Not inside the home: there the runtime would make its folder, and would do so as root.
CACHE_FOLDER = "/var/cache/lcl"
_OTHER_DISK_GIBIBYTES = 6  # /tmp and logs
_UNREACHABLE_SECONDS = 60  # after which the pods of a node that is cut off are given up
# between SIGTERM and SIGKILL of a pod, beyond what its job has for a checkpoint
MARGIN_SECONDS = 15
_MEMORY_GIBIBYTES = 16  # of a pod, for each of its GPUs, where nothing else is set
_POLL_SECONDS, _READ_SECONDS = 0.5, 2.0
_ADDED_TO_SPEC = ("nodeSelector", "priorityClassName", "imagePullSecrets")  # of the setting LCL_KUBERNETES_POD
_SIGNAL_STATUS = 128  # a shell and a container's runtime add the number of the signal


@dataclass(frozen=True)
class PodTask:
    """What the containers of a JobSet are started with, as JSON.

    Attributes:
        job: name of the JobSet.
        seconds: in which the processes of all nodes must have connected.
        orphan_seconds: without a heartbeat of a worker, after which the job saves its state and ends.
        grace_seconds: between SIGTERM and SIGKILL of the job.
    """

    job: str
    module: str
    run_dir: str
    nodes: int
    protocols: tuple[str, ...]
    seconds: float
    orphan_seconds: float
    grace_seconds: float


class WorkerFile:
    """``worker.json`` of RUN_DIR: what a worker tells the pods of the job that it supervises."""

    def __init__(self, run_dir: Path, job: str, owner: str) -> None:
        self._run_dir = run_dir
        self._values: dict[str, Any] = {"job": job, "owner": owner, "renewed": 0, "stacks": ""}

    def claim(self) -> None:
        """Make this worker the one whose commands are executed. Raises: OSError."""
        self._values["renewed"] += 1
        write_json_atomically(self._run_dir / "worker.json", self._values)

    def renew(self) -> None:
        """A heartbeat, unless another worker has claimed the file. Raises: OSError."""
        found = _read_object(self._run_dir / "worker.json")
        if found.get("owner", self._values["owner"]) == self._values["owner"]:
            self.claim()

    def abandon(self) -> None:
        """Have the pods end their processes, likewise. Raises: OSError."""
        self._values["job"] = ""
        self.renew()

    def request_stacks(self) -> str:
        """Returns: the name of the request, which answers repeat. Raises: OSError."""
        self._values["stacks"] = secrets.token_hex(4)
        self.renew()
        return str(self._values["stacks"])

    def read_answer(self, node: int, request: str) -> str | None:
        """What came of the stacks of a node; None: no answer yet."""
        found = _read_object(self._run_dir / f"node-{node}.json")
        return str(found["message"]) if found.get("stacks") == request else None


class PodProcess:
    """The job's process of one node, inside its container."""

    def __init__(self, task: PodTask, node: int) -> None:
        self._task, self._node = task, node
        self._run_dir = RunDir(task.run_dir)
        self._run_dir.log_file = self._run_dir.path / node_log_name(node)
        self._terminate = False
        self._message: dict[str, Any] = {}
        self._answered = ""
        self._seen = time.monotonic()
        self._read_at = 0.0

    def run(self) -> int:
        """Exit status of the container."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        self._read_message()
        if self._is_orphan() or self._was_orphan():
            return ExitCode.CANCELLED
        task = self._task
        with JobProcess(task.module, self._run_dir, "", task.protocols, self._environment()) as process:
            status = self._until_exit(process)
        return status if status >= 0 else _SIGNAL_STATUS - status

    def _on_sigterm(self, *_: object) -> None:
        self._terminate = True

    def _environment(self) -> dict[str, str]:
        task = self._task
        if task.nodes == 1:
            return {}
        host = f"{task.job}-{GROUP}-0-0.{task.job}"  # the name of node 0 in the network of the JobSet
        return NodeInfo(self._node, task.nodes, host, _PORT, task.seconds).to_env()

    def _until_exit(self, process: JobProcess) -> int:
        kill_at, terminated = float("inf"), False
        while (status := process.wait(_POLL_SECONDS)) is None:
            self._read_message()
            self._write_stacks(process)
            if (self._terminate or self._is_orphan()) and not terminated:
                terminated, kill_at = True, time.monotonic() + self._task.grace_seconds
                process.terminate()
            if time.monotonic() > kill_at:
                process.kill()
        return status

    def _read_message(self) -> None:
        if time.monotonic() < self._read_at:
            return
        self._read_at = time.monotonic() + _READ_SECONDS
        found = _read_object(self._run_dir.path / "worker.json")
        if found and found != self._message:
            self._message, self._seen = found, time.monotonic()

    def _is_orphan(self) -> bool:
        """Whether the run has another job by now, or there has been no heartbeat of a worker for long."""
        replaced = self._message.get("job", self._task.job) != self._task.job
        return replaced or time.monotonic() > self._seen + self._task.orphan_seconds

    def _was_orphan(self) -> bool:
        """Whether the last heartbeat of a worker is old already: a queue may have kept the job since then."""
        try:
            return file_age(self._run_dir.path / "worker.json") > self._task.orphan_seconds
        except OSError:  # it cannot be read for the moment
            return False

    def _write_stacks(self, process: JobProcess) -> None:
        request = self._message.get("stacks", "")
        if request and request != self._answered:
            self._answered = request
            answer = {"stacks": request, "message": process.dump_stacks(node_stacks_name(self._node))}
            write_json_atomically(self._run_dir.path / f"node-{self._node}.json", answer)


def build_jobset(
    settings: WorkerSettings, request: JobRequest, name: str, owner: str, namespace: str
) -> dict[str, Any]:
    """The object that runs ``request``. It has no secrets: the credentials of storage are those of a Secret.

    Suspended where there is a queue, as Kueue expects, which starts it when there is quota for all of its pods.

    Raises: UserError ``bad_setting`` for the bound of the cache of data from URLs.
    """
    labels = {**MANAGER_LABELS, "app.kubernetes.io/part-of": "lcl", JOB_LABEL: name}
    queue = {QUEUE_LABEL: settings.kubernetes_queue} if settings.kubernetes_queue else {}
    added = _added(settings)  # its labels come before ours, by which pods are found
    metadata: dict[str, Any] = {"labels": {**added.get("labels", {}), **labels, "app.kubernetes.io/name": "run"}}
    if "annotations" in added:
        metadata["annotations"] = added["annotations"]
    job = {
        "completionMode": "Indexed",
        "completions": request.nodes,
        "parallelism": request.nodes,
        "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
        # the Job says then that a pod was evicted, preempted or lost with its node, and that its process did not fail
        "podFailurePolicy": {
            "rules": [{"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
        },
        "template": {
            "metadata": metadata,
            "spec": _pod_spec(settings, request, name),
        },
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "JobSet",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {**labels, **queue},
            "annotations": {OWNER_ANNOTATION: owner, "lcl/run": request.name},
        },
        "spec": {
            "suspend": bool(queue),
            "ttlSecondsAfterFinished": _KEPT_SECONDS,
            "failurePolicy": {"maxRestarts": 0},
            "network": {"enableDNSHostnames": request.nodes > 1, "publishNotReadyAddresses": True},
            "replicatedJobs": [
                {"name": GROUP, "replicas": 1, "template": {"metadata": {"labels": labels}, "spec": job}}
            ],
        },
    }


def _added(settings: WorkerSettings) -> dict[str, Any]:
    """What the administrator adds to the pods."""
    return settings.kubernetes_pod.model_dump(by_alias=True, exclude_unset=True)


def _pod_spec(settings: WorkerSettings, request: JobRequest, name: str) -> dict[str, Any]:
    added, needed = _added(settings), _needed(settings, request)
    lost = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": int(settings.cancel_grace_seconds) + MARGIN_SECONDS,
        "serviceAccountName": settings.kubernetes_service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "shareProcessNamespace": True,  # process 1 is the pod's own then, which reaps what killed ones leave
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": [
            {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _UNREACHABLE_SECONDS}
            for key in lost
        ]
        + added.get("tolerations", []),
        "containers": [_container(settings, request, name)],
        "volumes": [
            {"name": "home", "persistentVolumeClaim": {"claimName": settings.kubernetes_claim}},
            *(
                {"name": f"data-{number}", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
                for number, claim in enumerate(settings.kubernetes_data_claims)
            ),
            {"name": "tmp", "emptyDir": {"sizeLimit": "4Gi"}},
            {"name": "cache", "emptyDir": {"sizeLimit": f"{_cache_gibibytes()}Gi"}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{needed.shm}Gi"}},
        ],
    }
    spec |= {name: value for name, value in added.items() if name in _ADDED_TO_SPEC}
    if request.nodes > 1:  # each on a machine of its own
        term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {JOB_LABEL: name}}}
        spec["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    return spec


def _needed(settings: WorkerSettings, request: JobRequest) -> NodeResources:
    return settings.resources_of(request.kind, request.gpus if settings.kubernetes_gpu_resource else 0)


def _container(settings: WorkerSettings, request: JobRequest, name: str) -> dict[str, Any]:
    task = PodTask(
        name,
        request.module,
        str(request.run_dir.path),
        request.nodes,
        tuple(sorted(request.protocols)),
        settings.rendezvous_seconds,
        settings.lease_seconds + REATTACH_SECONDS,  # a lost lease has to expire first
        settings.cancel_grace_seconds,
    )
    gpus = {settings.kubernetes_gpu_resource: request.gpus} if request.gpus and settings.kubernetes_gpu_resource else {}
    environment = _environment(settings, request, sum(gpus.values()))
    needed = _needed(settings, request)
    memory = f"{needed.memory or _MEMORY_GIBIBYTES * max(1, sum(gpus.values()))}Gi"
    container: dict[str, Any] = {
        "name": GROUP,
        "image": settings.kubernetes_image,
        "command": ["python", "-m", "workers.executors.jobset", json.dumps(asdict(task))],
        "env": [{"name": key, "value": value} for key, value in sorted(environment.items())],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {
            "requests": {
                "cpu": str(needed.cpus),
                "memory": memory,
                "ephemeral-storage": "1Gi",
            },
            "limits": {
                "memory": memory,
                "ephemeral-storage": f"{_cache_gibibytes() + _OTHER_DISK_GIBIBYTES}Gi",
                **gpus,
            },
        },
        "volumeMounts": [
            {"name": "home", "mountPath": str(settings.home)},
            *(
                {"name": f"data-{number}", "mountPath": path, "readOnly": True}
                for number, path in enumerate(settings.kubernetes_data_claims.values())
            ),
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            {"name": "cache", "mountPath": CACHE_FOLDER},
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
        ],
    }
    if settings.kubernetes_secret:
        container["envFrom"] = [{"secretRef": {"name": settings.kubernetes_secret}}]
    return container


def _environment(settings: WorkerSettings, request: JobRequest, gpus: int) -> dict[str, str]:
    """Settings without secrets. Everybody who may read the namespace's pods can read what is written here."""
    own = ("LCL_KUBERNETES_", "LCL_RAY_", "LCL_EXECUTOR")
    shared = {name: value for name, value in without_secrets(os.environ).items() if name.startswith("LCL_")}
    kept = {name: value for name, value in shared.items() if not name.startswith(own)}
    devices = {POD_GPUS: str(gpus)} if gpus else visible_devices_env(())
    threads = {"OMP_NUM_THREADS": str(max(1, _needed(settings, request).cpus // max(1, gpus)))}  # of each process
    fixed = {"LCL_HOME": str(settings.home), "LCL_DATA_CACHE": CACHE_FOLDER, FORK_SERVER: "off"}
    return threads | kept | fixed | devices | dict(request.env)


def _cache_gibibytes() -> int:
    """Size of the volume at CACHE_FOLDER, which LCL_DATA_CACHE_BYTES bounds twice: ranges, and files.

    The rest is for indexes and for files in use beyond the bound. Raises: UserError ``bad_setting``.
    """
    bound = data_cache_bytes()
    return math.ceil((2 * bound + max(bound, DEFAULT_DATA_CACHE_BYTES)) / (1 << 30))


def _read_object(path: Path) -> dict[str, Any]:
    """A small JSON file of the other side; empty while it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def main(arguments: Sequence[str]) -> int:
    """Exit status of the container."""
    task = json.loads(arguments[0])
    node = int(os.environ.get("JOB_COMPLETION_INDEX", "0"))
    return PodProcess(PodTask(**{**task, "protocols": tuple(task["protocols"])}), node).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
