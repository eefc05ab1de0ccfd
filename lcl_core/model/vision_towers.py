"""Vision towers: pixels [n, 3, S, S] → patch features [n, N, W] after a last norm, N = (S / patch_size)².

``model.vision`` of a pre-training spec names one. Sizes that fit, and which towers read patches one by one, are in
``lcl_core/specs/vision.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils.checkpoint import checkpoint

from lcl_core.common.errors import UserError
from lcl_core.model.configuration_lcl import LCLConfig
from lcl_core.model.transformer import Transformer
from lcl_core.specs.vision import (
    RESNET_STEM,
    build_timm_network,
    resnet_stages,
)


class MaskedPatches(NamedTuple):
    """Patches that a learned vector replaces before the vision tower.

    Attributes:
        indices: [K] flat numbers of patches, image by image.
        embedding: [W].
    """

    indices: Tensor
    embedding: Tensor


class VisionTower(nn.Module):
    """Base of all towers.

    Pixels are cast to the weights' dtype: a processor gives fp32, and ``from_pretrained`` keeps the dtype of the file.

    Attributes:
        patchwise: whether ``masked`` can be given.
    """

    patchwise: ClassVar[bool] = False

    @property
    def blocks(self) -> list[nn.Module]:
        """Parts that are sharded, compiled and recomputed one by one, the input's first; none: the whole tower is."""
        return []

    def configure_blocks(self, *, checkpointing: bool, compiled: bool) -> None:
        """See :meth:`LCLModel.configure_blocks`."""
        raise NotImplementedError

    def init_weights(self) -> None:
        """Initial weights, after torch's defaults of linear layers, convolutions and norms."""

    def fold_norms(self) -> None:
        """For inference alone: fold batch normalisations into convolutions; outputs change by round-off."""

    def forward(self, pixel_values: Tensor, masked: MaskedPatches | None = None) -> Tensor:
        """[n, 3, S, S] → [n, N, W]."""
        raise NotImplementedError


class VitTower(VisionTower):
    """CLIP's ViT; the class token is dropped. ``masked`` patches are replaced before positions are added."""

    patchwise = True

    def __init__(self, config: LCLConfig) -> None:
        super().__init__()
        width = config.vision_width
        self.conv1 = nn.Conv2d(3, width, config.patch_size, config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(config.num_image_tokens + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        heads = width // config.vision_head_width
        self.transformer = Transformer(width, config.vision_layers, heads, config.mlp_ratio, config.activation)
        self.ln_post = nn.LayerNorm(width)

    def _embed(self, pixel_values: Tensor) -> Tensor:
        """[n, 3, S, S] → [n, N, W]."""
        weight, side = self.conv1.weight, self.conv1.kernel_size[0]
        pixel_values = pixel_values.to(weight.dtype)
        if pixel_values.device.type != "cpu":
            return self.conv1(pixel_values).flatten(2).transpose(1, 2)
        patches = pixel_values.unflatten(3, (-1, side)).unflatten(2, (-1, side)).permute(0, 2, 4, 1, 3, 5)
        return F.linear(patches.flatten(3).flatten(1, 2), weight.flatten(1))

    @property
    def blocks(self) -> list[nn.Module]:
        return cast(list[nn.Module], self.transformer.blocks)

    def configure_blocks(self, *, checkpointing: bool, compiled: bool) -> None:
        self.transformer.checkpointing = checkpointing
        for block in self.blocks if compiled else ():
            block.compile()

    def init_weights(self) -> None:
        std = self.class_embedding.shape[0] ** -0.5
        nn.init.normal_(self.class_embedding, std=std)
        nn.init.normal_(self.positional_embedding, std=std)

    def forward(self, pixel_values: Tensor, masked: MaskedPatches | None = None) -> Tensor:
        embedded = self._embed(pixel_values)
        if masked is not None:
            vectors = masked.embedding.to(embedded.dtype).expand(len(masked.indices), -1)
            embedded = embedded.flatten(0, 1).index_copy(0, masked.indices, vectors).view_as(embedded)
        positions = self.positional_embedding.to(embedded.dtype)
        embedded = embedded + positions[1:]
        register = (self.class_embedding.to(embedded.dtype) + positions[0]).expand(embedded.shape[0], 1, -1)
        x = torch.cat((register, embedded), dim=1)
        count, length, width = x.shape
        x = self.transformer(self.ln_pre(x).view(count * length, width), sequence_length=length)
        # The class token is only an attention register: LCL keeps the patch tokens alone.
        return self.ln_post(x.view(count, length, width)[:, 1:])


class BatchNorm(nn.Module):
    """Batch normalisation [n, C, h, w] without a counter of batches, which only the cumulative average reads."""

    eps = 1e-5
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, eps=self.eps)


class ConvNorm(nn.Module):
    """A convolution without bias, then batch normalisation."""

    def __init__(self, before: int, after: int, side: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, side, stride, side // 2, bias=False)
        self.norm: nn.Module = BatchNorm(after)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))

    def fold(self) -> None:
        """For inference: the convolution computes the normalisation too."""
        _fold(self.conv, self.norm)
        self.norm = nn.Identity()


class ResNetBlock(nn.Module):
    """ResNet's basic block (arXiv 1512.03385, figure 2); ``stride`` 2 halves the grid."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = ConvNorm(before, after, 3, stride), ConvNorm(after, after, 3)
        self.shortcut = ConvNorm(before, after, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.second(F.relu(self.first(x))))


class ResNetTower(VisionTower):
    """ResNet (arXiv 1512.03385) of basic blocks after a 3 x 3 stem; its last grid is the patches'.

    Blocks are recomputed and compiled one by one.
    It begins with torch's weights: by He's rule with zeroed last norms it learns more slowly in short trainings.
    Batch normalisation uses the statistics of one process's micro-batch, and their running mean in evaluation.
    """

    def __init__(self, config: LCLConfig) -> None:
        super().__init__()
        stages = resnet_stages(config.tower_sizes)
        channels = stages[0].width
        self.stem = ConvNorm(3, channels, 3, RESNET_STEM)
        layers: list[nn.Module] = []
        for width, depth, _ in stages:
            layers += [ResNetBlock(channels, width, 2), *(ResNetBlock(width, width, 1) for _ in range(depth - 1))]
            channels = width
        self.layers = nn.ModuleList(layers)
        self.ln_post = nn.LayerNorm(channels)
        self.checkpointing = self.compiled = False

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.layers)

    def configure_blocks(self, *, checkpointing: bool, compiled: bool) -> None:
        self.checkpointing, self.compiled = checkpointing, compiled
        for block in self.blocks if compiled else ():
            block.compile()

    def fold_norms(self) -> None:
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fold()

    def forward(self, pixel_values: Tensor, masked: MaskedPatches | None = None) -> Tensor:
        assert masked is None
        x = pixel_values.to(self.ln_post.weight.dtype, memory_format=torch.channels_last)
        x = F.relu(self.stem(x))
        for layer in self.layers:
            if self.compiled:  # one graph a stage: only the number of images is symbolic
                torch._dynamo.maybe_mark_dynamic(x, 0)
                torch._dynamo.mark_static(x, [1, 2, 3])
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, use_reentrant=False)
            else:
                x = layer(x)
        return self.ln_post(x.permute(0, 2, 3, 1).flatten(1, 2))


def _depthwise_forward(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``forward`` in fp32 where a CPU's autocast would compute it in bf16; its result is in bf16 as then."""
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return forward(x)
    with torch.autocast("cpu", enabled=False):
        result = forward(x.float())
    return result.to(torch.get_autocast_dtype("cpu"))


class TimmTower(VisionTower):
    """The last feature map with ``patch_size`` pixels a position of a timm network, and a norm.

    Batch normalisation uses the statistics of one process's micro-batch, and their running mean in evaluation.
    Depthwise convolutions compute in fp32 on a CPU, whose libraries have no fast kernel for them in bf16: with it
    EfficientNet-Lite0 trains at a third of the speed.
    """

    def __init__(self, config: LCLConfig) -> None:
        super().__init__()
        self.network = build_timm_network(config.vision, config.image_size, config.patch_size, config.vision_width)
        self.vision, self.side = config.vision, config.image_size // config.patch_size
        self.channels_last = getattr(self.network, "output_fmt", "NCHW") == "NHWC"
        self.ln_post = nn.LayerNorm(config.vision_width)
        for module in self.network.modules():  # timm has initialised it; tensors outside of the weights are computed
            if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
                module.forward = partial(_depthwise_forward, module.forward)  # type: ignore[method-assign]
            if not hasattr(module, "init_non_persistent_buffers"):
                module._is_hf_initialized = True

    def configure_blocks(self, *, checkpointing: bool, compiled: bool) -> None:
        if checkpointing:
            try:
                getattr(self.network, "model", self.network).set_grad_checkpointing(True)
            except (AttributeError, AssertionError) as error:
                field = "engine.activation_checkpointing"
                message = f"{self.vision} cannot recompute activations; set it to false"
                raise UserError(f"{field}: {message}", code="bad_spec", field=field) from error
        if compiled:
            self.network.compile()

    def fold_norms(self) -> None:
        fold_traced_norms(self.network)

    def forward(self, pixel_values: Tensor, masked: MaskedPatches | None = None) -> Tensor:
        assert masked is None
        x = pixel_values.to(self.ln_post.weight.dtype, memory_format=torch.channels_last)
        (map_,) = self.network(x)
        features = map_ if self.channels_last else map_.permute(0, 2, 3, 1)
        if features.shape[1:3] != (self.side, self.side):
            found = " x ".join(str(side) for side in features.shape[1:3])
            message = f"the map of {self.vision} has {found} positions, not {self.side} x {self.side}; choose another"
            raise UserError(f"model.vision: {message}", code="bad_spec", field="model.vision")
        return self.ln_post(features.flatten(1, 2))


def fold_traced_norms(network: nn.Module) -> int:
    """Fold batch normalisations of a timm network into the convolutions whose outputs they alone read, for inference.

    Outputs change by round-off. Pairs are found by tracing the network's calls; one that cannot be traced stays as it
    is.

    Returns: how many were folded.
    """
    from timm.layers import BatchNormAct2d  # importing timm takes a second, which other towers need not wait for

    pairs = _find_pairs(network)
    for convolution, name in pairs:
        norm = network.get_submodule(name)
        _fold(convolution, norm)
        parent, _, attribute = name.rpartition(".")
        after = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
        setattr(network.get_submodule(parent), attribute, after)
    return len(pairs)


def _fold(convolution: nn.Conv2d, norm: Any) -> None:
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        *(convolution.weight, convolution.bias, norm.running_mean, norm.running_var),
        *(norm.eps, norm.weight, norm.bias),
    )


def _find_pairs(network: nn.Module) -> list[tuple[nn.Conv2d, str]]:
    """Convolutions, and the names of the normalisations that alone read their outputs."""
    from timm.layers import BatchNormAct2d, Conv2dSame

    try:
        graph = _Tracer().trace(network)
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, AttributeError):  # its calls depend on values
        return []
    modules = dict(network.named_modules())
    calls = {node: modules[node.target] for node in graph.nodes if node.op == "call_module"}
    times = Counter(map(id, calls.values()))
    pairs = []
    for node, norm in calls.items():
        before = node.args[0]
        # subclasses may compute something else with the same tensors
        if type(norm) not in (nn.BatchNorm2d, BatchNormAct2d) or norm.running_mean is None or before not in calls:
            continue
        convolution = calls[before]
        alone = len(before.users) == times[id(norm)] == times[id(convolution)] == 1
        if alone and type(convolution) in (nn.Conv2d, Conv2dSame):
            pairs.append((convolution, node.target))
    return pairs


class _Tracer(fx.Tracer):
    """Calls of layers are nodes of the graph, whatever library they are of."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.BatchNorm2d | nn.Conv2d) or super().is_leaf_module(m, module_qualified_name)


TOWERS: Mapping[str, type[VisionTower]] = {
    "vit": VitTower,
    "resnet": ResNetTower,
    "timm": TimmTower,
}


def build_vision_tower(config: LCLConfig) -> VisionTower:
    """The tower that ``config.vision`` names."""
    return TOWERS[config.vision.partition(":")[0]](config)
