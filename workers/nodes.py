"""Runs of several nodes, as the worker of node 0 sees the others: it calls them, and learns how they ended."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence

from sqlalchemy import make_url

from lcl_core.rundir import Exit, RunDir
from lcl_core.runs.database import UNREACHABLE, Database
from lcl_core.runs.store import Claim, Failed, Loss, Outcome, losses, open_meeting, renew
from workers.settings import WorkerSettings
from workers.verdict import Ending, Exited, HandBack

Verdict = Outcome | HandBack
_DISCARD_PORT = 9  # nothing is sent there: it only makes the system choose a way


def call_others(database: Database, settings: WorkerSettings, claim: Claim) -> dict[str, str]:
    """Tell the others where all meet, once the run's folder is ready; nothing to do for a run of one node.

    Returns: what the process of node 0 needs in its environment. Raises: StaleLease, UNREACHABLE.
    """
    if claim.nodes == 1:
        return {}
    host = settings.worker_address or own_address(settings.resolved_database_url)
    address = f"{host}:{_free_port()}"
    with database.session() as session:
        open_meeting(session, claim, address)
    return environment_of(claim, address)


def environment_of(claim: Claim, address: str) -> dict[str, str]:
    """What tells a run's process which of several nodes it is (``lcl_core.train.launch``)."""
    return {"LCL_NODES": str(claim.nodes), "LCL_NODE": str(claim.node), "LCL_MEETING": address}


def own_address(database_url: str) -> str:
    """By which other workers reach this machine: the one that leads to the database; this machine's own without one."""
    host = make_url(database_url).host
    if not host or host.startswith("/"):
        return "127.0.0.1"
    family, kind, protocol, _, target = socket.getaddrinfo(host, _DISCARD_PORT, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(target)
        address: str = probe.getsockname()[0]
        return address


def is_echo(run_dir: RunDir, exited: Exited) -> bool:
    """Whether node 0 may have ended only because another node had: what it says of itself is then not the cause."""
    if run_dir.result_file.exists() or run_dir.error_file.exists():
        return False
    by_itself = exited.ending is None and exited.status in (Exit.CRASH, Exit.CANCELLED)
    return by_itself or exited.ending is Ending.NODE


def verdict_of_all(database: Database, settings: WorkerSettings, claim: Claim, own: Verdict) -> Verdict:
    """What the end of all nodes means, ``own`` being what node 0 alone would say.

    Waits until the others have told how they ended, or a lease's length. Raises: StaleLease.
    """
    found: list[Loss] = []
    deadline = time.monotonic() + settings.lease_seconds
    while time.monotonic() < deadline:
        try:
            with database.session() as session:
                renew(session, claim, settings.lease_seconds)
                found, complete = losses(session, claim)
        except UNREACHABLE:
            complete = False
        if complete or any(_explains(loss) for loss in found):
            break
        time.sleep(settings.watch_seconds)
    return _strongest(found, own)


def _explains(loss: Loss) -> bool:
    """A crash may be an echo as well; a lost worker, a signal, or too little memory is a cause."""
    return loss.reason is None or loss.reason["code"] != "crash"


def _strongest(found: Sequence[Loss], own: Verdict) -> Verdict:
    causes = sorted((loss for loss in found if _explains(loss)), key=lambda loss: loss.reason is not None)
    if causes:
        first = causes[0]
        return Failed(first.reason) if first.reason else HandBack(first.uses_attempt, first.message)
    if isinstance(own, Failed) and found:
        return Failed({**own.reason, "message": "; ".join([own.reason["message"], *(loss.message for loss in found)])})
    if isinstance(own, HandBack) and found and found[0].reason:  # node 0 was ended because the other had crashed
        return Failed(found[0].reason)
    return own


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port
