"""Who made what and on what terms: the packages' own words beside the corpus, and a list of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from lcl_core.corpora.licences import Choice, allowed
from lcl_core.corpora.packages import Package
from lcl_core.corpora.sources import Source

FOLDER, FILE = "licences", "NOTICE"
_HEAD = """\
This corpus is made of works of others. Pictures were made smaller, put on a white background and saved as WebP; texts
were cut into sentences. Each line of pairs/ and interleaved/ names the licence of its work ("see pairs": of each of
its pictures), and licences/ holds what the packages say of authors and terms. Whoever passes the corpus on passes
these on with it, and keeps to them.
"""


def write_notices(folder: Path, sources: list[Source], files: Mapping[str, Path], choice: Choice) -> None:
    """Leave ``NOTICE`` and ``licences/`` in ``folder``. ``files``: the unpacked packages, by name."""
    parts = [_HEAD]
    for source in sources:
        taken = ", ".join(licence for licence in source.licences if allowed(licence, choice))
        parts.append(f"\n{source.name}: {source.about}\n  {taken}\n")
        for package in source.needs(choice):
            kept = _keep(folder / FOLDER / _plain(package), package, files[package.name])
            parts.append(f"  {package.client} package {package.name} {package.version}: {', '.join(kept)}\n")
    (folder / FILE).write_text("".join(parts), encoding="utf-8")


def _keep(folder: Path, package: Package, files: Path) -> list[str]:
    """Copies of the package's notices; their names in the corpus. Some packages only link to another's."""
    kept = []
    for name in package.notices:
        if (files / name).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / Path(name).name
            shutil.copyfile(files / name, target)
            kept.append(f"{FOLDER}/{folder.name}/{target.name}")
    return kept or ["no notice of its own"]


def _plain(package: Package) -> str:
    return package.name.replace("@", "").replace("/", "-")
