"""Forecasts from runs that were, and from none."""

from typing import Any

import pytest

from lcl_core.estimate import flops
from lcl_core.estimate.flops import part_parameters
from lcl_core.estimate.report import estimate_pretraining, measured_run
from lcl_core.specs.parsing import parse_spec
from lcl_core.specs.pretrain import PretrainSpec

COUNTS = {"steps": 500, "images_seen": 64_000, "tokens_seen": 1_600_000, "documents_seen": 58_000, "flops": 2.5e14}


def spec_of(**changes):
    spec = parse_spec("pretrain", {"preset": "sample", "precision": "fp32", **changes})
    assert isinstance(spec, PretrainSpec)
    return spec


def ended(run_id="run_1", seconds=200.0, memory=1.0, **changes):
    """A run of the sample preset that read its 128 images a step."""
    result: dict[str, Any] = {"encoder": {**COUNTS, "seconds": seconds}, "final": {"memory_gib": memory}}
    return measured_run(run_id, spec_of(**changes).model_dump(), result)


def test_a_run_forecasts_its_own_repetition():
    found = estimate_pretraining(spec_of(), [ended()])
    assert found.certainty == "measured"
    assert found.seconds.expected == pytest.approx(215)
    assert found.seconds.low < 215 < found.seconds.high < 255
    assert found.memory_bytes.expected == pytest.approx(2**30)
    assert found.samples.images == pytest.approx(64_000)
    assert found.samples.tokens == pytest.approx(1_600_000)
    assert found.flops == pytest.approx(500 * found.flops_per_step)
    assert found.runs == ["run_1"]
    assert ".4 s a step, as measured by run_1, of this very setup" in found.basis[0]
    assert "as run_1 read them" in found.basis[1]


def test_twice_the_steps_take_twice_as_long_and_a_larger_model_longer():
    past = [ended()]
    once, twice, larger = (
        estimate_pretraining(spec_of(**changes), past)
        for changes in ({}, {"steps": 1000}, {"model": {"vision_width": 384, "text_width": 384, "text_heads": 6}})
    )
    assert twice.seconds.expected - 15 == pytest.approx(2 * (once.seconds.expected - 15))
    assert twice.memory_bytes == once.memory_bytes
    assert larger.certainty == "scaled"
    assert larger.seconds.expected - 15 == pytest.approx(200 * larger.flops / COUNTS["flops"])
    assert larger.flops > 2 * once.flops
    assert larger.seconds.high / larger.seconds.low > once.seconds.high / once.seconds.low
    assert larger.memory_bytes.expected > 1.2 * once.memory_bytes.expected


def test_the_nearest_run_counts_and_like_ones_widen_the_range():
    far = ended("run_far", seconds=9000.0, model={"vision_width": 1024, "vision_layers": 12})
    found = estimate_pretraining(spec_of(), [far, ended("run_near"), ended("run_slow", seconds=400.0)])
    assert found.runs == ["run_near", "run_slow"]
    assert found.seconds.high > 400
    assert found.seconds.low < 200


def test_without_any_run_it_is_said_to_be_a_guess():
    found = estimate_pretraining(spec_of(), [])
    assert (found.certainty, found.runs) == ("assumed", [])
    assert found.seconds.high > 10 * found.seconds.low
    assert "assumed at 100 GFLOP/s" in found.basis[0]
    assert "assumed to hold" in found.basis[1]
    assert found.parameters == 6_411_265
    assert found.checkpoint_bytes == 12 * found.parameters
    assert found.disk_bytes == 2 * found.checkpoint_bytes + 4 * found.parameters


def test_a_monitor_needs_the_weights_once_more_in_memory_and_on_disk():
    alone, beside = (
        estimate_pretraining(spec_of(**more), []) for more in ({}, {"monitor": {"dataset": "held", "split": "val"}})
    )
    assert beside.memory_parts["copies"] - alone.memory_parts["copies"] == 4 * alone.parameters
    assert beside.disk_bytes - alone.disk_bytes == 4 * alone.parameters


def test_on_a_gpu_no_checkpoint_is_staged_in_its_memory():
    on_cpu, on_gpu = (estimate_pretraining(spec_of(), [], device) for device in ("cpu", "gpu"))
    assert on_gpu.memory_parts["copies"] == 0 < on_cpu.memory_parts["copies"]
    assert on_gpu.seconds.expected < on_cpu.seconds.expected


def test_a_process_holds_the_shard_of_its_group():
    def weights(**engine):
        return estimate_pretraining(spec_of(engine={"processes": 8, **engine}), []).memory_parts["weights"]

    whole = weights()
    assert weights(strategy="fsdp2") == whole // 8


def test_more_processes_read_more_at_the_same_rate_each():
    one, four = (estimate_pretraining(spec_of(engine={"nodes": 2, "processes": n}), [ended()]) for n in (1, 4))
    assert four.per_step.images == pytest.approx(4 * one.per_step.images)
    assert four.seconds.expected == pytest.approx(one.seconds.expected)
    assert four.flops == pytest.approx(4 * one.flops)


@pytest.mark.parametrize("name", ["lcl", "clip", "coca", "blip2", "beit3", "flamingo", "emu"])
def test_every_method_is_forecast(name):
    changes = {"preset": "sample_pairs", "objective": {"name": name}}
    found = estimate_pretraining(spec_of(**changes), [ended()])
    assert found.certainty == "scaled"
    assert 0 < found.seconds.low < found.seconds.expected < found.seconds.high


def test_a_moving_average_of_the_encoder_is_one_more_encoder_that_is_not_trained():
    plain, averaged = (
        estimate_pretraining(spec_of(objective={"name": "emu", "regression_target": target}), [])
        for target in ("detached", "ema")
    )
    sizes = flops.model_sizes(spec_of())
    parts = part_parameters(sizes)
    encoder = 4 * (parts["vision"] + parts["pooler"])
    assert averaged.memory_parts["weights"] - plain.memory_parts["weights"] == encoder
    assert averaged.memory_parts["gradients"] == plain.memory_parts["gradients"]
    assert averaged.checkpoint_bytes - plain.checkpoint_bytes == encoder
    assert averaged.parameters == plain.parameters, "it is not exported"
    images, patches = plain.samples.images, sizes.num_image_tokens
    assert averaged.flops - plain.flops > flops.vision_flops(sizes, images, patches)


def test_a_branch_is_forecast_without_the_steps_of_its_trunk():
    branch = {"run": "run_trunk", "step": 5000}
    plan = {"milestone_every": 1000, "keep_checkpoints": 1}
    whole, branched, short = (
        estimate_pretraining(spec_of(**plan, **more), [ended()])
        for more in ({"steps": 6000}, {"steps": 6000, "branch": branch}, {"steps": 1000})
    )
    assert branched.flops == pytest.approx(short.flops) == pytest.approx(whole.flops / 6)
    assert branched.samples == short.samples
    assert branched.seconds == short.seconds
    assert whole.disk_bytes - branched.disk_bytes == 4 * whole.checkpoint_bytes, "the milestones before the branch"
    assert branched.memory_bytes == whole.memory_bytes


def test_a_frozen_part_has_no_gradients_and_no_moments():
    whole, part = (estimate_pretraining(spec_of(model={"freeze": freeze}), []) for freeze in ([], ["vision"]))
    frozen = 4 * part_parameters(flops.model_sizes(spec_of()))["vision"]
    for name, share in {"weights": 0, "gradients": 1, "moments": 2}.items():
        assert whole.memory_parts[name] - part.memory_parts[name] == share * frozen
    assert whole.checkpoint_bytes - part.checkpoint_bytes == 2 * frozen
    assert whole.flops == part.flops, "as the trainer counts"


@pytest.mark.parametrize(
    ("steps", "seconds", "counts"), [(3, 9.0, False), (49, 120.0, False), (50, 20.0, True), (20, 900.0, True)]
)
def test_a_run_of_a_few_steps_measures_nothing(steps, seconds, counts):
    images = 128 * steps
    read = {"images_seen": images, "tokens_seen": 25 * images, "documents_seen": 0.9 * images, "flops": 1e12}
    past = measured_run("run_2", spec_of().model_dump(), {"encoder": {"steps": steps, "seconds": seconds, **read}})
    assert (past is not None) == counts


@pytest.mark.parametrize("result", [{}, {"encoder": {"steps": 500}}, {"encoder": {**COUNTS, "seconds": 0}}])
def test_a_result_without_counts_measures_nothing(result):
    assert measured_run("run_3", spec_of().model_dump(), result) is None
