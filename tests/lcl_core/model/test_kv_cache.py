"""Whatever was added comes back in order, after beams were reordered too, and a token is written in place."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache

from lcl_core.model.generation import PreallocatedCache


def tokens(count: int, seed: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    drawn = torch.randn(2, batch, 3, count, 4, generator=torch.Generator().manual_seed(seed))
    # as attention cuts them out of one projection: not contiguous
    keys, values = drawn.transpose(2, 3).contiguous().transpose(2, 3)
    return keys, values


def both(batch: int = 2) -> tuple[PreallocatedCache, DynamicCache]:
    roomy, plain = PreallocatedCache(), DynamicCache()
    for seed, count in enumerate((5, 1, 1, 70, 1, 1)):
        for layer in (0, 1):
            given = tokens(count, 10 * seed + layer, batch)
            for ours, theirs in zip(roomy.update(*given, layer), plain.update(*given, layer), strict=True):
                assert torch.equal(ours, theirs)
    return roomy, plain


def grow(roomy: PreallocatedCache, plain: DynamicCache, batch: int) -> None:
    for seed in range(3):
        given = tokens(1, 100 + seed, batch)
        for ours, theirs in zip(roomy.update(*given, 0), plain.update(*given, 0), strict=True):
            assert torch.equal(ours, theirs)
    assert roomy.get_seq_length() == plain.get_seq_length()


def test_it_holds_what_transformers_own_holds() -> None:
    grow(*both(), batch=2)
    grow(*both(batch=1), batch=1)


def test_reordered_beams_go_on_apart() -> None:
    roomy, plain = both()
    for cache in (roomy, plain):
        cache.reorder_cache(torch.tensor([1, 1]))
    grow(roomy, plain, batch=2)


def test_rows_are_repeated_and_chosen() -> None:
    roomy, plain = both()
    for cache in (roomy, plain):
        cache.batch_repeat_interleave(2)
        cache.batch_select_indices(torch.tensor([3, 0, 2]))
    grow(roomy, plain, batch=3)


def test_what_was_cropped_is_written_over() -> None:
    roomy, plain = both()
    for cache in (roomy, plain):
        cache.crop(-4)
    grow(roomy, plain, batch=2)


def test_a_token_is_written_in_place() -> None:
    cache = PreallocatedCache()
    before, _ = cache.update(*tokens(5, 0), 0)
    after, _ = cache.update(*tokens(1, 1), 0)
    assert after.data_ptr() == before.data_ptr()
