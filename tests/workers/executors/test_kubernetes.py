"""Requests of the executor to a stub of an API server, where no pod runs. No real cluster is needed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import RunDir
from tests.workers.executors.kubernetes_cluster import (
    EVENTS,
    JOBSETS,
    NAMESPACE,
    PODS,
    TOKEN,
    ApiServer,
    condition,
    serve_http,
)
from workers.executors import kubernetes
from workers.executors.base import EngineUnreachable, JobRequest, MachineLost, NoCapacity
from workers.executors.folder_job import JobPhase
from workers.executors.job_folder import JobFolder
from workers.executors.kubernetes import GROUP, KubernetesClient, KubernetesError, KubernetesExecutor
from workers.settings import WorkerSettings

ROLE = Path(__file__).parents[3] / "deploy" / "kubernetes" / "jobs" / "role.yaml"


@pytest.fixture
def api():
    return ApiServer()


@pytest.fixture
def kubernetes_settings(settings, api, tmp_path):
    settings.kubernetes_namespace, settings.kubernetes_token_file = NAMESPACE, tmp_path / "token"
    settings.kubernetes_image = "registry.example.org/lcl:1"
    settings.kubernetes_token_file.write_text(TOKEN)
    with serve_http(api) as address:
        settings.kubernetes_url = address
        yield settings


@pytest.fixture
def executor(kubernetes_settings, api, monkeypatch):
    """After the test no JobSet may be left, and nothing have been asked that the worker's role forbids."""
    monkeypatch.setattr(kubernetes, "KILL_SECONDS", 0.2)
    monkeypatch.setattr(kubernetes, "_CONNECT_SECONDS", 0.2)
    executor = KubernetesExecutor(kubernetes_settings)
    executor.wait_seconds = 0.5
    with executor.serving([]):
        yield executor
    assert not api.names(JOBSETS)
    assert {permission(method, path) for method, path in api.requests} <= permissions()


def permission(method, path):
    """Resource and verb, by which a role allows a request."""
    is_one = path not in (JOBSETS, PODS, EVENTS)
    resource = path.split("/")[-2 if is_one else -1]
    verbs = {"POST": "create"}
    verbs |= {"GET": "get", "DELETE": "delete"} if is_one else {"GET": "list", "DELETE": "deletecollection"}
    return resource, verbs[method]


def permissions():
    """Those of the worker's role in the manifests."""
    objects = yaml.safe_load_all(ROLE.read_text(encoding="utf-8"))
    (role,) = [found for found in objects if found["kind"] == "Role"]
    return {(name, verb) for rule in role["rules"] for name in rule["resources"] for verb in rule["verbs"]}


@pytest.fixture
def request_(tmp_path):
    return JobRequest("toy_run", RunDir(tmp_path), "title", name="run_1")


@pytest.fixture
def submitted(executor, request_, tmp_path):
    """Id of the JobSet ``job``."""
    return executor.submit(request_, "job", 0, JobFolder(tmp_path / "agent" / "job"))


def put_pod(api, phase="Running", state="running"):
    conditions = [condition("PodScheduled")]
    containers = [{"name": GROUP, "state": {state: {"exitCode": 0}}}]
    status = {"phase": phase, "conditions": conditions, "containerStatuses": containers}
    api.put(PODS, {"metadata": {"name": "job-node-0-0", "labels": {"lcl/job": "job"}}, "status": status})


def test_a_jobset_from_its_creation_to_its_removal(executor, api, submitted, request_, tmp_path):
    again = executor.submit(request_, "job", 0, JobFolder(tmp_path / "agent" / "job"))
    assert again == submitted == executor.find("job"), "an earlier answer was lost"
    assert (executor.find("other"), executor.read_state("another uid", "job")) == (None, None)
    assert executor.read_state(submitted, "job").phase is JobPhase.PENDING
    put_pod(api)
    assert executor.read_state(submitted, "job").phase is JobPhase.RUNNING
    executor.remove("another uid", "job")
    assert api.names(JOBSETS) == ["job"]
    executor.remove(submitted, "job")
    assert (api.names(JOBSETS), api.names(PODS)) == ([], []), "a pod that does not end is deleted too"
    assert executor.read_state(submitted, "job") is None


def test_without_an_answer_a_job_is_left_to_the_command_in_its_folder(executor, api, submitted):
    api.is_away = True
    executor.remove(submitted, "job")
    assert executor.capacity() is None
    api.is_away = False
    executor.remove(submitted, "job")


def test_a_job_without_a_place_is_removed_and_says_why(executor, api, request_):
    api.refuses_pods = quota = 'pods "x" is forbidden: exceeded quota: compute, requested: pods=1'
    with pytest.raises(NoCapacity, match=f"no free capacity for 1 node .* \\({quota}\\)"):
        executor.start(request_, lambda handle: None)
    api.answers = [403]
    with pytest.raises(UserError, match="Kubernetes refuses the job of the run: not now"):
        executor.start(request_, lambda handle: None)


@pytest.mark.parametrize(
    "message",
    [
        'pods "x" is forbidden: failed quota: compute: must specify limits.cpu',
        'admission webhook "images.example.org" denied the request: unsigned image',
    ],
)
def test_a_job_whose_pods_are_refused_fails_with_the_reason(executor, api, request_, message):
    """Nothing but somebody's change lets it start: it must not wait for ever."""
    executor.wait_seconds, api.refuses_pods = 86_400.0, message
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        executor.start(request_, lambda handle: None)
    assert caught.value.code == "engine_refused"


def test_a_queue_of_kueue_holds_a_job_back(executor, kubernetes_settings, api, request_, tmp_path):
    kubernetes_settings.kubernetes_queue = "team"
    uid = executor.submit(request_, "job", 0, JobFolder(tmp_path))
    assert api.objects[JOBSETS]["job"]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert executor.read_state(uid, "job").is_paused
    api.change(JOBSETS, "job", spec={"suspend": False})
    assert not executor.read_state(uid, "job").is_paused
    executor.remove(uid, "job")


def test_a_job_whose_jobset_is_gone_is_lost(executor, submitted, request_, tmp_path):
    executor.remove(submitted, "job")
    (tmp_path / "agent" / "job").mkdir(parents=True)
    (tmp_path / "agent" / "job" / "control.jsonl").touch()
    handle = {"executor": "kubernetes", "name": "job", "nodes": 1, "job_id": submitted}
    with pytest.raises(MachineLost, match="Kubernetes does not know its job any more"):
        executor.attach(handle, request_.run_dir)


def refused(settings, words):
    with pytest.raises(UserError, match=words), KubernetesExecutor(settings).serving([]):
        pass


def test_settings_that_do_not_fit_say_what_is_missing(kubernetes_settings, api, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="LCL_KUBERNETES_IMAGE must name the image"):
        WorkerSettings(executor="kubernetes")
    with pytest.raises(ValueError, match="kubernetes_url"):
        WorkerSettings(kubernetes_url="http://10.0.0.1:6443")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(UserError, match="LCL_KUBERNETES_URL"):
        KubernetesExecutor(WorkerSettings())
    monkeypatch.setenv("LCL_DATA_CACHE_BYTES", "10GB")
    refused(kubernetes_settings, "LCL_DATA_CACHE_BYTES is '10GB'")
    monkeypatch.delenv("LCL_DATA_CACHE_BYTES")
    (tmp_path / "token").write_text("of somebody else")
    refused(kubernetes_settings, r"401.*role of deploy/kubernetes/jobs")
    (tmp_path / "token").write_text(TOKEN)
    del api.objects[JOBSETS]
    refused(kubernetes_settings, "install JobSet")


@pytest.fixture
def client(kubernetes_settings):
    client = KubernetesClient(kubernetes_settings)
    yield client
    client.close()


@pytest.mark.parametrize(
    ("status", "error"),
    [(0, EngineUnreachable), (429, EngineUnreachable), (503, EngineUnreachable), (422, KubernetesError)],
)
def test_a_server_that_is_busy_refuses_nothing(api, client, status, error):
    api.answers = [status]
    with pytest.raises(error, match="http://127" if error is EngineUnreachable else r"not now \(HTTP status 422\)"):
        client.request("POST", JOBSETS, {"metadata": {"name": "a"}})
    assert client.find(f"{JOBSETS}/a") is None


def test_the_token_is_read_again_for_every_request(client, tmp_path):
    (tmp_path / "token").write_text("an old one")
    with pytest.raises(KubernetesError, match="401"):
        client.request("GET", PODS)
    (tmp_path / "token").write_text(TOKEN)
    client.request("GET", PODS)
    (tmp_path / "token").unlink()
    with pytest.raises(EngineUnreachable, match="cannot be read"):
        client.request("GET", PODS)
