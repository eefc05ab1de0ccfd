"""A small corpus drawn on the spot, and an encoder directory for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lcl_core.data import train_bpe
from lcl_core.model import LCLConfig, LCLProcessor
from lcl_core.rundir import RunDir
from lcl_core.train.build import build_model

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "grey": (128, 128, 128)}


def save_encoder(folder: Path, *, seed: int = 0) -> Path:
    """A tiny model with its initial weights at ``seed``, in the layout of a registered encoder."""
    tokenizer = train_bpe([f"a {colour} square, number {n}" for colour in COLOURS for n in range(9)], 300)
    specials = tokenizer.specials
    config = LCLConfig(
        image_size=16, patch_size=8, vision_width=32, vision_layers=2, vision_head_width=16,
        text_width=32, text_layers=2, text_heads=2, context_length=40, vocab_size=tokenizer.vocab_size,
        sot_token_id=specials.sot, eot_token_id=specials.eot, img_token_id=specials.img,
        soi_token_id=specials.soi, eoi_token_id=specials.eoi,
    )  # fmt: skip
    build_model(config, seed).save_pretrained(folder)
    LCLProcessor(tokenizer, config.image_size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def save_tiny_encoder() -> Callable[..., Path]:
    return save_encoder


@pytest.fixture(scope="session")
def encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Coloured squares: 40 to learn from, 12 to be asked about, one of which has an unseen label and one no label."""
    folder = tmp_path_factory.mktemp("squares")
    (folder / "images").mkdir()
    lines = []
    for number in range(52):
        colour = list(COLOURS)[number % 4]
        shade = tuple(min(255, channel + number % 7) for channel in COLOURS[colour])
        Image.new("RGB", (20, 16 + number % 3), shade).save(folder / "images" / f"{number}.png")
        labels = {"colour": {50: "pink"}.get(number, colour)} if number != 51 else {}
        captions = [f"a {colour} square", f"a {colour} square, number {number}"][: 1 + (number != 49)]
        split, source = ("train" if number < 40 else "test"), ("even", "odd")[number % 2]
        lines.append(
            {"image": f"{number}.png", "captions": captions, "labels": labels, "split": split, "source": source}
        )
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def new_run(tmp_path: Path, squares: Path, encoder_dir: Path) -> Callable[..., RunDir]:
    """Makes a prepared RunDir; keyword arguments are spec fields."""

    def make(name: str = "run", weights: Path = encoder_dir, corpus: Path = squares, **fields: Any) -> RunDir:
        spec = {
            "encoder": "tiny",
            "dataset": "squares",
            "splits": ["test"],
            "classification": {"labels": ["colour"], "epochs": 4, "batch_size": 16},
            **fields,
        }
        run_dir = RunDir(tmp_path / name)
        run_dir.path.mkdir()
        run_dir.prepare(
            {
                "run_id": f"run_{name}",
                "kind": "evaluate",
                "spec": spec,
                "datasets": {"squares": str(corpus)},
                "encoders": {"tiny": str(weights)},
                "cache": str(tmp_path / "cache"),
                "attempt": 1,
            }
        )
        return run_dir

    return make
