"""Forecasts from runs that were, and from none."""

from typing import Any

import pytest

from lcl_core.common.errors import UserError
from lcl_core.estimate import flops
from lcl_core.estimate.history import measured_run
from lcl_core.estimate.memory import pooler_parameters, vision_parameters
from lcl_core.estimate.report import estimate_pretraining
from lcl_core.specs.parsing import parse_spec
from lcl_core.specs.pretrain import PretrainSpec

COUNTS = {"steps": 500, "images_seen": 64_000, "tokens_seen": 1_600_000, "documents_seen": 58_000}


def spec_of(**changes):
    spec = parse_spec("pretrain", {"preset": "sample", "precision": "fp32", **changes})
    assert isinstance(spec, PretrainSpec)
    return spec


def ended(run_id="run_1", seconds=200.0, memory=1.0, vocabulary=None, **changes):
    """A run of the sample preset that read its 128 images a step."""
    result: dict[str, Any] = {"encoder": {**COUNTS, "seconds": seconds}, "final": {"memory_gib": memory}}
    result["encoder"] |= {} if vocabulary is None else {"vocab_size": vocabulary}
    past = measured_run(run_id, spec_of(**changes).model_dump(), "cpu", None, result, seconds + 10)
    assert past is not None
    return past


def test_a_run_forecasts_its_own_repetition():
    found = estimate_pretraining(spec_of(), [ended()])
    assert found.certainty == "measured"
    assert found.seconds.expected == pytest.approx(210)
    assert found.seconds.low < 210 < found.seconds.high < 250
    assert found.memory_bytes.expected == pytest.approx(2**30)
    assert found.samples.images == pytest.approx(64_000)
    assert found.samples.tokens == pytest.approx(1_600_000)
    assert found.flops == pytest.approx(500 * found.flops_per_step)
    assert found.runs == ["run_1"]
    assert "as measured by run_1, of this very setup" in found.basis[0]
    assert "as run_1 read them" in found.basis[1]


def test_twice_the_steps_take_twice_as_long_and_a_larger_model_longer():
    past = [ended()]
    once, twice, larger = (
        estimate_pretraining(spec_of(**changes), past)
        for changes in ({}, {"steps": 1000}, {"model": {"vision_width": 384, "text_width": 384, "text_heads": 6}})
    )
    assert twice.seconds.expected - 10 == pytest.approx(2 * (once.seconds.expected - 10))
    assert twice.memory_bytes == once.memory_bytes
    assert larger.certainty == "scaled"
    assert larger.seconds.expected - 10 == pytest.approx(200 * larger.flops / once.flops)
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


def test_a_run_under_way_tells_its_rate_too():
    line = {"step": 100, "images_seen": 12_800, "images_per_s": 320.0, "tokens_per_s": 8000.0, "memory_gib": 1.0}
    past = measured_run("run_2", spec_of().model_dump(), "cpu", line, None)
    assert past is not None
    found = estimate_pretraining(spec_of(), [past])
    assert "as run_2 reads them" in found.basis[1]
    assert (found.certainty, found.runs) == ("measured", ["run_2"])
    assert found.seconds.expected == pytest.approx(200 + 15, rel=0.01)
    assert "as run_1 read them" in estimate_pretraining(spec_of(), [past, ended()]).basis[1], (
        "one that has ended knows more"
    )


@pytest.mark.parametrize(
    ("steps", "seconds", "counts"), [(3, 9.0, False), (49, 120.0, False), (50, 20.0, True), (20, 900.0, True)]
)
def test_a_run_of_a_few_steps_tells_no_rate(steps, seconds, counts):
    images = 128 * steps
    result = {"encoder": {"steps": steps, "seconds": seconds, "images_seen": images, "tokens_seen": 25 * images,
                          "documents_seen": 0.9 * images}, "final": {"memory_gib": 1.0}}  # fmt: skip
    past = measured_run("run_2", spec_of(steps=steps).model_dump(), "cpu", None, result, seconds + 10)
    assert past is not None
    found = estimate_pretraining(spec_of(), [past])
    assert (found.certainty, found.runs) == (("measured", ["run_2"]) if counts else ("assumed", []))
    assert "as run_2 read them" in found.basis[1], "its documents are as good as any"
    both = estimate_pretraining(spec_of(), [past, ended()])
    assert ("run_2" in both.runs) == counts


def test_a_process_that_is_still_growing_tells_no_peak():
    line = {"step": 20, "images_seen": 2560, "images_per_s": 320.0, "tokens_per_s": 8000.0, "memory_gib": 9.0}
    past = measured_run("run_2", spec_of().model_dump(), "cpu", line, None)
    assert past is not None
    blind, young = estimate_pretraining(spec_of(), []), estimate_pretraining(spec_of(), [past])
    assert young.memory_bytes.expected == pytest.approx(blind.memory_bytes.expected, rel=0.2)
    assert "no run has measured its peak" in young.basis[2]
    assert estimate_pretraining(spec_of(steps=20), [past]).memory_bytes.expected == pytest.approx(9 * 2**30)


@pytest.mark.parametrize(
    ("progress", "result"),
    [(None, None), ({"step": 3}, None), ({"step": 3, "images_per_s": "many"}, None), (None, {"encoder": {"steps": 5}}),
     ({"step": 5, "images_seen": True, "images_per_s": 1.0, "tokens_per_s": 1.0}, None)],
)  # fmt: skip
def test_a_run_that_tells_too_little_is_passed_over(progress, result):
    assert measured_run("run_3", spec_of().model_dump(), "cpu", progress, result) is None


@pytest.mark.parametrize("name", ["lcl", "clip", "coca", "blip2", "beit3", "flamingo", "emu"])
def test_every_method_is_forecast(name):
    changes = {"preset": "sample_pairs", "objective": {"name": name}}
    found = estimate_pretraining(spec_of(**changes), [ended()])
    assert found.certainty == "scaled" or name == "lcl"
    assert 0 < found.seconds.low < found.seconds.expected < found.seconds.high


def test_matching_needs_the_tokens_of_the_images_of_all_processes_and_micro_batches():
    def activations(**engine):
        spec = spec_of(preset="sample_pairs", objective={"name": "blip2"}, engine=engine)
        return estimate_pretraining(spec, []).memory_parts["activations"]

    spec = spec_of(preset="sample_pairs")
    images = estimate_pretraining(spec, []).per_step.images
    tokens = images * spec.model.num_image_tokens * spec.model.text_width
    assert activations(processes=4, accumulate=2) - activations() == pytest.approx(7 * 4 * tokens)


def test_a_moving_average_of_the_encoder_is_one_more_encoder_that_is_not_trained():
    plain, averaged = (
        estimate_pretraining(spec_of(objective={"name": "emu", "regression_target": target}), [])
        for target in ("detached", "ema")
    )
    sizes = flops.model_sizes(spec_of())
    encoder = 4 * (vision_parameters(sizes) + pooler_parameters(sizes))
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


def test_a_branch_of_a_few_steps_says_nothing_of_the_peak():
    branch = {"run": "run_trunk", "step": 480}
    young = estimate_pretraining(spec_of(), [ended(memory=9.0, branch=branch)])
    assert "no run has measured its peak" in young.basis[2]


def test_the_vocabulary_of_a_file_is_the_one_that_a_run_with_it_had():
    shared = {"tokenizer": {"path": "/data/tokenizer.json", "vocab_size": 4096}}
    blind = estimate_pretraining(spec_of(**shared), [ended(vocabulary=5000)])
    assert "Vocabulary: counted as 4,101 tokens" in blind.basis[-1]
    past = ended("run_shared", vocabulary=30_000, **shared)
    other_size = {"tokenizer": shared["tokenizer"] | {"vocab_size": 300}}
    for spec in (spec_of(**shared), spec_of(**other_size), spec_of(**shared, data={"piece_images": 3})):
        found = estimate_pretraining(spec, [past])
        assert found.parameters - blind.parameters == 2 * (30_000 - 4101) * spec.model.text_width
        assert not any(sentence.startswith("Vocabulary") for sentence in found.basis)
    again = estimate_pretraining(spec_of(**shared), [past])
    assert (again.certainty, again.seconds.expected) == ("measured", pytest.approx(210))
    assert again.flops > blind.flops


def test_a_learnt_vocabulary_is_as_large_as_it_was_for_the_same_texts():
    plain, same, others = (
        estimate_pretraining(spec_of(**changes), [ended(vocabulary=vocabulary)])
        for changes, vocabulary in (({}, None), ({}, 1000), ({"tokenizer": {"vocab_size": 2000}}, 1000))
    )
    width = spec_of().model.text_width
    assert plain.parameters - same.parameters == 2 * width * (4101 - 1000)
    assert plain.parameters - others.parameters == 2 * width * (4096 - 2000)


def test_runs_with_towers_that_this_version_of_timm_does_not_have_do_not_count(monkeypatch):
    tower = {"vision": "timm:resnet18", "vision_width": 256}
    foreign, own = ended("run_timm", model=tower), ended("run_own")
    assert estimate_pretraining(spec_of(model=tower), [foreign, own]).runs[0] == "run_timm"
    monkeypatch.setattr("timm.is_model", lambda name: False)
    flops._timm_counts.cache_clear()
    assert estimate_pretraining(spec_of(), [foreign, own]).runs == ["run_own"]
    assert estimate_pretraining(spec_of(), [foreign]).certainty == "assumed"
    with pytest.raises(UserError, match="has no model"):
        estimate_pretraining(spec_of(model=tower), [own])


def test_resident_images_take_disk_as_far_as_their_number_is_known():
    plain, resident = (
        estimate_pretraining(spec_of(data={"resident": flag}), [], images={"sample": 1000}) for flag in (False, True)
    )
    # crops keep .6 of the area, and the narrowest has sides of 3 to 4
    assert resident.disk_bytes - plain.disk_bytes == 1000 * 27_307
    assert "27,307,000 bytes" in resident.basis[-1]
    unknown = estimate_pretraining(spec_of(data={"resident": True}), [])
    assert unknown.disk_bytes == plain.disk_bytes
    assert "not counted" in unknown.basis[-1]
    assert "sample" in unknown.basis[-1]


def frozen(*parts, **more):
    return spec_of(model={"freeze": list(parts)}, **more)


def test_frozen_parts_have_no_gradients_to_compute():
    """A forward pass counts one; gradients of weights another; those of inputs, where something before is trained."""
    whole = estimate_pretraining(spec_of(), [])
    vision = estimate_pretraining(frozen("vision"), [])
    text = estimate_pretraining(frozen("text"), [])
    bottom = estimate_pretraining(frozen("vision", "pooler", "text"), [])
    assert vision.flops < text.flops < whole.flops, "the tower before everything needs no gradient at all"
    assert bottom.flops < vision.flops
    assert whole.seconds.expected > vision.seconds.expected
    clip = {"objective": {"name": "clip"}, "data": {"sources": [{"view": "pairs"}]}}
    locked, free = (estimate_pretraining(frozen(*parts, **clip), []).flops for parts in (("text",), ()))
    sizes = flops.model_sizes(spec_of())
    forwards = flops.step_forwards("clip", ("text",))
    assert (forwards["text"], forwards["vision"], flops.step_forwards("lcl", ("text",))["text"]) == (1, 3, 2)
    assert locked < free
    assert sizes.text_layers == 4


def test_a_run_with_frozen_parts_is_forecast_from_one_without():
    past = [ended()]
    whole, part = (estimate_pretraining(each, past) for each in (spec_of(), frozen("vision")))
    assert part.seconds.expected - 10 == pytest.approx((whole.seconds.expected - 10) * part.flops / whole.flops)
    again = estimate_pretraining(frozen("vision"), [ended(model={"freeze": ["vision"]})])
    assert again.seconds.expected == pytest.approx(210)


def test_a_teacher_takes_a_forward_pass_an_image():
    distill = {"objective": {"distill": {"encoder": "enc_1"}}}
    alone = estimate_pretraining(spec_of(), [])
    taught = estimate_pretraining(spec_of(**distill), [], teachers={"enc_1": 1e9})
    assert taught.flops - alone.flops == pytest.approx(1e9 * alone.samples.images)
    unknown = estimate_pretraining(spec_of(**distill), [])
    assert unknown.flops == alone.flops
    assert "without the teacher enc_1" in unknown.basis[-1]
    measured = estimate_pretraining(spec_of(**distill), [ended(**distill)])
    assert measured.seconds.expected == pytest.approx(210)
    assert "teacher" not in measured.basis[-1]
