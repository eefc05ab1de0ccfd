"""Every container image is named by version and digest, in one manner, and `make pin-images` renews the digests."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from lcl_core.common.errors import UserError
from scripts import pin_images as images

pytestmark = pytest.mark.extended

OWN = "${LCL_IMAGE:-lcl:local}"  # what the Dockerfile makes
OLD, NEW = (f"sha256:{digit * 64}" for digit in "12")


def test_every_image_has_a_version_and_a_digest() -> None:
    found = images.references(images.ROOT)
    assert set(found) == {
        "NGINX_IMAGE", "POSTGRES_IMAGE", "REDIS_IMAGE", "PROMETHEUS_IMAGE", "GRAFANA_IMAGE", "PYTHON_IMAGE",
    }  # fmt: skip
    for variable, (name, digest) in found.items():
        assert re.search(r":v?[0-9]", name), f"{variable}: {name} is whatever is newest"
        assert digest, f"{variable}: {name} is whatever its tag points to; run make pin-images"


def test_no_image_is_named_in_another_manner() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=images.ROOT, capture_output=True, check=False)
    if tracked.returncode != 0:
        pytest.skip("this is no checkout: git lists no files")
    for name in tracked.stdout.decode().split("\0"):
        if re.search(r"(compose[^/]*|kubernetes/.*)\.ya?ml$", name):
            text = (images.ROOT / name).read_text(encoding="utf-8")
            for line in re.findall(r"^[\s-]*image:\s*(.+?)\s*$", text, re.MULTILINE):
                mine = line in (OWN, "lcl")  # kustomize puts registry and version in place of the latter
                assert mine or images.REFERENCE.match(line), f"{name}: {line}"
        elif re.search(r"(^|/)(Dockerfile|Containerfile)|\.Dockerfile$", name):
            text = (images.ROOT / name).read_text(encoding="utf-8")
            for base in re.findall(r"^FROM\s+(\S+)", text, re.MULTILINE):
                assert base == "${PYTHON_IMAGE}", (name, base)
            assert not re.search(r"^COPY\s+--from=\S*[:/]", text, re.MULTILINE), name


def test_kubernetes_takes_its_image_from_the_kustomization() -> None:
    folder = images.ROOT / "deploy" / "kubernetes"
    (own,) = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))["images"]
    named = {
        name
        for file in folder.rglob("*.yaml")
        for name in re.findall(r"^\s+image:\s*(\S+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert named == {own["name"]}


def test_renovate_reads_what_is_to_be_renewed() -> None:
    given = json.loads((images.ROOT / "renovate.json").read_text(encoding="utf-8"))
    assert {"docker-compose", "dockerfile", "pip-compile"} <= set(given["enabledManagers"])
    (pattern,) = given["pip-compile"]["managerFilePatterns"]
    for name in ("service", "test"):
        assert re.search(pattern.strip("/"), f"requirements/{name}.lock")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of two files, and a `docker` that knows what their tags point to."""
    (tmp_path / "deploy").mkdir()
    (tmp_path / "docker-compose.yml").write_text(
        f"a:\n  image: ${{REDIS_IMAGE:-redis:8@{OLD}}}\nb:\n  image: ${{LCL_IMAGE:-lcl:local}}\n", encoding="utf-8"
    )
    (tmp_path / "deploy" / "Dockerfile").write_text(
        "ARG PYTHON_IMAGE=python:3.13-slim\nFROM ${PYTHON_IMAGE}\n", encoding="utf-8"
    )
    tools = tmp_path / "bin"
    tools.mkdir()
    index = json.dumps({"mediaType": images.INDEXES[0], "digest": NEW})
    single = json.dumps({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": NEW})
    docker = tools / "docker"
    docker.write_text(
        f"""#!/bin/sh
case "$4" in
  python:3.13-slim) echo '{index}';;
  redis:8) if [ -e "{tmp_path}/away" ]; then echo "no such host" >&2; exit 1; fi
           if [ -e "{tmp_path}/single" ]; then echo '{single}'; else echo '{index}'; fi;;
  *) exit 2;;
esac
""",
        encoding="utf-8",
    )
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_digests_are_written_where_the_images_are_named(folder: Path) -> None:
    changed = images.pin(folder)
    assert changed == [f"python:3.13-slim: not pinned -> {NEW}", f"redis:8: {OLD} -> {NEW}"]
    assert f"${{REDIS_IMAGE:-redis:8@{NEW}}}" in (folder / "docker-compose.yml").read_text(encoding="utf-8")
    assert OWN in (folder / "docker-compose.yml").read_text(encoding="utf-8")
    assert f"ARG PYTHON_IMAGE=python:3.13-slim@{NEW}\nFROM" in (folder / "deploy" / "Dockerfile").read_text(
        encoding="utf-8"
    )
    assert images.pin(folder) == []


@pytest.mark.parametrize(("what", "said"), [("away", "redis:8: no such host"), ("single", "one platform only")])
def test_nothing_is_written_unless_all_are_known(folder: Path, what: str, said: str) -> None:
    (folder / what).touch()
    before = [file.read_bytes() for file in images.files(folder)]
    with pytest.raises(UserError, match=said):
        images.pin(folder)
    assert [file.read_bytes() for file in images.files(folder)] == before


def test_two_defaults_of_one_image_are_refused(folder: Path) -> None:
    (folder / "docker-compose.other.yml").write_text(f"image: ${{REDIS_IMAGE:-redis:8@{NEW}}}\n", encoding="utf-8")
    with pytest.raises(UserError, match="REDIS_IMAGE"):
        images.references(folder)
