"""Chat format: captions and conversations as token sequences with a loss mask, collated to batches.

An image is one placeholder in a sequence; a batch widens it to the N patch tokens. B sequences of L positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lcl_core.common.errors import UserError
from lcl_core.evaluation.vlm.language_model import LanguageModel
from lcl_core.specs.evaluate import CaptioningSpec

IMAGE_PLACEHOLDER = -1  # in a sequence's ids
IMAGE_MARK = "<image>"  # in a question, as in LLaVA's files
_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful and polite answers to the user's questions."
)


@dataclass(frozen=True)
class TokenSequence:
    """A text with images.

    Attributes:
        ids: token ids, and ``IMAGE_PLACEHOLDER`` for an image.
        loss_mask: of each id, whether it is a target: answers are, prompts are not.
    """

    ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]

    def __add__(self, other: TokenSequence) -> TokenSequence:
        return TokenSequence(self.ids + other.ids, self.loss_mask + other.loss_mask)

    def cut(self, length: int) -> TokenSequence:
        """The first ``length`` positions."""
        return TokenSequence(self.ids[:length], self.loss_mask[:length])


def token_sequence(ids: Sequence[int], *, target: bool = False) -> TokenSequence:
    """Ids that are all targets, or none."""
    return TokenSequence(tuple(ids), (target,) * len(ids))


@dataclass(frozen=True)
class TokenBatch:
    """B sequences, padded.

    Attributes:
        ids: [B, L] token ids; zero at images and padding.
        slots: [n · N] positions of patch tokens in the flattened batch, in order.
        present: [B, L] false at padding.
        predicts: [B, L] positions whose next token is a target.
        targets: [T] those tokens, row by row.
    """

    ids: Tensor
    slots: Tensor
    present: Tensor
    predicts: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> TokenBatch:
        return TokenBatch(
            *(each.to(device) for each in (self.ids, self.slots, self.present, self.predicts, self.targets))
        )


def collate(sequences: Sequence[TokenSequence], image_tokens: int, *, left: bool = False) -> TokenBatch:
    """A batch with ``image_tokens`` N positions for each image.

    Args:
        left: pad on the left, so that all rows end together, as decoding requires; else on the right, where causal
            attention never looks, so that no mask is needed.
    """
    wide = []
    for each in sequences:
        values = torch.tensor(each.ids)
        times = torch.where(values == IMAGE_PLACEHOLDER, image_tokens, 1)
        wide.append((values.repeat_interleave(times), torch.tensor(each.loss_mask).repeat_interleave(times)))
    length = max(len(values) for values, _ in wide)
    ids = torch.zeros((len(wide), length), dtype=torch.long)
    target = torch.zeros(ids.shape, dtype=torch.bool)
    present = torch.zeros(ids.shape, dtype=torch.bool)
    for row, (values, mask) in enumerate(wide):
        span = slice(length - len(values), length) if left else slice(len(values))
        ids[row, span], target[row, span], present[row, span] = values, mask, True
    slots = (ids == IMAGE_PLACEHOLDER).flatten().nonzero().flatten()
    predicts = target.roll(-1, dims=1)
    predicts[:, -1] = False
    target[:, 0] = False  # nothing precedes the first position
    return TokenBatch(ids.clamp(min=0), slots, present, predicts, ids[target])


@dataclass(frozen=True)
class Turn:
    """A question and its answer; None in a prompt."""

    question: str
    answer: str | None


def caption_tokens(language: LanguageModel, prompt: str, caption: str | None) -> TokenSequence:
    """Image, prompt, caption, end token; the caption and the end are targets. Without a caption: the prompt."""
    start = token_sequence([*language.begin, IMAGE_PLACEHOLDER, *language.encode(language.plain(prompt))])
    if caption is None:
        return start
    return start + token_sequence([*language.encode(language.plain(caption)), language.ends[0]], target=True)


def caption_sequence(language: LanguageModel, spec: CaptioningSpec, caption: str | None) -> TokenSequence:
    """A caption in the layout of ``spec``, or with None its prompt."""
    if spec.question is None:
        return caption_tokens(language, spec.prompt, caption)
    turn = Turn(f"{IMAGE_MARK}\n{spec.question}", caption)
    return conversation_tokens(language, [turn], "auto" if spec.language_model is None else spec.language_model.layout)


def conversation_tokens(language: LanguageModel, turns: Sequence[Turn], layout: str) -> TokenSequence:
    """A conversation; the answers, each with its end token, are targets.

    Args:
        turns: an image stands at ``IMAGE_MARK`` in a question; only the last answer may be missing.
        layout: ``template``, ``plain`` or ``auto``.
    """
    plain = layout == "plain" or (layout == "auto" and not language.tokenizer.chat_template)
    segments = _vicuna_segments(language, turns) if plain else _template_segments(language, turns)
    sequence = token_sequence(language.begin if plain else ())
    for text, target in segments:
        first, *others = [text] if target else text.split(IMAGE_MARK)
        sequence += token_sequence(language.encode(first), target=target)
        for part in others:
            sequence += token_sequence([IMAGE_PLACEHOLDER, *language.encode(part)])
    return sequence


def _vicuna_segments(language: LanguageModel, turns: Sequence[Turn]) -> Iterator[tuple[str, bool]]:
    """The layout of Vicuna, which LLaVA-1.5 uses: a system sentence, then USER: … ASSISTANT: …"""
    end = language.tokenizer.convert_ids_to_tokens(language.ends[0])
    yield _SYSTEM, False
    for turn in turns:
        yield f" USER: {language.plain(turn.question)} ASSISTANT:", False
        if turn.answer is not None:
            yield f" {_clean_answer(language, turn.answer)}{end}", True


def _template_segments(language: LanguageModel, turns: Sequence[Turn]) -> Iterator[tuple[str, bool]]:
    """What the tokenizer's template adds up to each answer, and the answer up to its end."""
    messages: list[dict[str, str]] = []
    done = ""
    for turn in turns:
        messages.append({"role": "user", "content": language.plain(turn.question)})
        prompt = _apply_template(language, messages, prompt=True)
        yield _added_text(prompt, done), False
        if turn.answer is None:
            return
        messages.append({"role": "assistant", "content": _clean_answer(language, turn.answer)})
        answer = _added_text(_apply_template(language, messages, prompt=False), prompt).rstrip()
        yield answer, True
        done = prompt + answer


def _clean_answer(language: LanguageModel, text: str) -> str:
    return language.plain(text).replace(IMAGE_MARK, " ").strip()


def _apply_template(language: LanguageModel, messages: list[dict[str, str]], *, prompt: bool) -> str:
    try:
        text = language.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    except Exception as error:  # templates are programs of their own and raise what they like
        raise _template_error(f"fails ({error})") from error
    assert isinstance(text, str)
    return text


def _added_text(text: str, start: str) -> str:
    """What ``text`` adds to ``start``."""
    if not text.startswith(start):
        raise _template_error("rewrites earlier turns")
    return text[len(start) :]


def _template_error(problem: str) -> UserError:
    return UserError(
        f"the language model's chat template {problem}; set language_model.layout to plain",
        code="language_model_unreadable", field="dialogue.language_model.layout",
    )  # fmt: skip
