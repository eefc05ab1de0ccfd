"""How a job ends, whatever the order of what is reported: 500 histories of a cluster, each with one true end."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import httpx
import pytest

from lcl_core.common.run_dir import ExitCode, RunDir
from tests.workers.executors.kubernetes_cluster import (
    JOBS,
    JOBSETS,
    NAMESPACE,
    PODS,
    ApiServer,
    condition,
    in_process_http,
    moment,
)
from workers.executors import kubernetes_client, kubernetes_job
from workers.executors.base import MachineLost
from workers.executors.jobset import GROUP
from workers.executors.kubernetes_client import KubernetesClient, KubernetesError, KubernetesUnreachable, ObjectWatch
from workers.executors.kubernetes_job import KubernetesJob

pytestmark = pytest.mark.extended

HISTORIES = 500
NAME, OWNER = "lcl-run-1", "owner"
LOST = "lost"
START = 1_800_000_000.0  # on the clock of the cluster
STATUSES = (ExitCode.CRASH, ExitCode.USER_ERROR, ExitCode.OUT_OF_MEMORY, -9, -11, ExitCode.CANCELLED)


@dataclass
class History:
    """What happens in a cluster, step by step, and how the job has ended then.

    Attributes:
        end: exit status, or that a machine was lost.
    """

    random: random.Random
    api: ApiServer = field(default_factory=ApiServer)
    end: object = None

    def __post_init__(self):
        self.nodes = self.random.choice((1, 1, 2, 3))
        self.clock = START
        self.labels = {"lcl/job": NAME}
        self.put(JOBSETS, NAME, spec={"suspend": False}, annotations={"lcl/owner": OWNER})

    def put(self, collection, name, annotations=None, index=0, **parts):
        labels = {**self.labels, "batch.kubernetes.io/job-completion-index": str(index)}
        metadata = {"name": name, "labels": labels, "annotations": annotations or {}}
        self.api.put(collection, {"metadata": metadata, **parts})

    def pod(self, node):
        return f"{NAME}-node-0-{node}-abcde"

    def tick(self, seconds=4.0):
        """Later than every difference between clocks."""
        self.clock += seconds
        return self.clock

    def steps(self):
        """A start, and one of the ends."""
        yield lambda: self.put(JOBS, f"{NAME}-node-0", spec={})
        for node in self.shuffled():
            yield lambda node=node: self.put(PODS, self.pod(node), index=node, status={"phase": "Pending"})  # type: ignore[misc]
        for node in self.shuffled():
            yield lambda node=node: self.run(node)  # type: ignore[misc]
        ends = (self.succeed, self.fail, self.evict, self.lose_node, self.delete_pod, self.preempt, self.delete_jobset)
        yield from self.random.choice(ends)()

    def shuffled(self):
        return self.random.sample(range(self.nodes), self.nodes)

    def run(self, node):
        running = [{"name": GROUP, "state": {"running": {"startedAt": moment(self.tick())}}}]
        status = {"phase": "Running", "conditions": [condition("PodScheduled")], "containerStatuses": running}
        self.api.change(PODS, self.pod(node), status=status)

    def exit(self, node, status):
        code = status if status >= 0 else 128 - status
        ended = [{"name": GROUP, "state": {"terminated": {"exitCode": code, "finishedAt": moment(self.clock)}}}]
        phase = "Failed" if code else "Succeeded"
        self.api.change(PODS, self.pod(node), status={"phase": phase, "containerStatuses": ended})

    def mark_deleted(self, node):
        deleted = {"deletionTimestamp": moment(self.clock + 45), "deletionGracePeriodSeconds": 45}
        self.api.change(PODS, self.pod(node), metadata=deleted)

    def disrupt(self, node, reason):
        disrupted = condition("DisruptionTarget", reason, "it has to go", at=self.clock)
        self.api.change(PODS, self.pod(node), status={"conditions": [disrupted]})

    def fail_job(self, reason):
        failed = condition("Failed", reason, "of a pod", at=self.clock)
        yield lambda: self.api.change(JOBS, f"{NAME}-node-0", status={"conditions": [failed]})
        yield lambda: self.api.change(JOBSETS, NAME, status={"conditions": [condition("Failed", "FailedJobs")]})

    def end_others(self, *, but):
        """The Job deletes its other pods, which exit in one way or the other."""
        others = [node for node in self.shuffled() if node != but]
        for node in others:
            yield lambda node=node: self.mark_deleted(node)  # type: ignore[misc]
        for node in others:
            status = self.random.choice((ExitCode.CANCELLED, -9, -15))
            yield lambda node=node, status=status: (self.tick(), self.exit(node, status))  # type: ignore[misc]
            if self.random.random() < 0.5:
                yield lambda node=node: self.api.remove(PODS, self.pod(node))  # type: ignore[misc]

    def succeed(self):
        self.end = ExitCode.OK
        for node in self.shuffled():
            yield lambda node=node: (self.tick(), self.exit(node, 0))  # type: ignore[misc]
        completed = condition("Completed", "AllJobsCompleted")
        yield lambda: self.api.change(JOBSETS, NAME, status={"conditions": [completed]})

    def fail(self):
        node, status = self.random.randrange(self.nodes), self.random.choice(STATUSES)
        self.end = status
        yield lambda: (self.tick(), self.exit(node, status))  # type: ignore[func-returns-value]
        yield from self.in_random_order([self.fail_job("BackoffLimitExceeded"), self.end_others(but=node)])

    def evict(self):
        """By the eviction API, a preemption by the scheduler or a kubelet that is short of memory."""
        node, self.end = self.random.randrange(self.nodes), LOST
        yield lambda: (self.tick(), self.disrupt(node, "EvictionByEvictionAPI"))  # type: ignore[func-returns-value]
        yield lambda: self.mark_deleted(node)
        if self.nodes > 1 and self.random.random() < 0.5:  # whose peers notice
            peer = (node + 1) % self.nodes
            yield lambda: (self.tick(), self.exit(peer, ExitCode.CRASH))  # type: ignore[func-returns-value]
        status = self.random.choice((ExitCode.CANCELLED, -9, -15))
        yield lambda: (self.tick(), self.exit(node, status))  # type: ignore[func-returns-value]
        yield from self.in_random_order([self.fail_job("PodFailurePolicy"), self.end_others(but=node)])
        yield lambda: self.api.remove(PODS, self.pod(node))

    def lose_node(self):
        """Its kubelet never says anything again."""
        node, self.end = self.random.randrange(self.nodes), LOST
        yield lambda: (self.tick(), self.disrupt(node, "DeletionByTaintManager"))  # type: ignore[func-returns-value]
        yield lambda: self.mark_deleted(node)

    def delete_pod(self):
        node, self.end = self.random.randrange(self.nodes), LOST
        yield lambda: (self.tick(), self.mark_deleted(node))  # type: ignore[func-returns-value]
        status = self.random.choice((ExitCode.CANCELLED, -9, ExitCode.CRASH))
        yield lambda: (self.tick(), self.exit(node, status))  # type: ignore[func-returns-value]
        yield from self.in_random_order([self.fail_job("BackoffLimitExceeded"), self.end_others(but=node)])
        yield lambda: self.api.remove(PODS, self.pod(node))

    def preempt(self):
        self.end = LOST
        yield lambda: (self.tick(), self.api.change(JOBSETS, NAME, spec={"suspend": True}))  # type: ignore[func-returns-value]
        yield from self.end_others(but=-1)
        for node in range(self.nodes):
            yield lambda node=node: self.api.remove(PODS, self.pod(node))  # type: ignore[misc]

    def delete_jobset(self):
        self.end = LOST
        gone = {"deletionTimestamp": moment(self.clock)}
        yield lambda: (self.tick(), self.api.change(JOBSETS, NAME, metadata=gone))  # type: ignore[func-returns-value]
        yield from self.end_others(but=-1)
        for node in range(self.nodes):
            yield lambda node=node: self.api.remove(PODS, self.pod(node))  # type: ignore[misc]
        yield lambda: self.api.remove(JOBSETS, NAME)

    def in_random_order(self, series):
        """Steps of several controllers, each in its own order."""
        while series:
            chosen = self.random.choice(series)
            try:
                yield next(chosen)
            except StopIteration:
                series.remove(chosen)


@pytest.fixture
def client(tmp_path):
    (tmp_path / "token").write_text("token")
    return KubernetesClient("http://127.0.0.1:1", tmp_path / "token")


def job_in(client, api, settings, nodes, folder):
    client._http = in_process_http(api)
    uid = api.objects[JOBSETS][NAME]["metadata"]["uid"]
    handle = {"executor": "kubernetes", "namespace": NAMESPACE, "name": NAME, "uid": uid, "log_starts": [0] * nodes}
    job = KubernetesJob(client, settings, handle, OWNER, RunDir(folder))
    job.created(client.request("GET", job.path))
    return job


def read(job):
    """How the job has ended; None: it runs."""
    try:
        return job.wait(0)
    except MachineLost:
        return LOST


def disturb(chance, api, watch, job):
    """What networks, API servers and caches do: late and doubled events, lost watches and histories, no answers."""
    fate = chance.random()
    if fate < 0.1:
        api.compact()
    if fate > 0.8:
        api.answers = [chance.choice((0, 410, 429, 500, 503)) for _ in range(chance.randrange(1, 4))]
    if chance.random() < 0.4:
        try:
            watch.follow()
        except KubernetesError:
            watch._version = ""
        except KubernetesUnreachable:
            pass
    known = [(kind, found) for _, where, kind, found in api.history if where == PODS]
    for kind, found in chance.sample(known, min(len(known), chance.randrange(3))):  # long past, and in any order
        job.observe_pod(kind, found)


@pytest.mark.parametrize("part", range(10))
def test_a_job_ends_as_it_did_whatever_the_order_of_events(part, client, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(kubernetes_job, "_READ_SECONDS", 0.0)
    monkeypatch.setattr(kubernetes_client, "_FIRST_DELAY", 1e-4)
    wrong = []
    ends = set()
    for seed in range(part, HISTORIES, 10):
        chance = random.Random(seed)
        history = History(chance)
        monkeypatch.setattr(kubernetes_job, "_CRASH_GRACE_SECONDS", 1e9)
        monkeypatch.setattr(kubernetes_job, "_RESYNC_SECONDS", chance.choice((0.0, 1e9)))
        job = job_in(client, history.api, settings, history.nodes, tmp_path)
        watch = ObjectWatch(client, PODS, f"lcl/job={NAME}", watch_report(job))
        found: object = None
        for step in history.steps():
            step()
            disturb(chance, history.api, watch, job)
            found = found if found is not None else read(job)
        history.api.answers = []
        job.report_change()
        for _ in range(2):
            found = found if found is not None else read(job)
            job._patience = monotonic_past(job)
            job.report_change()
        ends.add(str(history.end))
        if found != history.end:
            wrong.append((seed, history.nodes, history.end, found))
    assert not wrong
    assert {str(ExitCode.OK), LOST} <= ends


def monotonic_past(job):
    """As if it had waited for long for the pods of a node that is cut off."""
    return -1.0 if job._loss_at is not None else job._patience


def watch_report(job):
    def report(kind, pod):
        if pod is None:
            job.report_change()
        else:
            job.observe_pod(kind, pod)

    return report


def test_a_pod_of_a_node_that_is_cut_off_is_awaited_for_the_time_of_a_checkpoint(client, settings, tmp_path):
    history = History(random.Random(1))
    history.nodes = 1
    job = job_in(client, history.api, settings, 1, tmp_path)
    history.put(PODS, history.pod(0), status={"phase": "Running"})
    history.run(0)
    history.disrupt(0, "DeletionByTaintManager")
    job.report_change()
    assert read(job) is None, "it is not deleted, and may be spared"
    history.mark_deleted(0)
    job.report_change()
    assert read(job) is None
    job._patience = -1.0
    job.report_change()
    assert read(job) == LOST


def test_a_kubelet_that_does_not_know_how_a_container_ended_has_lost_it(client, settings, tmp_path):
    history = History(random.Random(1))
    history.nodes = 1
    job = job_in(client, history.api, settings, 1, tmp_path)
    unknown = {"exitCode": 137, "reason": "ContainerStatusUnknown", "finishedAt": None}
    history.put(
        PODS,
        history.pod(0),
        status={"phase": "Failed", "containerStatuses": [{"name": GROUP, "state": {"terminated": unknown}}]},
    )
    job.report_change()
    assert read(job) == LOST


def test_an_answer_that_is_no_object_is_no_end(client, settings, tmp_path, monkeypatch):
    """As that of a proxy on the way."""
    monkeypatch.setattr(kubernetes_job, "_READ_SECONDS", 0.0)
    history = History(random.Random(1))
    job = job_in(client, history.api, settings, history.nodes, tmp_path)
    page = httpx.MockTransport(lambda request: httpx.Response(200, text="<html>"))
    client._http = httpx.Client(transport=page, base_url="http://127.0.0.1")
    job.report_change()
    assert read(job) is None
