"""lmms-eval drives a bridge that was taught dialogue: its many benchmarks, our encoder and language model.

    lmms-eval --model lcl --model_args bridge=RUN/artifacts/bridges/dialogue-frozen,encoder=DIR --tasks mme

The package is not needed to import this module: the class that it asks for is made when it is asked for. Its
interface is that of lmms-eval 0.7 (lmms_eval.api.model), whose "simple" models get a text and pictures.
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
from lcl_core.evaluation.features import load_evaluated_encoder
from lcl_core.evaluation.vlm.chat_format import IMAGE_MARK, TokenSequence, Turn, collate, conversation_tokens
from lcl_core.evaluation.vlm.checkpoint import load_vlm
from lcl_core.evaluation.vlm.model import LlavaModel
from lcl_core.specs.evaluate import DecodingSpec

_NAME = "LCL"
_MAX_NEW_TOKENS = 128  # where a task does not say how long an answer may be


@dataclass(frozen=True)
class Answerer:
    """Answers questions about pictures; knows nothing of lmms-eval."""

    speaker: LlavaModel
    tower: ImageEncoder
    layout: str
    batch_size: int

    def answers(self, asked: Sequence[tuple[str, list[Image.Image]]], settings: dict[str, Any]) -> list[str]:
        """One answer to each text with its pictures.

        Args:
            settings: of generation, in lmms-eval's words: ``max_new_tokens``, ``num_beams``, ``do_sample``,
                ``temperature``, ``top_p``, ``until``.
        """
        spec = _decoding(settings, self.batch_size)
        found: list[str] = []
        for start in range(0, len(asked), self.batch_size):
            batch = asked[start : start + self.batch_size]
            prompts = [self._tokens(text, pictures, None) for text, pictures in batch]
            shown = [picture for _, pictures in batch for picture in pictures]
            found += self.speaker.say(prompts, self._patches(shown), spec, seed=start)
        return [_cut_at_stop(answer, settings.get("until")) for answer in found]

    @torch.inference_mode()
    def likelihood(self, text: str, pictures: list[Image.Image], answer: str) -> tuple[float, bool]:
        """Log-likelihood of an answer, and whether greedy decoding would give it."""
        rows = collate([self._tokens(text, pictures, answer)], self.speaker.picture_tokens)
        rows = rows.to(self.speaker.language.device)
        logits = self.speaker.language.logits(self.speaker.embed(rows, self._patches(pictures)), rows.predicts)
        found = F.log_softmax(logits.float(), dim=-1).gather(1, rows.targets[:, None])
        return float(found.sum()), bool((logits.argmax(dim=-1) == rows.targets).all())

    def _tokens(self, text: str, pictures: list[Image.Image], answer: str | None) -> TokenSequence:
        question = text.replace(IMAGE_MARK, "").strip()
        marks = f"{IMAGE_MARK}\n" * len(pictures)
        return conversation_tokens(self.speaker.language, [Turn(marks + question, answer)], self.layout)

    @torch.inference_mode()
    def _patches(self, pictures: list[Image.Image]) -> torch.Tensor:
        if not pictures:
            return torch.empty(0)
        return self.tower.patches(self.tower.preprocess(pictures).to(self.tower.device)).float()


def load_answerer(bridge: str, encoder: str, language_model: str | None = None, batch_size: int = 16) -> Answerer:
    """The answerer of a saved bridge.

    Raises:
        UserError: something of it cannot be read, or belongs to another bridge.
    """
    cache = Path(tempfile.gettempdir()) / "lcl-language-models"
    tower = load_evaluated_encoder(encoder).tower
    speaker, tower, spec = load_vlm(Path(bridge), tower, cache, language_model=language_model)
    return Answerer(speaker, tower, spec.layout, batch_size)


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
            return [_likelihood(self.answerer, request.args, self.task_dict) for request in requests]

        def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
            raise NotImplementedError("a bridged model answers single rounds; leave out tasks of several rounds")

    return LCL


def _answer_all(answerer: Answerer, requests: Sequence[Any], tasks: dict[str, Any]) -> list[str]:
    """Requests of equal settings are answered together, and the answers come in the order of the requests."""
    groups: dict[str, list[int]] = {}
    for place, request in enumerate(requests):
        groups.setdefault(repr(sorted(request.args[1].items())), []).append(place)
    answers = [""] * len(requests)
    for places in groups.values():
        asked = []
        for place in places:
            text, _, show, number, task, split = requests[place].args
            asked.append((text, _pictures(show, tasks[task][split][number])))
        for place, answer in zip(places, answerer.answers(asked, requests[places[0]].args[1]), strict=True):
            answers[place] = answer
    return answers


def _likelihood(answerer: Answerer, args: tuple[Any, ...], tasks: dict[str, Any]) -> tuple[float, bool]:
    text, target, show, number, task, split = args
    entry = tasks[task][split][number]
    return answerer.likelihood(text, _pictures(show, entry), target if isinstance(target, str) else target(entry))


def _pictures(show: Callable[[Any], Any], entry: Any) -> list[Image.Image]:
    return [picture.convert("RGB") for picture in show(entry) or [] if isinstance(picture, Image.Image)]


def _decoding(settings: dict[str, Any], batch_size: int) -> DecodingSpec:
    drawn = bool(settings.get("do_sample", (settings.get("temperature") or 0) > 0))
    return DecodingSpec(
        beams=1 if drawn else int(settings.get("num_beams") or 1),
        top_p=float(settings.get("top_p") or 1.0) if drawn else None,
        temperature=float(settings.get("temperature") or 1.0) if drawn else 1.0,
        max_new_tokens=int(settings.get("max_new_tokens") or _MAX_NEW_TOKENS),
        batch_size=batch_size,
    )


def _cut_at_stop(answer: str, stops: str | Sequence[str] | None) -> str:
    """The answer up to the first of the texts that end one."""
    for stop in [stops] if isinstance(stops, str) else stops or []:
        answer = answer.split(stop)[0] if stop else answer
    return answer.strip()
