"""Start of a pre-training from the weights of a registered encoder (``model.init``).

A tensor is copied if its name and shape are those of the model. Tables of a different size are fitted: positions of
image patches are interpolated, patch embeddings resized as FlexiViT does (arXiv 2212.08013, section 3.4), positions of
tokens cut or left as they are beyond the encoder's, and rows of tokens matched by the tokens' texts. All other tensors
keep their random weights. ``artifacts/init.json`` lists every tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from lcl_core.common.errors import UserError
from lcl_core.common.files import write_json_atomically
from lcl_core.common.run_dir import RunDir
from lcl_core.data.tokenizer import Tokenizer
from lcl_core.encoders.files import check_unchanged, hash_files
from lcl_core.encoders.registry import load_image_encoder
from lcl_core.encoders.tower_weights import TowerWeights, model_settings, tower_weights
from lcl_core.model import LCLModel
from lcl_core.model.vision_towers import VitTower
from lcl_core.specs.pretrain import ModelSpec

_CONV, _PATCH_POSITIONS, _CLASS = "visual.conv1.weight", "visual.positional_embedding", "visual.class_embedding"
_STEM = {_CONV, _PATCH_POSITIONS}
_TEXT_POSITIONS = "text.positional_embedding"
_TOKEN_ROWS = ("text.token_embedding.weight", "lm_head.1.weight")


@dataclass
class InitReport:
    """What a run copied from its initial encoder; names are the model's, except in ``unused``.

    Attributes:
        encoder: id or name in the spec. ``weights``: their sha256.
        taken: tensors copied as they are.
        resampled: {tensor: how it was fitted}.
        new: {tensor: why it keeps its random weights}.
        unused: {tensor of the encoder: why it was not copied}.
        differences: {setting: [the encoder's, the model's]} with which equal weights compute different results.
    """

    encoder: str = ""
    weights: str = ""
    taken: list[str] = field(default_factory=list)
    resampled: dict[str, str] = field(default_factory=dict)
    new: dict[str, str] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    differences: dict[str, list[str | int]] = field(default_factory=dict)

    def summary(self) -> str:
        differing = [f"; {what}: {theirs} there, {ours} here" for what, (theirs, ours) in self.differences.items()]
        return (
            f"start from encoder {self.encoder}: {len(self.taken)} tensors taken, {len(self.resampled)} fitted, "
            f"{len(self.new)} left new, {len(self.unused)} of the encoder not used{''.join(differing)}; see init.json"
        )


def start_from_encoder(model: LCLModel, tokenizer: Tokenizer, spec: ModelSpec, run_dir: RunDir, *, main: bool) -> None:
    """Set weights of ``model`` from the encoder ``spec.init``; without one, none.

    Args:
        main: write the report ``artifacts/init.json``: of several ranks, the first.
    """
    if spec.init is None:
        return
    run = run_dir.read_run()
    directory = run.get("encoders", {}).get(spec.init)
    if directory is None:
        message = f"model.init: encoder {spec.init!r} is not registered; the list of encoders has the names"
        raise UserError(message, code="not_found", field="model.init")
    try:
        files = hash_files(Path(directory))
        check_unchanged(run.get("encoder_files", {}).get(spec.init, {}), files)
        with torch.random.fork_rng(devices=[]):  # libraries draw weights before they read the saved ones
            encoder = load_image_encoder(Path(directory), files)
    except OSError as error:
        message = f"model.init: the encoder cannot be read: {error.strerror}"
        raise UserError(message, code="encoder_unreadable", field="model.init", file=directory) from error
    except UserError as error:
        message = f"model.init: {error.message}"
        raise UserError(message, code=error.code, field="model.init", file=error.file) from error
    report = copy_weights(model, tower_weights(encoder), tokenizer)
    report.encoder, report.weights = spec.init, encoder.weights_hash
    tables = {tensor for tensor, value in model.state_dict().items() if value.ndim > 1}
    if not any(tensor.startswith(("visual.", "text.")) for tensor in tables & {*report.taken, *report.resampled}):
        shape = next((why for tensor, why in report.new.items() if "resblocks" in tensor), "it has no such blocks")
        message = (
            f"no layer of encoder {spec.init!r} fits the model ({shape}); set model.vision_width, text_width "
            "and the other sizes to the encoder's, or choose an encoder of the model's sizes"
        )
        raise UserError(f"model.init: {message}", code="init_mismatch", field="model.init")
    if main:
        run_dir.artifacts.mkdir(parents=True, exist_ok=True)
        write_json_atomically(run_dir.artifacts / "init.json", asdict(report))
        print(report.summary(), flush=True)  # noqa: T201  into log.txt


@torch.no_grad()
def copy_weights(model: LCLModel, weights: TowerWeights, tokenizer: Tokenizer) -> InitReport:
    """Copy into ``model``, on any device, what fits of ``weights``. Returns: a report without ``encoder``."""
    report, ours = InitReport(unused=dict(weights.left_out)), model.state_dict()
    for name, target in ours.items():
        source = weights.tensors.get(name)
        if source is None:
            report.new[name] = "the encoder has none"
            continue
        try:
            fitted, how = _fit(name, source, target.detach().cpu(), weights, tokenizer)
        except _Misfit as reason:
            report.new[name] = str(reason)
            continue
        target.copy_(fitted)
        if how:
            report.resampled[name] = how
        else:
            report.taken.append(name)
    used = {*report.taken, *report.resampled}
    if isinstance(model.visual, VitTower) and "visual.ln_pre.weight" in report.new and used >= _STEM:
        _fit_input_norm(model.visual, model.config.image_size)
        for name in ("visual.ln_pre.weight", "visual.ln_pre.bias"):
            del report.new[name]
            report.resampled[name] = "one number, with which tokens keep their size: the encoder has no such norm"
    mine = model_settings(model.config)
    unused = [name for name in weights.tensors if name not in used]
    report.unused |= {name: report.new.get(name, "the model has none") for name in unused}
    report.differences = {
        what: [theirs, mine[what]] for what, theirs in weights.settings.items() if theirs != mine[what]
    }
    return report


def _fit_input_norm(visual: VitTower, size: int) -> None:
    """Give the norm before the blocks the mean and deviation that tokens have without one.

    They are measured on smooth random images with the mean and deviation of normalised pixels: a model that was trained
    without this norm adds what its blocks compute to tokens of that size.
    """
    coarse = torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    pixels = F.interpolate(coarse, size=(size, size), mode="bicubic")
    pixels = (pixels / pixels.std()).to(visual.conv1.weight.device)
    tokens = visual.conv1(pixels).flatten(2).transpose(1, 2) + visual.positional_embedding[1:]
    visual.ln_pre.weight.fill_(tokens.var(dim=-1, correction=0).mean().sqrt())
    visual.ln_pre.bias.fill_(tokens.mean())


class _Misfit(Exception):
    """Why a tensor cannot be copied."""


def _fit(
    name: str, source: Tensor, target: Tensor, weights: TowerWeights, tokenizer: Tokenizer
) -> tuple[Tensor, str | None]:
    """``source`` in the shape of ``target``, and how it was fitted; none: as it is. Raises: _Misfit."""
    if name == _PATCH_POSITIONS:
        return _fit_patch_positions(source, target, has_class=_CLASS in weights.tensors)
    if name == _CONV and source.shape[:2] == target.shape[:2] and source.shape != target.shape:
        return resize_patch_embedding(source, target.shape[-1]), _sizes(source.shape[-1], target.shape[-1], "patches")
    if name == _TEXT_POSITIONS and source.shape[1:] == target.shape[1:] and source.shape != target.shape:
        rows = min(len(source), len(target))
        return torch.cat((source[:rows], target[rows:])), f"the first {rows} of {len(target)} positions"
    if name in _TOKEN_ROWS and source.shape[1:] == target.shape[1:]:
        return _fit_tokens(source, target, weights.vocabulary, tokenizer.vocabulary)
    if source.shape != target.shape:
        raise _Misfit(f"shape {list(source.shape)} in the encoder, {list(target.shape)} here")
    return source, None


def _fit_patch_positions(source: Tensor, target: Tensor, has_class: bool) -> tuple[Tensor, str | None]:
    if source.shape[1] != target.shape[1]:
        raise _Misfit(f"width {source.shape[1]} in the encoder, {target.shape[1]} here")
    first = source[:1] if has_class else target[:1]
    patches = source[1:] if has_class else source
    old, new = (round(len(rows) ** 0.5) for rows in (patches, target[1:]))
    if old * old != len(patches):
        raise _Misfit(f"{len(patches)} positions are no square")
    how = [] if old == new else [_sizes(old, new, "positions, bicubic")]
    how += [] if has_class else ["the class token's is new"]
    return torch.cat((first, resize_positions(patches, new))), "; ".join(how) or None


def _sizes(old: int, new: int, what: str) -> str:
    return f"{old} x {old} to {new} x {new} {what}"


def resize_positions(table: Tensor, side: int) -> Tensor:
    """[N, W] of a square of patches → [side^2, W], bicubic."""
    old = round(len(table) ** 0.5)
    if old == side:
        return table
    grid = table.T.reshape(1, -1, old, old)
    resized = F.interpolate(grid, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    return resized.flatten(2)[0].T


def resize_patch_embedding(weight: Tensor, side: int) -> Tensor:
    """[W, 3, P, P] → [W, 3, side, side]: the products with resized patches are those with the patches, or nearest.

    With B the matrix that resizes a patch, w' = pinv(B^T) w, which minimises (<w, x> - <w', B x>)^2 over patches x of
    white noise (FlexiViT, section 3.4).
    """
    old = weight.shape[-1]
    if old == side:
        return weight
    basis = torch.eye(old * old, dtype=torch.float64).reshape(old * old, 1, old, old)
    resized = F.interpolate(basis, size=(side, side), mode="bicubic", antialias=side < old, align_corners=False)
    inverse = torch.linalg.pinv(resized.reshape(old * old, side * side))  # of B^T
    return (weight.double().flatten(2) @ inverse.T).reshape(*weight.shape[:2], side, side).to(weight.dtype)


def _fit_tokens(
    source: Tensor, target: Tensor, theirs: Mapping[str, int], ours: Mapping[str, int]
) -> tuple[Tensor, str | None]:
    """Rows of the tokens that both vocabularies have."""
    if not theirs:
        raise _Misfit("the encoder has no tokenizer")
    rows = {token_key(token): row for token, row in theirs.items() if row < len(source)}
    pairs = [(row, rows[key]) for token, row in ours.items() if (key := token_key(token)) in rows]
    if not pairs:
        raise _Misfit("the vocabularies have no token in common")
    if len(pairs) == len(target) == len(source) and all(mine == other for mine, other in pairs):
        return source, None
    fitted, (mine, other) = target.clone(), torch.tensor(pairs).T
    fitted[mine] = source[other]
    return fitted, f"{len(pairs)} of {len(target)} tokens, by their text"


_TOKEN_NAMES = {"<|startoftext|>": "<start_of_text>", "<|endoftext|>": "<end_of_text>"}


def token_key(token: str) -> tuple[bool, str]:
    """A token's text, and whether it is marked as a whole word: CLIP marks the end of words, others the start."""
    if token.endswith("</w>"):
        return True, token.removesuffix("</w>")
    if token[:1] in ("\u0120", "\u2581"):  # the byte-level and the sentencepiece mark of a space
        return True, token[1:]
    return False, _TOKEN_NAMES.get(token, token)
