"""Which item stands at which position: arithmetic, never a stored list, so any position is found at once.

A run's place in its data is one integer, and a run that is resumed or resized replays nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm

from lcl_core.common.errors import UserError

_ROUNDS = 6  # with 4, orders of a dozen items are visibly uneven
_MASK64 = (1 << 64) - 1
_MAX_CYCLE = 4096


def mix64(*words: int) -> int:
    """Hash integers to 64 bits (splitmix64's finaliser over each in turn); the same on every machine."""
    state = 0
    for word in words:
        state = (state + word + 0x9E3779B97F4A7C15) & _MASK64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK64
        state ^= state >> 31
    return state


class FeistelPermutation:
    """A pseudo-random order of ``range(size)``: a Feistel network over the next power of two, walked until inside.

    ``permutation[place]`` costs a few hashes and no memory.
    """

    def __init__(self, size: int, *key: int) -> None:
        self.size = size
        bits = max(2, (size - 1).bit_length())
        self._low_bits = bits // 2
        self._high_bits = bits - self._low_bits
        self._keys = [mix64(*key, number) for number in range(_ROUNDS)]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, position: int) -> int:
        if not 0 <= position < self.size:
            raise IndexError(position)
        position = self._shuffle(position)
        while position >= self.size:  # fewer than two steps on average: the domain is less than twice the size
            position = self._shuffle(position)
        return position

    def _shuffle(self, value: int) -> int:
        low_mask, high_mask = (1 << self._low_bits) - 1, (1 << self._high_bits) - 1
        high, low = value >> self._low_bits, value & low_mask
        for number in range(0, _ROUNDS, 2):
            high ^= mix64(self._keys[number], low) & high_mask
            low ^= mix64(self._keys[number + 1], high) & low_mask
        return (high << self._low_bits) | low


@dataclass(frozen=True, slots=True)
class SampleIndex:
    """One item of the mixture: ``index`` of ``source`` in that source's ``epoch``."""

    source: int
    index: int
    epoch: int


class Mixture:
    """Sources interleaved by weight: position → item in constant time.

    A cycle of at most 4,096 positions holds each source in proportion to its weight, spread evenly, and
    repeats; so shares are exact over every cycle, and a small source simply starts its next epoch earlier.

    Args:
        sizes: items in one epoch of each source.
        weights: share of each source, relative.
        seed: of the order within each epoch.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int) -> None:
        if not sizes or min(sizes) < 1:
            raise UserError("a source has no items; remove it or choose another split", code="empty_source")
        self._sizes, self._seed = tuple(sizes), seed
        self._shares = mixture_quotas(weights)
        self._cycle = interleave_evenly(self._shares)
        self._orders: dict[int, tuple[int, FeistelPermutation]] = {}

    @property
    def shares(self) -> tuple[int, ...]:
        """How often each source occurs in a cycle."""
        return tuple(self._shares)

    def __getitem__(self, position: int) -> SampleIndex:
        cycle, slot = divmod(position, len(self._cycle))
        source, rank = self._cycle[slot]
        epoch, place = divmod(cycle * self._shares[source] + rank, self._sizes[source])
        return SampleIndex(source, self._order(source, epoch)[place], epoch)

    def _order(self, source: int, epoch: int) -> FeistelPermutation:
        cached = self._orders.get(source)
        if cached is not None and cached[0] == epoch:
            return cached[1]
        order = FeistelPermutation(self._sizes[source], self._seed, source, epoch)
        self._orders[source] = (epoch, order)
        return order


def mixture_quotas(weights: Sequence[float]) -> list[int]:
    """Weights as counts in a cycle: exact where the cycle stays short, else by largest remainder (at least one)."""
    fractions = [Fraction(weight).limit_denominator(1000) for weight in weights]
    if all(fractions):
        scale = lcm(*(fraction.denominator for fraction in fractions))
        counts = [int(fraction * scale) for fraction in fractions]
        divisor = gcd(*counts)
        if sum(counts) <= _MAX_CYCLE * divisor:
            return [count // divisor for count in counts]
    total = sum(weights)
    exact = [weight / total * _MAX_CYCLE for weight in weights]
    counts = [max(1, int(share)) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda source: int(exact[source]) - exact[source])
    for source in by_remainder[: max(0, _MAX_CYCLE - sum(counts))]:
        counts[source] += 1
    return counts


def interleave_evenly(shares: Sequence[int]) -> list[tuple[int, int]]:
    """(source, its how-manieth) for each slot of a cycle: occurrence r of n stands near (r + 1/2) / n."""
    slots = [
        (Fraction(2 * rank + 1, 2 * share), source, rank)
        for source, share in enumerate(shares)
        for rank in range(share)
    ]
    return [(source, rank) for _, source, rank in sorted(slots)]
