"""Files by which a worker and the processes on the nodes of a job communicate, where they share only a file system.

    RUN_DIR/agent/NAME/
      start.json      what each node starts
      control.jsonl   one line for each worker that attaches, and for each of its commands; its time is a worker's
                      heartbeat. A command of another worker than the last one that attached is void.
      node-N.jsonl    what node N reports; later lines replace keys of earlier ones
      output.txt      output of the engine's own programs; that of the job is in the run's log

Files are appended to in place and exist before a node reads them: NFS shows new content of a file when it is opened,
but new names only after up to a minute. Each node file has one writer.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lcl_core.common.files import write_json_atomically

_ATTACH = "attach"
_REPORTED_ENOUGH = 1 << 20  # bytes of a file that is read again and again; its writers write a few lines


@dataclass(frozen=True)
class StartOrder:
    """What each node starts.

    Attributes:
        rendezvous_seconds: for all nodes to know where their ranks connect, and to do so.
        orphan_seconds: without a heartbeat of a worker, after which the process saves its state and ends.
        grace_seconds: between SIGTERM and SIGKILL then.
    """

    module: str
    run_dir: str
    title: str
    protocols: list[str]
    nodes: int
    gpus: int
    rendezvous_seconds: float
    orphan_seconds: float
    grace_seconds: float


@dataclass(frozen=True)
class NodeReport:
    """What a node has reported so far.

    Attributes:
        address: HOST:PORT where the ranks of the run connect; of node 0 alone.
        log_start: byte offset in the node's log of the output of its process, which has started.
        status: exit status of the process.
        stacks: what came of the command ``stacks_command``.
    """

    address: str = ""
    log_start: int | None = None
    status: int | None = None
    stacks: str = ""
    stacks_command: str = ""


@dataclass
class CommandReader:
    """Reads the commands of the worker that attached last, each once."""

    path: Path
    owner: str = ""
    _offset: int = field(default=0)

    def read(self) -> list[str]:
        """New commands: ``terminate``, ``kill``, ``stacks ID``. Raises: FileNotFoundError if the folder is gone."""
        lines, self._offset = _read_lines(self.path, self._offset)
        commands = []
        for line in lines:
            if line["command"] == _ATTACH:
                self.owner = line["owner"]
            elif line["owner"] == self.owner:
                commands.append(line["command"])
        return commands


class JobFolder:
    """The folder of one job."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start_file = path / "start.json"
        self.control_file = path / "control.jsonl"
        self.output_file = path / "output.txt"

    def create(self, order: StartOrder) -> None:
        self.path.mkdir(parents=True)
        write_json_atomically(self.start_file, asdict(order))
        for file in (self.control_file, self.output_file, *(self._node_file(n) for n in range(order.nodes))):
            file.touch()

    def read_start(self) -> StartOrder:
        return StartOrder(**json.loads(self.start_file.read_text(encoding="utf-8")))

    def attach(self, owner: str) -> None:
        """Make ``owner`` the only one whose commands are executed. Raises: FileNotFoundError."""
        self.command(owner, _ATTACH)

    def command(self, owner: str, command: str) -> None:
        """Raises: FileNotFoundError."""
        _append_line(self.control_file, {"owner": owner, "command": command})

    def renew(self) -> None:
        """A heartbeat of the worker. Raises: FileNotFoundError."""
        os.utime(self.control_file)

    def owner(self) -> str:
        """The worker that attached last; '' when the folder is gone."""
        reader = CommandReader(self.control_file)
        with contextlib.suppress(FileNotFoundError):
            reader.read()
        return reader.owner

    def report(self, number: int, **values: Any) -> None:
        _append_line(self._node_file(number), values)

    def read_report(self, number: int) -> NodeReport:
        """Empty until the node has reported, and when the folder is gone."""
        merged: dict[str, Any] = {}
        with contextlib.suppress(FileNotFoundError):
            for line in _read_lines(self._node_file(number), 0)[0]:
                merged |= line
        return NodeReport(**merged)

    def read_reports(self, nodes: int) -> list[NodeReport]:
        return [self.read_report(number) for number in range(nodes)]

    def last_output(self) -> str:
        """The last line that the engine's programs wrote; '' if there is none."""
        with contextlib.suppress(OSError):
            text = self.output_file.read_text(encoding="utf-8", errors="replace")
            return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
        return ""

    def _node_file(self, number: int) -> Path:
        return self.path / f"node-{number}.jsonl"


def _append_line(path: Path, value: Any) -> None:
    """In one write, to a file that exists."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, f"{json.dumps(value)}\n".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_lines(path: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """Complete lines from ``offset`` on, and the offset after them."""
    with path.open("rb") as file:
        file.seek(offset)
        content = file.read(_REPORTED_ENOUGH)
    complete = content[: content.rfind(b"\n") + 1]
    return [json.loads(line) for line in complete.splitlines()], offset + len(complete)
