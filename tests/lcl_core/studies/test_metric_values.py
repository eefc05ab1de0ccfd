"""Which rows of a result a metric means."""

import pytest

from lcl_core.specs.study import MetricSpec
from lcl_core.studies.results import CellRecord, RunRecord, mean_costs, metric_value

ROWS = [
    {"task": "retrieval", "split": "a", "variant": "captions[0]", "metric": "IR@5", "value": 0.2, "chance": 0.01,
     "untrained": 0.02},
    {"task": "retrieval", "split": "b", "variant": "captions[0]", "metric": "IR@5", "value": 0.4, "chance": 0.03,
     "untrained": None},
    {"task": "retrieval", "split": "a", "variant": "captions[0]", "metric": "TR@5", "value": 0.9},
]  # fmt: skip


def metric(**wanted):
    return MetricSpec(name="m", **wanted)


@pytest.mark.parametrize(
    ("wanted", "value", "count"),
    [
        ({"metric": "IR@5"}, 0.3, 2),
        ({"metric": "IR@5", "split": "b"}, 0.4, 1),
        ({"metric": "TR@5", "task": "retrieval", "variant": "captions[0]"}, 0.9, 1),
    ],
)
def test_all_rows_that_fit_are_averaged(cell_of, wanted, value, count):
    found = metric_value(metric(**wanted), cell_of(0, rows=ROWS, state="succeeded"))
    assert found is not None
    assert (found.value, found.rows) == (pytest.approx(value), count)


def test_chance_and_untrained_go_along_where_every_row_has_them(cell_of):
    both = metric_value(metric(metric="IR@5"), cell_of(0, rows=ROWS, state="succeeded"))
    one = metric_value(metric(metric="IR@5", split="a"), cell_of(0, rows=ROWS, state="succeeded"))
    assert both is not None
    assert one is not None
    assert (both.chance, both.untrained) == (pytest.approx(0.02), None)
    assert (one.chance, one.untrained) == (0.01, 0.02)


def test_nothing_without_a_row_or_an_ended_evaluation(cell_of):
    cell = cell_of(0, rows=ROWS, state="succeeded")
    assert metric_value(metric(metric="acc@1"), cell) is None
    assert metric_value(metric(metric="IR@5", task="classification"), cell) is None
    assert metric_value(metric(metric="IR@5"), cell_of(0)) is None
    unfinished = CellRecord(**{**vars(cell), "evaluation": RunRecord("e", "running", {"rows": ROWS})})
    assert metric_value(metric(metric="IR@5"), unfinished) is None


def test_operations_are_those_of_the_vocabulary_that_the_run_had(cell_of):
    counts = {"seconds": 1.0, "images_seen": 10, "tokens_seen": 10_000, "documents_seen": 10}
    spec = {"steps": 10, "tokenizer": {"path": "/data/tokenizer.json", "vocab_size": 4096}}
    written = {**spec, "tokenizer": {"vocab_size": 29_995}}

    def flops(spec, **more):
        return mean_costs([cell_of(0, state="succeeded", encoder=counts | more, spec=spec)])["flops"]

    assert flops(spec, vocab_size=30_000) == flops(written)


def test_a_figure_of_the_training_needs_no_evaluation(cell_of):
    cell = cell_of(0, state="succeeded", final={"generation_loss": 3.5, "step": 10, "fine": True})
    loss = metric_value(metric(of="training", metric="generation_loss"), cell)
    assert loss is not None
    assert (loss.value, loss.chance) == (3.5, None)
    assert metric_value(metric(of="training", metric="absent"), cell) is None
    assert metric_value(metric(of="training", metric="fine"), cell) is None
