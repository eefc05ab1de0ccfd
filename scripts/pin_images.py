"""Container images pinned by version and digest: ``make pin-images``.

A tag is moved by whoever owns it; a digest is the SHA-256 of the content. The compose files and the Dockerfile hold
each reference as the default of a variable ``…_IMAGE``, which ``.env`` may override.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from lcl_core.common.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
FILES = ("docker-compose*.yml", "deploy/Dockerfile")
REFERENCE = re.compile(
    r"(?P<before>\$\{(?P<compose>(?!LCL_)\w+_IMAGE):-|^ARG (?P<argument>\w+_IMAGE)=)"
    r"(?P<name>[a-z0-9./_-]+:[\w.-]+)(?:@(?P<digest>sha256:[0-9a-f]{64}))?(?=\}|$)",
    re.MULTILINE,
)
INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")


def files(root: Path) -> list[Path]:
    """The files that name images."""
    return sorted(file for pattern in FILES for file in root.glob(pattern))


def references(root: Path) -> dict[str, tuple[str, str | None]]:
    """By variable: ``NAME:TAG`` and its digest, None where it is not pinned.

    Raises: UserError ``image_ambiguous`` if a variable has two defaults.
    """
    images: dict[str, tuple[str, str | None]] = {}
    for file in files(root):
        for match in REFERENCE.finditer(file.read_text(encoding="utf-8")):
            variable = match["compose"] or match["argument"]
            image = (match["name"], match["digest"])
            if images.setdefault(variable, image) != image:
                raise UserError(f"{file.name}: {variable} has another default than elsewhere", code="image_ambiguous")
    return images


def resolve(image: str) -> str:
    """Digest of the multi-platform index that ``NAME:TAG`` points to, from the registry.

    Raises: UserError ``image_unresolved`` if Docker cannot resolve it, or if the tag names a single-platform image.
    """
    command = ["docker", "buildx", "imagetools", "inspect", image, "--format", "{{json .Manifest}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise UserError(
            "docker is not installed; it is needed to query the image registry", code="image_unresolved"
        ) from error
    if done.returncode != 0:
        raise UserError(f"{image}: {done.stderr.strip()}", code="image_unresolved")
    manifest = json.loads(done.stdout)
    if manifest["mediaType"] not in INDEXES:
        raise UserError(f"{image}: is for one platform only ({manifest['mediaType']})", code="image_unresolved")
    return str(manifest["digest"])


def pin(root: Path) -> list[str]:
    """Write the current digest of every image. All are resolved before the first file is written.

    Returns: a line for each image whose digest changed.
    """
    known = {image: (old, resolve(image)) for image, old in references(root).values()}
    for file in files(root):
        text = file.read_text(encoding="utf-8")
        pinned = REFERENCE.sub(lambda match: f"{match['before']}{match['name']}@{known[match['name']][1]}", text)
        if pinned != text:
            file.write_text(pinned, encoding="utf-8")
    return [f"{image}: {old or 'not pinned'} -> {new}" for image, (old, new) in known.items() if old != new]


def main() -> None:
    try:
        changed = pin(ROOT)
    except UserError as error:
        sys.exit(str(error))
    sys.stdout.write(("\n".join(changed) or "every image has the digest that its tag points to") + "\n")


if __name__ == "__main__":
    main()
