"""Kubernetes executor: all nodes of a run are the pods of one JobSet, in a namespace that shares the service's home.

``workers.executors.jobset`` has the object and what its containers do, ``workers.executors.kubernetes_job`` how they
end. The JobSet outlives the worker. The run's row has its name before it is created, and its uid afterwards. An
annotation names the worker that may stop it: a deletion is refused where another worker has attached since it was read.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterator

import structlog

from lcl_core.common.disk_cache import data_cache_bytes
from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import RunDir
from lcl_core.db.queue import EngineCapacity
from workers.executors.base import EngineUnreachable, Handle, JobRequest, MachineLost, NoCapacity, node_log_name
from workers.executors.jobset import API_VERSION, JOB_LABEL, MANAGER_LABELS, OWNER_ANNOTATION, build_jobset
from workers.executors.kubernetes_client import (
    ACCOUNT,
    CONFLICT,
    INVALID,
    NOT_FOUND,
    KubernetesClient,
    KubernetesError,
    KubernetesUnreachable,
    Object,
    ObjectWatch,
    collection_path,
)
from workers.executors.kubernetes_job import KubernetesJob
from workers.executors.local import begin_log
from workers.settings import WorkerSettings

_CONNECT_SECONDS = 60.0  # for a cluster that starts together with the worker
_ATTACH_SECONDS = 120.0  # for an API server that does not answer, before the run is queued again
_START_SECONDS = 900.0  # from the assignment to a node to a started container: the image has to be there
_CAPACITY_SECONDS = 4.0
_NO_LIMIT = 1_000_000  # what is free in the cluster is not known: its scheduler or Kueue decides
log = structlog.get_logger(__name__)


class KubernetesExecutor:
    """Creates JobSets in one namespace."""

    places_nodes = True

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._client = KubernetesClient(
            settings.kubernetes_url, settings.kubernetes_token_file, settings.kubernetes_ca_file
        )
        self._namespace = settings.kubernetes_namespace or _own_namespace()
        self._jobsets = collection_path(API_VERSION, self._namespace, "jobsets")
        self._jobs: dict[str, KubernetesJob] = {}

    @contextlib.contextmanager
    def serving(self, modules: Collection[str]) -> Iterator[None]:
        """Raises (on entry): UserError ``executor_unreachable``, and ``bad_setting`` for what every pod needs."""
        data_cache_bytes()
        self._check_access()
        selector = ",".join(f"{name}={value}" for name, value in MANAGER_LABELS.items())
        pods = collection_path("v1", self._namespace, "pods")
        watches = [
            ObjectWatch(self._client, self._jobsets, selector, self._report_jobset),
            ObjectWatch(self._client, pods, selector, self._report_pod),
        ]
        for watch in watches:
            watch.start()
        try:
            yield
        finally:
            for watch in watches:
                watch.stop()
            self._client.close()

    def capacity(self) -> EngineCapacity | None:
        """Anything, as long as the API server answers: the cluster decides when a run is scheduled."""
        try:
            self._client.request("GET", self._jobsets, params={"limit": 1}, seconds=_CAPACITY_SECONDS)
        except (KubernetesUnreachable, KubernetesError) as error:
            log.warning("kubernetes_unreachable", problem=str(error))
            return None
        has_gpus = bool(self._settings.kubernetes_gpu_resource)
        gpus = float(_NO_LIMIT if has_gpus else 0)
        return EngineCapacity("kubernetes", _NO_LIMIT, _NO_LIMIT, gpus, has_gpus)

    def start(self, request: JobRequest, remember: Callable[[Handle], None]) -> KubernetesJob:
        """Raises: NoCapacity, MachineLost, OSError, and what ``remember`` and ``request.check`` raise."""
        name = f"lcl-{_dns_label(request.name)}-{secrets.token_hex(4)}"
        owner, folder = secrets.token_hex(8), request.run_dir.path
        titles = [
            request.title,
            *(f"{request.title}, node {node} of {request.nodes}" for node in range(1, request.nodes)),
        ]
        starts = [begin_log(folder / node_log_name(node), title) for node, title in enumerate(titles)]
        handle: Handle = {"executor": "kubernetes", "namespace": self._namespace, "name": name, "uid": ""}
        handle["log_starts"] = starts
        job = KubernetesJob(self._client, self._settings, handle, owner, request.run_dir)
        job.claim_files()
        remember(dict(handle))
        self._register(job)
        try:
            job.created(self._create(build_jobset(self._settings, request, name, owner, self._namespace), job))
            remember(dict(handle))
            self._await_start(job, request)
        except BaseException as error:
            job.kill()
            job.closed()
            if isinstance(error, KubernetesUnreachable):
                raise MachineLost(f"the API server of Kubernetes does not answer: {error}") from error
            if isinstance(error, KubernetesError):
                raise MachineLost(f"Kubernetes does not accept the JobSet: {error}") from error
            raise
        return job

    def attach(self, handle: Handle, run_dir: RunDir) -> KubernetesJob:
        """Raises: MachineLost, EngineUnreachable."""
        if handle.get("executor") != "kubernetes":
            raise MachineLost("its processes are those of another executor")
        owner = secrets.token_hex(8)
        job = KubernetesJob(self._client, self._settings, dict(handle), owner, run_dir)
        self._register(job)
        change = {"metadata": {"annotations": {OWNER_ANNOTATION: owner}}}
        if handle["uid"]:
            change["metadata"]["uid"] = handle["uid"]  # immutable: refused where the JobSet is another one
        try:
            job.created(self._client.request("PATCH", job.path, change, seconds=_ATTACH_SECONDS))
            job.claim_files()
        except OSError as error:
            job.closed()
            raise MachineLost(f"its folder cannot be written: {error}") from error
        except (KubernetesUnreachable, KubernetesError) as error:
            job.closed()
            if isinstance(error, KubernetesError) and error.status in (CONFLICT, NOT_FOUND, INVALID):
                raise MachineLost("Kubernetes does not know its JobSet any more") from error
            raise EngineUnreachable(f"Kubernetes does not say whether its JobSet is there: {error}") from error
        if job.refresh() and not job.has_started and not job.has_finished:
            job.kill()
            job.closed()
            raise MachineLost("its pods had not been started")
        return job

    def _register(self, job: KubernetesJob) -> None:
        """Events of its objects are reported to it until it is closed."""
        self._jobs[job.name] = job
        job.closed = lambda: self._forget(job)

    def _forget(self, job: KubernetesJob) -> None:
        if self._jobs.get(job.name) is job:
            del self._jobs[job.name]

    def _report_jobset(self, _: str, jobset: Object | None) -> None:
        """An event of a watch."""
        for job in self._concerned(jobset):
            job.report_change()

    def _report_pod(self, kind: str, pod: Object | None) -> None:
        for job in self._concerned(pod):
            if pod is None:
                job.report_change()
            else:
                job.observe_pod(kind, pod)

    def _concerned(self, found: Object | None) -> list[KubernetesJob]:
        """The job of an object; of none: all jobs, as events may have been missed."""
        if found is None:
            return [*self._jobs.values()]
        job = self._jobs.get(found["metadata"].get("labels", {}).get(JOB_LABEL, ""))
        return [] if job is None else [job]

    def _create(self, jobset: Object, job: KubernetesJob) -> Object:
        """Raises: NoCapacity, KubernetesError, KubernetesUnreachable."""
        try:
            return self._client.request("POST", self._jobsets, jobset)
        except KubernetesError as error:
            found = self._client.find(job.path) if error.status == CONFLICT else None
            if found is not None:  # an earlier response was lost: nobody else has this name
                return found
            if "exceeded quota" in str(error):
                raise NoCapacity(f"the quota of the namespace has no room: {error}") from error
            raise

    def _await_start(self, job: KubernetesJob, request: JobRequest) -> None:
        """Until all containers run. Raises: NoCapacity, MachineLost; what ``request.check`` raises."""
        limit = self._settings.kubernetes_wait_seconds
        admitted = placed = None
        while job.wait(self._settings.watch_seconds) is None and not job.has_started:
            request.check()
            if job.is_suspended:  # Kueue has no quota for it yet
                admitted = placed = None
                continue
            self._check_refusal(job)
            unplaced, unstarted = job.obstacles()
            admitted = admitted or time.monotonic()
            if not unplaced:
                placed = placed or time.monotonic()
            elif time.monotonic() > admitted + limit:
                nodes = "1 node" if request.nodes == 1 else f"{request.nodes} nodes at once"
                raise NoCapacity(f"Kubernetes has had no free capacity for {nodes} for {limit:g} s: {unplaced}")
            if placed is not None and time.monotonic() > placed + _START_SECONDS:
                raise MachineLost(f"a pod has not started for {_START_SECONDS:g} s: {unstarted}")

    def _check_refusal(self, job: KubernetesJob) -> None:
        """Raises: NoCapacity for a quota that is used up; UserError ``engine_refused``, which waiting does not mend."""
        refusal = job.read_refusal()
        if "exceeded quota" in refusal:
            raise NoCapacity(f"the quota of the namespace has no room: {refusal}")
        if refusal:
            raise UserError(
                f"Kubernetes refuses the pods of the run: {refusal}; change what it names (quota, service account, "
                "claim, or LCL_KUBERNETES_POD of the worker), then resume the run",
                code="engine_refused",
            )

    def _check_access(self) -> None:
        """Raises: UserError ``executor_unreachable``."""
        try:
            self._client.request("GET", self._jobsets, params={"limit": 1}, seconds=_CONNECT_SECONDS)
        except KubernetesUnreachable as error:
            way_out = "run the worker in a pod of the cluster, or set LCL_KUBERNETES_URL"
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                way_out = "set LCL_KUBERNETES_CA_FILE to the certificates of its authority"
            raise UserError(
                f"no API server of Kubernetes answers at {error}; {way_out}",
                code="executor_unreachable",
            ) from error
        except KubernetesError as error:
            way_out = (
                "install JobSet (jobset.sigs.k8s.io) in the cluster"
                if error.status == NOT_FOUND
                else "give the worker's service account the role of deploy/kubernetes/jobs"
            )
            raise UserError(
                f"JobSets of the namespace {self._namespace}: {error}; {way_out}", code="executor_unreachable"
            ) from error


def _own_namespace() -> str:
    """Raises: UserError ``executor_unreachable``."""
    try:
        return (ACCOUNT / "namespace").read_text(encoding="ascii").strip()
    except OSError as error:
        raise UserError(
            "the namespace of the runs' pods is not known outside of a pod; set LCL_KUBERNETES_NAMESPACE",
            code="executor_unreachable",
        ) from error


def _dns_label(name: str) -> str:
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")[:24].strip("-")
