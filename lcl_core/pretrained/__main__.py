"""``python -m lcl_core.pretrained RUN OUT``: the encoder of a run's directory, packed to come with the product."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from lcl_core.errors import UserError
from lcl_core.pretrained.pack import pack

_NOTED = ("parameters", "images_seen", "documents_seen", "tokens_seen", "steps", "seconds")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lcl_core.pretrained", description=__doc__)
    parser.add_argument("run", type=Path, help="directory of a finished pre-training")
    parser.add_argument("out", type=Path, help="folder to make")
    options = parser.parse_args()
    try:
        digest = pack(options.run / "artifacts" / "encoder", options.out, _facts(options.run / "result.json"))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{digest}\n")
    return 0


def _facts(result: Path) -> dict[str, object]:
    try:
        said = json.loads(result.read_text(encoding="utf-8"))["encoder"]
    except (OSError, ValueError, KeyError) as error:
        message = f"a run that made an encoder says so here ({error})"
        raise UserError(message, code="encoder_unreadable", file=result) from error
    return {name: said[name] for name in _NOTED if name in said}


if __name__ == "__main__":
    sys.exit(main())
