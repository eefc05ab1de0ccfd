"""The attentive head is the attention that it says it is."""

import torch
from torch.nn import functional as F

from lcl_core.evaluation.heads.linear_probe import AttentiveProbe


def test_it_equals_cross_attention_written_out():
    width, heads = 128, 2
    probe = AttentiveProbe(width, 5, torch.Generator().manual_seed(0))
    patches = torch.randn(3, 7, width, generator=torch.Generator().manual_seed(1))
    x = F.layer_norm(patches, (width,))
    keys = torch.einsum("bnw,hdw->bhnd", x, probe.key)
    values = torch.einsum("bnw,hdw->bhnd", x, probe.value)
    query = probe.query.view(1, heads, 1, width // heads).expand(3, -1, -1, -1)
    mixed = F.scaled_dot_product_attention(query, keys, values).flatten(1)
    expected = probe.head(probe.norm(probe.out(mixed)))
    torch.testing.assert_close(probe(patches), expected)
