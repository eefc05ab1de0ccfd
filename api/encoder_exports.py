"""Encoders rewritten in formats of others, each by a process of its own: its memory and its crashes stay there."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import structlog

from api.encoder_files import files_of
from api.errors import Problem
from api.settings import ApiSettings
from lcl_core.confinement import Limits, run_confined
from lcl_core.interop.exports import FORMATS, check
from lcl_core.interop.exports.__main__ import REFUSED
from lcl_core.interop.origins import recognise
from lcl_core.runs.ids import new_id

log = structlog.get_logger(__name__)

ExportFormat = Literal["lcl", "huggingface", "openclip", "timm", "onnx"]
AS_IT_IS: ExportFormat = "lcl"
CARRIED = f"`lcl`: as it lies here; {'; '.join(f'`{name}`: {each.carries}' for name, each in FORMATS.items())}"
WRITTEN_BYTES, WRITTEN_TIMES = 64 << 20, 4  # of a file of the copy: bf16 becomes fp32
AT_ONCE = 4  # copies on the disk, from the first byte that is made to the last that is sent


class Exporter:
    """Makes copies and takes them away again. Thread-safe."""

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self._places = threading.BoundedSemaphore(AT_ONCE)

    @contextmanager
    def files(self, directory: Path, name: ExportFormat) -> Iterator[list[Path]]:
        """The encoder's files in that format, until the end of the block.

        Raises: Problem 410 (its own are gone), 422 ``not_expressible`` with the reason, 503 (too many at once).
        """
        own = files_of(directory)
        if name == AS_IT_IS or name == recognise(directory).kind:
            yield own
            return
        check(name, directory)
        size = sum(path.stat().st_size for path in own)
        if size > self._settings.max_export_bytes:
            message = f"its {size} bytes are more than the service rewrites (LCL_MAX_EXPORT_BYTES); take format=lcl"
            raise Problem(422, "too_large", message, field="format")
        with self._copy(directory, name) as copy:
            yield sorted(path for path in copy.iterdir() if path.is_file())

    @contextmanager
    def _copy(self, directory: Path, name: str) -> Iterator[Path]:
        if not self._places.acquire(blocking=False):
            message = "other encoders are being rewritten; try again in a few seconds"
            raise Problem(503, "busy", message, headers={"retry-after": "5"})
        # named so that the garbage collection knows it, should this process die
        target = self._settings.encoders_dir / f".{new_id('enc')}"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._convert(name, directory.resolve(), target.resolve())
            yield target
        finally:
            shutil.rmtree(target, ignore_errors=True)
            self._places.release()

    def _convert(self, name: str, directory: Path, target: Path) -> None:
        seconds = self._settings.export_seconds
        size = sum(path.stat().st_size for path in files_of(directory))
        limits = Limits(seconds, written=WRITTEN_BYTES + WRITTEN_TIMES * size)
        ended = run_confined("lcl_core.interop.exports", [name, str(directory), str(target)], limits)
        if ended.status is None:
            message = f"rewriting took longer than {seconds:g} s (LCL_EXPORT_SECONDS); take format=lcl"
            raise Problem(503, "export_timeout", message)
        if ended.status == REFUSED:
            facts = json.loads(ended.output)
            raise Problem(422, facts["code"], facts["message"], field=facts.get("field"))
        if ended.status:
            log.error("export failed", status=ended.status, reason=ended.reason, error=ended.error[-2000:])
            raise Problem(503, "export_failed", f"rewriting as {name} failed; the service's log says why")
