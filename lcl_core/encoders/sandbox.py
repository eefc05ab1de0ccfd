"""Check an imported encoder in a confined process before any other process loads it. Imports no torch.

``inspect_encoder`` starts ``python -m lcl_core.encoders.sandbox DIRECTORY`` within bounds of memory and time, without a
network. That process validates the files, builds the encoder and runs it on an image and on texts of many forms.
Its result is kept in a file, named by the hash of all files. The last line of its standard output is JSON: {ok, facts},
or {ok, code, message, file}.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcl_core import __version__
from lcl_core.common.errors import UserError
from lcl_core.common.files import write_atomically
from lcl_core.common.sandbox import KILLED_FOR_MEMORY, SandboxLimits, limit_memory, run_sandboxed
from lcl_core.encoders.check import check_encoder
from lcl_core.encoders.files import Hashes, data_files, hash_files, tensor_sizes
from lcl_core.encoders.registry import IMAGES, EncoderFormat

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


MODULE = "lcl_core.encoders.sandbox"
MAX_PROCESSES = 2
SECONDS = 120.0  # of one; more for many weights
BYTES_A_SECOND = 20 << 20

EncoderInfo = dict[str, Any]
_processes = threading.BoundedSemaphore(MAX_PROCESSES)


def inspect_encoder(directory: Path, memory: Path, hashes: Hashes | None = None) -> EncoderInfo:
    """Read an encoder in a process of its own, unless these very files were read before. Thread-safe; blocks.

    Args:
        memory: a folder that keeps what was found.
        hashes: sha256 of the files by name, where they are known; whoever loads them then compares them.

    Returns:
        ``kind``, ``model``, ``reads``, ``weights`` and ``parameters``; ``loaded``: whether it could be tried out, which
        needs its library.

    Raises:
        UserError: ``encoder_unreadable``, with what is wrong.
    """
    hashes = hashes or hash_files(directory)
    facts = json.dumps([__version__, sorted(hashes.items())])
    known = memory / f"{hashlib.sha256(facts.encode()).hexdigest()}.json"
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads(known.read_text(encoding="utf-8")))
    with _processes:
        found = _run_process(directory)
    if found["loaded"]:
        with contextlib.suppress(OSError):  # a full disk costs an examination more
            memory.mkdir(parents=True, exist_ok=True)
            write_atomically(known, json.dumps(found), durable=False)
    return found


def _run_process(directory: Path) -> EncoderInfo:
    size = sum(path.stat().st_size for path in data_files(directory))
    limits = SandboxLimits(SECONDS + size / BYTES_A_SECOND)
    ended = run_sandboxed(MODULE, [str(directory.resolve())], limits)
    if ended.status is None:
        message = f"the encoder cannot be read: {ended.reason}, more than {limits.seconds:.0f} s"
        message += "; try again when the machine is less busy"
        raise UserError(message, code="encoder_unreadable", field="encoder", file=directory)
    with contextlib.suppress(ValueError):
        answer = json.loads(ended.output.rpartition(b"\n")[2])
        if ended.status == 0 and answer.get("ok"):
            return dict(answer["facts"])
        if ended.status == 0:
            raise UserError(answer["message"], code=answer["code"], field="encoder", file=answer.get("file"))
    message = f"the encoder cannot be read: {ended.reason}; save it again with its library"
    raise UserError(message, code="encoder_unreadable", field="encoder", file=directory)


WORKING_BYTES = 3 << 29  # of address space beside the weights: libraries' own tables, one forward pass
FP32_COPIES = 3
SERVING_BATCH = 64  # images that a service computes at once
MAX_TENSOR_BYTES = 4 << 30  # of one layer's input or output for such a batch
# texts of many forms: long, repeated, of many planes of Unicode, with controls
PROBE_TEXTS = (
    "an image of a red bus", "", " ", "a" * 2000, "aa " * 500, "!" * 500, "\t\n\r\0\x1b", "0123456789" * 50,
    "e\u0301" * 200, "\u2603" * 200, "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 50, "\u202etxt", "\ufdfa" * 100,
    "漢字かな交じり文" * 50, "</w>▁##<pad><end_of_text>[CLS]" * 20, "ab" * 1000, "x y" * 500,
)  # fmt: skip


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints must not break the answer
    answers.write("\n" + json.dumps(child_result(Path(sys.argv[1]))))
    answers.close()
    os._exit(0)  # without the libraries' own farewells


def child_result(directory: Path) -> dict[str, Any]:
    try:
        return {"ok": True, "facts": probe_encoder(directory)}
    except UserError as error:
        return {"ok": False, "code": error.code, "message": error.message, "file": error.file}
    except BaseException as error:  # whatever it is, this process is there for it
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"
        message = f"the encoder cannot be read: {KILLED_FOR_MEMORY if isinstance(error, MemoryError) else reason}"
        return {"ok": False, "code": "encoder_unreadable", "message": message, "file": str(directory)}


def probe_encoder(directory: Path) -> dict[str, Any]:
    """Read it and try it out. Raises: UserError; whatever a library raises."""
    origin = check_encoder(directory)
    numbers = sum(sum(tensor_sizes(directory / name).values()) for name in origin.weights)
    facts: dict[str, Any] = {
        "kind": origin.kind, "model": origin.model, "reads": list(origin.reads), "weights": list(origin.weights),
        "parameters": numbers, "loaded": True,
    }  # fmt: skip
    import lcl_core.encoders.engine  # noqa: F401  torch, transformers: before memory is bounded

    saved = sum((directory / name).stat().st_size for name in origin.weights)
    limit_memory(2 * saved + FP32_COPIES * 4 * numbers + WORKING_BYTES)
    try:
        _probe(directory, origin)
    except UserError as error:
        if error.code != "missing_extra":
            raise
        facts["loaded"] = False
    return facts


def _probe(directory: Path, origin: EncoderFormat) -> None:
    import torch
    from PIL import Image

    from lcl_core.encoders import registry
    from lcl_core.encoders.engine import EncoderEngine

    grey = Image.new("RGB", (61, 97), (128, 128, 128))
    if origin.kind == "lcl":
        engine = EncoderEngine(directory, "cpu")
        _check_outputs(directory, engine.encoder.module, lambda: engine.embed_images([grey]))
        _probe_texts(directory, engine.embed_texts)
        engine.count_tokens(PROBE_TEXTS)
        engine.caption([grey], max_new_tokens=4)
        return
    with torch.inference_mode():
        if IMAGES not in origin.reads:
            words = registry.load_text_encoder(directory, "encoder")
            _probe_texts(directory, lambda texts: words.features(texts).float().numpy())
            return
        encoder = registry.load_image_encoder(directory)
        pixels = encoder.preprocess([grey])

        def embed() -> np.ndarray:
            pooled, patches = encoder.encode(pixels)
            return (patches.mean(1) if pooled is None else pooled).float().numpy()

        _check_outputs(directory, encoder.module, embed)
        if (text_encoder := encoder.text_encoder) is not None:
            _probe_texts(directory, lambda texts: text_encoder.features(texts).float().numpy())
            text_encoder.count_tokens(PROBE_TEXTS)


def _probe_texts(directory: Path, embed: Any) -> None:
    for texts in (*([text] for text in PROBE_TEXTS), list(PROBE_TEXTS)):
        _check_finite(directory, embed(texts), len(texts))


def _check_outputs(directory: Path, network: nn.Module, embed: Any) -> None:
    """Encode one image; bound the memory that the largest tensor of a layer would take for a whole batch.

    Inputs count too: the prepared image is one, and large where ``image_size`` is.
    """
    largest = 0

    def measure(module: Any, inputs: Any, output: Any) -> None:
        nonlocal largest
        largest = max([largest, *(getattr(tensor, "nbytes", 0) for tensor in (*inputs, output))])

    hooks = [module.register_forward_hook(measure) for module in network.modules()]
    _check_finite(directory, embed(), 1)
    for hook in hooks:
        hook.remove()
    if largest * SERVING_BATCH > MAX_TENSOR_BYTES:
        size = largest * SERVING_BATCH
        message = f"{SERVING_BATCH} images would take {size:,} bytes in one layer; {MAX_TENSOR_BYTES:,} are allowed"
        raise UserError(f"{message}: lower image_size", code="encoder_unreadable", file=directory)


def _check_finite(directory: Path, vectors: np.ndarray, rows: int) -> None:
    import numpy as np

    if len(vectors) != rows or not np.isfinite(vectors).all():
        raise UserError(
            "its vectors are not finite; its weights are damaged", code="encoder_unreadable", file=directory
        )


if __name__ == "__main__":
    main()
