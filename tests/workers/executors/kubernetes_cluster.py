"""An API server of Kubernetes in this process, and beside it what a cluster does with a JobSet.

It has what executors use: lists with labels, and deletions with preconditions. The
objects are what a test makes of them, or, with ``runs_pods``, those of real processes of this machine: a pod is a
process with the command and the environment of its container.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from workers.executors.kubernetes import GROUP

TOKEN = "token-of-the-worker"
NAMESPACE = "lcl"
JOBSETS = f"/apis/jobset.x-k8s.io/v1alpha2/namespaces/{NAMESPACE}/jobsets"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
EVENTS = f"/api/v1/namespaces/{NAMESPACE}/events"
Object = dict[str, Any]


def moment(seconds=None):
    """As Kubernetes writes times."""
    value = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return value.strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(kind, reason="", message="", at=None, status="True"):
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": moment(at)}


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class ApiServer:
    """The objects and the answers to requests. Thread-safe.

    Attributes:
        answers: statuses of the next answers, before any other; 0: the connection is closed without an answer.
        is_away: every connection is closed without an answer.
        requests: method and path of each.
    """

    def __init__(self):
        self.objects: dict[str, dict[str, Object]] = {JOBSETS: {}, PODS: {}, EVENTS: {}}
        self.changed = threading.RLock()
        self.answers: list[int] = []
        self.is_away = False
        self.requests: list[tuple[str, str]] = []
        self._uid = 0

    def put(self, collection, found):
        """Create or replace an object, as controllers and kubelets do."""
        with self.changed:
            name = found["metadata"]["name"]
            before = self.objects[collection].get(name)
            self._uid += before is None
            found["metadata"].setdefault("uid", f"uid-{self._uid}" if before is None else before["metadata"]["uid"])
            self.objects[collection][name] = found
            return found

    def change(self, collection, name, **parts):
        """Replace parts of an object, of which conditions are added to those that it has."""
        with self.changed:
            found = copy.deepcopy(self.objects[collection][name])
            for part, values in parts.items():
                added = found.setdefault(part, {})
                kept = [] if part != "status" else added.get("conditions", [])
                added.update(values)
                if part == "status" and "conditions" in values:
                    replaced = {each["type"] for each in values["conditions"]}
                    kept = [each for each in kept if each["type"] not in replaced]
                    added["conditions"] = [*kept, *values["conditions"]]
            self.put(collection, found)

    def remove(self, collection, name):
        with self.changed:
            self.objects[collection].pop(name, None)

    def names(self, collection):
        with self.changed:
            return sorted(self.objects[collection])

    def answer(self, method, path, params, body):
        """Raises: Refused."""
        with self.changed:
            self.requests.append((method, path))
            if self.is_away:
                raise Refused(0, "away")
            if self.answers:
                status = self.answers.pop(0)
                if status != 200:
                    raise Refused(status, "not now")
            if path not in self.objects:
                collection, _, name = path.rpartition("/")
                if collection not in self.objects:
                    raise Refused(404, "the server could not find the requested resource")
                return self._answer_one(method, collection, name, body)
            if method == "POST" and body is not None:
                if body["metadata"]["name"] in self.objects[path]:
                    raise Refused(409, "it exists")
                return copy.deepcopy(self.put(path, copy.deepcopy(body)))
            items = [found for found in self.objects[path].values() if _matches(found, params.get("labelSelector", ""))]
            if method == "DELETE":
                for found in items:
                    self.delete(path, found["metadata"]["name"], body or {})
                return {"kind": "Status"}
            return {"items": copy.deepcopy(items)}

    def _answer_one(self, method, collection, name, body):
        found = self.objects[collection].get(name)
        if found is None:
            raise Refused(404, f"{name} not found")
        if method == "GET":
            return copy.deepcopy(found)
        uid = (body or {}).get("preconditions", {}).get("uid")
        if uid not in (None, found["metadata"]["uid"]):
            raise Refused(409, "Precondition failed: uid")
        self.delete(collection, name, body or {})
        return {"kind": "Status"}

    def delete(self, collection, name, options):
        """Mark an object; who has it runs removes it."""
        found = copy.deepcopy(self.objects[collection][name])
        grace = options.get("gracePeriodSeconds", found.get("spec", {}).get("terminationGracePeriodSeconds", 0))
        before = found["metadata"].get("deletionGracePeriodSeconds")
        if before is None or grace < before:
            found["metadata"] |= {"deletionTimestamp": moment(time.time() + grace), "deletionGracePeriodSeconds": grace}
            self.put(collection, found)
        self.on_delete(collection, name)

    def on_delete(self, collection, name):
        """Without pods nothing holds an object back."""
        if collection == JOBSETS and not self.objects[PODS]:
            self.remove(collection, name)


def _matches(found, selector):
    labels = found["metadata"].get("labels", {})
    wanted = dict(part.split("=", 1) for part in selector.split(",") if part)
    return all(labels.get(name) == value for name, value in wanted.items())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _HttpServer

    def log_message(self, *_):
        pass

    def _serve(self):
        address = urlsplit(self.path)
        params = dict(parse_qsl(address.query))
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        try:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise Refused(401, "Unauthorized")
            self._send(200, self.server.api.answer(self.command, address.path, params, body))
        except Refused as error:
            if error.status == 0:
                self.close_connection = True
                return
            self._send(error.status, {"kind": "Status", "message": str(error), "code": error.status})

    do_GET = do_POST = do_DELETE = _serve

    def _send(self, status, found):
        content = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    api: ApiServer


@contextlib.contextmanager
def serve_http(api):
    """Its address, on a free port of this machine."""
    server = _HttpServer(("127.0.0.1", 0), _Handler)
    server.api = api
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class ProcessCluster(ApiServer):
    """Runs the pods of JobSets that are not suspended as processes of this machine.

    Attributes:
        has_room: pods get a node.
        refusal: why the API server accepts no pods; empty: it does.
        processes: of the pods, by their names.
    """

    def __init__(self, environment, logs):
        super().__init__()
        self._environment, self._logs = environment, logs
        self.has_room, self.refusal = True, ""
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._kill_at: dict[str, float] = {}
        self._started: set[str] = set()  # JobSets whose pods were created, or refused
        self.is_closed = False
        self._thread = threading.Thread(target=self._reconcile_for_ever)
        self._thread.start()

    def close(self):
        self.is_closed = True
        self._thread.join()
        for process in self.processes.values():
            process.kill()
            process.wait()

    def on_delete(self, collection, name):
        """The loop below does what is to do."""

    def _reconcile_for_ever(self):
        while not self.is_closed:
            with self.changed:
                for jobset in [*self.objects[JOBSETS].values()]:
                    self._reconcile(jobset)
                for pod in [*self.objects[PODS].values()]:
                    self._run_pod(pod)
            time.sleep(0.02)

    def _reconcile(self, jobset):
        name = jobset["metadata"]["name"]
        (group,) = jobset["spec"]["replicatedJobs"]
        pods = [found for found in self.objects[PODS].values() if found["metadata"]["labels"]["lcl/job"] == name]
        if "deletionTimestamp" in jobset["metadata"] or jobset["spec"]["suspend"]:
            for pod in pods:
                if "deletionTimestamp" not in pod["metadata"]:
                    self.delete(PODS, pod["metadata"]["name"], {})
            if (not pods and not jobset["spec"]["suspend"]) or (not pods and "deletionTimestamp" in jobset["metadata"]):
                self.remove(JOBSETS, name)
            return
        if name not in self._started:
            self._started.add(name)
            self._create_pods(name, group["template"])
        elif "conditions" not in jobset.get("status", {}):
            self._conclude(name, pods)

    def _create_pods(self, name, template):
        spec = template["spec"]
        if self.refusal:
            about = {"kind": "Job", "name": f"{name}-node-0"}
            event = {"metadata": {"name": f"{name}.1"}, "involvedObject": about, "reason": "FailedCreate"}
            self.put(EVENTS, {**event, "message": self.refusal})
            return
        for index in range(spec["completions"]):
            labels = {**spec["template"]["metadata"]["labels"], "batch.kubernetes.io/job-completion-index": str(index)}
            pod = {"metadata": {"name": f"{name}-node-0-{index}-abcde", "labels": labels}}
            self.put(PODS, {**copy.deepcopy(pod), "spec": spec["template"]["spec"], "status": {"phase": "Pending"}})

    def _conclude(self, name, pods):
        phases = [pod["status"]["phase"] for pod in pods]
        if "Failed" in phases:
            self.change(JOBSETS, name, status={"conditions": [condition("Failed", "FailedJobs")]})
            for pod in pods:
                if pod["status"]["phase"] == "Running":
                    self.delete(PODS, pod["metadata"]["name"], {})
        elif phases and set(phases) == {"Succeeded"}:
            self.change(JOBSETS, name, status={"conditions": [condition("Completed", "AllJobsCompleted")]})

    def _run_pod(self, pod):
        name, process = pod["metadata"]["name"], self.processes.get(pod["metadata"]["name"])
        deleted = "deletionTimestamp" in pod["metadata"]
        if process is None:
            if deleted:
                self.remove(PODS, name)
            elif self.has_room:
                self._start_pod(pod)
            elif not pod["status"].get("conditions"):
                message = "0/3 nodes are available: 3 Insufficient cpu."
                where = [condition("PodScheduled", "Unschedulable", message, status="False")]
                self.change(PODS, name, status={"conditions": where})
            return
        status = process.poll()
        if status is None and deleted:
            grace = pod["metadata"]["deletionGracePeriodSeconds"]
            if name not in self._kill_at:
                process.send_signal(signal.SIGTERM)
            self._kill_at[name] = min(self._kill_at.get(name, float("inf")), time.monotonic() + grace)
            if time.monotonic() >= self._kill_at[name]:
                os.killpg(process.pid, signal.SIGKILL)
        elif status is not None and pod["status"]["phase"] == "Running":
            code = status if status >= 0 else 128 - status
            ended = {"terminated": {"exitCode": code, "finishedAt": moment()}}
            phase = "Failed" if code else "Succeeded"
            self.change(PODS, name, status={"phase": phase, "containerStatuses": [{"name": GROUP, "state": ended}]})
        elif status is not None and deleted:
            self.remove(PODS, name)

    def _start_pod(self, pod):
        name = pod["metadata"]["name"]
        (container,) = pod["spec"]["containers"]
        given = {each["name"]: each["value"] for each in container["env"]}
        index = pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]
        with (self._logs / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *container["command"][1:]],
                env={**self._environment, **given, "JOB_COMPLETION_INDEX": index},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        running = [{"name": GROUP, "state": {"running": {"startedAt": moment()}}}]
        status = {"phase": "Running", "conditions": [condition("PodScheduled")], "containerStatuses": running}
        self.change(PODS, name, status=status)
