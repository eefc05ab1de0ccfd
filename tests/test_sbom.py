"""The bill of materials that ``make sbom`` writes: every locked library of the service, with its hashes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

from tests.test_lock import LOCKS

pytestmark = pytest.mark.extended

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def bill(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the command of the Makefile makes, beside a proxy that leads nowhere."""
    file = tmp_path_factory.mktemp("sbom") / "sbom.cdx.json"
    plan = subprocess.run(["make", "-n", "sbom"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in plan.replace("\\\n", " ").splitlines() if "cyclonedx-py" in line]
    command = line.replace("build/sbom.cdx.json", str(file)).split()
    command[0] = str(Path(sys.executable).parent / "cyclonedx-py")
    nowhere = {"PATH": "/usr/bin:/bin", "HTTPS_PROXY": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1"}
    done = subprocess.run(command, cwd=ROOT, env=nowhere, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text(encoding="utf-8"))


def test_it_is_about_this_product(bill: dict) -> None:
    about = bill["metadata"]["component"]
    assert (bill["bomFormat"], about["name"], about["type"]) == ("CycloneDX", "lcl", "application")
    assert bill["specVersion"] >= "1.6"


def test_every_locked_library_is_in_it_and_nothing_else(bill: dict) -> None:
    found = {
        (component["purl"].removeprefix("pkg:pypi/").partition("@")[0], Version(component["version"]))
        for component in bill["components"]
    }
    assert found == {(name, entry.version) for name, entries in LOCKS["service"].items() for entry in entries}


def test_each_has_the_hashes_of_its_files(bill: dict) -> None:
    for component in bill["components"]:
        (entry,) = [
            entry
            for entry in LOCKS["service"][re.sub(r"[-_.]+", "-", component["name"].lower())]
            if str(entry.version) == component["version"]
        ]
        hashes = {
            f"sha256:{each['content']}"
            for reference in component["externalReferences"]
            for each in reference.get("hashes", ())
            if each["alg"] == "SHA-256"
        }
        assert hashes == entry.hashes, component["name"]
