"""Kubernetes executor: all nodes of a run are the pods of one JobSet, in a namespace that shares the service's home.

The JobSet has one Indexed Job with a pod for each node, which is never restarted: a further attempt is another
JobSet. It outlives the worker, and is found again by its name, which the run's row has; its uid says that it is the
same one.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import ssl
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import structlog

from lcl_core.common.disk_cache import DEFAULT_DATA_CACHE_BYTES, data_cache_bytes
from lcl_core.common.errors import UserError
from lcl_core.common.gpus import POD_GPUS, visible_devices_env
from lcl_core.common.processes import allowed_environment
from lcl_core.db.queue import EngineCapacity
from workers.executors.base import EngineRefused, EngineUnreachable, JobRequest, NoCapacity
from workers.executors.folder_job import KILL_SECONDS, POLL_SECONDS, FolderExecutor, JobPhase, JobState
from workers.executors.job_folder import JobFolder
from workers.settings import NodeResources, WorkerSettings

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")  # of the pod in which this process runs
CONFLICT, NOT_FOUND = 409, 404
_BUSY = {408, 429, 500, 502, 503, 504}
_ANSWER_SECONDS = 5.0
Object = dict[str, Any]
log = structlog.get_logger(__name__)


class KubernetesError(EngineRefused):
    """The API server has refused a request, and would refuse it again."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{message} (HTTP status {status})")
        self.status = status


class _FileToken(httpx.Auth):
    """Reads the token again for each request, since the kubelet renews it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        try:
            request.headers["Authorization"] = f"Bearer {self._path.read_text(encoding='ascii').strip()}"
        except OSError as error:
            raise httpx.ConnectError(f"the token of the service account cannot be read: {error}") from error
        yield request


class KubernetesClient:
    """Thread-safe. Two kinds of objects are enough here, so this is httpx and not the official client.

    Raises: UserError ``executor_unreachable``; OSError for a file without certificates.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        url, ca_file = settings.kubernetes_url, settings.kubernetes_ca_file
        if ca_file is None and (ACCOUNT / "ca.crt").is_file():
            ca_file = ACCOUNT / "ca.crt"
        if not url:
            host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
            if not host or ca_file is None:
                raise UserError(
                    "this worker is in no pod with a service account's token; set automountServiceAccountToken of its "
                    "pod, or LCL_KUBERNETES_URL and LCL_KUBERNETES_TOKEN_FILE",
                    code="executor_unreachable",
                )
            url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        self.url = url
        tls = ssl.create_default_context(cafile=ca_file)
        # Python 3.13 demands key identifiers of every certificate, which those of many clusters lack, as of Amazon EKS.
        # Chain, dates and host name are checked without that flag too.
        tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
        self._http = httpx.Client(
            base_url=url,
            auth=_FileToken(settings.kubernetes_token_file or ACCOUNT / "token"),
            verify=tls,
            trust_env=False,  # no proxy: the token is for the API server alone
            timeout=_ANSWER_SECONDS,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=8),
            headers={"Accept": "application/json", "User-Agent": "lcl-worker"},
        )

    def close(self) -> None:
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str | int] | None = None,
    ) -> Object:
        """Raises: KubernetesError, EngineUnreachable."""
        try:
            answer = self._http.request(method, path, json=body, params=params)
            found: Object = answer.json()
        except (httpx.TransportError, ValueError) as error:
            raise EngineUnreachable(f"{self.url}: {error or type(error).__name__}") from error
        if answer.is_success:
            return found
        message = found.get("message") or "no message"
        if answer.status_code in _BUSY:
            raise EngineUnreachable(f"{self.url}: {message} (HTTP status {answer.status_code})")
        raise KubernetesError(answer.status_code, message)

    def find(self, path: str) -> Object | None:
        """One object; None: there is none. Raises: KubernetesError, EngineUnreachable."""
        try:
            return self.request("GET", path)
        except KubernetesError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    def list_items(self, path: str, **selectors: str) -> list[Object]:
        """Raises: KubernetesError, EngineUnreachable."""
        found: list[Object] = self.request("GET", path, params=selectors)["items"]
        return found


def collection_path(version: str, namespace: str, kind: str) -> str:
    root = "api" if version == "v1" else "apis"
    return f"/{root}/{version}/namespaces/{namespace}/{kind}"


API_VERSION = "jobset.x-k8s.io/v1alpha2"
JOB_LABEL = "lcl/job"  # on JobSet, Job and pods: the JobSet's name
_MANAGER_LABELS = {"app.kubernetes.io/managed-by": "lcl-worker"}
_QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
GROUP = "node"  # name of the replicated job and of its container, and part of the names of pods
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
    added = settings.kubernetes_pod  # its labels come before ours, by which pods are found
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
            "network": {"enableDNSHostnames": False},
            "replicatedJobs": [
                {"name": GROUP, "replicas": 1, "template": {"metadata": {"labels": labels}, "spec": job}}
            ],
        },
    }


def _pod_spec(settings: WorkerSettings, request: JobRequest, name: str, gpus: int, folder: Path) -> dict[str, Any]:
    added, needed = settings.kubernetes_pod, settings.resources_of(request.kind, gpus)
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
    shared = {name: value for name, value in allowed_environment(os.environ).items() if name.startswith("LCL_")}
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


_CONNECT_SECONDS = 60.0  # for a cluster that starts together with the worker
_REMOVE_SECONDS = 20.0  # in which the pods must have ended; those of a node that is cut off never do
# what does not pass by itself, as a quota that is used up does, or a registry or webhook that does not answer
_REFUSAL = re.compile(
    r"is forbidden(?!: exceeded quota)|denied the request|is invalid|persistentvolumeclaim \S+ not found"
    r"|^(CreateContainerConfigError|InvalidImageName|ErrImageNeverPull)"
    r"|^(ErrImagePull|ImagePullBackOff)\b.*(not found|manifest unknown|denied|unauthorized)",
    re.IGNORECASE | re.DOTALL,
)
_NO_LIMIT = 1_000_000  # what is free in the cluster is not known: its scheduler or Kueue decides


class KubernetesExecutor(FolderExecutor):
    """Creates JobSets in one namespace."""

    name, title = "kubernetes", "Kubernetes"
    start_seconds = 900.0  # the image has to be there
    query_seconds = 10.0

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(settings)
        self._client = KubernetesClient(settings)
        self._namespace = settings.kubernetes_namespace or _own_namespace()
        self._jobsets = collection_path(API_VERSION, self._namespace, "jobsets")
        self._pods = collection_path("v1", self._namespace, "pods")
        self._events = collection_path("v1", self._namespace, "events")

    @contextlib.contextmanager
    def serving(self, modules: Collection[str]) -> Iterator[None]:
        """Raises (on entry): UserError ``executor_unreachable``, and ``bad_setting`` for what every pod needs."""
        data_cache_bytes()
        try:
            self.answer(self._ping, patience=_CONNECT_SECONDS)
        except EngineUnreachable as error:
            way_out = "run the worker in a pod of the cluster, or set LCL_KUBERNETES_URL"
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                way_out = "set LCL_KUBERNETES_CA_FILE to the certificates of its authority"
            raise UserError(
                f"no API server of Kubernetes answers at {error}; {way_out}", code="executor_unreachable"
            ) from error
        except KubernetesError as error:
            way_out = "give the worker's service account the role of deploy/kubernetes/jobs"
            if error.status == NOT_FOUND:
                way_out = "install JobSet (jobset.sigs.k8s.io) in the cluster"
            message = f"JobSets of the namespace {self._namespace}: {error}; {way_out}"
            raise UserError(message, code="executor_unreachable") from error
        try:
            yield
        finally:
            self._client.close()

    def _ping(self) -> None:
        self._client.request("GET", self._jobsets, params={"limit": 1})

    def capacity(self) -> EngineCapacity | None:
        """Anything, as long as the API server answers: the cluster decides when a run is scheduled."""
        try:
            self._ping()
        except (EngineUnreachable, EngineRefused) as error:
            log.warning("engine_unreachable", problem=str(error))
            return None
        has_gpus = bool(self.settings.kubernetes_gpu_resource)
        gpus = float(_NO_LIMIT if has_gpus else 0)
        return EngineCapacity("kubernetes", _NO_LIMIT, _NO_LIMIT, gpus, has_gpus)

    def gpus_of(self, request: JobRequest) -> int:
        return request.gpus if self.settings.kubernetes_gpu_resource else 0

    def submit(self, request: JobRequest, name: str, gpus: int, folder: JobFolder) -> str:
        jobset = build_jobset(self.settings, request, name, gpus, self._namespace, folder.path)

        def create() -> str:
            try:
                created = self._client.request("POST", self._jobsets, jobset)
            except KubernetesError as error:
                known = self.find(name) if error.status == CONFLICT else None
                if known is None:
                    raise
                return known  # an earlier response was lost: nobody else has this name
            return str(created["metadata"]["uid"])

        try:
            return self.answer(create, request.check)
        except KubernetesError as error:
            if "exceeded quota" in str(error):
                raise NoCapacity(f"the quota of the namespace has no room: {error}") from error
            raise

    def find(self, name: str) -> str | None:
        jobset = self._client.find(f"{self._jobsets}/{name}")
        return None if jobset is None else str(jobset["metadata"]["uid"])

    def read_state(self, job_id: str, name: str) -> JobState | None:
        # before the JobSet: pods of one that has just been resumed must not seem to be those of a suspended one
        pods = self._client.list_items(self._pods, labelSelector=f"{JOB_LABEL}={name}")
        jobset = self._client.find(f"{self._jobsets}/{name}")
        if jobset is None or jobset["metadata"]["uid"] != job_id:
            return None
        state = job_state(jobset, pods)
        if state.phase is not JobPhase.PENDING or state.is_paused or len(pods) >= node_count(jobset):
            return state
        # a quota, an admission webhook or a missing account: the controllers say so in events alone
        for creator in (f"Job,involvedObject.name={name}-{GROUP}-0", f"JobSet,involvedObject.name={name}"):
            selector = f"type=Warning,involvedObject.kind={creator}"
            if events := self._client.list_items(self._events, fieldSelector=selector):
                return _pending(str(events[-1].get("message", "")))
        return state

    def remove(self, job_id: str, name: str) -> None:
        path, started, killed = f"{self._jobsets}/{name}", time.monotonic(), False
        while (moment := time.monotonic()) < started + _REMOVE_SECONDS:
            try:
                jobset = self._client.find(path)
                if jobset is None or jobset["metadata"]["uid"] != job_id:
                    return
                if "deletionTimestamp" not in jobset["metadata"]:
                    options = {"propagationPolicy": "Foreground", "preconditions": {"uid": job_id}}
                    self._client.request("DELETE", path, options)
                if moment > started + KILL_SECONDS and not killed:
                    # a second, and not none: none removes a pod without asking whether its processes have ended
                    selector = {"labelSelector": f"{JOB_LABEL}={name}"}
                    self._client.request("DELETE", self._pods, {"gracePeriodSeconds": 1}, selector)
                    killed = True
            except (EngineUnreachable, EngineRefused) as error:
                log.warning("jobset_not_deleted", jobset=name, problem=str(error))
                if time.monotonic() > started + KILL_SECONDS:
                    return  # the command in the folder, or the folder's removal, ends the processes
            time.sleep(POLL_SECONDS)


def job_state(jobset: Object, pods: Sequence[Object]) -> JobState:
    """What the API server says about a JobSet and its pods."""
    nodes = node_count(jobset)
    alive = [pod for pod in pods if not _has_ended(pod)]
    terminated = [_container_state(pod).get("terminated", {}) for pod in pods]
    out_of_memory = any(each.get("reason") == "OOMKilled" for each in terminated)
    loss = next((loss for pod in pods if (loss := _loss_of(pod))), "")
    finished = find_condition(jobset, "Completed", "Failed")
    if finished or loss or "deletionTimestamp" in jobset["metadata"] or (len(pods) >= nodes and not alive):
        failed_by_itself = any(each.get("exitCode") for each in terminated)
        if finished is not None and finished["type"] == "Failed" and not failed_by_itself:
            loss = loss or f"its JobSet has failed without a process that did: {finished.get('message', '')}"
        phase = JobPhase.ENDING if alive else JobPhase.ENDED
        return JobState(phase, loss=loss, out_of_memory=out_of_memory)
    if jobset["spec"].get("suspend"):
        phase = JobPhase.ENDING if alive else JobPhase.PENDING
        return JobState(phase, loss="it was suspended, as Kueue does when others preempt it", is_paused=True)
    unplaced = [_waiting_for(pod) for pod in pods if find_condition(pod, "PodScheduled") is None]
    if unplaced or len(pods) < nodes:
        return _pending(next(iter(unplaced), "not all of its pods are there yet"))
    waiting = (_waiting_for(pod) for pod in pods if not {"running", "terminated"} & _container_state(pod).keys())
    return _pending(next(waiting, ""), JobPhase.RUNNING)


def _pending(detail: str, phase: JobPhase = JobPhase.PENDING) -> JobState:
    return JobState(phase, detail, refusal=detail if _REFUSAL.search(detail) else "")


def node_count(jobset: Object) -> int:
    completions: int = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["completions"]
    return completions


def _container_state(pod: Object) -> Object:
    """Of the run's container; others were injected, such as the proxy of a service mesh."""
    statuses = pod.get("status", {}).get("containerStatuses", ())
    return next((each.get("state", {}) for each in statuses if each["name"] == GROUP), {})


def _has_ended(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed") or "terminated" in _container_state(pod)


def _loss_of(pod: Object) -> str:
    """How a pod was lost: evicted, preempted or lost with its node; empty: it was not, or was spared after all."""
    name, status, state = pod["metadata"]["name"], pod.get("status", {}), _container_state(pod)
    disruption = find_condition(pod, "DisruptionTarget")
    if disruption is not None and (_has_ended(pod) or "deletionTimestamp" in pod["metadata"]):
        return f"pod {name} was disrupted: {disruption.get('message') or disruption.get('reason', '')}"
    if state.get("terminated", {}).get("reason") == "ContainerStatusUnknown":  # as after a restart of the kubelet
        return f"the node of pod {name} does not know how it ended"
    if status.get("phase") == "Failed" and "terminated" not in state:
        detail = ": ".join(filter(None, (status.get("reason"), status.get("message"))))
        return f"pod {name} ended without its process: {detail or 'no reason'}"
    return ""


def _waiting_for(pod: Object) -> str:
    """Why a pod has no node, or does not start on it."""
    waiting = _container_state(pod).get("waiting", {})
    unscheduled = find_condition(pod, "PodScheduled", status="False") or {}
    reasons = (waiting.get("reason"), waiting.get("message")) if waiting else (unscheduled.get("message"),)
    return ": ".join(filter(None, reasons)) or "it has not started"


def find_condition(found: Object, *kinds: str, status: str = "True") -> Object | None:
    """The condition of an object that is one of ``kinds``; None: there is none."""
    conditions = found.get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] in kinds and each["status"] == status), None)


def _own_namespace() -> str:
    """Raises: UserError ``executor_unreachable``."""
    try:
        return (ACCOUNT / "namespace").read_text(encoding="ascii").strip()
    except OSError as error:
        raise UserError(
            "the namespace of the runs' pods is not known outside of a pod; set LCL_KUBERNETES_NAMESPACE",
            code="executor_unreachable",
        ) from error
