"""The lock files: every library that is installed, at one version, with the SHA-256 of each of its files.

torch and torchvision are not in them, because their builds differ by machine; see pyproject.toml.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from scripts.locked_extras import LOCK, available_extras

pytestmark = pytest.mark.extended

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
UNLOCKED = set(PROJECT["tool"]["uv"]["pip"]["no-emit-package"])
BY_THE_BUILD = re.compile(r"torch|torchvision|triton|nvidia-.*|cuda-.*")
IMAGE_EXTRAS = available_extras(LOCK.read_text(encoding="utf-8"))
SETS = {
    "service": {"service"},
    "test": {"service", "test"},
    "docs": {"service", "docs"},
    "extras": {"service", *IMAGE_EXTRAS},
}
PYTHONS = ("3.11", "3.12", "3.13")


@dataclass(frozen=True)
class Entry:
    """One version of a library, for the environments that its marker admits."""

    requirement: Requirement
    hashes: frozenset[str]

    @property
    def version(self) -> Version:
        (pinned,) = self.requirement.specifier
        assert pinned.operator == "=="
        return Version(pinned.version)

    def admits(self, environment: dict[str, str] | None = None) -> bool:
        return self.requirement.marker is None or self.requirement.marker.evaluate(environment)


def read(name: str) -> dict[str, list[Entry]]:
    """The entries of a lock file by name. Every line must be one that pip reads as a pinned version with hashes."""
    entries: dict[str, list[Entry]] = {}
    text = (ROOT / "requirements" / f"{name}.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            stated, *hashes = re.split(r"\s+--hash=", line.strip())
            requirement = Requirement(stated)
            entry = Entry(requirement, frozenset(hashes))
            entries.setdefault(canonicalize_name(requirement.name), []).append(entry)
    return entries


LOCKS = {name: read(name) for name in SETS}


def direct(extras: set[str]) -> list[Requirement]:
    """What pyproject.toml asks for, the extras that one of these extras names included."""
    groups = PROJECT["project"]["optional-dependencies"]
    wanted, lines = set(extras), list(PROJECT["project"]["dependencies"])
    while wanted:
        for line in groups[wanted.pop()]:
            requirement = Requirement(line)
            if requirement.name == PROJECT["project"]["name"]:
                wanted |= requirement.extras
            else:
                lines.append(line)
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("name", SETS)
def test_every_entry_is_one_version_with_hashes(name: str) -> None:
    assert len(LOCKS[name]) > 100
    for library, entries in LOCKS[name].items():
        for entry in entries:
            assert entry.version
            assert entry.requirement.url is None, f"{library} comes from an address of its own"
            assert entry.hashes, f"{library} has no hash"
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in entry.hashes), library


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("python", PYTHONS)
def test_no_environment_has_two_versions_of_one_library(name: str, python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.9"}
    for library, entries in LOCKS[name].items():
        assert sum(entry.admits(environment) for entry in entries) <= 1, library


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("python", PYTHONS)
def test_what_pyproject_asks_for_is_locked_within_its_range(name: str, python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.9"}
    groups = PROJECT["dependency-groups"]
    building = groups["build"] + (groups["supply-chain"] if name == "test" else [])
    assert set(PROJECT["build-system"]["requires"]) <= set(groups["build"])
    for requirement in [*direct(SETS[name]), *map(Requirement, building)]:
        library = canonicalize_name(requirement.name)
        if library in UNLOCKED or (requirement.marker and not requirement.marker.evaluate(environment)):
            continue
        locked = [entry.version for entry in LOCKS[name].get(library, ()) if entry.admits(environment)]
        assert len(locked) == 1, f"{requirement} is not locked; run make lock"
        assert requirement.specifier.contains(locked[0], prereleases=True), f"{requirement}: {locked[0]}; run make lock"


def test_what_depends_on_the_machine_is_not_locked() -> None:
    for lock in LOCKS.values():
        assert not [library for library in lock if BY_THE_BUILD.fullmatch(library)]
    for requirement in direct({"service", "test"}):
        if requirement.name in UNLOCKED:
            assert {each.operator for each in requirement.specifier} == {">="}, "a build of this machine's must fit"


@pytest.mark.parametrize("name", ["service", "docs"])
def test_the_service_and_its_documentation_run_what_was_tested(name: str) -> None:
    """The same versions and files; markers may be wider with the test tools, which want some on more platforms."""
    for library, entries in LOCKS[name].items():
        tested = {entry.version: entry.hashes for entry in LOCKS["test"].get(library, ())}
        assert {entry.version: entry.hashes for entry in entries} == tested, library


def test_an_extra_of_the_image_changes_no_library_of_the_service() -> None:
    """And is what was tested, but for Ray, which the test tools do not have."""
    extras = {name: {entry.version: entry.hashes for entry in entries} for name, entries in LOCKS["extras"].items()}
    for library, entries in LOCKS["service"].items():
        assert {entry.version: entry.hashes for entry in entries} == extras[library], library
    tested = {name: {entry.version: entry.hashes for entry in entries} for name, entries in LOCKS["test"].items()}
    assert {name for name, versions in extras.items() if versions != tested.get(name)} == {"ray"}


def installed() -> dict[str, metadata.Distribution]:
    """What lcl and its extras lead to here, the libraries that only torch's build asks for apart."""
    found: dict[str, metadata.Distribution] = {}
    wanted = [(PROJECT["project"]["name"], frozenset({"service", "test"}))]
    seen = set()
    while wanted:
        name, extras = wanted.pop()
        if (name, extras) in seen or BY_THE_BUILD.fullmatch(name):
            continue
        seen.add((name, extras))
        found[name] = metadata.distribution(name)
        for line in found[name].requires or ():
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": each}) for each in extras | {""}):
                wanted.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return found


def test_what_is_installed_is_what_is_locked() -> None:
    """Nothing came from an index by itself: an entry is missing, or make setup was not run since the lock changed."""
    here = installed()
    del here[PROJECT["project"]["name"]]
    assert len(here) > 150
    for library, distribution in here.items():
        locked = [entry.version for entry in LOCKS["test"].get(library, ()) if entry.admits()]
        assert locked == [Version(distribution.version)], f"{library}: run make test, which installs what is locked"
