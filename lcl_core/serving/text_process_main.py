"""``python -m lcl_core.serving.text_process_main DIRECTORY PRECISION IDENTITY``: the other side of ``texts_apart``.

Standard input: length and JSON of a list of texts, again and again; standard output: a line end once the encoder is
loaded, then for each list its rows, their width and f32 vectors. It ends with its input, and at once where the files
are not those of that identity any more.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import BinaryIO, cast

from lcl_core.common.device import SERVED_SHAPES, Precision, limit_onednn_cache
from lcl_core.common.system_errors import as_exception
from lcl_core.encoders.file_hashes import identity_hash
from lcl_core.serving.engine import EncoderEngine, open_engine
from lcl_core.serving.text_process import FAILED, LENGTH, READY, SHAPE

log = logging.getLogger(__name__)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for the service, with which this ends
    directory, precision, identity = sys.argv[1:]
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints must not break the protocol
    limit_onednn_cache(SERVED_SHAPES)
    session = open_engine(Path(directory), "cpu", cast(Precision, precision))
    if identity_hash(session.file_hashes) != identity:
        sys.exit("the files of the encoder changed since the service loaded it")
    session.drop_vision()
    answers.write(READY)
    while head := sys.stdin.buffer.read(LENGTH.size):
        reply(session, sys.stdin.buffer.read(*LENGTH.unpack(head)), answers)


def reply(session: EncoderEngine, asked: bytes, answers: BinaryIO) -> None:
    try:
        vectors = session.embed_texts(json.loads(asked))
    except (
        BaseException
    ) as caught:  # a panic in Rust is no Exception; the service's own session says it where it belongs
        error = as_exception(caught)
        log.warning("texts could not be read: %r", error)
        answers.write(SHAPE.pack(FAILED, 0))
        return
    answers.write(SHAPE.pack(*vectors.shape) + vectors.tobytes())


if __name__ == "__main__":
    main()
