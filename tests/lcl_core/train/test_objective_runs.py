"""A run of every other objective on the sample corpus: resumed it is bitwise the same; it exports the encoder alone."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors import safe_open

from lcl_core.model import LCLModel
from lcl_core.objectives import OBJECTIVES
from tests.lcl_core.batch_partitions import PAIR_METHODS
from tests.lcl_core.train.small_runs import curve, prepared, trainer, weights

# the checkpoint lies between two metric lines, and before an epoch's end
SHORT = {"steps": 5, "checkpoint_every": 2, "keep_checkpoints": 3, "log_every": 4}
METRICS = {
    "blip2": {"in_batch_accuracy", "matching_accuracy"},
    "clip": {"in_batch_accuracy"},
    "coca": {"in_batch_accuracy"},
    "beit3": {"masked_text_accuracy"},
    "emu": {"latent_log_variance", "latent_effective_rank"},
    "flamingo": set(),
}


@pytest.mark.parametrize(
    ("name", "view", "positives"),
    [
        pytest.param("clip", "pairs", "same_concept", marks=pytest.mark.extended),
        ("lcl", "interleaved", "same_concept"),
        ("lcl", "pairs", "shared_keywords"),
    ],
)
def test_drawn_captions_and_positives_by_concept_resume_exactly(tmp_path, sample_zip, name, view, positives):
    """Also with another number of loader processes; the concepts are those of the captioned images."""
    data = {"sources": [{"view": view, "captions": "drawn"}]}
    objective = {"name": name, "positives": positives}
    alone, resumed = (
        prepared(tmp_path / run, sample_zip, **SHORT, data=data, objective=objective) for run in ("alone", "resumed")
    )
    running = trainer(alone)
    concepts = []
    terms = []
    pack = running.collator.objective.contrast

    def recorded(model, latents, hidden, batch):
        concepts.extend(batch.concepts.tolist())
        terms.append(batch.caption_terms is not None and bool(batch.caption_terms.any()))
        return pack(model, latents, hidden, batch)

    running.collator.objective.contrast = recorded
    running.run()
    known = [concept for concept in concepts if concept]
    assert len(set(known)) < len(known), "several images of one concept"
    assert any(terms) == (positives == "shared_keywords"), "they are compared where the losses need them"
    shutil.copytree(alone.checkpoints / "step_00000002", resumed.checkpoints / "step_00000002")
    trainer(resumed, workers=2).run()
    assert curve(resumed) == curve(alone)
    assert weights(resumed) == weights(alone)


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"lcl"}))
def test_resumed_it_is_bitwise_the_same_and_exports_the_encoder_alone(tmp_path, sample_zip, name):
    views = ("matched_pairs", "pairs") if name in PAIR_METHODS else ("interleaved", "pairs")
    data = {"sources": [{"view": view} for view in views], "piece_images": 2}
    alone, resumed = (
        prepared(tmp_path / run, sample_zip, **SHORT, data=data, objective={"name": name})
        for run in ("alone", "resumed")
    )
    running = trainer(alone)
    running.run()
    shutil.copytree(alone.checkpoints / "step_00000002", resumed.checkpoints / "step_00000002")
    trainer(resumed).run()
    assert curve(resumed) == curve(alone)
    for group in ("model", "optimizer"):
        first, second = (run.checkpoints / "step_00000005" / f"{group}.safetensors" for run in (alone, resumed))
        assert first.read_bytes() == second.read_bytes(), group
    assert weights(resumed) == weights(alone)

    line = curve(alone)[-1]
    losses = {f"{loss}_loss" for loss in running.objective.weights}
    assert {number for number in line if number.endswith("_loss")} == losses
    assert {number for number in line if number.endswith(("_accuracy", "_variance", "_rank"))} == METRICS[name]
    assert line["loss"] == pytest.approx(sum(line[loss] for loss in losses), abs=1e-5)

    own = {f"objective.{parameter}" for parameter, _ in running.objective.named_parameters()}
    with safe_open(alone.checkpoints / "step_00000005" / "model.safetensors", "pt") as kept:
        assert {parameter for parameter in kept.keys() if parameter.startswith("objective.")} == own  # noqa: SIM118
    model, found = LCLModel.from_pretrained(alone.artifacts / "encoder", output_loading_info=True)
    assert not any(found.values())
    with safe_open(alone.artifacts / "encoder" / "model.safetensors", "pt") as exported:
        assert set(exported.keys()) == set(model.state_dict())
    assert model.get_image_features(torch.zeros(1, 3, 32, 32)).isfinite().all()
