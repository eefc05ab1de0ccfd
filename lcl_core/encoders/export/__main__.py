"""``python -m lcl_core.encoders.export FORMAT ENCODER DIR``: what the service starts.

People use ``python -m lcl_core.encoders export``. Exit status 2: the export is impossible, and standard output is one
JSON object that says why.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lcl_core.common.errors import UserError
from lcl_core.encoders.export import export

REFUSED = 2


def main() -> int:
    name, directory, target = sys.argv[1:]
    try:
        export(name, Path(directory), Path(target))
    except UserError as error:
        sys.stdout.write(json.dumps({**error.to_dict(), "message": error.message}))
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
