"""Checkpoints of a run of several nodes in the artifact store: each node copies the files of its ranks, from its home.

The homes of the nodes may be different folders. Of a checkpoint each then has the files that its ranks wrote. For some
checkpoints the training leaves links to these in ``RUN_DIR/outgoing``, in all homes of the same ones:

1. Every node copies the files of its ranks, oldest checkpoint first, and records them in ``parts/NODE.json``.
2. Node 0 copies what else its folder has, and writes ``manifest.json`` and the row once nothing is missing.
3. Node 0 removes its links. While two checkpoints wait in its folder, the training leaves out further ones.

An attempt of several nodes starts from the newest copy in the store, or from a newer checkpoint that node 0's home has
as a whole. Node 0 prepares its folder, and the others theirs once they know its address. Each fetches what its ranks
read. A node that finds a copy damaged deletes its row and ends the attempt, so that all nodes start from an older one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from lcl_core.common.errors import UserError
from lcl_core.common.files import fsync_path, remove_tree, sha256_file
from lcl_core.common.run_dir import RunDir
from lcl_core.db.artifacts import Artifacts, StoredCheckpoint, stored_checkpoints
from lcl_core.db.leases import Claim
from lcl_core.db.session import Database
from lcl_core.train.checkpoint.manifest import CheckpointManifest
from workers.fetch_checkpoints import DAMAGES, fetch_copy, forget_copy, node_ranks
from workers.lease_keeper import AttemptInterrupted, LeaseKeeper
from workers.prepare_run import fetch_inputs, locked_run_dir, prepare_node_dir
from workers.remote_checkpoints import (
    CHECKPOINT,
    OWN_MANIFEST,
    CheckpointCopier,
    Snapshot,
    checkpoint_key,
    copies_checkpoints,
    is_whole,
    local_checkpoints,
    read_own_manifest,
    remove_links,
    tensor_ranges,
    written_checkpoints,
)
from workers.settings import WorkerSettings

_TENSORS = ".safetensors"
log = structlog.get_logger(__name__)


def copier_class(claim: Claim) -> type[CheckpointCopier]:
    """The class that copies the checkpoints which a node of this run writes."""
    if not claim.is_gang:
        return CheckpointCopier
    return FirstNodeCopier if claim.node == 0 else NodeCopier


def open_outgoing(settings: WorkerSettings, claim: Claim, run_dir: RunDir) -> None:
    """Make the training leave checkpoints to be copied, if they are. Those of earlier attempts are removed."""
    remove_tree(run_dir.outgoing)
    if claim.is_gang and copies_checkpoints(settings, claim):
        run_dir.outgoing.mkdir()


class FirstNodeCopier(CheckpointCopier):
    """Copies the outgoing checkpoints of node 0's home, and names each once the other nodes have sent their files."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._source = self._run_dir.outgoing

    def _choose(self) -> Snapshot | None:
        if self._snapshot is None:
            for step, path in reversed(written_checkpoints(self._source)):
                return self._prepare_snapshot(step, path)
        return self._snapshot

    def _awaits_others(self) -> bool:
        return self._snapshot is not None and self._snapshot.files.keys() == self._snapshot.sent

    def _own_names(self, checkpoint: Path, manifest: CheckpointManifest) -> Iterable[str]:
        return [name for name in manifest.files if (checkpoint / name).is_file()]

    def _describe(self, snapshot: Snapshot) -> dict[str, Any] | None:
        described = super()._describe(snapshot)
        assert described is not None
        files: dict[str, Any] = dict(described["files"])
        tensors: dict[str, Any] = dict(described["tensors"])
        manifest = read_own_manifest(snapshot.folder / CHECKPOINT)
        expected = {f"{CHECKPOINT}/{name}": digest for name, digest in manifest.files.items()}
        if expected.keys() - files.keys():
            for part in self._artifacts.store.read_parts(snapshot.key):
                sent = {name: entry for name, entry in part["files"].items() if expected.get(name) == entry["sha256"]}
                files, tensors = sent | files, part["tensors"] | tensors
        return None if expected.keys() - files.keys() else {**described, "files": files, "tensors": tensors}

    def _record(self, snapshot: Snapshot, stored: StoredCheckpoint) -> None:
        try:
            super()._record(snapshot, stored)
        finally:
            if self._snapshot is None:
                remove_tree(self._source / snapshot.folder.name)


class NodeCopier(CheckpointCopier):
    """Copies the files of the ranks of a node above 0. If node 0 has the same home and all files, it copies them."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._ranks, _ = node_ranks(self._claim)
        self._folder = self._run_dir.path / f"uploading-{self._claim.node}" / self._claim.attempt_id  # has no links

    def _copy_next(self) -> bool:
        for step, checkpoint in reversed(written_checkpoints(self._run_dir.outgoing)):
            if is_whole(checkpoint):
                continue
            names = read_own_manifest(checkpoint).written_by(self._ranks)
            if own := [name for name in names if (checkpoint / name).is_file()]:
                return self._send(step, checkpoint, own)
        return False

    def _send(self, step: int, checkpoint: Path, names: list[str]) -> bool:
        store, key = self._artifacts.store, checkpoint_key(self._claim, checkpoint.name)
        digests = read_own_manifest(checkpoint).files
        files: dict[str, dict[str, Any]] = {}
        tensors: dict[str, dict[str, list[int]]] = {}
        for name in names:
            if self._abandoned.is_set():
                return False
            stored = f"{CHECKPOINT}/{name}"
            store.send_file(key, stored, checkpoint / name)
            files[stored] = {"bytes": (checkpoint / name).stat().st_size, "sha256": digests[name]}
            if ranges := tensor_ranges(checkpoint / name):
                tensors[stored] = ranges
        store.put_part(key, self._claim.node, {"files": files, "tensors": tensors})
        for name in names:
            (checkpoint / name).unlink()
        if not any(checkpoint.rglob(f"*{_TENSORS}")):  # else another node has this home too
            remove_tree(checkpoint)
        size = sum(entry["bytes"] for entry in files.values())
        log.info("checkpoint_part_copied", step=step, files=len(files), bytes=size)
        return True


@contextmanager
def prepared_node(
    database: Database,
    settings: WorkerSettings,
    artifacts: Artifacts,
    claim: Claim,
    run_dir: RunDir,
    lease: LeaseKeeper,
) -> Iterator[None]:
    """RUN_DIR of a node above 0 is ready, until the end of the block. Without copies it is node 0's.

    Raises (on entry): UserError; AttemptInterrupted, StaleLease, UNREACHABLE, OSError.
    """
    if not copies_checkpoints(settings, claim):
        yield
        return
    with fetch_inputs(database, settings, artifacts, claim, lease) as fetched:
        stored = lease.persist(lambda: _newest_copy(database, claim))
        if not _is_prepared(run_dir, claim):
            with locked_run_dir(settings, run_dir, lease):
                if not _is_prepared(run_dir, claim):  # by another node of this home
                    _remove_others(run_dir, stored)
                    open_outgoing(settings, claim, run_dir)
                    lease.persist(lambda: prepare_node_dir(database, settings, claim, run_dir, fetched))
        if stored is not None:
            _fetch_files(database, artifacts, claim, run_dir, lease, stored)
        yield


def _newest_copy(database: Database, claim: Claim) -> StoredCheckpoint | None:
    with database.reading() as session:
        return next(iter(stored_checkpoints(session, claim.run_id)), None)


def _is_prepared(run_dir: RunDir, claim: Claim) -> bool:
    """Whether a node of this attempt has prepared the folder: node 0, or another one of this home."""
    try:
        return run_dir.read_run().get("attempt_id") == claim.attempt_id
    except (OSError, ValueError):
        return False


def _remove_others(run_dir: RunDir, stored: StoredCheckpoint | None) -> None:
    """Remove checkpoints other than the one that this attempt starts from. Raises: OSError."""
    for path in run_dir.checkpoints.glob("step_*"):
        manifest = path / OWN_MANIFEST
        if stored is None or not manifest.is_file() or sha256_file(manifest) != stored.content:
            remove_tree(path)


def _fetch_files(
    database: Database,
    artifacts: Artifacts,
    claim: Claim,
    run_dir: RunDir,
    lease: LeaseKeeper,
    stored: StoredCheckpoint,
) -> None:
    """Add what the ranks of this node read to the checkpoint in RUN_DIR; other nodes may do so at the same time.

    Raises: AttemptInterrupted for a damaged copy; as :func:`prepared_node`.
    """
    if any(step >= stored.step for step, _ in local_checkpoints(run_dir.checkpoints)):
        return  # node 0 has this home, and a whole checkpoint
    folder = run_dir.path / f"fetching-{claim.node}"
    target = run_dir.checkpoints / f"step_{stored.step:08d}"
    try:
        fetch_copy(artifacts, stored, folder, run_dir, lease.raise_if_interrupted, claim)
    except UserError as error:
        if error.code not in DAMAGES:
            raise
        log.warning("stored_checkpoint_damaged", step=stored.step, key=stored.key, error=str(error))
        forget_copy(database, lease, claim, stored)
        raise AttemptInterrupted(f"the copy of step {stored.step} in the store is damaged: {error}") from error
    names = sorted(read_own_manifest(folder / CHECKPOINT).files)
    for name in (*names, OWN_MANIFEST):  # the manifest last
        source = folder / CHECKPOINT / name
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            source.replace(target / name)
    for path in (target, *filter(Path.is_dir, target.iterdir())):
        fsync_path(path)
    remove_links(folder)
    log.info("checkpoint_fetched", step=stored.step, key=stored.key)
