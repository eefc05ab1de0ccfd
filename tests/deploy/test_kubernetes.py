"""The Kubernetes manifests: valid for the cluster, unprivileged, and the same deployment as docker-compose.yml."""

from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from pydantic import SecretStr

from api.core.settings import ApiSettings
from ui.settings import UiSettings
from workers.settings import WorkerSettings

pytestmark = pytest.mark.extended

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
VERSIONS = ("1.30", "1.34", "1.37")
COMPONENTS = ("gpu", "jobs", "managed")


def kustomization(folder):
    found = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    return found


def documents(file):
    return list(yaml.safe_load_all(file.read_text(encoding="utf-8")))


KUSTOMIZE, BASE = kustomization(FOLDER), kustomization(FOLDER / "base")
OBJECTS = [found for name in BASE["resources"] for found in documents(FOLDER / "base" / name)]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
SETTINGS = {"api": ApiSettings, "worker": WorkerSettings}
PODS = {
    found["metadata"]["name"]: found["spec"]["template"] for found in OBJECTS if found["kind"] in ("Deployment", "Job")
}


def of_kind(kind):
    return {found["metadata"]["name"]: found["spec"] for found in OBJECTS if found["kind"] == kind}


def container(name):
    (only,) = PODS[name]["spec"]["containers"]
    return only


def secrets_of(name):
    """Variables of a pod that come from a key of a secret, with the reference."""
    return {each["name"]: each["valueFrom"]["secretKeyRef"] for each in container(name)["env"] if "valueFrom" in each}


def maps_of(name):
    return [each["configMapRef"] for each in container(name)["envFrom"] if "configMapRef" in each]


def values_of(name):
    """Variables of a pod whose values are in the manifests."""
    maps = {found["metadata"]["name"]: found["data"] for found in OBJECTS if found["kind"] == "ConfigMap"}
    given = {key: value for each in maps_of(name) for key, value in maps.get(each["name"], {}).items()}
    return given | {each["name"]: each["value"] for each in container(name)["env"] if "value" in each}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("found", OBJECTS, ids=lambda found: f"{found['kind']}-{found['metadata']['name']}")
def test_an_object_is_valid(found, version):
    kubernetes_validate.validate(found, version, strict=True)


def test_every_file_is_applied_and_nothing_twice():
    assert {file.name for file in (FOLDER / "base").iterdir()} == {*BASE["resources"], "kustomization.yaml"}
    assert (KUSTOMIZE["resources"], KUSTOMIZE["components"]) == (["base"], []), "each cluster chooses its components"
    assert {file.parent.name for file in FOLDER.glob("*/kustomization.yaml")} == {"base", *COMPONENTS}
    names = [(found["kind"], found["metadata"]["name"]) for found in OBJECTS]
    assert len(set(names)) == len(names)
    assert set(PODS) == {"api", "worker", "ui"}


@pytest.mark.parametrize("name", PODS)
def test_nobody_has_privileges(name):
    pod, only = PODS[name]["spec"], container(name)
    uid, gid = map(int, COMPOSE["api"]["user"].split(":"))
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) == (uid, gid)
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert not any("hostPath" in volume for volume in pod["volumes"])


@pytest.mark.parametrize("name", PODS)
def test_a_variable_is_one_that_the_process_reads(name):
    page = {f"LCL_UI_{field.upper()}" for field in UiSettings.model_fields} | {"LCL_API_URL"}
    known = page if name == "ui" else {f"LCL_{field.upper()}" for field in SETTINGS[name].model_fields}
    assert {*values_of(name), *secrets_of(name)} - {"LCL_DATA_CACHE"} <= known, (
        "LCL_DATA_CACHE is read where a URL is opened"
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_every_secret_that_a_process_reads_has_a_place_in_the_secret(name):
    read = {field for field, facts in SETTINGS[name].model_fields.items() if facts.annotation is SecretStr}
    addresses = {"database_url", "broker_url"}
    references = secrets_of(name)
    assert set(references) == {f"LCL_{field.upper()}" for field in read | addresses}
    needed = {f"LCL_{field.upper()}" for field in {*addresses, "admin_key"}}
    for variable, reference in references.items():
        expected = {"name": "lcl-secrets", "key": variable} | ({} if variable in needed else {"optional": True})
        assert reference == expected


def test_the_network_is_closed_but_for_what_is_named():
    policies = of_kind("NetworkPolicy")
    assert policies["nobody"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, policy in policies.items():
        wanted = policy["podSelector"].get("matchLabels", {})
        chosen = {pod for pod, template in PODS.items() if wanted.items() <= template["metadata"]["labels"].items()}
        assert chosen, f"{name} is about nobody"
        expected = {"to-database": {"api", "worker"}, "to-broker": {"api", "worker"}}
        assert chosen == expected.get(name, chosen)
        for rule in (*policy.get("ingress", ()), *policy.get("egress", ())):
            assert rule["ports"], f"{name} opens every port"
            peers = rule.get("from", rule.get("to"))
            assert peers, f"{name} opens every address"
            assert all(peer for peer in peers), f"{name} opens every address"
    open_to = {rule["port"] for name in ("to-api", "to-ui") for rule in policies[name]["ingress"][0]["ports"]}
    assert open_to == {container(name)["ports"][0]["containerPort"] for name in ("api", "ui")}


def objects_of(name):
    """Those that a component adds, and its patches."""
    component = kustomization(FOLDER / name)
    assert component["kind"] == "Component"
    files = [*component.get("resources", ()), *(patch["path"] for patch in component["patches"])]
    assert {*files, "kustomization.yaml"} == {file.name for file in (FOLDER / name).iterdir()}
    found = [each for file in files for each in documents(FOLDER / name / file)]
    assert all(each["metadata"]["namespace"] == BASE["namespace"] for each in found)
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


def test_only_a_worker_that_creates_jobsets_may_do_so():
    found = objects_of("jobs")
    pod = found["Deployment", "worker"]["spec"]["template"]["spec"]
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("lcl-worker", True)
    assert found["ServiceAccount", "lcl-worker"]["automountServiceAccountToken"] is False, "the pod asks for its token"
    bound = found["RoleBinding", "lcl-worker"]
    assert bound["subjects"] == [{"kind": "ServiceAccount", "name": "lcl-worker", "namespace": BASE["namespace"]}]
    assert bound["roleRef"]["kind"] == "Role", "in its namespace alone"
    rules = found["Role", "lcl-worker"]["rules"]
    assert {resource for rule in rules for resource in rule["resources"]} == {"jobsets", "pods", "events"}
    assert not any("*" in (*rule["verbs"], *rule["apiGroups"]) for rule in rules)
    assert not {"Role", "RoleBinding", "ClusterRole"} & {each["kind"] for each in OBJECTS}, "nobody else"
