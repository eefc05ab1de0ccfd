"""Imported encoders are read in a process of their own: what they would do to the service they do to that process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from lcl_core.encoders.file_hashes import hash_files
from tests.api.hostile import encoders
from tests.lcl_core.encoders.external_samples import save_huggingface

ANSWERS = 10.0  # seconds within which the service says that it is well, whatever else it does
GROWS = 50 << 20  # bytes that a refused import may leave in the service


def resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_huggingface(tmp_path_factory.mktemp("foreign") / "encoder", "clip")


# each would take gigabytes or minutes of whoever reads it
WORST = ("sides of 4000 digits", "3,000,000 words", "a replacement of a letter by 10^6", "image_size 4096",
         "1500 text layers", "a header without end", "a text tower of 3,000,000 words")  # fmt: skip


@pytest.mark.parametrize("name", WORST)
def test_the_service_stays_well_while_a_bomb_is_imported(
    live_service: Any, http: httpx.Client, refused: Any, data_root: Path, encoder: Any, encoder_dir: Path,
    foreign: Path, name: str,
) -> None:  # fmt: skip
    source = encoders.make(name, data_root / f"worst-{encoders.slug(name)}", encoder_dir, foreign)
    before, kept = resident(), sorted((live_service.home / "encoders").iterdir())
    answers: list[httpx.Response] = []
    body = {"name": "worst", "path": str(source)}
    importing = threading.Thread(target=lambda: answers.append(http.post("/v1/encoders", json=body)))
    importing.start()
    with live_service.http() as other:
        while importing.is_alive():
            assert other.get("/healthz", timeout=ANSWERS).status_code == 200
            importing.join(0.1)
    message = refused(answers[0], 422, "bad_encoder", "path")["message"]
    assert str(source) in message
    assert ".import-" not in message
    assert resident() - before < GROWS
    assert sorted((live_service.home / "encoders").iterdir()) == kept


@pytest.mark.parametrize(
    "name", ["a replacement of a letter by 10^6", "3,000,000 words", "an expression of exponential time"]
)
def test_files_that_are_put_in_place_of_an_encoders_are_not_loaded(
    live_service: Any, http: httpx.Client, refused: Any, encoder_dir: Path, foreign: Path, data_root: Path, name: str
) -> None:
    made = live_service.admin.import_encoder("replaced", str(encoder_dir))
    kept = live_service.home / "encoders" / made["id"]
    shutil.rmtree(kept)
    encoders.make(name, kept, encoder_dir, foreign)
    before = resident()
    body = {"model": made["id"], "input": "a" * 400}
    answer = http.post("/v1/embeddings", json=body)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["error"]["code"] in ("encoder_damaged", "encoder_changed")
    assert resident() - before < GROWS + (300 << 20), "with torch, which the first question imports"
    assert http.get("/healthz").status_code == 200


def test_what_was_examined_is_remembered(live_service: Any, encoder_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lcl_core.encoders import sandbox

    first = live_service.admin.import_encoder("remembered", str(encoder_dir))
    digest = sandbox.files_digest(hash_files(live_service.home / "encoders" / first["id"]))
    monkeypatch.setattr(sandbox, "_cache", sandbox.OrderedDict())
    monkeypatch.setattr(sandbox, "_run_process", lambda *_: pytest.fail("it was examined before"))
    if (live_service.home / "examined" / f"{digest}.json").exists():  # else this process knew it from another service
        again = live_service.admin.import_encoder("remembered", str(encoder_dir))
        assert again["info"]["parameters"] == first["info"]["parameters"]


def test_other_libraries_encoders_are_imported_and_served(
    live_service: Any, http: httpx.Client, foreign: Path, data_root: Path
) -> None:
    source = Path(shutil.copytree(foreign, data_root / "their-clip"))
    (source / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")
    made = live_service.admin.import_encoder("their-clip", str(source))
    assert (made["info"]["kind"], made["info"]["reads"]) == ("huggingface", ["images", "texts"])
    assert not (live_service.home / "encoders" / made["id"] / "pytorch_model.bin").exists()
    answer = http.post("/v1/embeddings", json={"model": "their-clip", "input": ["a red bus", "blue"]})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["data"]) == 2


def test_the_entry_points_ask_no_hub() -> None:
    """Over whatever stands in the environment, and before anything imports the hub's library."""
    code = (
        "import sys, os; os.environ['HF_HUB_OFFLINE'] = '0'\n"
        "import {module}.__main__ as main\n"
        "assert 'huggingface_hub' not in sys.modules\n"
        "main.{settings} = lambda *_, **__: sys.exit(print(os.environ['HF_HUB_OFFLINE'], "
        "os.environ['TRANSFORMERS_OFFLINE'], os.environ['HF_DATASETS_OFFLINE'])); main.main()"
    )
    for module, settings in (("api", "ApiSettings"), ("workers", "WorkerSettings")):
        text = code.format(module=module, settings=settings)
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
        assert done.stdout.strip() == "1 1 1", done.stderr


def test_time_passes_for_an_examination(data_root: Path, encoder_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lcl_core.common.errors import UserError
    from lcl_core.encoders import sandbox

    source = Path(shutil.copytree(encoder_dir, data_root / "slow"))
    (source / "README.md").write_text("so that nobody has read it before")
    monkeypatch.setattr(sandbox, "BYTES_A_SECOND", 1 << 50)
    started = time.monotonic()
    with pytest.raises(UserError, match="too long") as caught:
        sandbox.inspect_encoder(source, seconds=0.05)
    assert caught.value.code == "encoder_unreadable"
    assert time.monotonic() - started < 60
    with pytest.raises(UserError, match="too long"):
        sandbox.inspect_encoder(source, seconds=0.05)
    assert json.loads((source / "config.json").read_text())["model_type"] == "lcl"
