"""Learning curves: a panel a task and protocol."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from lcl_core.evaluation.plots import draw_curves


def curve(task: str, transfer: str = "frozen") -> dict[str, object]:
    return {
        "task": task,
        "transfer": transfer,
        "variant": "v",
        "encoder": "trained",
        "steps_a_point": 2,
        "loss": [3.0, 1.0],
    }


def size(folder: Path, *curves: dict[str, object]) -> tuple[int, int]:
    draw_curves(curves, folder / "curves.png")
    with Image.open(folder / "curves.png") as image:
        return image.size


def test_each_task_and_protocol_has_a_panel(tmp_path: Path) -> None:
    one = size(tmp_path, curve("a"), curve("a"))
    three = size(tmp_path, curve("a"), curve("b"), curve("a", "full"))
    assert three == (2 * one[0], 2 * one[1])
