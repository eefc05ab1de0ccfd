"""``python -m lcl_core.collections.match_job RUN_DIR``: assign images to sentences, and write the dataset."""

from __future__ import annotations

import sys
from typing import Any, cast

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import RunDir, run_main
from lcl_core.data.conversion.run import write_dataset
from lcl_core.data.image_text_assignment import PairEncoder, match_records
from lcl_core.encoders.engine import EncoderEngine
from lcl_core.specs.corpus_jobs import MatchSpec
from lcl_core.specs.parsing import parse_spec


def run_match_job(run_dir: RunDir) -> dict[str, Any]:
    """Do what ``run.json`` asks; leaves ``artifacts/dataset``.

    Raises:
        UserError: bad spec, encoder or corpus; ``encoder_changed``; ``nothing_converted``.
        Cancelled: after SIGTERM.
    """
    run = run_dir.read_run()
    spec = cast(MatchSpec, parse_spec("match", run["spec"]))
    paths = run.get("encoders", {})
    if spec.encoder not in paths:
        message = f"encoder {spec.encoder!r} is not registered; the list of encoders has the names"
        raise UserError(message, code="unknown_encoder", field="encoder")
    session = EncoderEngine(paths[spec.encoder], registered=run.get("encoder_files", {}).get(spec.encoder))
    encoder = PairEncoder(session.embed_images, session.embed_texts)
    result = write_dataset(run_dir, spec, "matching", lambda records: match_records(records, encoder))
    return result | {"encoder": spec.encoder, "encoder_hash": session.hash}


if __name__ == "__main__":
    sys.exit(run_main(run_match_job))
