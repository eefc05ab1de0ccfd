"""A run as a JobSet of Kubernetes: one Indexed Job with a pod for each node of the run, which is never restarted.

A further attempt is another JobSet. A container runs ``workers.executors.node_agent``.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from lcl_core.common.disk_cache import DEFAULT_DATA_CACHE_BYTES, data_cache_bytes
from lcl_core.common.gpus import POD_GPUS, visible_devices_env
from lcl_core.common.processes import without_secrets
from workers.executors.base import JobRequest
from workers.settings import NodeResources, WorkerSettings

API_VERSION = "jobset.x-k8s.io/v1alpha2"
JOB_LABEL = "lcl/job"  # on JobSet, Job and pods: the JobSet's name
_MANAGER_LABELS = {"app.kubernetes.io/managed-by": "lcl-worker"}
_QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
GROUP = "node"  # name of the replicated job and of its container, and part of the names of pods
PORT = 29_500  # where the ranks meet: a pod has its ports for itself
_USER = 10_001  # of the image
_KEPT_SECONDS = 86_400  # for which a finished JobSet waits for a worker that reads its end
# of data fetched from URLs. Not inside the home: there the runtime would make its folder, and would do so as root.
CACHE_FOLDER = "/var/cache/lcl"
_OTHER_DISK_GIBIBYTES = 6  # /tmp and logs
_UNREACHABLE_SECONDS = 60  # after which the pods of a node that is cut off are given up
# between SIGTERM and SIGKILL of a pod, beyond what its job has for a checkpoint
_MARGIN_SECONDS = 15
_MEMORY_GIBIBYTES = 16  # of a pod, for each of its GPUs, where nothing else is set
_ADDED_TO_SPEC = ("nodeSelector", "priorityClassName", "imagePullSecrets")  # of the setting LCL_KUBERNETES_POD


def build_jobset(
    settings: WorkerSettings, request: JobRequest, name: str, gpus: int, namespace: str, folder: Path
) -> dict[str, Any]:
    """The object that runs ``request``. It has no secrets: the credentials of storage are those of a Secret.

    Suspended where there is a queue, as Kueue expects, which starts it when there is quota for all of its pods.

    Raises: UserError ``bad_setting`` for the bound of the cache of data from URLs.
    """
    labels = {**_MANAGER_LABELS, "app.kubernetes.io/part-of": "lcl", JOB_LABEL: name}
    queue = {_QUEUE_LABEL: settings.kubernetes_queue} if settings.kubernetes_queue else {}
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
            "spec": _pod_spec(settings, request, name, gpus, folder),
        },
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "JobSet",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {**labels, **queue},
            "annotations": {"lcl/run": request.name},
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


def _pod_spec(settings: WorkerSettings, request: JobRequest, name: str, gpus: int, folder: Path) -> dict[str, Any]:
    added, needed = _added(settings), settings.resources_of(request.kind, gpus)
    lost = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": int(settings.cancel_grace_seconds) + _MARGIN_SECONDS,
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
        "containers": [_container(settings, request, needed, gpus, folder)],
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


def _container(
    settings: WorkerSettings, request: JobRequest, needed: NodeResources, gpus: int, folder: Path
) -> dict[str, Any]:
    environment = _environment(settings, request, needed, gpus)
    memory = f"{needed.memory or _MEMORY_GIBIBYTES * max(1, gpus)}Gi"
    container: dict[str, Any] = {
        "name": GROUP,
        "image": settings.kubernetes_image,
        "command": ["python", "-m", "workers.executors.node_agent", str(folder)],
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
                **({settings.kubernetes_gpu_resource: gpus} if gpus else {}),
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


def _environment(settings: WorkerSettings, request: JobRequest, needed: NodeResources, gpus: int) -> dict[str, str]:
    """Settings without secrets. Everybody who may read the namespace's pods can read what is written here."""
    own = ("LCL_KUBERNETES_", "LCL_RAY_", "LCL_EXECUTOR")
    shared = {name: value for name, value in without_secrets(os.environ).items() if name.startswith("LCL_")}
    kept = {name: value for name, value in shared.items() if not name.startswith(own)}
    devices = {POD_GPUS: str(gpus)} if gpus else visible_devices_env(())
    threads = {"OMP_NUM_THREADS": str(max(1, needed.cpus // max(1, gpus)))}  # of each process
    fixed = {"LCL_HOME": str(settings.home), "LCL_DATA_CACHE": CACHE_FOLDER}
    return threads | kept | fixed | devices | dict(request.env)


def _cache_gibibytes() -> int:
    """Size of the volume at CACHE_FOLDER, which LCL_DATA_CACHE_BYTES bounds twice: ranges, and files.

    The rest is for indexes and for files in use beyond the bound. Raises: UserError ``bad_setting``.
    """
    bound = data_cache_bytes()
    return math.ceil((2 * bound + max(bound, DEFAULT_DATA_CACHE_BYTES)) / (1 << 30))
