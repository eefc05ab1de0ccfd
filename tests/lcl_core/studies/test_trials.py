"""From a study to complete specs: products, seeds, identity, and whose fault a bad one is."""

from collections.abc import Callable

import pytest

from lcl_core.common.errors import UserError
from lcl_core.specs.base import presets
from lcl_core.specs.parsing import parse_as, parse_spec, spec_hash
from lcl_core.specs.study import StudySpec
from lcl_core.studies.trials import expand_study, resolve_presets, study_rows

StudyOf = Callable[..., StudySpec]
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


def test_a_study_without_axes_is_its_base_with_each_seed(study_of):
    cells = expand_study(study_of(axes=[], seeds=[0, 7]))
    assert [(cell.labels, cell.spec.seed, cell.spec.steps) for cell in cells] == [({}, 0, 10), ({}, 7, 10)]


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
    search = {
        "kind": "random",
        "trials": 3,
        "parameters": {"optimizer.lr": {"kind": "log-uniform", "low": 1e-4, "high": 1e-2}},
    }
    cells = expand_study(study_of(search=search))
    assert [(cell.labels["loss"], cell.labels["trial"]) for cell in cells] == [
        (loss, f"t0{trial}") for loss in ("both", "contrastive") for trial in (1, 2, 3)
    ]
    assert all(cell.spec.optimizer.lr == cell.parameters["optimizer.lr"] for cell in cells)
    assert len({cell.spec.optimizer.lr for cell in cells}) == 3


def test_a_study_of_too_many_cells_is_refused_before_any_row_is_made(study_of, monkeypatch):
    """The trials of a search count too; equal ones are one."""
    rates = {"optimizer.lr": {"kind": "choice", "values": [0.1, 0.2, 0.3]}}
    search = {"kind": "random", "trials": 1000, "parameters": rates}
    fits = study_of(axes=[LENGTHS], search=search, seeds=[0, 1], max_cells=12)
    assert len(study_rows(fits)) * 2 == 12

    def made(*_):
        raise AssertionError("a row was made")

    monkeypatch.setattr("lcl_core.studies.trials.StudyRow", made)
    with pytest.raises(UserError, match="12 pre-trainings, more than max_cells 11") as caught:
        study_rows(fits.model_copy(update={"max_cells": 11}))
    assert (caught.value.code, caught.value.field) == ("too_many_cells", "max_cells")


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
        ({"axes": [LENGTHS], "seeds": list(range(60))}, "max_cells", "120 pre-trainings"),
        ({"max_cells": 1}, "max_cells", "2 pre-trainings"),
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
