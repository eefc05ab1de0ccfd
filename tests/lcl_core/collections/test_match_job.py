"""The match run with a real, small encoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from lcl_core.collections.match_job import run_match_job
from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import RunDir
from lcl_core.data import open_corpus

pytest.importorskip("scipy")


def write_corpus(folder: Path) -> Path:
    """One document whose images stand nowhere in particular."""
    (folder / "images").mkdir(parents=True)
    infos = []
    for _place, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (32, 32), colour).save(folder / "images" / f"{colour}.png")
        infos.append({"image_name": f"{colour}.png", "matched_text_index": 0, "matched_sim": 0.0})
    texts = ["one sentence", "another", "a third", "the last"]
    (folder / "interleaved.jsonl").write_text(json.dumps({"text_list": texts, "image_info": infos}) + "\n")
    return folder


def ask(tmp_path: Path, **encoders: str) -> RunDir:
    run_dir = RunDir(tmp_path / "run")
    run_dir.path.mkdir()
    spec = {"path": str(write_corpus(tmp_path / "corpus")), "encoder": "tiny", "name": "matched"}
    run_dir.prepare({"run_id": "run_1", "kind": "match", "spec": spec, "datasets": {}, "encoders": encoders})
    return run_dir


def test_images_get_a_sentence_each_with_the_encoders_similarity(tmp_path: Path, encoder: Path) -> None:
    run_dir = ask(tmp_path, tiny=str(encoder))
    result = run_match_job(run_dir)
    made = open_corpus(run_dir.artifacts / "dataset")
    infos = made.documents[0]["image_info"]
    assert len({info["matched_text_index"] for info in infos}) == 3
    assert all(-1 <= info["matched_sim"] <= 1 and info["matched_sim"] != 0 for info in infos)
    assert len(result["encoder_hash"]) == 64
    assert result["dataset"]["name"] == "matched"


def test_an_unknown_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'tiny' is not registered") as caught:
        run_match_job(ask(tmp_path))
    assert caught.value.field == "encoder"
