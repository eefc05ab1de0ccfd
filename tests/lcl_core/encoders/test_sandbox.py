"""What the examination of an imported encoder measures, without its process."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from lcl_core.common.errors import UserError
from lcl_core.common.sandbox import SandboxResult
from lcl_core.encoders import sandbox
from lcl_core.encoders.sandbox import SandboxBusy, SandboxQueue, SandboxTimeout, _check_outputs, inspect_encoder


def test_a_batch_of_large_inputs_is_refused_although_its_outputs_are_small() -> None:
    """As ``image_size`` 4096 with ``patch_size`` 512: [3, 4096, 4096] becomes [4, 8, 8]."""
    pixels = torch.zeros(1, 3, 1, 1).expand(1, 3, 4096, 4096)
    patches = torch.nn.Sequential(torch.nn.AvgPool2d(512), torch.nn.Conv2d(3, 4, 1))

    def embed() -> np.ndarray:
        with torch.inference_mode():
            return patches(pixels).flatten(1).numpy()

    with pytest.raises(UserError, match="64 images would take 12,884,901,888 bytes in one layer") as refused:
        _check_outputs(Path("encoder"), patches, embed)
    assert refused.value.code == "encoder_unreadable"
    pixels = pixels[..., :512, :512]
    _check_outputs(Path("encoder"), patches, embed)


def test_each_owner_has_one_examination_at_a_time(eventually: Callable[..., None]) -> None:
    slots, order, go_on = SandboxQueue(2), list[str](), threading.Event()

    def examine(name: str, owner: str) -> None:
        with slots.acquire(owner, 60):
            order.append(name)
            assert go_on.wait(60)

    with ThreadPoolExecutor(5) as callers:
        running = [callers.submit(examine, "ada's first", "ada")]
        eventually(lambda: order == ["ada's first"], "the first")
        running.append(callers.submit(examine, "ada's second", "ada"))
        eventually(lambda: len(slots._waiting) == 1, "the second to wait")
        running.append(callers.submit(examine, "bob's", "bob"))
        eventually(lambda: order == ["ada's first", "bob's"], "another owner's, which came later")
        with pytest.raises(SandboxBusy), slots.acquire("cleo", 0.01):
            pytest.fail("both slots are taken")
        go_on.set()
        for each in running:
            each.result(60)
    assert order == ["ada's first", "bob's", "ada's second"]
    assert (slots._running, slots._waiting) == (set(), [])


def test_a_refusal_of_an_import_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the names of the directory that is imported now; files to be loaded are examined each time."""
    examined: list[Path] = []

    def refuse(directory: Path, seconds: float) -> dict[str, object]:
        examined.append(directory)
        message = f"{directory}/config.json is nothing that can be read"
        raise UserError(message, code="encoder_unreadable", field="encoder", file=directory / "config.json")

    monkeypatch.setattr(sandbox, "_run_process", refuse)
    hashes = {"config.json": "0" * 64, "test": tmp_path.name}
    for name in ("first", "second"):
        with pytest.raises(UserError) as refused:
            inspect_encoder(tmp_path / name, hashes=hashes, importer="ada")
        assert refused.value.message == f"{tmp_path / name}/config.json is nothing that can be read"
        assert (refused.value.code, refused.value.file) == ("encoder_unreadable", str(tmp_path / name / "config.json"))
    assert examined == [tmp_path / "first"]
    for _ in range(2):
        with pytest.raises(UserError):
            inspect_encoder(tmp_path / "first", hashes=hashes)
    assert len(examined) == 3
    monkeypatch.setattr(sandbox, "REFUSAL_SECONDS", 0.0)
    monkeypatch.setattr(sandbox, "_refusals", type(sandbox._refusals)())
    for _ in range(2):
        with pytest.raises(UserError):
            inspect_encoder(tmp_path / "first", hashes=hashes, importer="ada")
    assert len(examined) == 5


def test_an_examination_that_took_too_long_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another time the machine may be less busy."""
    ended = SandboxResult(None, b"", "")
    monkeypatch.setattr(sandbox, "run_sandboxed", lambda *_: ended)
    (tmp_path / "config.json").write_text("{}")
    for _ in range(2):
        with pytest.raises(SandboxTimeout, match="more than 120 s; try again when the machine is less busy") as refused:
            inspect_encoder(tmp_path, hashes={"config.json": "1" * 64}, importer="ada")
        assert refused.value.code == "encoder_unreadable"
    facts = {"loaded": False, "kind": "lcl"}
    ended = SandboxResult(0, json.dumps({"ok": True, "facts": facts}).encode(), "")
    assert inspect_encoder(tmp_path, hashes={"config.json": "1" * 64}, importer="ada") == facts
