"""``python -m lcl_core.serving.examining DIRECTORY``: the other side of ``examination``, in a confined process.

The last line of standard output is JSON: {ok, facts}, or {ok, code, message, file}.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcl_core.confinement import KILLED_FOR_MEMORY, limit_memory
from lcl_core.errors import UserError
from lcl_core.interop.encoder_schema import check_encoder
from lcl_core.interop.origins import IMAGES, Origin
from lcl_core.interop.sizes import numbers_in

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

FORM_BYTES = 2 << 30  # of address space, to parse small files
WORKING_BYTES = 3 << 29  # of address space beside the weights: libraries' own tables, one forward pass
FP32_COPIES = 3
BATCH = 64  # pictures that a service computes at once
MAX_OUTPUT_BYTES = 4 << 30  # of one layer's output for such a batch
# texts of many forms: long, repeated, of many planes of Unicode, with controls
PROBES = (
    "a picture of a red bus", "", " ", "a" * 2000, "aa " * 500, "!" * 500, "\t\n\r\0\x1b", "0123456789" * 50,
    "e\u0301" * 200, "\u2603" * 200, "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 50, "\u202etxt", "\ufdfa" * 100,
    "漢字かな交じり文" * 50, "</w>▁##<pad><end_of_text>[CLS]" * 20, "ab" * 1000, "x y" * 500,
)  # fmt: skip


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints must not break the answer
    answers.write("\n" + json.dumps(answer(Path(sys.argv[1]))))
    answers.close()
    os._exit(0)  # without the libraries' own farewells


def answer(directory: Path) -> dict[str, Any]:
    try:
        return {"ok": True, "facts": examined(directory)}
    except UserError as error:
        return _refused(error.code, error.message, error.file)
    except MemoryError:
        return _refused("encoder_unreadable", f"the encoder cannot be read: {KILLED_FOR_MEMORY}", str(directory))
    except BaseException as error:  # whatever it is, this process is there for it
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"
        return _refused("encoder_unreadable", f"the encoder cannot be read ({reason})", str(directory))


def examined(directory: Path) -> dict[str, Any]:
    """Read it and try it out. Raises: UserError; whatever a library raises."""
    _soften_memory(FORM_BYTES)
    origin = check_encoder(directory)
    numbers = sum(sum(numbers_in(directory / name).values()) for name in origin.weights)
    facts: dict[str, Any] = {
        "kind": origin.kind, "model": origin.model, "reads": list(origin.reads), "weights": list(origin.weights),
        "parameters": numbers, "loaded": True,
    }  # fmt: skip
    _soften_memory(None)
    from lcl_core.serving.opening import open_session  # noqa: F401  torch, transformers: before memory is bounded

    saved = sum((directory / name).stat().st_size for name in origin.weights)
    limit_memory(2 * saved + FP32_COPIES * 4 * numbers + WORKING_BYTES)
    try:
        _try_out(directory, origin)
    except UserError as error:
        if error.code != "missing_extra":
            raise
        facts["loaded"] = False
    return facts


def _soften_memory(more: int | None) -> None:
    """Bound the address space for now; none: lift that again."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard if more is None else min(more, hard), hard))


def _try_out(directory: Path, origin: Origin) -> None:
    if origin.kind == "lcl":
        _try_own(directory)
    elif IMAGES in origin.reads:
        _try_tower(directory)
    else:
        from lcl_core.transfer.towers import load_text_side

        side = load_text_side(directory, "encoder")
        _try_texts(directory, lambda texts: side.features(texts).float().numpy())


def _try_own(directory: Path) -> None:
    from PIL import Image

    from lcl_core.serving.session import EncoderSession

    session = EncoderSession(directory, "cpu")
    grey = Image.new("RGB", (61, 97), (128, 128, 128))
    _check_outputs(directory, session.model.visual, lambda: session.embed_images([grey]))
    _try_texts(directory, session.embed_texts)
    session.count_tokens(PROBES)
    session.caption([grey], max_new_tokens=4)


def _try_tower(directory: Path) -> None:
    import torch
    from PIL import Image

    from lcl_core.transfer.towers import load_tower

    tower = load_tower(directory)
    with torch.inference_mode():
        pixels = tower.preprocess([Image.new("RGB", (61, 97), (128, 128, 128))])

        def look() -> np.ndarray:
            pooled, patches = tower.look(pixels)
            return (patches.mean(1) if pooled is None else pooled).float().numpy()

        _check_outputs(directory, tower.module, look)
        if tower.text_side is not None:
            _try_texts(directory, lambda texts: _read(tower.texts(texts)))
            tower.text_side.count_tokens(PROBES)


def _read(found: Tensor | None) -> np.ndarray:
    assert found is not None, "it has a text side"
    return found.float().numpy()


def _try_texts(directory: Path, embed: Any) -> None:
    import torch

    with torch.inference_mode():
        for text in PROBES:
            _finite(directory, embed([text]), 1)
        _finite(directory, embed(list(PROBES)), len(PROBES))


def _check_outputs(directory: Path, network: nn.Module, look: Any) -> None:
    """One picture, and how much the largest output of a layer would take of a whole batch."""
    largest = 0

    def measure(module: Any, inputs: Any, output: Any) -> None:
        nonlocal largest
        largest = max(largest, getattr(output, "nbytes", 0))

    hooks = [module.register_forward_hook(measure) for module in network.modules()]
    _finite(directory, look(), 1)
    for hook in hooks:
        hook.remove()
    if largest * BATCH > MAX_OUTPUT_BYTES:
        message = (
            f"{BATCH} pictures would take {largest * BATCH:,} bytes in one layer; {MAX_OUTPUT_BYTES:,} are allowed"
        )
        raise UserError(f"{message}: lower image_size", code="encoder_unreadable", file=directory)


def _finite(directory: Path, vectors: np.ndarray, rows: int) -> None:
    import numpy as np

    if len(vectors) != rows or not np.isfinite(vectors).all():
        raise UserError("its vectors are not finite; its weights are damaged", code="encoder_unhealthy", file=directory)


def _refused(code: str, message: str, file: str | None) -> dict[str, Any]:
    return {"ok": False, "code": code, "message": message, "file": file}


if __name__ == "__main__":
    main()
