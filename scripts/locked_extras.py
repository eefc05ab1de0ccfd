"""The part of ``requirements/extras.lock`` that some extras need: ``python -m scripts.locked_extras qdrant,ray``.

The lock file has the service with all extras that the image may get, and pip installs every line that it is given: the
image is built with the lines of the chosen extras. Nothing is installed by then, so this imports the standard library
alone.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "extras.lock"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
ENTRY = re.compile(r"^[A-Za-z0-9].*?(?=^[A-Za-z0-9]|\Z)", re.MULTILINE | re.DOTALL)
PARENT = re.compile(r"^ +# +(?:via +)?([A-Za-z0-9][A-Za-z0-9._-]*)(?: .*)?$", re.MULTILINE)


def available_extras(lock: str) -> set[str]:
    """Extras beside ``service`` that the lock file was made with, by the command in its head."""
    return set(re.findall(r" --extra (\S+)", lock.partition("\n")[2].partition("\n")[0])) - {"service"}


def select_entries(lock: str, direct: Iterable[str]) -> str:
    """Lines of the libraries in ``direct`` and of all that they need, by uv's comments, which say what needs each."""
    entries = [(_name(text), text) for text in ENTRY.findall(lock)]  # of a name several, for different Pythons
    parents = [(name, {_canonical(parent) for parent in PARENT.findall(text)}) for name, text in entries]
    chosen = {_canonical(name) for name in direct}
    while added := {name for name, needed_by in parents if name not in chosen and needed_by & chosen}:
        chosen |= added
    return "".join(text for name, text in entries if name in chosen)


def direct_requirements(extras: Iterable[str]) -> list[str]:
    """Names of the libraries that pyproject.toml lists for these extras."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    return [_name(line) for extra in extras for line in groups[extra]]


def _name(requirement: str) -> str:
    match = NAME.match(requirement)
    if match is None:
        raise ValueError(f"{requirement!r} names no library")
    return _canonical(match[0])


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m scripts.locked_extras", description=__doc__)
    parser.add_argument("extras", nargs="?", default="", help="separated by commas")
    extras = [extra for part in parser.parse_args(arguments).extras.split(",") if (extra := part.strip())]
    lock = LOCK.read_text(encoding="utf-8")
    if unknown := sorted(set(extras) - available_extras(lock)):
        known = ", ".join(sorted(available_extras(lock)))
        sys.stderr.write(f"error: LCL_EXTRAS: {', '.join(unknown)} cannot be added to the image; it may have {known}\n")
        return 2
    sys.stdout.write(select_entries(lock, direct_requirements(extras)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
