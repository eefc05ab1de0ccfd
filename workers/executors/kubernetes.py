"""Kubernetes executor: all nodes of a run are the pods of one JobSet, in a namespace that shares the service's home.

``workers.executors.jobset`` has the object. It outlives the worker, and is found again by its name, which the run's row
has; its uid says that it is the same one.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Collection, Iterator, Sequence

import structlog

from lcl_core.common.disk_cache import data_cache_bytes
from lcl_core.common.errors import UserError
from lcl_core.db.queue import EngineCapacity
from workers.executors.base import EngineRefused, EngineUnreachable, JobRequest, NoCapacity
from workers.executors.folder_job import KILL_SECONDS, POLL_SECONDS, FolderExecutor, JobPhase, JobState
from workers.executors.job_folder import JobFolder
from workers.executors.jobset import API_VERSION, GROUP, JOB_LABEL, PORT, build_jobset
from workers.executors.kubernetes_client import (
    ACCOUNT,
    CONFLICT,
    NOT_FOUND,
    KubernetesClient,
    KubernetesError,
    Object,
    collection_path,
)
from workers.settings import WorkerSettings

_CONNECT_SECONDS = 60.0  # for a cluster that starts together with the worker
_READ_SECONDS = 4.0  # for an answer, while the run's state is watched in the same thread
_REMOVE_SECONDS = 20.0  # in which the pods must have ended; those of a node that is cut off never do
_NO_LIMIT = 1_000_000  # what is free in the cluster is not known: its scheduler or Kueue decides
_REFUSAL = re.compile(r"forbidden|denied|not found|Invalid value|is invalid", re.IGNORECASE)
log = structlog.get_logger(__name__)


class KubernetesExecutor(FolderExecutor):
    """Creates JobSets in one namespace."""

    name, title = "kubernetes", "Kubernetes"
    start_seconds = 900.0  # the image has to be there
    query_seconds = 20.0

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(settings, wait_seconds=settings.engine_wait_seconds)
        self._client = KubernetesClient(
            settings.kubernetes_url, settings.kubernetes_token_file, settings.kubernetes_ca_file
        )
        self._namespace = settings.kubernetes_namespace or _own_namespace()
        self._jobsets = collection_path(API_VERSION, self._namespace, "jobsets")
        self._pods = collection_path("v1", self._namespace, "pods")

    @contextlib.contextmanager
    def serving(self, modules: Collection[str]) -> Iterator[None]:
        """Raises (on entry): UserError ``executor_unreachable``, and ``bad_setting`` for what every pod needs."""
        data_cache_bytes()
        try:
            self._client.request("GET", self._jobsets, params={"limit": 1}, seconds=_CONNECT_SECONDS)
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

    def capacity(self) -> EngineCapacity | None:
        """Anything, as long as the API server answers: the cluster decides when a run is scheduled."""
        try:
            self._client.request("GET", self._jobsets, params={"limit": 1}, seconds=_READ_SECONDS)
        except (EngineUnreachable, EngineRefused) as error:
            log.warning("engine_unreachable", problem=str(error))
            return None
        has_gpus = bool(self.settings.kubernetes_gpu_resource)
        gpus = float(_NO_LIMIT if has_gpus else 0)
        return EngineCapacity("kubernetes", _NO_LIMIT, _NO_LIMIT, gpus, has_gpus)

    def gpus_of(self, request: JobRequest) -> int:
        return request.gpus if self.settings.kubernetes_gpu_resource else 0

    def meeting_address(self, name: str) -> str:
        return f"{name}-{GROUP}-0-0.{name}:{PORT}"  # the name of node 0 in the network of the JobSet

    def submit(self, request: JobRequest, name: str, gpus: int, folder: JobFolder) -> str:
        jobset = build_jobset(self.settings, request, name, gpus, self._namespace, folder.path)

        def create() -> str:
            try:
                created = self._client.request("POST", self._jobsets, jobset, seconds=_READ_SECONDS)
            except KubernetesError as error:
                known = self.find(name) if error.status == CONFLICT else None
                if known is None:
                    raise
                return known  # an earlier response was lost: nobody else has this name
            return str(created["metadata"]["uid"])

        try:
            return self.answer(create, request.check)
        except KubernetesError as error:
            raise _refusal(str(error)) from error

    def find(self, name: str) -> str | None:
        jobset = self._client.find(f"{self._jobsets}/{name}", _READ_SECONDS)
        return None if jobset is None else str(jobset["metadata"]["uid"])

    def read_state(self, job_id: str, name: str, *, fresh: bool = False) -> JobState | None:
        # before the JobSet: pods of one that has just been resumed must not seem to be those of a suspended one
        pods = self._client.list_items(self._pods, f"{JOB_LABEL}={name}", _READ_SECONDS)
        jobset = self._client.find(f"{self._jobsets}/{name}", _READ_SECONDS)
        if jobset is None or jobset["metadata"]["uid"] != job_id:
            return None
        state = job_state(jobset, pods)
        if state.phase is JobPhase.PENDING and not pods and not state.is_paused:
            self._check_refusal(name)
        return state

    def _check_refusal(self, name: str) -> None:
        """Raises: NoCapacity, EngineRefused where the newest event of a Job says that its pods are refused."""
        selector = f"involvedObject.kind=Job,involvedObject.name={name}-{GROUP}-0,reason=FailedCreate"
        events = collection_path("v1", self._namespace, "events")
        found = self._client.request("GET", events, params={"fieldSelector": selector}, seconds=_READ_SECONDS)
        messages = [str(event.get("message", "")) for event in found.get("items", [])]
        for message in reversed(messages):
            if _REFUSAL.search(message):
                raise _refusal(message)

    def remove(self, job_id: str, name: str, *, ends: bool = False) -> None:
        path, started = f"{self._jobsets}/{name}", time.monotonic()
        kill_at = started + KILL_SECONDS
        while (moment := time.monotonic()) < started + _REMOVE_SECONDS:
            try:
                jobset = self._client.find(path, _READ_SECONDS)
                if jobset is None or jobset["metadata"]["uid"] != job_id:
                    return
                if "deletionTimestamp" not in jobset["metadata"]:
                    options = {"propagationPolicy": "Foreground", "preconditions": {"uid": job_id}}
                    self._client.request("DELETE", path, options, seconds=_READ_SECONDS)
                if moment > kill_at:
                    kill_at = float("inf")
                    # a second, and not none: none removes a pod without asking whether its processes have ended
                    at_once, selector = {"gracePeriodSeconds": 1}, {"labelSelector": f"{JOB_LABEL}={name}"}
                    self._client.request("DELETE", self._pods, at_once, params=selector, seconds=_READ_SECONDS)
            except (EngineUnreachable, EngineRefused) as error:
                log.warning("jobset_not_deleted", jobset=name, problem=str(error))
                if time.monotonic() > started + KILL_SECONDS:
                    return  # the command in the folder, or the folder's removal, ends the processes
            time.sleep(POLL_SECONDS)


def _refusal(message: str) -> Exception:
    if "exceeded quota" in message:
        return NoCapacity(f"the quota of the namespace has no room: {message}")
    return EngineRefused(message)


def job_state(jobset: Object, pods: Sequence[Object]) -> JobState:
    """What the API server says about a JobSet and its pods."""
    nodes = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["completions"]
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
        return JobState(JobPhase.PENDING, next(iter(unplaced), "not all of its pods are there yet"))
    return JobState(JobPhase.RUNNING, next((_waiting_for(pod) for pod in pods if not _has_started(pod)), ""))


def _container_state(pod: Object) -> Object:
    """Of the run's container; others were injected, such as the proxy of a service mesh."""
    statuses = pod.get("status", {}).get("containerStatuses", ())
    return next((each.get("state", {}) for each in statuses if each["name"] == GROUP), {})


def _has_started(pod: Object) -> bool:
    return bool({"running", "terminated"} & _container_state(pod).keys())


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
