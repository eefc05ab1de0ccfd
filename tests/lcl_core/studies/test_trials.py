"""From a study to complete specs: overlays, draws, products, additions, and whose fault a bad one is."""

import copy
import math

import pytest

from lcl_core.common.errors import UserError
from lcl_core.specs.base import presets
from lcl_core.specs.parsing import parse_as, parse_spec, spec_hash
from lcl_core.specs.study import AdditionSpec, RandomSearch, StudySpec
from lcl_core.studies.trials import (
    TRAINING_FIELDS,
    apply_addition,
    apply_overlay,
    evaluate_spec,
    expand_study,
    pretrain_spec,
    replace_encoders,
    resolve_presets,
    sample_settings,
    study_rows,
)

BASE = {"steps": 5, "optimizer": {"lr": 1.0, "eps": 2.0}, "data": {"sources": [{"view": "pairs"}, {"view": "x"}]}}


@pytest.mark.parametrize(
    ("over", "changes"),
    [
        (
            {"optimizer": {"lr": 3.0}, "data": {"sources": [{"view": "interleaved"}]}},
            {"optimizer": {"lr": 3.0, "eps": 2.0}, "data": {"sources": [{"view": "interleaved"}]}},
        ),
        (
            {"optimizer.lr": 4.0, "data.sources.1.view": "pairs", "model.text.width": 7, "engine": {"a.b": 1}},
            {
                "optimizer": {"lr": 4.0, "eps": 2.0},
                "data": {"sources": [{"view": "pairs"}, {"view": "pairs"}]},
                "model": {"text": {"width": 7}},
                "engine": {"a": {"b": 1}},
            },
        ),
        (
            {"data.sources.0": {"weight": 2}},
            {"data": {"sources": [{"view": "pairs", "weight": 2}, {"view": "x"}]}},
        ),
    ],
)
def test_objects_are_joined_lists_replaced_and_keys_may_be_dotted(over, changes):
    before = copy.deepcopy((BASE, over))
    made = apply_overlay(BASE, over)
    assert made == {**BASE, **changes}
    made["data"]["sources"][0]["view"] = made["optimizer"]["lr"] = "changed"
    assert (BASE, over) == before, "neither side is changed"


@pytest.mark.parametrize(
    ("path", "word"),
    [("data.sources.2.view", "2 items"), ("data.sources.first", "first"), ("steps.x", "no object"), ("a.0.b", "whole")],
)
def test_a_path_that_leads_nowhere_is_named(path, word):
    with pytest.raises(UserError, match=word) as caught:
        apply_overlay(BASE, {path: 1})
    assert caught.value.field == path


def search(trials, parameters, seed=0):
    return parse_as(RandomSearch, {"kind": "random", "trials": trials, "seed": seed, "parameters": parameters})


RATE = {"optimizer.lr": {"kind": "log-uniform", "low": 1e-5, "high": 1e-1}}


def test_the_same_seed_draws_the_same_and_more_trials_begin_with_the_same():
    assert sample_settings(search(5, RATE)) == sample_settings(search(9, RATE))[:5]
    assert sample_settings(search(5, RATE)) != sample_settings(search(5, RATE, seed=1))


def test_log_uniform_gives_each_order_of_magnitude_the_same_share():
    values = [setting["optimizer.lr"] for setting in sample_settings(search(1000, RATE))]
    assert min(values) >= 1e-5
    assert max(values) <= 1e-1
    decades = [sum(math.floor(math.log10(value)) == decade for value in values) for decade in (-5, -4, -3, -2)]
    assert all(195 < count < 300 for count in decades), decades  # 250 expected, sd 14


def test_uniform_and_whole_numbers():
    half = sample_settings(search(400, {"data.image_first_probability": {"kind": "uniform", "low": 0.0, "high": 0.5}}))
    assert 0.23 < sum(setting["data.image_first_probability"] for setting in half) / len(half) < 0.27
    whole = sample_settings(search(200, {"batch.images": {"kind": "uniform", "low": 3, "high": 5}}))
    assert {setting["batch.images"] for setting in whole} == {3, 4, 5}


LENGTHS = {
    "name": "length",
    "variants": [{"name": "short", "spec": {"steps": 5}}, {"name": "long", "spec": {"steps": 50}}],
}


def axis(name, **variants):
    return {"name": name, "variants": [{"name": variant, "spec": spec} for variant, spec in variants.items()]}


def test_every_combination_with_every_seed_one_seed_after_the_other(study_of):
    cells = expand_study(
        study_of(axes=[axis("loss", a={}, b={"objective.contrastive_weight": 2}), LENGTHS], seeds=[3, 1])
    )
    found = [(cell.labels["loss"], cell.labels["length"], cell.seed) for cell in cells]
    rows = [("a", "short"), ("a", "long"), ("b", "short"), ("b", "long")]
    assert found == [(*row, seed) for seed in (3, 1) for row in rows]
    assert [(c.spec.seed, c.spec.steps, c.spec.objective.contrastive_weight) for c in cells[:3]] == [
        (3, 5, None),
        (3, 50, None),
        (3, 5, 2.0),
    ]


def test_variants_win_over_the_base_and_the_base_over_its_preset(study_of):
    base = {"preset": "sample", "optimizer": {"lr": 7e-4}}
    (cell,) = expand_study(
        study_of(pretrain=base, axes=[axis("a", b={"model.text_layers": 2, "batch": {"images": 9}})])
    )
    preset = presets("pretrain")["sample"]
    assert cell.spec.optimizer.lr == 7e-4
    assert cell.spec.optimizer.warmup_steps == preset["optimizer"]["warmup_steps"]
    assert (cell.spec.model.text_layers, cell.spec.model.vision_layers) == (2, preset["model"]["vision_layers"])
    assert (cell.spec.batch.images, cell.spec.batch.tokens) == (9, preset["batch"]["tokens"])


def test_a_settled_study_trains_the_same_without_any_preset():
    study = parse_as(StudySpec, {"preset": "loss_ablation", "seeds": [1], "pretrain": {"optimizer.lr": 7e-4}})
    without = resolve_presets(study)
    assert (without.preset, "preset" in without.pretrain) == (None, False)
    assert without.pretrain["optimizer"] == {**presets("pretrain")["sample"]["optimizer"], "lr": 7e-4}
    assert [cell.hash for cell in expand_study(without)] == [cell.hash for cell in expand_study(study)]


def test_the_hash_is_that_of_the_whole_spec_however_it_was_said(study_of):
    by_preset = parse_spec("pretrain", {"preset": "sample", "seed": 3})
    (cell,) = expand_study(study_of(pretrain={"preset": "sample"}, axes=[], seeds=[3]))
    spelled_out = by_preset.model_dump(mode="json", exclude={"preset"})
    (other,) = expand_study(study_of(pretrain={**spelled_out, "seed": 0}, axes=[], seeds=[3]))
    assert cell.hash == other.hash == spec_hash("pretrain", by_preset)
    assert spec_hash("pretrain", parse_spec("pretrain", {"preset": "sample"})) != cell.hash
    assert spec_hash("evaluate", parse_spec("evaluate", {"encoder": "a"})) != spec_hash(
        "evaluate", parse_spec("evaluate", {"encoder": "b"})
    )


def test_a_random_search_is_one_axis_more(study_of):
    cells = expand_study(study_of(search={"kind": "random", "trials": 3, "parameters": RATE}))
    assert [(cell.labels["loss"], cell.labels["trial"]) for cell in cells] == [
        (loss, f"t0{trial}") for loss in ("both", "contrastive") for trial in (1, 2, 3)
    ]
    assert all(cell.spec.optimizer.lr == cell.parameters["optimizer.lr"] for cell in cells)
    assert len({cell.spec.optimizer.lr for cell in cells}) == 3


def test_a_study_of_too_many_cells_is_refused_before_any_row_is_made(study_of, monkeypatch):
    """The trials of a search count too; equal ones are one."""
    rates = {"optimizer.lr": {"kind": "choice", "values": [0.1, 0.2, 0.3]}}
    search = {"kind": "random", "trials": 1000, "parameters": rates}
    fits = study_of(axes=[LENGTHS], search=search, seeds=[0, 1])
    assert len(study_rows(fits)) * 2 == 12

    def made(*_):
        raise AssertionError("a row was made")

    monkeypatch.setattr("lcl_core.studies.trials.StudyRow", made)
    monkeypatch.setattr("lcl_core.studies.trials.MAX_CELLS", 11)
    with pytest.raises(UserError, match="12 pre-trainings, more than 11") as caught:
        study_rows(fits)
    assert (caught.value.code, caught.value.field) == ("too_large", "seeds")


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"axes": [axis("a", x={"optimizer.lr": -1})]}, "axes.0.variants.0.spec.optimizer.lr", "greater than 0"),
        ({"axes": [axis("a", y={}, x={"optimiser.lr": 1})]}, "axes.0.variants.1.spec.optimiser", "mean 'optimizer'"),
        ({"axes": [axis("a", x={"steps.y": 1})]}, "axes.0.variants.0.spec.steps.y", "no object"),
        ({"axes": [axis("a", x={"seed": 1})]}, "axes.0.variants.0.spec.seed", "seeds"),
        ({"axes": [axis("a", x={"preset": "sample"})]}, "axes.0.variants.0.spec.preset", "base"),
        ({"pretrain": {"steps": 0}}, "pretrain.steps", "greater than or equal to 1"),
        ({"pretrain": {"preset": "absent"}}, "pretrain", "choose from"),
        ({"evaluate": {"encoder": "x"}}, "evaluate.encoder", "puts the encoders in"),
        ({"evaluate": {"tasks": ["cook"]}}, "evaluate.tasks.0", "retrieval"),
        ({"axes": [axis("a", x={}, y={"steps": 10})]}, "axes", "a=x and a=y come to the same"),
        ({"axes": [LENGTHS, axis("b", x={}, y={"steps": 9})], "seeds": list(range(60))}, "seeds", "240 pre-trainings"),
        (
            {
                "search": {
                    "kind": "random",
                    "trials": 2,
                    "parameters": {"optimizer.lr": {"kind": "choice", "values": [-1]}},
                }
            },
            "search.parameters.optimizer.lr",
            "greater than 0",
        ),
    ],
)
def test_a_bad_study_names_the_place(study_of, changes, field, words):
    study = study_of(**changes)
    with pytest.raises(UserError, match=words) as caught:
        expand_study(study)
    assert caught.value.field == field


def test_what_two_axes_do_together_is_reported_by_the_row(study_of):
    study = study_of(axes=[axis("size", s={"model.image_size": 96}), axis("patch", p={"model.patch_size": 5})])
    with pytest.raises(UserError, match="size=s patch=p") as caught:
        expand_study(study)
    assert caught.value.field == "axes"


@pytest.mark.parametrize("name", sorted(presets("study")))
def test_every_built_in_study_comes_to_valid_specs(name):
    study = parse_as(StudySpec, {"preset": name})
    cells = expand_study(study)
    assert study.question
    assert len({cell.hash for cell in cells}) == len(cells)
    assert {source.dataset for cell in cells for source in cell.spec.data.sources} == {"sample"}
    assert all(cell.spec.batch.images == 128 for cell in cells)


def test_table_1_gives_each_method_what_it_reads_and_all_as_many_images():
    cells = expand_study(parse_as(StudySpec, {"preset": "table1"}))
    views = {
        cell.labels["method"]: {source.view for source in cell.spec.data.sources} for cell in cells if cell.seed == 0
    }
    of_documents = dict.fromkeys(("beit3", "flamingo", "emu", "lcl"), frozenset({"interleaved"}))
    assert views == {**dict.fromkeys(("clip", "coca", "blip2"), frozenset({"pairs"})), **of_documents}
    assert {cell.spec.objective.name for cell in cells} == set(views)
    assert len({cell.spec.steps * cell.spec.batch.images for cell in cells}) == 1


BEST = {"dataset": "sample", "split": "test_vendor", "choose": "held_out.retrieval_r5", "export": "best"}
ON_VAL = {**BEST, "split": "val"}


def variant(**spec):
    return [{"name": "a", "variants": [{"name": "x"}, {"name": "y", "spec": spec}]}]


@pytest.mark.parametrize(
    ("pretrain", "axes"),
    [
        ({"monitor": BEST}, []),
        ({}, variant(monitor=BEST)),
        ({"monitor": ON_VAL}, variant(**{"monitor.split": "test_vendor"})),
        ({"monitor": {**BEST, "export": "last"}}, variant(monitor={"export": "best"})),
    ],
)
def test_weights_are_not_chosen_on_what_is_reported(study_of, pretrain, axes):
    study = study_of(pretrain={"steps": 10, **pretrain}, axes=axes, evaluate={"splits": ["val_b", "test_vendor"]})
    with pytest.raises(UserError, match="test_vendor is what evaluate reports") as caught:
        expand_study(study)
    assert (caught.value.code, caught.value.field) == ("bad_spec", "pretrain.monitor.split")


@pytest.mark.parametrize(
    "monitor",
    [
        {**BEST, "export": "last"},
        ON_VAL,
        {**BEST, "dataset": "other"},
        {**BEST, "dataset": "other", "view": "interleaved"},
    ],
)
def test_other_monitors_are_accepted(study_of, monitor):
    assert expand_study(study_of(pretrain={"steps": 10, "monitor": monitor}))


RANDOM = {"kind": "random", "trials": 2, "parameters": {"optimizer.lr": {"kind": "uniform", "low": 0.1, "high": 0.9}}}


def addition(**given):
    return parse_as(AdditionSpec, given)


def variants(axis, *names):
    made = [{"name": name, "spec": {"objective.contrastive_weight": float(name)}} for name in names]
    return [{"name": axis, "variants": made}]


def test_seeds_and_variants_are_added_and_the_old_cells_stay(study_of):
    study = study_of()
    more = apply_addition(study, addition(seeds=[4, 0], axes=variants("loss", "2", "3")))
    assert more.seeds == (0, 4)
    assert [variant.name for variant in more.axes[0].variants] == ["both", "contrastive", "2", "3"]
    old = {cell.key: cell.hash for cell in expand_study(study)}
    new = {cell.key: cell.hash for cell in expand_study(more)}
    assert len(new) == 8
    assert old.items() <= new.items()
    assert apply_addition(more, addition(seeds=[4], axes=variants("loss", "2"))) == more


def test_a_random_search_gets_more_trials_and_never_fewer(study_of):
    study = study_of(search=RANDOM)
    more = apply_addition(study, addition(trials=5))
    assert [cell.parameters for cell in expand_study(more)][:2] == [cell.parameters for cell in expand_study(study)][:2]
    assert apply_addition(more, addition(trials=3)).search == more.search


@pytest.mark.parametrize(
    ("given", "code", "field"),
    [
        ({"axes": variants("size", "2")}, "bad_spec", "axes.0.name"),
        ({"axes": [{"name": "loss", "variants": [{"name": "both", "spec": {"steps": 3}}]}]}, "bad_spec",
         "axes.0.variants.0.name"),
        ({"trials": 3}, "bad_spec", "trials"),
    ],
)  # fmt: skip
def test_what_would_change_old_rows_is_refused(study_of, given, code, field):
    with pytest.raises(UserError) as caught:
        apply_addition(study_of(), addition(**given))
    assert (caught.value.code, caught.value.field) == (code, field)


TUNED = {"tasks": ["tuned_retrieval"], "tuned_retrieval.text_encoder": "minilm"}
REFERRING = {
    "pretrain": {"model": {"init": "base"}},
    "axes": [
        {
            "name": "start",
            "variants": [
                {"name": "base"},
                {"name": "dotted", "spec": {"model.init": "other"}},
                {"name": "nested", "spec": {"model": {"init": "third"}}},
                {"name": "none", "spec": {"model.init": None}},
            ],
        },
    ],
    "search": {
        "kind": "random", "trials": 2,
        "parameters": {"model.init": {"kind": "choice", "values": ["drawn", "base"]}},
    },
    "evaluate": {**TUNED, "splits": ["test"]},
    "metrics": [{"name": "m", "metric": "IR@5"}],
}  # fmt: skip


def test_references_to_encoders_are_replaced_wherever_they_are(study_of):
    study, names = parse_as(StudySpec, REFERRING), ["base", "other", "third", "minilm", "drawn"]
    seen = set()
    replace_encoders(study, lambda name: seen.add(name) or name)
    assert seen == set(names)
    pinned = replace_encoders(study, {name: f"enc_{name}" for name in names}.__getitem__)
    assert evaluate_spec(pinned, "x").tuned_retrieval.text_encoder == "enc_minilm"
    assert {pretrain_spec(pinned, row, 0).model.init for row in study_rows(pinned)} <= {"enc_drawn", "enc_base"}
    assert replace_encoders(pinned, str) == pinned, "a study without names stays as it is"
    unused = study_of(evaluate={"tasks": ["retrieval"], "tuned_retrieval": {"text_encoder": "minilm"}})
    assert replace_encoders(unused, str.upper).evaluate == unused.evaluate


def test_the_fields_that_refer_to_encoders_are_those_of_a_pretraining():
    model = {"init": "a"}
    spec = parse_spec("pretrain", {"model": model})
    assert tuple(spec.references().encoders) == TRAINING_FIELDS
