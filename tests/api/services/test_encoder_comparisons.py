"""Which evaluations of two encoders are compared."""

import pytest

from api.services.comparisons import COMPARISON_KEYS, EvaluatedFigure, compare_figures, evaluated_figures
from lcl_core.db import runs
from lcl_core.db.models import Run
from lcl_core.specs.parsing import parse_spec


def figure(run_id, value, settings="a", metric="IR@5"):
    key = tuple(metric if name == "metric" else name for name in COMPARISON_KEYS)
    return EvaluatedFigure(key, value, 0.1, None, run_id, {"source": settings, "seed": "0"})


def stored(spec):
    """As a run's row has it, with all fields."""
    return parse_spec("evaluate", spec).model_dump(mode="json")


def test_the_newest_two_with_equal_settings_are_compared():
    left = [figure("run_7", 0.7, "c"), figure("run_5", 0.5, "b"), figure("run_1", 0.1, "a"), figure("run_0", 0.0, "a")]
    right = [figure("run_6", 0.6, "a"), figure("run_4", 0.4, "b"), figure("run_2", 0.2, "d")]
    (row,) = compare_figures(left, right)
    assert (row["left_run"], row["right_run"], row["difference"], row["reason"]) == ("run_1", "run_6", 0.5, None)


def test_figures_of_one_encoder_alone_have_no_row():
    assert compare_figures([figure("run_1", 0.1, metric="IR@1")], [figure("run_2", 0.1)]) == []


@pytest.mark.parametrize(("other", "same"), [("t2", False), ("t1", True)])
def test_another_text_encoder_counts_by_its_weights(monkeypatch, other, same):
    """Its name may mean another encoder later; evaluations without recorded inputs are compared by the name."""

    def evaluation(run_id, encoder, hashes):
        spec = {"encoder": encoder, "dataset": "sample", "tuned_retrieval": {"text_encoder": "minilm"}}
        return Run(id=run_id, spec=spec, encoder_id=encoder, inputs={"datasets": {}, "encoders": hashes}, result={})

    row = {"task": "tuned_retrieval", "metric": "IR@5", "transfer": "frozen", "value": 0.5}
    found = {
        "l": [(evaluation("run_1", "l", {"l": "h1", "enc_a": "t1"}), [row])],
        "r": [(evaluation("run_2", "r", {"r": "h2", "enc_b": other}), [row])],
    }
    monkeypatch.setattr(runs, "list_evaluations", lambda session, encoder: found[encoder])
    (compared,) = compare_figures(*(evaluated_figures(None, side) for side in found))
    reason = "evaluated with different settings: tuned_retrieval.text_encoder"
    assert compared["reason"] == (None if same else reason)


@pytest.mark.parametrize(("other", "same"), [("h2", False), ("h1", True)])
def test_a_dataset_to_train_on_counts_by_its_content(monkeypatch, other, same):
    def evaluation(run_id, encoder, name, content):
        spec = stored({"encoder": encoder, "dataset": "v2", "classification": {"train_dataset": name}})
        inputs = {"datasets": {"v2": "h0", name: content}, "encoders": {encoder: "e"}}
        return Run(id=run_id, spec=spec, encoder_id=encoder, inputs=inputs, result={})

    row = {"task": "classification", "metric": "acc@1", "transfer": "frozen", "variant": "class", "value": 0.5}
    found = {
        "l": [(evaluation("run_1", "l", "imagenet", "h1"), [row])],
        "r": [(evaluation("run_2", "r", "imagenet-1k", other), [row])],
    }
    monkeypatch.setattr(runs, "list_evaluations", lambda session, encoder: found[encoder])
    (compared,) = compare_figures(*(evaluated_figures(None, side) for side in found))
    reason = "evaluated with different settings: classification.train_dataset"
    assert compared["reason"] == (None if same else reason)


def test_figures_of_a_head_are_compared_whatever_the_other_heads_were(monkeypatch):
    def evaluation(run_id, encoder, own):
        spec = stored({"encoder": encoder, "dataset": "sample", "classification": own})
        row = {"task": "classification", "metric": "acc@1", "transfer": "frozen", "value": 0.5}
        rows = [{**row, "variant": variant} for variant in ("group", "group, linear", "group, knn 20")]
        return Run(id=run_id, spec=spec, encoder_id=encoder, inputs={}, result={}), rows

    heads = ["attentive", "linear", "knn"]
    found = {
        "l": [evaluation("run_1", "l", {"heads": heads, "neighbours": [20], "lr": 0.01})],
        "r": [evaluation("run_2", "r", {"heads": heads, "neighbours": [10, 20], "l2": [1.0]})],
    }
    monkeypatch.setattr(runs, "list_evaluations", lambda session, encoder: found[encoder])
    rows = compare_figures(*(evaluated_figures(None, side) for side in found))
    different = "evaluated with different settings: classification."
    assert [row["reason"] for row in rows] == [f"{different}lr", f"{different}l2", None]
