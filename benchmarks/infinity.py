"""infinity (https://github.com/michaelfeil/infinity) with a CLIP of ViT-B/32's size and fresh weights, on the CPU.

It needs older releases than the product, and so a Python of its own::

    python3.11 -m venv infinity
    infinity/bin/pip install 'infinity-emb[torch,vision,server]==0.0.78' aiohttp torch==2.13.0 torchvision==0.28.0

with our release of torch, and ``--index-url https://download.pytorch.org/whl/cpu`` for these two where there is no GPU.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from deploy.process import LOOPBACK, PROJECT, ProcessStack, Service, free_port, responds
from lcl_core.common.errors import UserError

START_SECONDS = 300.0  # it warms up before it responds
PACKAGES = ("infinity-emb", "torch", "transformers", "aiohttp")
VERSIONS = """
import json, sys
from importlib.metadata import version
print(json.dumps({name: version(name) for name in sys.argv[1:]}))
"""


@dataclass(frozen=True)
class Setting:
    """How infinity is started.

    Attributes:
        options: of its command line.
        bfloat16: load the model so; infinity has no option for it on a CPU.
    """

    options: tuple[str, ...]
    bfloat16: bool = False


SETTINGS = {
    "float32": Setting(("--dtype", "float32", "--no-compile")),
    "int8": Setting(("--dtype", "int8", "--no-compile")),
    "bfloat16": Setting(("--dtype", "auto", "--no-compile"), bfloat16=True),
    "bfloat16-compiled": Setting(("--dtype", "auto", "--compile"), bfloat16=True),
}
USUAL = ("float32", "int8", "bfloat16")  # compiling takes minutes for each batch size


@dataclass(frozen=True)
class Installed:
    """Absolute path of the Python that has infinity, and its package versions."""

    python: str
    versions: dict[str, str]


def installed(python: str) -> Installed:
    """Check that Python. Raises: UserError ``no_infinity`` if it lacks infinity or cannot be run."""
    whole = os.path.abspath(shutil.which(python) or python)  # links are kept: a venv's Python is one
    try:
        done = subprocess.run([whole, "-c", VERSIONS, *PACKAGES], capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"--infinity {python} cannot be run: {error.strerror}", code="no_infinity") from error
    if done.returncode:
        words = (done.stderr.strip().splitlines() or ["no word why"])[-1]
        raise UserError(
            f"--infinity {python} has no infinity to serve images with ({words}); "
            "benchmarks/infinity.py says what to install",
            code="no_infinity",
        )
    return Installed(whole, json.loads(done.stdout))


@contextmanager
def running_infinity(infinity: Installed, setting: Setting, batch_size: int) -> Iterator[str]:
    """Start infinity with a model called ``bench``; yields its URL.

    Raises: UserError ``no_infinity`` or ``not_ready``, or ChildDied.
    """
    with TemporaryDirectory(prefix="lcl-bench-infinity-") as folder:
        model, port = Path(folder) / "clip", free_port(0)
        _write_model(infinity.python, model, setting.bfloat16)
        command = (
            *(
                infinity.python,
                "-m",
                "infinity_emb.cli",
                "v2",
                "--model-id",
                str(model),
                "--served-model-name",
                "bench",
            ),
            *("--engine", "torch", "--device", "cpu", "--batch-size", str(batch_size), "--no-bettertransformer"),
            *("--host", LOOPBACK, "--port", str(port), "--log-level", "error", *setting.options),
        )
        # offline, without telemetry; its caches are removed with the folder
        environment = {
            "HF_HUB_OFFLINE": "1",
            "DO_NOT_TRACK": "1",
            "HF_HOME": f"{folder}/home",
            "TORCHINDUCTOR_CACHE_DIR": f"{folder}/compiled",
        }
        stack, url = ProcessStack(Path(folder) / "logs"), f"http://{LOOPBACK}:{port}"
        try:
            stack.start(Service("infinity", command, environment))
            stack.wait_until(lambda: responds(f"{url}/health"), "infinity", START_SECONDS)
            yield url
        finally:
            stack.stop()


def _write_model(python: str, folder: Path, bfloat16: bool) -> None:
    command = [python, "-m", "benchmarks.clip", str(folder), *(["bfloat16"] if bfloat16 else [])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False)
    if done.returncode:
        raise UserError(f"infinity's Python could not write a CLIP:\n{done.stderr[-2000:]}", code="no_infinity")
