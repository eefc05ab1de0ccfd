"""Whatever was added comes back in order, after beams were reordered too, and a token is written in place."""

from __future__ import annotations

import torch
from transformers import DynamicCache

from lcl_core.model.generation import PreallocatedCache


def tokens(count, seed, batch=2):
    drawn = torch.randn(2, batch, 3, count, 4, generator=torch.Generator().manual_seed(seed))
    # as attention cuts them out of one projection: not contiguous
    keys, values = drawn.transpose(2, 3).contiguous().transpose(2, 3)
    return keys, values


def both(batch=2):
    roomy, plain = PreallocatedCache(), DynamicCache()
    for seed, count in enumerate((5, 1, 1, 70, 1, 1)):
        for layer in (0, 1):
            given = tokens(count, 10 * seed + layer, batch)
            for ours, theirs in zip(roomy.update(*given, layer), plain.update(*given, layer), strict=True):
                assert torch.equal(ours, theirs)
    return roomy, plain


def grow(roomy, plain, batch):
    for seed in range(3):
        given = tokens(1, 100 + seed, batch)
        for ours, theirs in zip(roomy.update(*given, 0), plain.update(*given, 0), strict=True):
            assert torch.equal(ours, theirs)
    assert roomy.get_seq_length() == plain.get_seq_length()


def test_it_holds_what_transformers_own_holds():
    grow(*both(), batch=2)
    grow(*both(batch=1), batch=1)


def test_reordered_beams_go_on_apart():
    roomy, plain = both()
    for cache in (roomy, plain):
        cache.reorder_cache(torch.tensor([1, 1]))
    grow(roomy, plain, batch=2)


def test_a_token_is_written_in_place():
    cache = PreallocatedCache()
    before, _ = cache.update(*tokens(5, 0), 0)
    after, _ = cache.update(*tokens(1, 1), 0)
    assert after.data_ptr() == before.data_ptr()
