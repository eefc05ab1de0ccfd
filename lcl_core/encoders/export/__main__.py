"""``python -m lcl_core.encoders.export FORMAT ENCODER DIR``: what the service starts.

People use ``python -m lcl_core.encoders export``. Exit status 2: the export is impossible, and standard output is one
JSON object that says why.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

from lcl_core.common.errors import UserError
from lcl_core.common.sandbox import limit_memory
from lcl_core.encoders.check import check_encoder
from lcl_core.encoders.export import FORMATS, export
from lcl_core.encoders.files import tensor_sizes

REFUSED = 2
FP32_COPIES = 6  # as read, transposed, in a graph, as its bytes
WORKING_BYTES = 2 << 30


def main() -> int:
    name, directory, target = sys.argv[1:]
    try:
        _bound_memory(name, Path(directory))
        export(name, Path(directory), Path(target))
    except UserError as error:
        sys.stdout.write(json.dumps({**error.to_dict(), "message": error.message}))
        return REFUSED
    return 0


def _bound_memory(name: str, directory: Path) -> None:
    """Bound the memory for rewriting, after the writer's libraries are loaded. Raises: UserError."""
    found = check_encoder(directory)
    if name in FORMATS and FORMATS[name].writer is not None:
        import_module(f"lcl_core.encoders.export.{FORMATS[name].writer}")
    weights = [directory / each for each in found.weights]
    numbers = sum(sum(tensor_sizes(path).values()) for path in weights)
    limit_memory(sum(path.stat().st_size for path in weights) * 2 + numbers * 4 * FP32_COPIES + WORKING_BYTES)


if __name__ == "__main__":
    sys.exit(main())
