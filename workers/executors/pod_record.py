"""What is known about a pod of a job, and whether a job has lost its machines or has failed by itself.

Facts are only added: a fact that was once seen stays, whatever is reported later, twice or out of order. A process
has failed by itself if it ended before anybody deleted or evicted its pod. A job has lost a machine if a pod was
evicted, preempted, deleted, or ended with its node, unless a process of the job had failed before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from signal import SIGKILL
from typing import Any, NamedTuple

from lcl_core.common.run_dir import ExitCode
from workers.executors.jobset import GROUP, INDEX_LABEL

# Kubelets and the API server have clocks of their own. Pods that the Job deletes because one has failed must not seem
# to have been deleted before.
_CLOCK_SECONDS = 2.0
_SIGNAL_STATUS = 128
_LATE = float("inf")


class LossEvidence(NamedTuple):
    """When a job lost a machine, in seconds since 1970, and how that is known."""

    time: float
    reason: str
    is_disruption: bool = False  # the cluster says so itself

    def follows(self, failure: float) -> bool:
        """Whether a process that failed at that time did so before."""
        return failure <= self.time + (0.0 if self.is_disruption else _CLOCK_SECONDS)


@dataclass
class PodRecord:
    """Facts about one pod.

    Attributes:
        node: of the run.
        status: exit status of its process, negative for a signal; None: unknown. That of a job without memory where
            the kubelet says so.
        finished: when that was.
        gone: the API server does not have it any more.
        deleted: when its deletion was requested; infinite: not that anybody knows.
        disrupted: when it was evicted, preempted or lost with its node, likewise.
        disruption: how that is known.
        waiting: why it does not run, as last reported.
    """

    name: str = ""
    node: int = 0
    status: int | None = None
    finished: float = _LATE
    scheduled: bool = False
    started: bool = False
    terminal: bool = False
    gone: bool = False
    deleted: float = _LATE
    disrupted: float = _LATE
    disruption: str = ""
    waiting: str = ""

    @property
    def ended(self) -> bool:
        """Its processes do not run any more."""
        return self.terminal or self.gone or self.status is not None

    @property
    def failed_by_itself(self) -> bool:
        return self.status not in (None, 0) and self.finished < min(self.deleted, self.disrupted)

    def merge(self, pod: dict[str, Any]) -> None:
        """Add what an object says, which may be older than what is known."""
        metadata, status = pod["metadata"], pod.get("status", {})
        self.name, self.node = metadata["name"], int(metadata.get("labels", {}).get(INDEX_LABEL, 0))
        if "deletionTimestamp" in metadata:
            grace = float(metadata.get("deletionGracePeriodSeconds") or 0)
            self.deleted = min(self.deleted, _seconds(metadata["deletionTimestamp"]) - grace)
        placed = find_condition(pod, "PodScheduled")
        self.scheduled |= placed is not None
        for condition in status.get("conditions", ()):
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                self.waiting = str(condition.get("message") or condition.get("reason", ""))
        for container in status.get("containerStatuses", ()):
            if container["name"] == GROUP:  # others were injected, such as the proxy of a service mesh
                self._merge_container(container.get("state", {}))
        phase = status.get("phase")
        self.terminal |= phase in ("Succeeded", "Failed")
        disruption = find_condition(pod, "DisruptionTarget")
        if disruption is not None:
            detail = disruption.get("message") or disruption.get("reason", "")
            self._disrupt(_seconds(disruption.get("lastTransitionTime")), f"pod {self.name} was disrupted: {detail}")
        elif phase == "Failed" and self.status is None:
            detail = ": ".join(filter(None, (status.get("reason"), status.get("message"))))
            self._disrupt(0.0, f"pod {self.name} ended without its process: {detail or 'no reason'}")

    def _merge_container(self, state: dict[str, Any]) -> None:
        if "waiting" in state:
            self.waiting = ": ".join(filter(None, (state["waiting"].get("reason"), state["waiting"].get("message"))))
        ended = state.get("terminated")
        self.started |= ended is not None or "running" in state
        if ended is None or self.status is not None:
            return
        if ended.get("reason") == "ContainerStatusUnknown":  # the kubelet has lost sight of it, as after a restart
            self._disrupt(_seconds(ended.get("finishedAt")), f"the node of pod {self.name} does not know how it ended")
            self.terminal = True
            return
        code = int(ended["exitCode"])
        self.status = code if code <= _SIGNAL_STATUS else _SIGNAL_STATUS - code
        # a process that only lost a helper to the kernel ends with a crash
        if ended.get("reason") == "OOMKilled" and self.status in (ExitCode.CRASH, -SIGKILL):
            self.status = ExitCode.OUT_OF_MEMORY
        self.finished = _seconds(ended.get("finishedAt"))

    def _disrupt(self, moment: float, how: str) -> None:
        if moment < self.disrupted:
            self.disrupted, self.disruption = moment, how


def find_loss(
    pods: Collection[PodRecord], jobset: dict[str, Any] | None, job: dict[str, Any] | None
) -> LossEvidence | None:
    """The first evidence that a job has lost a machine; None: there is none.

    Args:
        jobset: None if the API server has none.
        job: the Job of the JobSet as last seen.
    """
    found = [*_pod_losses(pods), *_jobset_losses(pods, jobset)]
    disruptions = [loss for loss in found if loss.is_disruption] or [*_job_losses(job)]
    return min(disruptions or found, key=lambda loss: loss.time, default=None)


def _pod_losses(pods: Iterable[PodRecord]) -> Iterable[LossEvidence]:
    for pod in pods:
        if pod.status == 0 or pod.failed_by_itself:
            continue
        if pod.disrupted < _LATE and (pod.ended or pod.deleted < _LATE):  # else it was spared after all
            yield LossEvidence(pod.disrupted, pod.disruption, is_disruption=True)
        elif pod.deleted < _LATE:
            yield LossEvidence(pod.deleted, f"pod {pod.name} was deleted")
        elif pod.gone:
            yield LossEvidence(_LATE, f"pod {pod.name} was removed")


def _job_losses(job: dict[str, Any] | None) -> Iterable[LossEvidence]:
    """Evidence of pods that are gone: the rule of the Job is about disrupted pods alone."""
    failed = find_condition(job, "Failed", "FailureTarget")
    if failed is not None and failed.get("reason") == "PodFailurePolicy":
        yield LossEvidence(0.0, f"a pod was disrupted: {failed.get('message', '')}", is_disruption=True)


def _jobset_losses(pods: Collection[PodRecord], jobset: dict[str, Any] | None) -> Iterable[LossEvidence]:
    if jobset is None or "deletionTimestamp" in jobset["metadata"]:
        yield LossEvidence(_LATE, "its JobSet was deleted")
    elif jobset["spec"].get("suspend") and any(pod.started for pod in pods):
        yield LossEvidence(_LATE, "its JobSet was suspended, as Kueue does when others preempt it")
    elif (failed := find_condition(jobset, "Failed")) is not None:
        yield LossEvidence(_LATE, f"its JobSet has failed without a process that did: {failed.get('message', '')}")


def find_condition(found: dict[str, Any] | None, *kinds: str) -> dict[str, Any] | None:
    """The condition of an object that is one of ``kinds`` and true; None: there is none."""
    conditions = [] if found is None else found.get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] in kinds and each["status"] == "True"), None)


def _seconds(timestamp: str | None) -> float:
    """Seconds since 1970; 0 where a time is missing."""
    return datetime.fromisoformat(timestamp).timestamp() if timestamp else 0.0
