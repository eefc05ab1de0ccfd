"""Vision towers by name: their abilities, sizes that fit them, and the tensors of their convolutions.

Validation, estimates and the schema of saved encoders need these without torch; the code that computes is
``lcl_core/model/vision_towers.py``, and a test keeps both in step. Only :func:`build_timm_network` imports libraries.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

from lcl_core.common.errors import UserError

DEFAULT_TOWER = "vit"
TOWER_PATTERN = r"^(vit|resnet|timm:[A-Za-z0-9_]{1,100}(\.[A-Za-z0-9_-]{1,100})?)$"
RESNET_STEM = 2  # stride of ResNet's first convolution


class TowerTensor(NamedTuple):
    """A parameter, or (``trained`` False) a buffer, and the number of grid positions of one image it is applied to."""

    shape: tuple[int, ...]
    positions: int
    trained: bool = True


@dataclass(frozen=True)
class TowerSizes:
    """Sizes of a tower; ``patches``: N, of a whole image."""

    patch_size: int
    width: int
    layers: int
    patches: int


@dataclass(frozen=True)
class TowerKind:
    """What is known of a vision tower before its code is loaded.

    Attributes:
        patchwise: a transformer over embedded patches: it can leave patches out and mask them, and has heads.
        misfit: the field that does not fit and the way out; None: all fit.
        convolutions: its tensors beside the transformer's, by name within the tower. None: its library knows them.
    """

    patchwise: bool
    misfit: Callable[[TowerSizes], tuple[str, str] | None] = lambda sizes: None
    convolutions: Callable[[TowerSizes], dict[str, TowerTensor]] | None = None


def tower_kind(vision: str) -> TowerKind:
    """The kind of ``vit``, ``resnet`` or ``timm:NAME``."""
    name = vision.partition(":")[0]
    if name not in VISION_TOWERS or (name == "timm") != (":" in vision):
        raise ValueError(f"vision {vision!r} is not known; choose from vit, resnet and timm:NAME")
    return VISION_TOWERS[name]


class TowerStage(NamedTuple):
    """``depth`` blocks of ``width`` channels on a grid of ``stride`` pixels a position."""

    width: int
    depth: int
    stride: int


def resnet_stages(sizes: TowerSizes) -> list[TowerStage]:
    """Stages after a stem of stride 2, whose grids halve to ``patch_size`` and whose widths double to ``width``.

    ``layers`` blocks are distributed evenly, what is left over to the last stages.
    """
    count = sizes.patch_size.bit_length() - 2
    each, more = divmod(sizes.layers, count)
    return [
        TowerStage(sizes.width >> (count - 1 - i), each + (i >= count - more), 2 * RESNET_STEM << i)
        for i in range(count)
    ]


def _vit_tensors(sizes: TowerSizes) -> dict[str, TowerTensor]:
    side = sizes.patch_size
    return {"conv1.weight": TowerTensor((sizes.width, 3, side, side), sizes.patches)}


def _resnet_tensors(sizes: TowerSizes) -> dict[str, TowerTensor]:
    stages = resnet_stages(sizes)
    channels, number = stages[0].width, 0
    found = _conv_norm("stem", (channels, 3, 3, 3), sizes.patches * (sizes.patch_size // RESNET_STEM) ** 2)
    for width, depth, stride in stages:
        positions = sizes.patches * (sizes.patch_size // stride) ** 2
        for block in range(depth):
            name = f"layers.{number}"
            found |= _conv_norm(f"{name}.first", (width, channels, 3, 3), positions)
            found |= _conv_norm(f"{name}.second", (width, width, 3, 3), positions)
            if block == 0:
                found |= _conv_norm(f"{name}.shortcut", (width, channels, 1, 1), positions)
            channels, number = width, number + 1
    return found | _affine("ln_post", (channels,), sizes.patches)


def _conv_norm(name: str, kernel: tuple[int, ...], positions: int) -> dict[str, TowerTensor]:
    """A convolution without bias, and batch normalisation with its running statistics."""
    found = {f"{name}.conv.weight": TowerTensor(kernel, positions)} | _affine(f"{name}.norm", kernel[:1], positions)
    for statistic in ("running_mean", "running_var"):
        found[f"{name}.norm.{statistic}"] = TowerTensor(kernel[:1], positions, trained=False)
    return found


def _affine(name: str, shape: tuple[int, ...], positions: int) -> dict[str, TowerTensor]:
    """Weight and bias."""
    return {f"{name}.weight": TowerTensor(shape, positions), f"{name}.bias": TowerTensor(shape[:1], positions)}


def _resnet_misfit(sizes: TowerSizes) -> tuple[str, str] | None:
    stages = sizes.patch_size.bit_length() - 2
    if sizes.patch_size < 2 * RESNET_STEM or sizes.patch_size & (sizes.patch_size - 1):
        return "patch_size", f"the stages of resnet halve the grid: patch_size {sizes.patch_size} must be 4, 8, 16 …"
    if sizes.width % (1 << (stages - 1)):
        words = f"the {stages} stages of resnet double the width: vision_width {sizes.width} must be a multiple of"
        return "vision_width", f"{words} {1 << (stages - 1)}"
    if sizes.layers < stages:
        words = f"resnet has {stages} stages with patch_size {sizes.patch_size}"
        return "vision_layers", f"{words}: set vision_layers to at least {stages}"
    return None


VISION_TOWERS: Mapping[str, TowerKind] = {
    "vit": TowerKind(patchwise=True, convolutions=_vit_tensors),
    "resnet": TowerKind(patchwise=False, misfit=_resnet_misfit, convolutions=_resnet_tensors),
    "timm": TowerKind(patchwise=False),
}


def build_timm_network(vision: str, image_size: int, patch_size: int, width: int) -> Any:
    """The network ``timm:NAME`` with random weights, cut after its last map of ``patch_size`` pixels a position.

    It returns a list of one map, without dropout and stochastic depth: gradient caching encodes a batch twice and needs
    the same features. Nothing is downloaded.
    """
    field, name = "model.vision", vision.partition(":")[2]
    timm: Any = import_module("timm")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        ways = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() names them"
        raise UserError(f"timm {timm.__version__} has no model {name!r}; {ways}", field=field)
    with import_module("torch").device("meta"):
        maps = _create_feature_network(timm, name, image_size).feature_info.info
    strides = [each["reduction"] for each in maps]
    if patch_size not in strides:
        known = ", ".join(str(stride) for stride in sorted(set(strides)))
        message = f"{vision} has maps of {known} pixels a position, not of {patch_size}; set patch_size to one of them"
        raise UserError(f"model.patch_size: {message}", code="bad_spec", field="model.patch_size")
    last = max(number for number, stride in enumerate(strides) if stride == patch_size)
    if (channels := maps[last]["num_chs"]) != width:
        message = f"{vision} has {channels} channels at {patch_size} pixels a position; set vision_width to {channels}"
        raise UserError(f"model.vision_width: {message}", code="bad_spec", field="model.vision_width")
    network = _create_feature_network(timm, name, image_size, out_indices=(last,))
    stage = re.fullmatch(r"blocks\.(\d+)", maps[last]["module"])
    if stage and hasattr(network, "blocks"):  # an EfficientNet keeps the stages after its map
        del network.blocks[int(stage[1]) + 1 :]
    dropout = import_module("torch.nn.modules.dropout")._DropoutNd
    for part in network.modules():
        if isinstance(part, dropout):
            part.p = 0.0
        elif isinstance(part, timm.layers.DropPath):
            part.drop_prob = 0.0
        if part._non_persistent_buffers_set and not hasattr(part, "init_non_persistent_buffers"):
            message = f"{vision} has tensors outside of its weights, which loading cannot restore; choose another model"
            raise UserError(f"{field}: {message}", code="bad_spec", field=field)
    return network


def _create_feature_network(timm: Any, name: str, image_size: int, **options: Any) -> Any:
    options |= {"pretrained": False, "features_only": True}
    try:
        try:
            return timm.create_model(name, img_size=image_size, **options)
        except TypeError:  # most CNNs have no such argument, since they take any size
            return timm.create_model(name, **options)
    except Exception as error:  # each architecture raises its own
        reason = str(error).strip().partition("\n")[0][:200]
        message = f"timm cannot build {name} for images of {image_size} pixels ({reason}); choose another model or size"
        raise UserError(f"model.vision: {message}", code="bad_spec", field="model.vision") from error
