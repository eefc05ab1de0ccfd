"""The processes of a run, and what they tell each other on the host."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from lcl_core.errors import UserError


class Ranks:
    """This process's rank and a group of its own for messages.

    Each user has a group apart from the training's: a checkpoint writer talks in a background thread, and messages of
    two threads in one group would mix. It is made here, by all ranks at once. One process alone needs no group.
    """

    def __init__(self) -> None:
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self.rank = dist.get_rank() if several else 0
        self.size = dist.get_world_size() if several else 1
        self._group = dist.new_group(backend="gloo") if several else None

    def gather(self, value: Any) -> list[Any]:
        """The JSON ``value`` of every rank, by rank. A barrier, too. No pickle goes over the wire."""
        if self._group is None:
            return [value]
        sent = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(sent)]), group=self._group)
        longest = max(int(length) for length in lengths)
        texts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(texts, torch.nn.functional.pad(sent, (0, longest - len(sent))), group=self._group)
        return [
            json.loads(text[: int(length)].numpy().tobytes()) for text, length in zip(texts, lengths, strict=True)
        ]

    def gather_numbers(self, values: Sequence[int]) -> list[list[int]]:
        """Equally many numbers of every rank, by rank, in one message."""
        if self._group is None:
            return [list(values)]
        table = [torch.zeros(len(values), dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(table, torch.tensor(values, dtype=torch.int64), group=self._group)
        return [row.tolist() for row in table]

    def together(self, action: Callable[[], Any]) -> list[Any]:
        """Run ``action`` on every rank and gather what they return (JSON).

        Raises: this rank's own error; or, where another rank failed, a UserError or RuntimeError in its words.
        """
        failure: Exception | None = None
        answer: dict[str, Any] = {}
        try:
            answer["value"] = action()
        except UserError as error:
            failure, answer = error, {"error": error.message, "code": error.code, "file": error.file}
        except Exception as error:
            failure, answer = error, {"error": f"{type(error).__name__}: {error}"}
        answers = self.gather(answer)
        if failure is not None:
            raise failure
        for rank, other in enumerate(answers):
            if "code" in other:
                raise UserError(other["error"], code=other["code"], file=other["file"])
            if "error" in other:
                raise RuntimeError(f"rank {rank} failed: {other['error']}")
        return [other["value"] for other in answers]

    def close(self) -> None:
        if self._group is not None and dist.is_initialized():
            dist.destroy_process_group(self._group)
        self._group = None
