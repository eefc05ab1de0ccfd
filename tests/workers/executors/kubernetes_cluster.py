"""An API server of Kubernetes in this process: lists with labels, and deletions with preconditions. No pod runs."""

from __future__ import annotations

import contextlib
import copy
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

TOKEN = "token-of-the-worker"
NAMESPACE = "lcl"
JOBSETS = f"/apis/jobset.x-k8s.io/v1alpha2/namespaces/{NAMESPACE}/jobsets"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
EVENTS = f"/api/v1/namespaces/{NAMESPACE}/events"
Object = dict[str, Any]


def condition(kind, reason="", message="", status="True"):
    return {"type": kind, "status": status, "reason": reason, "message": message}


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class ApiServer:
    """The objects and the answers to requests. Thread-safe.

    Attributes:
        refuses_pods: message of the controller of Jobs about a pod that it cannot create.
        answers: statuses of the next answers, before any other; 0: the connection is closed without an answer.
        is_away: every connection is closed without an answer.
        requests: method and path of each.
    """

    def __init__(self):
        self.objects: dict[str, dict[str, Object]] = {JOBSETS: {}, PODS: {}, EVENTS: {}}
        self.changed = threading.RLock()
        self.refuses_pods = ""
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
        """Replace parts of an object."""
        with self.changed:
            for part, values in parts.items():
                self.objects[collection][name][part] |= values

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
                if path == JOBSETS and self.refuses_pods:
                    job = {"kind": "Job", "name": f"{body['metadata']['name']}-node-0"}
                    event = {"type": "Warning", "reason": "FailedCreate", "message": self.refuses_pods}
                    self.put(EVENTS, {"metadata": {"name": f"{job['name']}.1"}, "involvedObject": job, **event})
                return copy.deepcopy(self.put(path, copy.deepcopy(body)))
            items = [found for found in self.objects[path].values() if _matches(found, params)]
            if method == "DELETE":
                for found in items:
                    self.delete(path, found["metadata"]["name"])
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
        self.delete(collection, name)
        return {"kind": "Status"}

    def delete(self, collection, name):
        """A pod ends at once; a JobSet is removed after its pods."""
        if collection == PODS:
            self.objects[PODS].pop(name)
        else:
            self.objects[collection][name]["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
        for jobset in [*self.objects[JOBSETS].values()]:
            if "deletionTimestamp" in jobset["metadata"] and not self.objects[PODS]:
                self.objects[JOBSETS].pop(jobset["metadata"]["name"])


def _matches(found, params):
    """Labels, and fields by their paths."""
    fields = {"type": found.get("type")}
    fields |= {f"involvedObject.{name}": value for name, value in found.get("involvedObject", {}).items()}
    chosen = {"labelSelector": found["metadata"].get("labels", {}), "fieldSelector": fields}
    for selector, values in chosen.items():
        wanted = dict(part.split("=", 1) for part in params.get(selector, "").split(",") if part)
        if any(values.get(name) != value for name, value in wanted.items()):
            return False
    return True


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
