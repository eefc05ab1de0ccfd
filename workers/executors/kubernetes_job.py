"""A JobSet that a worker supervises: how its processes end, and how they are stopped.

A watch reports when something has changed; what it means is decided by what the API server then says about the JobSet,
its Job and its pods, together with what is known about pods that are gone. So neither lost, doubled or late events nor
an API server that does not answer lead to a wrong end.
"""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Self

import structlog

from lcl_core.common.run_dir import ExitCode, RunDir
from lcl_core.train.launch import combined_status
from workers.executors.base import Handle, MachineLost, node_log_name
from workers.executors.jobset import API_VERSION, GROUP, JOB_LABEL, MARGIN_SECONDS, OWNER_ANNOTATION, WorkerFile
from workers.executors.kubernetes_client import (
    CONFLICT,
    NOT_FOUND,
    KubernetesClient,
    KubernetesError,
    KubernetesUnreachable,
    Object,
    collection_path,
)
from workers.executors.pod_record import LossEvidence, PodRecord, find_condition, find_loss
from workers.settings import WorkerSettings

_READ_SECONDS = 4.0  # for an answer, while the run's state is watched in the same thread
_RESYNC_SECONDS = 20.0  # between two readings without an event
_DECIDING_SECONDS = 1.0  # the same while the job is about to end
_RENEW_SECONDS = 5.0  # between two heartbeats for the pods
_CRASH_GRACE_SECONDS = 5.0  # for other nodes to write their errors, after one has crashed
_KILL_SECONDS = 20.0  # in which the pods must have ended; those of a node that is cut off never do
_STACKS_SECONDS = 15.0
_EVENTS_SECONDS = 5.0  # between two readings of the events of a Job without pods
_REFUSAL = re.compile(r"forbidden|denied|not found|Invalid value|is invalid", re.IGNORECASE)
log = structlog.get_logger(__name__)


class KubernetesJob:
    """The processes of one job in the pods of a JobSet.

    Args:
        handle: as remembered.
        owner: token of this worker.

    Attributes:
        closed: called when nobody supervises it here any more.
    """

    is_paused = False  # a JobSet that is suspended loses its pods

    def __init__(
        self, client: KubernetesClient, settings: WorkerSettings, handle: Handle, owner: str, run_dir: RunDir
    ) -> None:
        self._client, self._handle, self._owner, self._run_dir = client, handle, owner, run_dir
        self.name, self._nodes = str(handle["name"]), len(handle["log_starts"])
        self._worker_file = WorkerFile(run_dir.path, self.name, owner)
        self._jobset: Object | None = None
        self._job: Object | None = None
        self._pods: dict[str, PodRecord] = {}
        self._patience = 2 * settings.cancel_grace_seconds + 2 * MARGIN_SECONDS  # for the checkpoint of a lost job
        self._changed = threading.Event()
        self._resync_at = self._renew_at = self._events_at = 0.0
        self._lock = threading.RLock()
        self._waiting, self._reading = threading.Lock(), threading.Lock()
        self._loss_at: float | None = None
        self._crash_at: float | None = None
        self._decisive = 0  # node whose exit status counts
        self._stopping = self._killing = self._detached = False
        self._stop_due, self._stopped = threading.Event(), threading.Event()
        self._give_up_at = float("inf")
        self.closed: Callable[[], None] = lambda: None

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"jobset": self.name, "namespace": self._handle["namespace"], "nodes": self._nodes}

    @property
    def log_file(self) -> Path:
        return self._run_dir.path / node_log_name(self._decisive)

    @property
    def log_start(self) -> int:
        return int(self._handle["log_starts"][self._decisive])

    def wait(self, seconds: float) -> int | None:
        """Raises: MachineLost."""
        with self._waiting:
            self.renew()
            self._changed.wait(seconds)
            if self._changed.is_set() or time.monotonic() >= self._resync_at:
                self.refresh()
            with self._lock:
                return self._decide()

    def terminate(self) -> None:
        """The kubelets send SIGTERM: the JobSet is deleted, its pods with it, which have time for a checkpoint."""
        self._request_stop()

    def signal_group(self, number: signal.Signals) -> None:
        """SIGKILL alone. A worker that was suspended needs no other: the next one attaches to this very job."""
        if number == signal.SIGKILL:
            self._request_stop(kill=True)

    def kill(self) -> int:
        """Delete the JobSet, end its pods at once and wait for that, unless another worker is the owner by now."""
        self._request_stop(kill=True)
        self._stopped.wait(_KILL_SECONDS)
        with self._lock:
            return self._known_status(-signal.SIGKILL)

    def dump_stacks(self) -> str:
        try:
            request = self._worker_file.request_stacks()
        except OSError as error:
            return f"the stacks of its processes could not be requested: {error}"
        answers: dict[int, str] = {}
        deadline = time.monotonic() + _STACKS_SECONDS
        while len(answers) < self._nodes and time.monotonic() < deadline:
            for node in set(range(self._nodes)) - answers.keys():
                answer = self._worker_file.read_answer(node, request)
                answers |= {} if answer is None else {node: answer}
            time.sleep(0.1)
        return "; ".join(dict.fromkeys(answers.values())) or "no pod wrote the stacks of its processes"

    def detach(self) -> bool:
        self._detached = not self._stopping
        return self._detached

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._detached:
            self.kill()
        self.closed()

    @property
    def has_started(self) -> bool:
        """Whether all its containers run, or have run."""
        with self._lock:
            return len({pod.node for pod in self._pods.values() if pod.started or pod.ended}) == self._nodes

    @property
    def has_finished(self) -> bool:
        """Whether the API server says that the JobSet has."""
        return find_condition(self._jobset, "Completed", "Failed") is not None

    @property
    def is_suspended(self) -> bool:
        return self._jobset is None or bool(self._jobset["spec"].get("suspend"))

    def obstacles(self) -> tuple[str, str]:
        """Why a pod has no node yet, and why one does not start on its node; empty: all have, and do."""
        with self._lock:
            missing = "" if len(self._pods) >= self._nodes else "not all of its pods are there yet"
            unplaced = [pod.waiting or "no node has room" for pod in self._pods.values() if not pod.scheduled]
            unstarted = [pod.waiting or "it has not started" for pod in self._pods.values() if not pod.started]
            return next(iter(unplaced), missing), next(iter(unstarted), missing)

    def read_refusal(self) -> str:
        """Why the API server refuses pods of the Job, as its newest event says; '': it has all pods, or says nothing.

        Read every few seconds while pods are missing.
        """
        with self._lock:
            if len(self._pods) >= self._nodes or time.monotonic() < self._events_at:
                return ""
        self._events_at = time.monotonic() + _EVENTS_SECONDS
        selector = f"involvedObject.kind=Job,involvedObject.name={self.name}-{GROUP}-0,reason=FailedCreate"
        events = self._path_of("v1", "events")
        try:
            found = self._client.request("GET", events, params={"fieldSelector": selector}, seconds=_READ_SECONDS)
        except (KubernetesUnreachable, KubernetesError) as error:
            log.warning("events_not_read", jobset=self.name, problem=str(error))
            return ""
        messages = [str(event.get("message", "")) for event in found.get("items", [])]
        return next((message for message in reversed(messages) if _REFUSAL.search(message)), "")

    def claim_files(self) -> None:
        """Make this worker the one whose heartbeats count. Raises: OSError."""
        self._worker_file.claim()

    def renew(self) -> None:
        """A heartbeat for the pods."""
        if time.monotonic() < self._renew_at or self._stopping:
            return
        self._renew_at = time.monotonic() + _RENEW_SECONDS
        try:
            self._worker_file.renew()
        except OSError as error:
            log.warning("sign_of_life_not_written", problem=str(error))

    def created(self, jobset: Object) -> None:
        self._handle["uid"], self._jobset = jobset["metadata"]["uid"], jobset

    def report_change(self) -> None:
        """Something has happened, or may have."""
        self._changed.set()

    def observe_pod(self, kind: str, pod: Object) -> None:
        """An event of a watch, however late."""
        with self._lock:
            record = self._pods.setdefault(pod["metadata"]["uid"], PodRecord())
            record.merge(pod)
            record.gone |= kind == "DELETED"
        self._changed.set()

    def refresh(self) -> bool:
        """Read the JobSet, its Job and its pods. Returns: whether the API server has answered."""
        with self._reading:
            self._changed.clear()
            return self._read()

    def _read(self) -> bool:
        with self._lock:
            known = [*self._pods]
        try:
            jobset = self._client.find(self.path, _READ_SECONDS)
            jobs = self._client.list_items(self._path_of("batch/v1", "jobs"), self.selector, _READ_SECONDS)
            pods = self._client.list_items(self._path_of("v1", "pods"), self.selector, _READ_SECONDS)
        except (KubernetesUnreachable, KubernetesError) as error:
            log.warning("kubernetes_unreachable", problem=str(error))
            self._resync_at = time.monotonic() + _DECIDING_SECONDS
            return False
        is_ours = jobset is not None and self._handle["uid"] in ("", jobset["metadata"]["uid"])
        with self._lock:
            self._jobset, self._job = jobset if is_ours else None, next(iter(jobs), self._job)
            for pod in pods:
                self._pods.setdefault(pod["metadata"]["uid"], PodRecord()).merge(pod)
            listed = {pod["metadata"]["uid"] for pod in pods}
            for uid in known:
                self._pods[uid].gone |= uid not in listed
        deciding = self._stopping or self._loss_at is not None or self._crash_at is not None
        self._resync_at = time.monotonic() + (_DECIDING_SECONDS if deciding else _RESYNC_SECONDS)
        return True

    @property
    def path(self) -> str:
        return f"{self._path_of(API_VERSION, 'jobsets')}/{self.name}"

    @property
    def selector(self) -> str:
        return f"{JOB_LABEL}={self.name}"

    def _path_of(self, version: str, kind: str) -> str:
        return collection_path(version, self._handle["namespace"], kind)

    def _decide(self) -> int | None:
        """Exit status, as far as it is known. Raises: MachineLost."""
        pods = [*self._pods.values()]
        if self._succeeded(pods):
            return ExitCode.OK
        if self._stopping:
            deleted = self._stopped.is_set() and all(pod.ended for pod in pods)
            unknown = -signal.SIGKILL if self._killing else -signal.SIGTERM
            return self._known_status(unknown) if deleted or time.monotonic() > self._give_up_at else None
        loss = find_loss(pods, self._jobset, self._job)
        failed = sorted((pod for pod in pods if pod.failed_by_itself), key=lambda pod: pod.finished)
        if failed and (loss is None or loss.follows(failed[0].finished)):
            return self._failed_status(failed, all(pod.ended for pod in pods))
        if loss is not None:
            self._await_checkpoint(loss, all(pod.ended for pod in pods))
        return None

    def _succeeded(self, pods: Collection[PodRecord]) -> bool:
        done = {pod.node for pod in pods if pod.status == ExitCode.OK}
        return len(done) == self._nodes or find_condition(self._jobset, "Completed") is not None

    def _failed_status(self, failed: Collection[PodRecord], all_ended: bool) -> int | None:
        """Status of the processes that failed; that of a crash once others had time to write theirs."""
        status = combined_status([pod.status for pod in failed if pod.status is not None])
        self._crash_at = self._crash_at or time.monotonic()
        if status == ExitCode.CRASH and not all_ended and time.monotonic() < self._crash_at + _CRASH_GRACE_SECONDS:
            self._resync_at = min(self._resync_at, time.monotonic() + _DECIDING_SECONDS)
            return None
        self._decisive = next(pod.node for pod in failed if pod.status == status)
        return status

    def _await_checkpoint(self, loss: LossEvidence, all_ended: bool) -> None:
        """Pods that are evicted or preempted write a checkpoint; those of a lost node do not. Raises: MachineLost."""
        self._loss_at = self._loss_at or time.monotonic()
        if all_ended or time.monotonic() > self._loss_at + self._patience:
            raise MachineLost(loss.reason)
        self._resync_at = min(self._resync_at, time.monotonic() + _DECIDING_SECONDS)

    def _known_status(self, unknown: int) -> int:
        pods = sorted(self._pods.values(), key=lambda pod: pod.finished)
        known = [pod.status for pod in pods if pod.status is not None]
        return combined_status(known) if len(known) >= self._nodes else unknown

    def _request_stop(self, *, kill: bool = False) -> None:
        with self._lock:
            if kill and not self._killing:
                self._killing, self._give_up_at = True, time.monotonic() + _KILL_SECONDS
            self._stop_due.set()
            if not self._stopping:
                self._stopping, self._resync_at = True, 0.0
                threading.Thread(target=self._stop, name="stop", daemon=True).start()

    def _stop(self) -> None:
        """Until the pods have ended, or cannot be ended any more."""
        while time.monotonic() < self._give_up_at + self._patience:
            self._stop_due.clear()
            try:
                if self._killing and not self.has_ended:
                    with contextlib.suppress(OSError):
                        self._worker_file.abandon()  # they read it, whether the API server answers or not
                if not self._delete() or self._end_pods():
                    break
            except (KubernetesUnreachable, KubernetesError) as error:
                log.warning("jobset_not_deleted", jobset=self.name, problem=str(error))
            self._stop_due.wait(_DECIDING_SECONDS)
        self._stopped.set()
        self._changed.set()

    @property
    def has_ended(self) -> bool:
        """Whether all its pods have."""
        with self._lock:
            return len(self._pods) >= self._nodes and all(pod.ended for pod in self._pods.values())

    def _delete(self) -> bool:
        """Delete the JobSet. Returns: False: another worker is the owner. Raises: KubernetesError, …Unreachable."""
        while True:
            jobset = self._client.find(self.path, _READ_SECONDS)
            if jobset is None or self._handle["uid"] not in ("", jobset["metadata"]["uid"]):
                return True
            metadata = jobset["metadata"]
            if metadata.get("annotations", {}).get(OWNER_ANNOTATION) != self._owner:
                log.warning("job_has_another_owner", jobset=self.name)
                return False
            if "deletionTimestamp" in metadata:
                return True
            unchanged = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
            try:
                self._client.request(
                    "DELETE",
                    self.path,
                    {"propagationPolicy": "Foreground", "preconditions": unchanged},
                    seconds=_READ_SECONDS,
                )
                return True
            except KubernetesError as error:
                if error.status not in (CONFLICT, NOT_FOUND):
                    raise

    def _end_pods(self) -> bool:
        """Returns: whether all pods have ended. Raises: KubernetesError, KubernetesUnreachable."""
        if self._killing:  # a second, and not none: none removes a pod without asking whether its processes have ended
            self._client.request(
                "DELETE",
                self._path_of("v1", "pods"),
                {"gracePeriodSeconds": 1},
                params={"labelSelector": self.selector},
                seconds=_READ_SECONDS,
            )
        if not self.refresh():
            return False
        with self._lock:
            return self._jobset is None or self.has_ended
