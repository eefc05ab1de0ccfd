"""Hostile configurations make nobody ask a hub, and no library either: a listener in its place hears nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from tests.api.hostile import encoders
from tests.api.sample_assets import save_encoder
from tests.lcl_core.encoders.external_samples import save_huggingface

ASKING = [
    "a backbone of a hub", "a backbone in a known type", "a kernel of a hub, elsewhere", "code beside the weights",
    "a tokenizer with code", "an adapter of another model", "weights of timm on a hub", "weights of timm at an address",
    "a name of timm that is an address", "a text tower of OpenCLIP on a hub", "weights of OpenCLIP that are fetched",
]  # fmt: skip
CODE = """
import sys
from collections.abc import Iterator
from pathlib import Path
from lcl_core.common.errors import UserError
from lcl_core.encoders.registry import load_image_encoder
for place in sys.argv[1:]:
    try:
        load_image_encoder(Path(place))
    except UserError as error:
        print(error.code)
"""


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


def test_nothing_is_asked(tmp_path, listener):
    """Also where a script of somebody's own has not switched the hub off."""
    ours, foreign = save_encoder(tmp_path / "ours"), save_huggingface(tmp_path / "foreign", "clip")
    made = [encoders.make(name, tmp_path / str(number), ours, foreign) for number, name in enumerate(ASKING)]
    host, port = listener.getsockname()
    offline = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
    environment = {name: value for name, value in os.environ.items() if name not in offline}
    environment |= {"HF_ENDPOINT": f"http://{host}:{port}", "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(
        [sys.executable, "-c", CODE, *map(str, made)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["encoder_unreadable"] * len(ASKING), done.stderr
    with pytest.raises(BlockingIOError):
        listener.accept()
