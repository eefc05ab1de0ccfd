"""What a visitor may do to the selected run: a button for each verb of the service, shown where the state allows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import gradio as gr


@dataclass(frozen=True)
class Action:
    """``verb``: the client's call. ``states``: those from which the service takes it."""

    verb: str
    words: str
    states: tuple[str, ...]
    variant: Literal["secondary", "stop"] = "secondary"


ACTIONS = (
    Action("pause", "Pause", ("waiting", "queued", "running")),
    Action("unpause", "Unpause", ("paused",)),
    Action("resume", "Resume", ("failed", "cancelled")),
    Action("retry", "Start anew", ("failed", "cancelled")),
    Action("cancel", "Cancel", ("waiting", "queued", "running", "pausing", "paused"), "stop"),
)
SMALL: dict[str, Any] = {"size": "sm", "min_width": 90, "visible": False}


class RunActions:
    """The row of buttons; the last one, Clone, fits every run."""

    def build(self) -> None:
        with gr.Row(elem_classes="lcl-actions"):
            self.buttons = {
                action.verb: gr.Button(action.words, variant=action.variant, elem_id=f"run-{action.verb}", **SMALL)
                for action in ACTIONS
            }
            self.clone = gr.Button("Clone", elem_id="run-clone", **SMALL)

    @property
    def components(self) -> list[gr.Button]:
        return [*self.buttons.values(), self.clone]


def shown_for(state: str | None) -> list[gr.Button]:
    """Which of the buttons are visible; none without a run."""
    fitting = [gr.Button(visible=state in action.states) for action in ACTIONS]
    return [*fitting, gr.Button(visible=state is not None)]
