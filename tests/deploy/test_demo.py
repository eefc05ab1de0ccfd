"""The demonstration's steps and table, on a service that answers from a script."""

import pytest

from deploy import local
from lcl_core.common.errors import UserError

METRICS = {
    "step": 1200,
    "total_steps": 3000,
    "contrastive_loss": 3.21,
    "generation_loss": 4.5,
    "images_per_s": 1234.5,
    "seconds_left": 187.2,
}
ENCODER = {"steps": 3000, "seconds": 201.4, "images_seen": 190000, "parameters": 6_400_000, "path": "artifacts/encoder"}
ROW = {"task": "retrieval", "split": "test_vendor", "variant": "captions[0]", "chance": 0.0085, "untrained": None}
CLASSES = {**ROW, "metric": "acc@1", "value": 0.25, "count": 590, "candidates": 48}
RESULTS = {
    "pretrain": {"encoder": ENCODER},
    "evaluate": {
        "rows": [
            {**ROW, "metric": "IR@5", "value": 0.12, "count": 590, "candidates": 590},
            {**ROW, "metric": "IR@10", "value": 0.77777, "count": 590, "candidates": 590},
            {**CLASSES, "task": "classification", "variant": "subgroup", "transfer": "full"},
            {**CLASSES, "task": "zero_shot_classification", "variant": "subgroup", "transfer": "zero_shot"},
        ]
    },
    "index": {"collection": {"name": "sample", "images": 5900, "texts": 5900}},
}


class ScriptedService:
    """Speaks as the client does; each run is queued, then running, then ends as told."""

    def __init__(self, ends):
        self.ends = ends
        self.submitted, self._states = [], {}

    def submit(self, kind, spec, *_):
        self.submitted.append((kind, spec))
        self._states[kind] = iter(["queued", "running", "running", self.ends.get(kind, "succeeded")])
        return self.run(kind)

    def run(self, kind):
        state = next(self._states[kind])
        run = {"id": kind, "kind": kind, "state": state, "progress": METRICS if state == "running" else None}
        run |= {"reason": None, "result": None, "encoder_id": None}
        if state == "succeeded":
            run |= {"result": RESULTS[kind], "encoder_id": "enc_1", "progress": {**METRICS, "step": 3000}}
        if state == "failed":
            run["reason"] = {"code": "bad_data", "message": "interleaved.jsonl:7: no images"}
        return run

    def logs(self, run_id, offset=0):
        return {"text": "\n".join(f"line {i}" for i in range(100)), "offset": 0}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(local, "WATCH_SECONDS", 0.0)


def demonstrate(**ends):
    service = ScriptedService(ends)
    local.run_demo(service, check=lambda: None)
    return service


def test_three_runs_one_after_the_other(capsys):
    assert demonstrate().submitted == [
        ("pretrain", {"preset": "sample_resnet"}),
        ("evaluate", {"preset": "sample", "encoder": "enc_1", "classification": {"transfer": ["frozen"]}}),
        ("index", {"encoder": "enc_1", "collection": "sample", "mode": "replace"}),
    ]
    text = capsys.readouterr().out
    for cell in ("text → image, R@5", "0.120", "subgroup, full", "named class, top-1"):
        assert cell in text
    assert "0.778" not in text, "the table keeps to the main measurements"
    assert "Training took 3 min 21 s: 3,000 steps, 190,000 images, 6.4 M parameters." in text
    first = [line.split()[1] for line in text.splitlines() if line.startswith("pretrain")]
    assert first == ["queued", "succeeded"], "lines are few"


def test_a_failed_run_ends_it_with_the_reason_and_the_log():
    with pytest.raises(UserError, match=r"evaluate run evaluate failed: interleaved\.jsonl:7: no images") as caught:
        demonstrate(evaluate="failed")
    assert "line 99" in str(caught.value)
    assert "line 50" not in str(caught.value)


def test_a_dead_part_ends_it(monkeypatch):
    def check():
        raise UserError("worker was killed by SIGKILL", code="process_died")

    with pytest.raises(UserError, match="worker was killed"):
        local.follow_run(ScriptedService({}), check, "pretrain", {})
