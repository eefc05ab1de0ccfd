"""Networks by depth."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from lcl_core.encoders.base import parameter_groups


def linear():
    return nn.Linear(4, 4, bias=False)


def groups(module):
    name_of = {id(parameter): name for name, parameter in module.named_parameters()}
    return [[name_of[id(parameter)] for parameter in group] for group in parameter_groups(module)]


class Plain(nn.Module):
    """Position, stem, three blocks, norm."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(3))
        self.stem = linear()
        self.blocks = nn.ModuleList([nn.Sequential(linear(), linear()) for _ in range(3)])
        self.norm = nn.LayerNorm(4)


def test_before_each_block_and_after():
    assert groups(Plain()) == [
        ["position", "stem.weight"],
        ["blocks.0.0.weight", "blocks.0.1.weight"],
        ["blocks.1.0.weight", "blocks.1.1.weight"],
        ["blocks.2.0.weight", "blocks.2.1.weight"],
        ["norm.weight", "norm.bias"],
    ]


def test_a_wrapped_network_has_the_same_depth():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Plain()
            self.projection = linear()

    found = groups(Wrapped())
    assert len(found) == 5
    assert found[-1] == ["inner.norm.weight", "inner.norm.bias", "projection.weight"]


def test_stages_side_by_side_are_one_row_of_blocks():
    class Stages(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = linear()
            self.layer1 = nn.Sequential(linear(), linear())
            self.layer2 = nn.Sequential(linear(), linear(), linear())

    assert [len(group) for group in groups(Stages())] == [1] * 6


def test_without_blocks_the_children_are_the_layers():
    module = nn.Sequential(OrderedDict(a=linear(), b=nn.ReLU(), c=linear()))
    assert groups(module) == [["a.weight"], ["c.weight"]]
