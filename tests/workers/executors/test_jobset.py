"""The object of a run: valid for clusters, unprivileged as the service's own pods, and without secrets."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

from lcl_core.common.run_dir import RunDir
from workers.executors.base import JobRequest
from workers.executors.kubernetes import build_jobset
from workers.settings import WorkerSettings

VERSIONS = ("1.30", "1.34", "1.37")
MANIFESTS = Path(__file__).parents[3] / "deploy" / "kubernetes" / "base"
NAME = "lcl-run-cr9vavs83kmzn8w35h-9134ea28"  # as long as any


def built(**changes):
    facts = {key: changes.pop(key) for key in ("nodes", "gpus", "protocols", "env") if key in changes}
    settings = WorkerSettings(home=Path("/var/lib/lcl"), kubernetes_image="registry.example.org/lcl:1", **changes)
    request = JobRequest("lcl_core.train", RunDir("/var/lib/lcl/runs/run_1"), "title", name="run_1", **facts)
    return build_jobset(settings, request, NAME, facts.get("gpus", 0), "lcl", Path("/var/lib/lcl/runs/run_1/agent/x"))


PLACEMENT = {
    "nodeSelector": {"pool": "gpu"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "priorityClassName": "research",
    "imagePullSecrets": [{"name": "registry"}],
    "labels": {"team": "vision", "lcl/job": "another"},
    "annotations": {"sidecar.istio.io/inject": "false"},
}
CASES: dict[str, dict[str, Any]] = {
    "one node": {},
    "queue": {"kubernetes_queue": "team"},
    "gang with GPUs": {"nodes": 16, "gpus": 8, "env": {"A": "b"}},
    "claims and secret": {
        "kubernetes_data_claims": {"corpora": "/data", "more": "/more"},
        "kubernetes_secret": "storage",
        "protocols": {"s3"},
    },
    "placement": {"kubernetes_pod": PLACEMENT, "gpus": 1},
}


def pod_of(jobset):
    (group,) = jobset["spec"]["replicatedJobs"]
    template: dict[str, Any] = group["template"]["spec"]["template"]
    return template


def container_of(jobset):
    (container,) = pod_of(jobset)["spec"]["containers"]
    found: dict[str, Any] = container
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_jobset_is_valid(case):
    """The models leave out what they do not know, and check the types of the rest."""
    jobset = json.loads(json.dumps(built(**CASES[case])))
    known = JobsetV1alpha2JobSet.from_dict(jobset)
    assert known is not None
    assert known.to_dict() == jobset


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", CASES)
def test_its_job_and_pods_are_valid(case, version):
    jobset = json.loads(json.dumps(built(**CASES[case])))
    (group,) = jobset["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": NAME}, **group["template"]}
    job["metadata"] = {"name": NAME, **group["template"]["metadata"]}
    kubernetes_validate.validate(job, version, strict=True)
    pod = {"apiVersion": "v1", "kind": "Pod", **pod_of(jobset)}
    pod["metadata"] = {"name": NAME, **pod_of(jobset)["metadata"]}
    kubernetes_validate.validate(pod, version, strict=True)


def test_its_pods_are_as_unprivileged_as_the_workers():
    worker = next(iter(yaml.safe_load_all((MANIFESTS / "worker.yaml").read_text(encoding="utf-8"))))
    wanted, pod = worker["spec"]["template"]["spec"], pod_of(built())["spec"]
    assert pod["securityContext"] == wanted["securityContext"]
    assert container_of(built())["securityContext"] == wanted["containers"][0]["securityContext"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["shareProcessNamespace"] is wanted["shareProcessNamespace"] is True, "a process 1 that reaps"
    assert pod["serviceAccountName"] == wanted["serviceAccountName"]
    claims = {
        volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume
    }
    assert claims == {"home"}
    own, workers = ({each["name"]: each.get("emptyDir") for each in spec["volumes"]} for spec in (pod, wanted))
    assert {name: own[name] for name in ("tmp", "cache", "shm")} == {
        name: workers[name] for name in ("tmp", "cache", "shm")
    }
    disk = [spec["containers"][0]["resources"]["limits"]["ephemeral-storage"] for spec in (pod, wanted)]
    assert disk[0] == disk[1]


def test_a_failure_is_final_and_a_disruption_is_told_from_it():
    jobset = built(nodes=3, gpus=2)
    assert jobset["spec"]["failurePolicy"] == {"maxRestarts": 0}
    (group,) = jobset["spec"]["replicatedJobs"]
    job = group["template"]["spec"]
    assert (job["completionMode"], job["completions"], job["parallelism"], job["backoffLimit"]) == ("Indexed", 3, 3, 0)
    assert job["podFailurePolicy"]["rules"] == [
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    ]
    assert pod_of(jobset)["spec"]["restartPolicy"] == "Never"
    assert container_of(jobset)["resources"]["limits"]["nvidia.com/gpu"] == 2
    environment = {each["name"]: each["value"] for each in container_of(jobset)["env"]}
    assert environment["LCL_POD_GPUS"] == "2", "a process that cannot use them fails"
    assert "CUDA_VISIBLE_DEVICES" not in environment
    apart = pod_of(jobset)["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert apart[0]["topologyKey"] == "kubernetes.io/hostname"
    assert "affinity" not in pod_of(built())["spec"]


def test_a_run_has_its_grace_for_a_checkpoint():
    pod = pod_of(built(cancel_grace_seconds=120.0))["spec"]
    assert pod["terminationGracePeriodSeconds"] >= 120 + 10


def test_an_administrator_places_its_pods():
    pod = pod_of(built(kubernetes_pod=json.dumps(PLACEMENT)))
    for name in ("nodeSelector", "priorityClassName", "imagePullSecrets"):
        assert pod["spec"][name] == PLACEMENT[name]
    assert pod["spec"]["tolerations"][-1] == PLACEMENT["tolerations"][0]
    assert len(pod["spec"]["tolerations"]) == 3, "those for lost nodes stay"
    assert (pod["metadata"]["labels"]["team"], pod["metadata"]["labels"]["lcl/job"]) == ("vision", NAME)
    assert pod["metadata"]["annotations"] == PLACEMENT["annotations"]
    plain = pod_of(built(kubernetes_pod=""))
    assert "annotations" not in plain["metadata"]
    assert not {"nodeSelector", "priorityClassName", "imagePullSecrets"} & plain["spec"].keys()
    for wrong in ('{"nodeSelectors": {}}', '{"labels": '):
        with pytest.raises(ValueError, match="kubernetes_pod"):
            built(kubernetes_pod=wrong)


def test_it_has_no_secrets_and_no_settings_of_the_worker(monkeypatch):
    given = {
        "LCL_DATABASE_URL": "sqlite:///database",
        "LCL_BROKER_URL": "redis://:hidden@broker",
        "LCL_ADMIN_KEY": "hidden",
        "AWS_SECRET_ACCESS_KEY": "hidden",
        "LCL_KUBERNETES_TOKEN_FILE": "/hidden",
        "LCL_EXECUTOR": "local",
        "PATH": "/hidden",
        "LCL_DATA_ROOTS": "/data",
    }
    for name in [name for name in os.environ if name.startswith("LCL_")]:
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    jobset = built(kubernetes_secret="storage", protocols={"s3"}, database_url="")
    assert "hidden" not in json.dumps(jobset)
    environment = {each["name"]: each["value"] for each in container_of(jobset)["env"]}
    assert environment.pop("OMP_NUM_THREADS") == "1"
    assert environment == {
        "LCL_HOME": "/var/lib/lcl",
        "LCL_DATA_ROOTS": "/data",
        "LCL_DATA_CACHE": "/var/cache/lcl",
        "CUDA_VISIBLE_DEVICES": "",
    }
    assert container_of(jobset)["envFrom"] == [{"secretRef": {"name": "storage"}}]
    assert "envFrom" not in container_of(built())
