"""What the product stands on: bounded, and no version that is known to be dangerous to a service like this one.

The table is read without a network, for what is installed, admitted, and locked (``test_lock.py``). ``make audit`` asks
PyPI's advisories about every locked library.
"""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
# The first version without the weakness, where it lies in the way of what somebody sends or gives to read.
FIXED = {
    "aiohttp": ("3.12.14", "CVE-2025-53643: request smuggling"),
    "celery": ("5.2.2", "CVE-2021-23727: commands in stored exceptions"),
    "gradio": ("5.31.0", "CVE-2025-48889: files copied by anybody"),
    "h11": ("0.16.0", "CVE-2025-43859: request smuggling by chunks"),
    "jinja2": ("3.1.6", "CVE-2025-27516: out of the sandbox"),
    "lxml": ("4.9.1", "CVE-2022-2309: a crash by a document"),
    "pillow": ("11.3.0", "CVE-2025-48379: memory overwritten when a DDS file is made"),
    "protobuf": ("5.29.5", "CVE-2025-4565: endless recursion"),
    "pyarrow": ("14.0.1", "CVE-2023-47248: code in a file's schema"),
    "pydantic": ("2.4.0", "CVE-2024-3772: a slow pattern for addresses"),
    "python-multipart": ("0.0.18", "CVE-2024-53981: a slow body"),
    "requests": ("2.32.4", "CVE-2024-47081: credentials to another host"),
    "setuptools": ("78.1.1", "CVE-2025-47273: files outside the folder"),
    "starlette": ("0.49.1", "CVE-2025-62727: a slow Range header"),
    "torch": ("2.6.0", "CVE-2025-32434: code in weights read as data"),
    "transformers": ("4.53.0", "CVE-2025-6921: a slow pattern"),
    "urllib3": ("2.5.0", "CVE-2025-50181: redirects that were switched off"),
}
UNBOUNDED = {"regex", "types-regex"}  # versions are dates: there is no older API


def declared() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    found = [Requirement(line) for group in groups for line in group]
    return [requirement for requirement in found if requirement.name != project["name"]]


@pytest.mark.parametrize("name", FIXED)
def test_nothing_known_to_be_dangerous_is_installed(name: str) -> None:
    first, why = FIXED[name]
    try:
        installed = version(name)
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    assert Version(installed) >= Version(first), f"{name} {installed}: {why}; upgrade to {first} or newer"


def test_nothing_known_to_be_dangerous_is_allowed() -> None:
    allowed = [
        f"{requirement}: below {FIXED[requirement.name][0]}, {FIXED[requirement.name][1]}"
        for requirement in declared()
        if requirement.name in FIXED and not _from(requirement) >= Version(FIXED[requirement.name][0])
    ]
    assert not allowed, "\n".join(allowed)


def test_every_dependency_is_bounded_and_comes_from_the_index() -> None:
    for requirement in declared():
        assert requirement.url is None, f"{requirement.name}: comes from an address of its own"
        if requirement.name not in UNBOUNDED:
            assert _from(requirement) > Version("0"), f"{requirement.name}: say from which version on"


def _from(requirement: Requirement) -> Version:
    """The lowest version that may be installed."""
    lowest = [Version(each.version) for each in requirement.specifier if each.operator in (">=", "==", "~=")]
    return max(lowest, default=Version("0"))
