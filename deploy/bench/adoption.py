"""A collection that was made elsewhere, registered with a running service under the name ``bench``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from deploy.bench.encoder import NAME
from deploy.bench.service import RunningApi
from lcl_core.rundir import write_json_atomically
from lcl_core.runs.database import now
from lcl_core.runs.ids import new_id
from lcl_core.runs.tables import Collection
from lcl_core.serving.layout import MANIFEST, read_manifest


def adopt(api: RunningApi, place: Path, encoder: dict[str, Any]) -> None:
    """As this registered encoder's, its files linked into the service's home."""
    identity = new_id("col")
    own = api.home / "collections" / identity
    own.mkdir(parents=True)
    for path in place.iterdir():
        if path.name != MANIFEST:
            os.symlink(path.resolve(), own / path.name)
    manifest = read_manifest(place)
    write_json_atomically(own / MANIFEST, {**manifest.model_dump(), "encoder_hash": encoder["hash"]})
    sizes = {"images": manifest.images, "texts": manifest.texts, "dim": manifest.dim}
    with api.database.session() as session:
        facts = {"owner": "bench", "created_at": now(session), **sizes}
        facts |= {"encoder_id": encoder["id"], "encoder_hash": encoder["hash"]}
        facts["encoder_identity"] = encoder["identity"]
        session.add(Collection(id=identity, name=NAME, path=f"collections/{identity}", **facts))
