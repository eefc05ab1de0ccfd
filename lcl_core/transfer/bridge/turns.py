"""How conversations and captions are laid out for a language model, and which part of them is to be learnt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lcl_core.errors import UserError
from lcl_core.specs import CaptioningSpec
from lcl_core.transfer.bridge.language import LanguageModel
from lcl_core.transfer.bridge.packing import PICTURE, Tokens, tokens

MARK = "<image>"  # where a picture stands in what a human says, as in LLaVA's files
_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful and polite answers to the user's questions."
)


@dataclass(frozen=True)
class Turn:
    """One question and its answer; no answer yet where one is asked for."""

    question: str
    answer: str | None


def caption_tokens(language: LanguageModel, prompt: str, caption: str | None) -> Tokens:
    """Picture, prompt, caption, end; without a caption the prompt of one. The caption and the end are taught."""
    asked = tokens([*language.begin, PICTURE, *language.encode(language.plain(prompt))])
    if caption is None:
        return asked
    return asked + tokens([*language.encode(language.plain(caption)), language.ends[0]], taught=True)


def laid_out_caption(language: LanguageModel, spec: CaptioningSpec, caption: str | None) -> Tokens:
    """A caption to learn as ``spec`` lays it out; without one what comes before it. Raises as the layouts do."""
    if spec.question is None:
        return caption_tokens(language, spec.prompt, caption)
    turn = Turn(f"{MARK}\n{spec.question}", caption)
    return conversation_tokens(language, [turn], "auto" if spec.language_model is None else spec.language_model.layout)


def conversation_tokens(language: LanguageModel, turns: Sequence[Turn], layout: str) -> Tokens:
    """A conversation with its answers taught, each with the token that ends it.

    Args:
        turns: a picture stands at ``MARK`` in a question; only the last answer may be missing.
        layout: ``template``, ``plain`` or ``auto``.

    Raises:
        UserError: ``chat_template_unusable``.
    """
    plain = layout == "plain" or (layout == "auto" and not language.tokenizer.chat_template)
    pieces = _plain_pieces(language, turns) if plain else _template_pieces(language, turns)
    whole = tokens(language.begin) if plain else Tokens((), ())
    for text, taught in pieces:
        whole += _with_pictures(language, text, taught)
    return whole


def _with_pictures(language: LanguageModel, text: str, taught: bool) -> Tokens:
    if taught:
        return tokens(language.encode(text), taught=True)
    first, *others = text.split(MARK)
    whole = tokens(language.encode(first))
    for part in others:
        whole += tokens([PICTURE]) + tokens(language.encode(part))
    return whole


def _plain_pieces(language: LanguageModel, turns: Sequence[Turn]) -> Iterator[tuple[str, bool]]:
    """The layout of Vicuna, which LLaVA-1.5 speaks: a sentence about who talks, then USER: … ASSISTANT: …"""
    end = language.tokenizer.convert_ids_to_tokens(language.ends[0])
    yield _SYSTEM, False
    for turn in turns:
        yield f" USER: {language.plain(turn.question)} ASSISTANT:", False
        if turn.answer is not None:
            yield f" {_answer(language, turn.answer)}{end}", True


def _template_pieces(language: LanguageModel, turns: Sequence[Turn]) -> Iterator[tuple[str, bool]]:
    """What the tokenizer's template adds up to each answer, and the answer up to its end."""
    messages: list[dict[str, str]] = []
    done = ""
    for turn in turns:
        messages.append({"role": "user", "content": language.plain(turn.question)})
        asked = _rendered(language, messages, prompt=True)
        yield _beyond(asked, done), False
        if turn.answer is None:
            return
        messages.append({"role": "assistant", "content": _answer(language, turn.answer)})
        answered = _rendered(language, messages, prompt=False)
        said = _beyond(answered, asked)
        yield said.rstrip(), True
        done = asked + said.rstrip()


def _answer(language: LanguageModel, text: str) -> str:
    return language.plain(text).replace(MARK, " ").strip()


def _rendered(language: LanguageModel, messages: list[dict[str, str]], *, prompt: bool) -> str:
    try:
        text = language.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    except Exception as error:  # templates are programs of their own and raise what they like
        raise _unusable(f"fails ({error})") from error
    assert isinstance(text, str)
    return text


def _beyond(text: str, start: str) -> str:
    """What ``text`` adds to ``start``."""
    if not text.startswith(start):
        raise _unusable("rewrites what was said before")
    return text[len(start) :]


def _unusable(how: str) -> UserError:
    return UserError(
        f"the language model's chat template {how}; set language_model.layout to plain",
        code="chat_template_unusable", field="dialogue.language_model.layout",
    )  # fmt: skip
