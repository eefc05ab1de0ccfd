"""The Kubernetes manifests: valid for the cluster, unprivileged, and the same deployment as docker-compose.yml."""

import re
import shutil
import subprocess
from ipaddress import ip_network
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate
import pytest
import yaml
from pydantic import SecretStr

from api.client.inference import ENCODER_SECONDS
from api.core.settings import ApiSettings
from lcl_core.common.disk_cache import DEFAULT_DATA_CACHE_BYTES
from lcl_core.common.settings import Settings
from ui.settings import UiSettings
from workers.settings import WorkerSettings

pytestmark = pytest.mark.extended

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
RESOLVERS = ("169.254.20.10/32", "169.254.169.254/32")  # NodeLocal DNSCache, Cloud DNS of GKE
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
AUTHORITY = "/etc/lcl/ca"  # whose certificates the database's and the broker's are checked by
NODE_CACHE = "/var/cache/lcl"  # in the home of compose; a disk of its own where homes are on a network
SETTINGS = {"api": ApiSettings, "worker": WorkerSettings, "migrate": Settings}
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


def test_a_wrong_field_would_be_seen():
    wrong = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"prots": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_every_file_is_applied_and_nothing_twice():
    assert {file.name for file in (FOLDER / "base").iterdir()} == {*BASE["resources"], "kustomization.yaml"}
    assert (KUSTOMIZE["resources"], KUSTOMIZE["components"]) == (["base"], []), "each cluster chooses its components"
    assert {file.parent.name for file in FOLDER.glob("*/kustomization.yaml")} == {"base", *COMPONENTS}
    names = [(found["kind"], found["metadata"]["name"]) for found in OBJECTS]
    assert len(set(names)) == len(names)
    assert set(PODS) == {"api", "worker", "ui", "migrate"}


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
def test_no_setting_comes_from_the_cluster_itself(name):
    """Kubernetes would otherwise put addresses of services into variables, some of which look like settings."""
    assert PODS[name]["spec"]["enableServiceLinks"] is False


@pytest.mark.parametrize("name", PODS)
def test_a_pod_asks_for_what_it_needs(name):
    only = container(name)
    assert {"cpu", "memory", "ephemeral-storage"} <= set(only["resources"]["requests"])
    assert {"memory", "ephemeral-storage"} <= set(only["resources"]["limits"])
    if name != "migrate":
        assert {"startupProbe", "readinessProbe"} <= set(only)
    assert ("livenessProbe" in only) is (name in ("api", "ui")), "a worker's probes ask the database"
    assert only["image"] == KUSTOMIZE["images"][0]["name"]


def gibibytes(quantity):
    return int(quantity[:-2]) / {"Gi": 1, "Mi": 1024}[quantity[-2:]]


@pytest.mark.parametrize("name", PODS)
def test_a_pod_cannot_fill_its_node(name):
    """What it writes into empty folders is bounded, and all of them together by what the container may take."""
    folders = [volume["emptyDir"] for volume in PODS[name]["spec"]["volumes"] if "emptyDir" in volume]
    assert folders
    assert all("sizeLimit" in folder for folder in folders)
    limits = container(name)["resources"]["limits"]
    on_disk = sum(gibibytes(folder["sizeLimit"]) for folder in folders if folder.get("medium") != "Memory")
    in_memory = sum(gibibytes(folder["sizeLimit"]) for folder in folders if folder.get("medium") == "Memory")
    assert on_disk < gibibytes(limits["ephemeral-storage"])
    assert in_memory < gibibytes(limits["memory"])


@pytest.mark.parametrize("name", ["api", "worker"])
def test_data_from_urls_is_cached_in_a_volume_that_holds_what_its_bounds_allow(name):
    """Ranges, files of corpora behind URLs, and half of that again for indexes and files in use."""
    (mount,) = [each for each in container(name)["volumeMounts"] if each["mountPath"] == NODE_CACHE]
    assert values_of(name)["LCL_DATA_CACHE"] == mount["mountPath"]
    (cache,) = [each["emptyDir"] for each in PODS[name]["spec"]["volumes"] if each["name"] == mount["name"]]
    assert "LCL_DATA_CACHE_BYTES" not in values_of(name)
    assert gibibytes(cache["sizeLimit"]) * 2**30 >= 3 * DEFAULT_DATA_CACHE_BYTES


@pytest.mark.parametrize("name", PODS)
def test_nothing_is_mounted_inside_a_claim(name):
    """The runtime would make the folder in the claim, as root, and its siblings could not be made by the process."""
    claims = {each["name"] for each in PODS[name]["spec"]["volumes"] if "persistentVolumeClaim" in each}
    paths = {PurePosixPath(each["mountPath"]): each["name"] for each in container(name)["volumeMounts"]}
    assert not [path for path in paths if any(paths.get(parent) in claims for parent in path.parents)]


@pytest.mark.parametrize("name", ["api", "worker"])
def test_a_pod_that_migrates_a_large_database_is_not_killed(name):
    probe = container(name)["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 30 * 60


def stop_seconds(service):
    """Between SIGTERM and SIGKILL in compose, where ``.env`` says nothing else."""
    default = re.fullmatch(r"(?:\$\{LCL_\w+:-)?(\d+)\}?s", service.get("stop_grace_period", "10s"))
    assert default
    return int(default[1])


def test_a_worker_has_the_time_that_it_needs_to_stop():
    needed = WorkerSettings(checkpoints="store", artifacts="s3://bucket/lcl").worker_stop_seconds
    assert stop_seconds(COMPOSE["worker"]) >= needed
    assert PODS["worker"]["spec"]["terminationGracePeriodSeconds"] >= needed


@pytest.mark.parametrize("name", ["api", "worker", "ui"])
def test_a_process_is_the_one_that_compose_starts(name):
    service = COMPOSE[name]
    assert container(name)["command"] == service["command"]
    fixed = {variable for variable, value in service["environment"].items() if value is not None}
    required = {variable for variable, key in secrets_of(name).items() if not key.get("optional")}
    assert required | set(values_of(name)) - {"LCL_DATA_CACHE"} == fixed
    assert PODS[name]["spec"].get("shareProcessNamespace", False) is service["init"], "a process 1 that reaps"
    assert PODS[name]["spec"].get("terminationGracePeriodSeconds", 30) >= stop_seconds(service)
    inside = {volume.split(":")[-2 if volume.endswith(":ro") else -1] for volume in service.get("volumes", ())}
    mounted = {mount["mountPath"]: mount for mount in container(name)["volumeMounts"]}
    assert set(mounted) - {"/tmp", "/dev/shm", AUTHORITY, NODE_CACHE} == inside
    assert all(mounted[path].get("readOnly") for path in inside if path == "/data")
    assert {mount["name"] for mount in mounted.values()} == {volume["name"] for volume in PODS[name]["spec"]["volumes"]}


@pytest.mark.parametrize("name", PODS)
def test_a_variable_is_one_that_the_process_reads(name):
    page = {f"LCL_UI_{field.upper()}" for field in UiSettings.model_fields} | {"LCL_API_URL"}
    known = page if name == "ui" else {f"LCL_{field.upper()}" for field in SETTINGS[name].model_fields}
    assert {*values_of(name), *secrets_of(name)} - {"LCL_DATA_CACHE"} <= known, (
        "LCL_DATA_CACHE is read where a URL is opened"
    )


@pytest.mark.parametrize("name", PODS)
def test_a_setting_of_ones_own_replaces_every_default(name):
    """``env`` counts before ``envFrom``, in which the later map counts."""
    fixed = {each["name"] for each in container(name)["env"] if "value" in each}
    assert fixed == ({"LCL_API_URL"} if name == "ui" else set()), "addresses alone"
    kind = "lcl-page" if name == "ui" else "lcl"
    own = {"name": f"{kind}-settings", "optional": True}
    assert maps_of(name) == [{"name": f"{kind}-defaults"}, own], "what .env may give to compose"


@pytest.mark.parametrize("name", SETTINGS)
def test_every_secret_that_a_process_reads_has_a_place_in_the_secret(name):
    read = {field for field, facts in SETTINGS[name].model_fields.items() if facts.annotation is SecretStr}
    addresses = {"database_url", "broker_url"}
    wanted = {"database_url"} if name == "migrate" else read | addresses
    references = secrets_of(name)
    assert set(references) == {f"LCL_{field.upper()}" for field in wanted}
    needed = {f"LCL_{field.upper()}" for field in {*addresses, "admin_key"}}
    for variable, reference in references.items():
        expected = {"name": "lcl-secrets", "key": variable} | ({} if variable in needed else {"optional": True})
        assert reference == expected


@pytest.mark.parametrize("name", PODS)
def test_who_reads_corpora_may_be_given_the_credentials_of_object_storage(name):
    found = [each["secretRef"] for each in container(name)["envFrom"] if "secretRef" in each]
    assert found == ([{"name": "lcl-storage", "optional": True}] if name in ("api", "worker") else [])


def test_the_page_gets_nothing_that_the_api_gets():
    assert not secrets_of("ui")
    assert not [each for each in container("ui")["envFrom"] if each in container("api")["envFrom"]]


def test_roots_mean_what_they_mean_with_compose():
    for name in ("api", "worker"):
        given = values_of(name)["LCL_DATA_ROOTS"]
        assert given == COMPOSE[name]["environment"]["LCL_DATA_ROOTS"]
        assert Settings(data_roots=given).data_roots == [Path("/data")]  # type: ignore[arg-type]


def test_the_example_of_secrets_names_what_is_referred_to_and_fills_none():
    lines = (FOLDER / "secrets.example.env").read_text(encoding="utf-8").splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    shown = {line.removeprefix("# ").removesuffix("=") for line in lines if re.fullmatch(r"# LCL_\w+=", line)}
    keys = {(key["key"], bool(key.get("optional"))) for name in PODS for key in secrets_of(name).values()}
    assert keys == {(key, False) for key in given} | {(key, True) for key in shown}
    assert all(value == "" or ":PASSWORD@" in value for value in given.values())
    database, broker = urlsplit(given["LCL_DATABASE_URL"]), urlsplit(given["LCL_BROKER_URL"])
    assert parse_qs(database.query) == {"sslmode": ["verify-full"], "sslrootcert": [f"{AUTHORITY}/ca.crt"]}
    assert broker.scheme == "rediss"
    assert parse_qs(broker.query) == {"ssl_cert_reqs": ["required"], "ssl_ca_certs": [f"{AUTHORITY}/ca.crt"]}
    assert not of_kind("Secret"), "no secret lies among the manifests"


@pytest.mark.parametrize("name", ["api", "worker", "migrate"])
def test_who_checks_certificates_is_given_the_authoritys(name):
    """Optional: a server whose certificate a public authority signed needs none."""
    mounts = {mount["name"]: mount for mount in container(name)["volumeMounts"]}
    assert mounts["ca"] == {"name": "ca", "mountPath": AUTHORITY, "readOnly": True}
    (volume,) = [volume for volume in PODS[name]["spec"]["volumes"] if volume["name"] == "ca"]
    assert volume["secret"] == {"secretName": "lcl-ca", "optional": True}


def test_services_lead_to_their_pods():
    for name, service in of_kind("Service").items():
        assert service["selector"].items() <= PODS[name]["metadata"]["labels"].items()
        (port,) = service["ports"]
        (listens,) = container(name)["ports"]
        assert port["targetPort"] == listens["name"]
        assert port["port"] == listens["containerPort"]
    assert of_kind("Service")["api"]["ports"][0]["port"] == ApiSettings.model_fields["api_port"].default
    assert of_kind("Service")["ui"]["ports"][0]["port"] == UiSettings.model_fields["port"].default
    assert values_of("ui")["LCL_API_URL"] == COMPOSE["ui"]["environment"]["LCL_API_URL"]


def doors():
    """Ingress and service of each path."""
    found = {}
    for name, spec in of_kind("Ingress").items():
        (rule,) = spec["rules"]
        assert (rule["host"], spec["tls"]) == ("lcl.example.org", [{"hosts": [rule["host"]], "secretName": "lcl-tls"}])
        for each in rule["http"]["paths"]:
            assert each["path"] not in found
            found[each["path"]] = (name, each["backend"]["service"]["name"])
            service = of_kind("Service")[each["backend"]["service"]["name"]]
            assert each["backend"]["service"]["port"]["name"] == service["ports"][0]["name"]
    return found


def test_door_and_gateway_wait_as_long_as_the_client_for_an_encoder():
    (door,) = (
        found["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-read-timeout"]
        for found in OBJECTS
        if (found["kind"], found["metadata"]["name"]) == ("Ingress", doors()["/v1"][0])
    )
    gateway = (ROOT / "deploy" / "gateway" / "nginx.conf").read_text(encoding="utf-8")
    (waits,) = re.findall(r"^\s*proxy_read_timeout (\d+)s;", gateway, re.MULTILINE)
    assert float(door) == float(waits) == ENCODER_SECONDS


def test_the_door_is_the_gateways():
    gateway = (ROOT / "deploy" / "gateway" / "nginx.conf").read_text(encoding="utf-8")
    for path in doors():
        assert path.strip("/").replace(".", r"\.") in gateway or path in gateway
    assert {path for path, (_, service) in doors().items() if service == "ui"} == {
        "/",
        "/gradio_api/run/predict",
        "/gradio_api/upload",
    }
    assert "/metrics" not in doors()


def test_the_door_bounds_what_an_anonymous_user_takes_as_the_gateway_does():
    gateway = (ROOT / "deploy" / "gateway" / "nginx.conf").read_text(encoding="utf-8")
    prefix = "nginx.ingress.kubernetes.io/"
    given = {
        found["metadata"]["name"]: {
            name.removeprefix(prefix): value for name, value in found["metadata"]["annotations"].items()
        }
        for found in OBJECTS
        if found["kind"] == "Ingress"
    }
    for path, (name, _) in doors().items():
        door = given[name]
        assert int(door["limit-connections"]) <= 256
        assert f"rate={door['limit-rps']}r/s" in gateway
        assert f"burst={int(door['limit-rps']) * int(door['limit-burst-multiplier'])}" in gateway
        largest = {"/": "1m", "/gradio_api/run/predict": "4m", "/gradio_api/upload": "32m", "/v1/uploads": "4g"}.get(
            path, "64m"
        )
        assert door["proxy-body-size"] == largest
        assert f"client_max_body_size {largest};" in gateway


def test_the_network_is_closed_but_for_what_is_named():
    policies = of_kind("NetworkPolicy")
    assert policies["nobody"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, policy in policies.items():
        wanted = policy["podSelector"].get("matchLabels", {})
        chosen = {pod for pod, template in PODS.items() if wanted.items() <= template["metadata"]["labels"].items()}
        assert chosen, f"{name} is about nobody"
        expected = {"to-database": {"api", "worker", "migrate"}, "to-broker": {"api", "worker"}}
        assert chosen == expected.get(name, chosen)
        for rule in (*policy.get("ingress", ()), *policy.get("egress", ())):
            assert rule["ports"], f"{name} opens every port"
            peers = rule.get("from", rule.get("to"))
            assert peers, f"{name} opens every address"
            assert all(peer for peer in peers), f"{name} opens every address"
    open_to = {rule["port"] for name in ("to-api", "to-ui") for rule in policies[name]["ingress"][0]["ports"]}
    assert open_to == {container(name)["ports"][0]["containerPort"] for name in ("api", "ui")}


def test_who_leaves_goes_to_named_pods_and_for_names_to_the_nodes_resolver():
    for name, policy in of_kind("NetworkPolicy").items():
        for rule in policy.get("egress", ()):
            for peer in rule["to"]:
                if "ipBlock" in peer:
                    assert peer["ipBlock"]["cidr"] in RESOLVERS
                    assert {port["port"] for port in rule["ports"]} == {53}
                else:
                    assert peer["podSelector"]["matchLabels"], f"{name} lets into every pod of a namespace"


def test_servers_outside_the_cluster_are_a_component_of_addresses():
    ports = {}
    for (kind, name), found in objects_of("managed").items():
        assert kind == "NetworkPolicy"
        (rule,) = found["spec"]["egress"]
        ((_, address),) = [*rule["to"][0].items()]
        assert ip_network(address["cidr"]).num_addresses == 1, "one server, not a network"
        ports[name] = rule["ports"]
        assert rule["ports"] == of_kind("NetworkPolicy")[name]["egress"][0]["ports"]
        merged = {**found, "spec": {**of_kind("NetworkPolicy")[name], **found["spec"]}}
        kubernetes_validate.validate(merged, VERSIONS[-1], strict=True)
    assert set(ports) == {"to-database", "to-broker"}


def test_claims_are_there_and_shared():
    claims = of_kind("PersistentVolumeClaim")
    used = {
        volume["persistentVolumeClaim"]["claimName"]
        for pod in PODS.values()
        for volume in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert set(claims) == used
    assert all(claim["accessModes"] == ["ReadWriteMany"] for claim in claims.values())


def test_who_scales_the_api_alone_says_how_many():
    assert of_kind("HorizontalPodAutoscaler")["api"]["scaleTargetRef"]["name"] == "api"
    assert "replicas" not in of_kind("Deployment")["api"]
    assert of_kind("PodDisruptionBudget")["api"]["selector"] == of_kind("Deployment")["api"]["selector"]


@pytest.mark.parametrize("file", sorted(FOLDER.rglob("kustomization.yaml")), ids=lambda file: file.parent.name)
def test_kustomize_accepts_a_folder(file):
    """It refuses a folder that names one above itself, and before version 5.2 a patch of several objects."""
    found = kustomization(file.parent)
    for name in (*found.get("resources", ()), *found.get("components", ())):
        assert not file.parent.is_relative_to((file.parent / name).resolve()), f"{name} contains this folder"
    for patch in found.get("patches", ()):
        assert len(documents(file.parent / patch["path"])) == 1, patch["path"]


@pytest.mark.skipif(shutil.which("kustomize") is None, reason="kustomize is not installed")
@pytest.mark.parametrize("chosen", [(), *((name,) for name in COMPONENTS), COMPONENTS], ids="-".join)
def test_kustomize_builds_any_combination(chosen, tmp_path):
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    together = {**KUSTOMIZE, "components": list(chosen)}
    (tmp_path / "kubernetes" / "kustomization.yaml").write_text(yaml.safe_dump(together), encoding="utf-8")
    command = ["kustomize", "build", tmp_path / "kubernetes"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    built = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(result.stdout)}
    added = {key for name in chosen for key in objects_of(name)}
    assert set(built) == {(each["kind"], each["metadata"]["name"]) for each in OBJECTS} | added
    for found in built.values():
        kubernetes_validate.validate(found, VERSIONS[-1], strict=True)
    pod = built["Deployment", "worker"]["spec"]["template"]["spec"]
    assert ("nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"]) is ("gpu" in chosen)
    assert pod["serviceAccountName"] == ("lcl-worker" if "jobs" in chosen else "lcl")
    database = built["NetworkPolicy", "to-database"]["spec"]["egress"]
    assert ("ipBlock" in database[0]["to"][0]) is ("managed" in chosen)


def test_gpus_are_a_component_of_the_worker():
    (found,) = objects_of("gpu").values()
    assert (found["kind"], found["metadata"]) == ("Deployment", {"name": "worker", "namespace": BASE["namespace"]})
    pod = found["spec"]["template"]["spec"]
    assert pod["containers"][0]["name"] == "worker"
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 1}
    assert {volume["name"] for volume in pod["volumes"]} <= {v["name"] for v in PODS["worker"]["spec"]["volumes"]}


def objects_of(name):
    """Those that a component adds, and its patches."""
    component = kustomization(FOLDER / name)
    assert component["kind"] == "Component"
    files = [*component.get("resources", ()), *(patch["path"] for patch in component["patches"])]
    assert {*files, "kustomization.yaml"} == {file.name for file in (FOLDER / name).iterdir()}
    found = [each for file in files for each in documents(FOLDER / name / file)]
    assert all(each["metadata"]["namespace"] == BASE["namespace"] for each in found)
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


@pytest.mark.parametrize("version", VERSIONS)
def test_what_runs_as_jobsets_need_is_valid(version):
    for (kind, _), found in objects_of("jobs").items():
        if kind != "Deployment":
            kubernetes_validate.validate(found, version, strict=True)


def test_only_a_worker_that_creates_jobsets_may_do_so():
    found = objects_of("jobs")
    pod = found["Deployment", "worker"]["spec"]["template"]["spec"]
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("lcl-worker", True)
    assert found["ServiceAccount", "lcl-worker"]["automountServiceAccountToken"] is False, "the pod asks for its token"
    bound = found["RoleBinding", "lcl-worker"]
    assert bound["subjects"] == [{"kind": "ServiceAccount", "name": "lcl-worker", "namespace": BASE["namespace"]}]
    assert bound["roleRef"]["kind"] == "Role", "in its namespace alone"
    rules = found["Role", "lcl-worker"]["rules"]
    assert {resource for rule in rules for resource in rule["resources"]} == {"jobsets", "jobs", "pods"}
    assert not any("*" in (*rule["verbs"], *rule["apiGroups"]) for rule in rules)
    assert not {"Role", "RoleBinding", "ClusterRole"} & {each["kind"] for each in OBJECTS}, "nobody else"


def test_a_worker_of_jobsets_has_settings_that_it_reads():
    defaults = objects_of("jobs")["ConfigMap", "lcl-defaults"]
    assert "containers" not in objects_of("jobs")["Deployment", "worker"]["spec"]["template"]["spec"]
    given = defaults["data"]
    assert given.keys() <= {f"LCL_{field.upper()}" for field in WorkerSettings.model_fields}
    assert maps_of("worker")[0]["name"] == defaults["metadata"]["name"]
    image = KUSTOMIZE["images"][0]
    assert given["LCL_KUBERNETES_IMAGE"] == f"{image['newName']}:{image['newTag']}"
    claim, _, path = given["LCL_KUBERNETES_DATA_CLAIMS"].partition(":")
    assert claim in of_kind("PersistentVolumeClaim")
    assert path in {mount["mountPath"] for mount in container("worker")["volumeMounts"]}
    assert WorkerSettings.model_fields["kubernetes_claim"].default in of_kind("PersistentVolumeClaim")
    accounts = {each["metadata"]["name"] for each in OBJECTS if each["kind"] == "ServiceAccount"}
    assert WorkerSettings.model_fields["kubernetes_service_account"].default in accounts


def test_the_pods_of_runs_reach_each_other_alone():
    found = objects_of("jobs")
    policy = found["NetworkPolicy", "runs"]["spec"]
    runs = {"podSelector": policy["podSelector"]}
    assert policy["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "run"}
    assert (policy["ingress"], policy["egress"]) == ([{"from": [runs]}], [{"to": [runs]}])
    (rule,) = found["NetworkPolicy", "worker-to-cluster"]["spec"]["egress"]
    assert ip_network(rule["to"][0]["ipBlock"]["cidr"]).num_addresses == 1


def test_the_namespace_refuses_privileges():
    (namespace,) = [found for found in OBJECTS if found["kind"] == "Namespace"]
    assert namespace["metadata"]["name"] == BASE["namespace"]
    labels = namespace["metadata"]["labels"]
    for mode in ("enforce", "audit", "warn"):
        assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"
