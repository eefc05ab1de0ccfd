"""Adapter for lmms-eval: its benchmarks, answered by a saved dialogue checkpoint.

    lmms-eval --model lcl --model_args bridge=RUN/artifacts/bridges/dialogue-frozen,encoder=DIR --tasks mme

The package is not needed to import this module: its model class is created on first access. The interface is that of
lmms-eval 0.7 (lmms_eval.api.model), whose "simple" models get a text and images.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from lcl_core.encoders.base import ImageEncoder
from lcl_core.encoders.registry import load_image_encoder
from lcl_core.evaluation.vlm.language_model import IMAGE_MARK, Turn, conversation_tokens
from lcl_core.evaluation.vlm.model import LlavaModel, load_vlm
from lcl_core.specs.evaluate import DecodingSpec

_NAME = "LCL"
_MAX_NEW_TOKENS = 128  # where a task names no limit


def manifest() -> Any:
    """What lmms-eval reads from the entry point ``lmms_eval.models``."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="lcl", simple_class_path=f"{__name__}.{_NAME}")


def __getattr__(name: str) -> Any:
    if name == _NAME:
        return _model_class()
    raise AttributeError(f"module {__name__} has no attribute {name}")


def _model_class() -> type:
    """lmms-eval's model, a subclass of its own base."""
    from lmms_eval.api.model import lmms

    class LCL(lmms):
        is_simple = True

        def __init__(
            self, bridge: str, encoder: str, language_model: str | None = None, batch_size: int | str = 16, **_: Any
        ) -> None:
            super().__init__()
            cache = Path(tempfile.gettempdir()) / "lcl-language-models"
            self.models = load_vlm(Path(bridge), load_image_encoder(Path(encoder)), cache, language_model)
            self.batch = int(batch_size)

        def generate_until(self, requests: list[Any]) -> list[str]:
            return answer_requests(*self.models, requests, self.task_dict, self.batch)

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            raise NotImplementedError("a saved bridge generates answers; leave out tasks that compare likelihoods")

        def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
            raise NotImplementedError("a saved bridge answers single rounds; leave out tasks of several rounds")

    return LCL


@torch.inference_mode()
def answer_requests(
    llava: LlavaModel, encoder: ImageEncoder, requests: Sequence[Any], tasks: dict[str, Any], batch_size: int
) -> list[str]:
    """Answers in the order of the requests, greedily or by beams; requests of equal settings share batches."""
    groups: dict[str, list[int]] = {}
    for row, request in enumerate(requests):
        groups.setdefault(repr(sorted(request.args[1].items())), []).append(row)
    answers = [""] * len(requests)
    for rows in groups.values():
        settings = requests[rows[0]].args[1]
        spec = DecodingSpec(
            beams=int(settings.get("num_beams") or 1),
            max_new_tokens=int(settings.get("max_new_tokens") or _MAX_NEW_TOKENS),
        )
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            prompts, images = [], []
            for row in batch:
                text, _, show, number, task, split = requests[row].args
                own = _images(show, tasks[task][split][number])
                question = f"{IMAGE_MARK}\n" * len(own) + text.replace(IMAGE_MARK, "").strip()
                prompts.append(conversation_tokens(llava.language, [Turn(question, None)]))
                images += own
            pixels = encoder.preprocess(images).to(encoder.device) if images else None
            patches = torch.empty(0) if pixels is None else encoder.patches(pixels).float()
            for row, answer in zip(batch, llava.generate(prompts, patches, spec), strict=True):
                answers[row] = _cut_at_stop(answer, settings.get("until"))
    return answers


def _images(show: Callable[[Any], Any], entry: Any) -> list[Image.Image]:
    return [image.convert("RGB") for image in show(entry) or [] if isinstance(image, Image.Image)]


def _cut_at_stop(answer: str, stops: str | Sequence[str] | None) -> str:
    """The answer up to the first stop text."""
    for stop in [stops] if isinstance(stops, str) else stops or []:
        answer = answer.split(stop)[0] if stop else answer
    return answer.strip()
