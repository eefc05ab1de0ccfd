"""Imported encoders are read in a process of their own: what they would do to the service they do to that process."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.api.hostile import encoders
from tests.lcl_core.encoders.external_samples import save_huggingface

ANSWERS = 10.0  # seconds within which the service says that it is well, whatever else it does
GROWS = 50 << 20  # bytes that a refused import may leave in the service


def resident():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    return save_huggingface(tmp_path_factory.mktemp("foreign") / "encoder", "clip")


# each would take gigabytes or minutes of whoever reads it
WORST = ("sides of 4000 digits", "3,000,000 words", "a replacement of a letter by 10^6")


@pytest.mark.parametrize("name", WORST)
def test_the_service_stays_well_while_a_bomb_is_imported(
    live_service, http, refused, data_root, encoder, encoder_dir,
    foreign, name,
):  # fmt: skip
    source = encoders.make(name, data_root / f"worst-{encoders.slug(name)}", encoder_dir, foreign)
    before, kept = resident(), sorted((live_service.home / "encoders").iterdir())
    answers = []
    body = {"name": "worst", "path": str(source)}
    importing = threading.Thread(target=lambda: answers.append(http.post("/v1/encoders", json=body)))
    importing.start()
    with live_service.http() as other:
        while importing.is_alive():
            assert other.get("/healthz", timeout=ANSWERS).status_code == 200
            importing.join(0.1)
    message = refused(answers[0], 422, "encoder_unreadable", "path")["message"]
    assert str(source) in message
    assert ".import-" not in message
    assert resident() - before < GROWS
    assert sorted((live_service.home / "encoders").iterdir()) == kept


@pytest.mark.parametrize(
    "name", ["a replacement of a letter by 10^6", "3,000,000 words", "an expression of exponential time"]
)
def test_files_that_are_put_in_place_of_an_encoders_are_not_loaded(
    live_service, http, refused, encoder_dir, foreign, data_root, name
):
    made = live_service.admin.import_encoder("replaced", str(encoder_dir))
    kept = live_service.home / "encoders" / made["id"]
    shutil.rmtree(kept)
    encoders.make(name, kept, encoder_dir, foreign)
    before = resident()
    body = {"model": made["id"], "input": "a" * 400}
    answer = http.post("/v1/embeddings", json=body)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["error"]["code"] in ("encoder_unreadable", "encoder_changed")
    assert resident() - before < GROWS + (300 << 20), "with torch, which the first question imports"
    assert http.get("/healthz").status_code == 200


def test_other_libraries_encoders_are_imported_and_served(live_service, http, foreign, data_root):
    source = Path(shutil.copytree(foreign, data_root / "their-clip"))
    (source / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")
    made = live_service.admin.import_encoder("their-clip", str(source))
    assert (made["info"]["kind"], made["info"]["reads"]) == ("huggingface", ["images", "texts"])
    assert not (live_service.home / "encoders" / made["id"] / "pytorch_model.bin").exists()
    answer = http.post("/v1/embeddings", json={"model": "their-clip", "input": ["a red bus", "blue"]})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["data"]) == 2


def test_the_entry_points_ask_no_hub():
    """Over whatever stands in the environment, and before anything imports the hub's library."""
    code = (
        "import sys, os; os.environ['HF_HUB_OFFLINE'] = '0'\n"
        "import {module}.__main__ as main\n"
        "assert 'huggingface_hub' not in sys.modules\n"
        "main.{settings} = lambda *_, **__: sys.exit(print(os.environ['HF_HUB_OFFLINE'], "
        "os.environ['TRANSFORMERS_OFFLINE'], os.environ['HF_DATASETS_OFFLINE'])); main.{call}"
    )
    for module, settings, call in (
        ("api", "ApiSettings", "main()"),
        ("workers", "WorkerSettings", "main(check=False)"),
    ):
        text = code.format(module=module, settings=settings, call=call)
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
        assert done.stdout.strip() == "1 1 1", done.stderr
