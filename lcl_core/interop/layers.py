"""The parameters of a network that somebody else wrote, by depth."""

from __future__ import annotations

from torch import nn

_LISTS = (nn.ModuleList, nn.Sequential)
_BLOCKS_HOLD = 0.5  # share of the parameters from which on a list of blocks is the network's depth


def layers_of(module: nn.Module) -> list[list[nn.Parameter]]:
    """Parameters in groups, the input's first: what comes before the blocks, each block, what comes after.

    The blocks are those of the lists of modules that lie side by side and hold at least half of the parameters (a ViT
    has one such list, a ResNet four); a network without any is cut into its children. Parameters stand in the order in
    which the network registers them.
    """
    blocks = _blocks(module)
    depth_of = {id(parameter): depth for depth, block in enumerate(blocks, 1) for parameter in block.parameters()}
    groups: list[list[nn.Parameter]] = [[] for _ in range(len(blocks) + 2)]
    deepest = 0
    for parameter in module.parameters():
        deepest = max(deepest, depth_of.get(id(parameter), 0))
        groups[depth_of.get(id(parameter), len(blocks) + 1 if deepest else 0)].append(parameter)
    return [group for group in groups if group]


def _blocks(module: nn.Module) -> list[nn.Module]:
    side_by_side = [
        [child for child in each.children() if isinstance(child, _LISTS)]
        for each in module.modules()
        if not isinstance(each, _LISTS)  # a list within a list is a block
    ]
    enough = _BLOCKS_HOLD * count(module)
    found = [[block for each in lists for block in each] for lists in side_by_side if sum(map(count, lists)) >= enough]
    return max(found, key=len, default=[]) or [child for child in module.children() if count(child)]


def count(module: nn.Module) -> int:
    """Numbers in its parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
