"""Chat format: captions and conversations as token sequences with a loss mask, collated to batches.

An image is one placeholder in a sequence; a batch widens it to the N patch tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lcl_core.common.errors import UserError
from lcl_core.evaluation.vlm.language_model import LanguageModel
from lcl_core.specs.evaluate import CaptioningSpec

IMAGE_PLACEHOLDER = -1  # stands in a sequence's ids for a picture


@dataclass(frozen=True)
class TokenSequence:
    """A text with a picture in it.

    Attributes:
        ids: token ids, and ``PICTURE`` where a picture stands.
        taught: of each id, whether it is to be predicted from what precedes it: answers are, prompts are not.
    """

    ids: tuple[int, ...]
    taught: tuple[bool, ...]

    def __add__(self, other: TokenSequence) -> TokenSequence:
        return TokenSequence(self.ids + other.ids, self.taught + other.taught)

    @property
    def pictures(self) -> int:
        return self.ids.count(IMAGE_PLACEHOLDER)

    def cut(self, length: int) -> TokenSequence:
        """The first ``length`` places."""
        return TokenSequence(self.ids[:length], self.taught[:length])


def token_sequence(ids: Sequence[int], *, taught: bool = False) -> TokenSequence:
    """A run of ids that are all to be learnt, or all not."""
    return TokenSequence(tuple(ids), (taught,) * len(ids))


@dataclass(frozen=True)
class TokenBatch:
    """B sequences as rows of L places.

    Attributes:
        ids: [B, L] token ids; zero where a picture or padding stands.
        slots: [n · N] places of patch tokens in the flattened rows, in order.
        present: [B, L] false where padding stands.
        predicts: [B, L] places whose next token is to be learnt.
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


def collate(sequences: Sequence[TokenSequence], picture_tokens: int, *, left: bool = False) -> TokenBatch:
    """Rows with ``picture_tokens`` N places for each picture.

    Args:
        left: pad on the left, so that all rows end together, as decoding wants it; else on the right, where causal
            attention never looks, so that no mask is needed.
    """
    wide = [_expand_images(each, picture_tokens) for each in sequences]
    length = max(len(ids) for ids, _ in wide)
    ids = torch.full((len(wide), length), 0)
    taught = torch.zeros(ids.shape, dtype=torch.bool)
    present = torch.zeros(ids.shape, dtype=torch.bool)
    for row, (values, learnt) in enumerate(wide):
        place = slice(length - len(values), length) if left else slice(len(values))
        ids[row, place], taught[row, place], present[row, place] = values, learnt, True
    slots = (ids == IMAGE_PLACEHOLDER).flatten().nonzero().flatten()
    predicts = taught.roll(-1, dims=1)
    predicts[:, -1] = False
    taught[:, 0] = False  # nothing precedes the first place
    return TokenBatch(ids.clamp(min=0), slots, present, predicts, ids[taught])


def _expand_images(sequence: TokenSequence, picture_tokens: int) -> tuple[Tensor, Tensor]:
    ids = torch.tensor(sequence.ids)
    times = torch.where(ids == IMAGE_PLACEHOLDER, picture_tokens, 1)
    return ids.repeat_interleave(times), torch.tensor(sequence.taught).repeat_interleave(times)


IMAGE_MARK = "<image>"  # where a picture stands in what a human says, as in LLaVA's files
_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful and polite answers to the user's questions."
)


@dataclass(frozen=True)
class Turn:
    """One question and its answer; no answer yet where one is asked for."""

    question: str
    answer: str | None


def caption_tokens(language: LanguageModel, prompt: str, caption: str | None) -> TokenSequence:
    """Picture, prompt, caption, end; without a caption the prompt of one. The caption and the end are taught."""
    asked = token_sequence([*language.begin, IMAGE_PLACEHOLDER, *language.encode(language.plain(prompt))])
    if caption is None:
        return asked
    return asked + token_sequence([*language.encode(language.plain(caption)), language.ends[0]], taught=True)


def caption_sequence(language: LanguageModel, spec: CaptioningSpec, caption: str | None) -> TokenSequence:
    """A caption to learn as ``spec`` lays it out; without one what comes before it. Raises as the layouts do."""
    if spec.question is None:
        return caption_tokens(language, spec.prompt, caption)
    turn = Turn(f"{IMAGE_MARK}\n{spec.question}", caption)
    return conversation_tokens(language, [turn], "auto" if spec.language_model is None else spec.language_model.layout)


def conversation_tokens(language: LanguageModel, turns: Sequence[Turn], layout: str) -> TokenSequence:
    """A conversation with its answers taught, each with the token that ends it.

    Args:
        turns: a picture stands at ``MARK`` in a question; only the last answer may be missing.
        layout: ``template``, ``plain`` or ``auto``.

    Raises:
        UserError: ``chat_template_unusable``.
    """
    plain = layout == "plain" or (layout == "auto" and not language.tokenizer.chat_template)
    pieces = _vicuna_segments(language, turns) if plain else _template_segments(language, turns)
    whole = token_sequence(language.begin) if plain else TokenSequence((), ())
    for text, taught in pieces:
        whole += _tokenize_with_images(language, text, taught)
    return whole


def _tokenize_with_images(language: LanguageModel, text: str, taught: bool) -> TokenSequence:
    if taught:
        return token_sequence(language.encode(text), taught=True)
    first, *others = text.split(IMAGE_MARK)
    whole = token_sequence(language.encode(first))
    for part in others:
        whole += token_sequence([IMAGE_PLACEHOLDER]) + token_sequence(language.encode(part))
    return whole


def _vicuna_segments(language: LanguageModel, turns: Sequence[Turn]) -> Iterator[tuple[str, bool]]:
    """The layout of Vicuna, which LLaVA-1.5 speaks: a sentence about who talks, then USER: … ASSISTANT: …"""
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
        asked = _apply_template(language, messages, prompt=True)
        yield _added_text(asked, done), False
        if turn.answer is None:
            return
        messages.append({"role": "assistant", "content": _clean_answer(language, turn.answer)})
        answered = _apply_template(language, messages, prompt=False)
        said = _added_text(answered, asked)
        yield said.rstrip(), True
        done = asked + said.rstrip()


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
        raise _template_error("rewrites what was said before")
    return text[len(start) :]


def _template_error(how: str) -> UserError:
    return UserError(
        f"the language model's chat template {how}; set language_model.layout to plain",
        code="chat_template_unusable", field="dialogue.language_model.layout",
    )  # fmt: skip
