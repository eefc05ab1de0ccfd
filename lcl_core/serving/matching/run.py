"""The match run."""

from __future__ import annotations

from typing import Any, cast

from lcl_core.data.conversion.run import write_dataset
from lcl_core.data.matching import Encoder, match_records
from lcl_core.errors import UserError
from lcl_core.rundir import RunDir
from lcl_core.serving.opening import open_session
from lcl_core.specs import MatchSpec, parse_spec


def match_run(run_dir: RunDir) -> dict[str, Any]:
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
    session = open_session(paths[spec.encoder], registered=run.get("encoder_files", {}).get(spec.encoder))
    encoder = Encoder(session.embed_images, session.embed_texts)
    result = write_dataset(run_dir, spec, "matching", lambda records: match_records(records, encoder))
    return result | {"encoder": spec.encoder, "encoder_hash": session.hash}

