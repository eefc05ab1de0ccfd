"""Adapter for lmms-eval: its benchmarks, answered by a saved dialogue checkpoint.

    lmms-eval --model lcl --model_args bridge=RUN/artifacts/bridges/dialogue-frozen,encoder=DIR --tasks mme

The package is not needed to import this module: its model class is created on first access. The interface is that of
lmms-eval 0.7 (lmms_eval.api.model), whose "simple" models get a text and images.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn import functional as F

from lcl_core.encoders.base import ImageEncoder
from lcl_core.encoders.registry import load_image_encoder
from lcl_core.evaluation.vlm.chat_format import IMAGE_MARK, TokenSequence, Turn, collate, conversation_tokens
from lcl_core.evaluation.vlm.model import LlavaModel, load_vlm
from lcl_core.specs.evaluate import DecodingSpec

_NAME = "LCL"
_MAX_NEW_TOKENS = 128  # where a task names no limit


@dataclass(frozen=True)
class Answerer:
    """Answers questions about images; independent of lmms-eval."""

    llava: LlavaModel
    encoder: ImageEncoder
    layout: str
    batch_size: int

    def answers(self, questions: Sequence[tuple[str, list[Image.Image]]], settings: dict[str, Any]) -> list[str]:
        """One answer to each text with its images.

        Args:
            settings: of generation, as lmms-eval names them: ``max_new_tokens``, ``num_beams``, ``do_sample``,
                ``temperature``, ``top_p``, ``until``.
        """
        spec = _decoding(settings, self.batch_size)
        answers: list[str] = []
        for start in range(0, len(questions), self.batch_size):
            batch = questions[start : start + self.batch_size]
            prompts = [self._tokens(text, images, None) for text, images in batch]
            images = [image for _, own in batch for image in own]
            answers += self.llava.generate(prompts, self._patches(images), spec, seed=start)
        return [_cut_at_stop(answer, settings.get("until")) for answer in answers]

    @torch.inference_mode()
    def likelihood(self, text: str, images: list[Image.Image], answer: str) -> tuple[float, bool]:
        """Log-likelihood of an answer, and whether greedy decoding would give it."""
        language = self.llava.language
        batch = collate([self._tokens(text, images, answer)], self.llava.image_tokens).to(language.device)
        logits = language.logits(self.llava.embed(batch, self._patches(images)), batch.predicts)
        log_likelihood = F.log_softmax(logits.float(), dim=-1).gather(1, batch.targets[:, None]).sum()
        return float(log_likelihood), bool((logits.argmax(dim=-1) == batch.targets).all())

    def _tokens(self, text: str, images: list[Image.Image], answer: str | None) -> TokenSequence:
        question = text.replace(IMAGE_MARK, "").strip()
        marks = f"{IMAGE_MARK}\n" * len(images)
        return conversation_tokens(self.llava.language, [Turn(marks + question, answer)], self.layout)

    @torch.inference_mode()
    def _patches(self, images: list[Image.Image]) -> torch.Tensor:
        if not images:
            return torch.empty(0)
        return self.encoder.patches(self.encoder.preprocess(images).to(self.encoder.device)).float()


def load_answerer(bridge: str, encoder: str, language_model: str | None = None, batch_size: int = 16) -> Answerer:
    """The answerer of a saved checkpoint."""
    cache = Path(tempfile.gettempdir()) / "lcl-language-models"
    llava, model, spec = load_vlm(Path(bridge), load_image_encoder(Path(encoder)), cache, language_model=language_model)
    return Answerer(llava, model, spec.layout, batch_size)


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
            self.answerer = load_answerer(bridge, encoder, language_model, int(batch_size))

        def generate_until(self, requests: list[Any]) -> list[str]:
            return _answer_all(self.answerer, requests, self.task_dict)

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            found = []
            for request in requests:
                text, target, show, number, task, split = request.args
                entry = self.task_dict[task][split][number]
                answer = target if isinstance(target, str) else target(entry)
                found.append(self.answerer.likelihood(text, _images(show, entry), answer))
            return found

        def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
            raise NotImplementedError("a bridged model answers single rounds; leave out tasks of several rounds")

    return LCL


def _answer_all(answerer: Answerer, requests: Sequence[Any], tasks: dict[str, Any]) -> list[str]:
    """Requests of equal settings share batches; answers keep the order of the requests."""
    groups: dict[str, list[int]] = {}
    for row, request in enumerate(requests):
        groups.setdefault(repr(sorted(request.args[1].items())), []).append(row)
    answers = [""] * len(requests)
    for rows in groups.values():
        questions = []
        for row in rows:
            text, _, show, number, task, split = requests[row].args
            questions.append((text, _images(show, tasks[task][split][number])))
        for row, answer in zip(rows, answerer.answers(questions, requests[rows[0]].args[1]), strict=True):
            answers[row] = answer
    return answers


def _images(show: Callable[[Any], Any], entry: Any) -> list[Image.Image]:
    return [image.convert("RGB") for image in show(entry) or [] if isinstance(image, Image.Image)]


def _decoding(settings: dict[str, Any], batch_size: int) -> DecodingSpec:
    sample = bool(settings.get("do_sample", (settings.get("temperature") or 0) > 0))
    return DecodingSpec(
        beams=1 if sample else int(settings.get("num_beams") or 1),
        top_p=float(settings.get("top_p") or 1.0) if sample else None,
        temperature=float(settings.get("temperature") or 1.0) if sample else 1.0,
        max_new_tokens=int(settings.get("max_new_tokens") or _MAX_NEW_TOKENS),
        batch_size=batch_size,
    )


def _cut_at_stop(answer: str, stops: str | Sequence[str] | None) -> str:
    """The answer up to the first stop text."""
    for stop in [stops] if isinstance(stops, str) else stops or []:
        answer = answer.split(stop)[0] if stop else answer
    return answer.strip()
