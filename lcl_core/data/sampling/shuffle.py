"""Which item is at which position: computed, never a stored list, so any position is found at once.

A run's position in its data is one integer, and a run that is resumed or resized replays nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import inf

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
class Blocks:
    """Sizes of the block order: ``records`` consecutive items are a block, ``window`` blocks are read at a time."""

    records: int
    window: int


class BlockOrder:
    """A pseudo-random order of ``range(size)`` that reads few blocks of consecutive items at a time.

    The blocks are permuted. A window is the next ``sizes.window`` of them: its places take an item of each of its
    blocks in turn, and each block gives its items in a random order of its own. So all places of a block are the same
    modulo the window: ranks and loaders whose number divides it read different blocks. The last window has half as many
    blocks to one and a half times as many, and the block that is cut off by the end.
    """

    def __init__(self, size: int, sizes: Blocks, *key: int) -> None:
        self.size = size
        self._records, self._window = sizes.records, sizes.window
        self._whole, self._rest = divmod(size, sizes.records)
        self._blocks = self._whole + (self._rest > 0)
        self._last = max(1, (2 * self._blocks + self._window) // (2 * self._window)) - 1
        self._key = mix64(*key)
        self._order = FeistelPermutation(self._whole, self._key)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, place: int) -> int:
        if not 0 <= place < self.size:
            raise IndexError(place)
        window, slot, number = self._locate(place)
        # the last slot of the last window is the block that is cut off, if there is one
        rest = bool(self._rest) and window == self._last and slot == self._slots(window) - 1
        block = self._whole if rest else self._order[window * self._window + slot]
        items = FeistelPermutation(self._rest if rest else self._records, self._key, block)
        return block * self._records + items[number]

    def _locate(self, place: int) -> tuple[int, int, int]:
        """Window, slot in it, and how many items the slot's block gave before."""
        window = min(place // (self._window * self._records), self._last)
        place -= window * self._window * self._records
        slots = self._slots(window)
        if window == self._last and self._rest and place >= self._rest * slots:
            number, slot = divmod(place - self._rest * slots, slots - 1)
            return window, slot, self._rest + number
        number, slot = divmod(place, slots)
        return window, slot, number

    def _slots(self, window: int) -> int:
        return self._window if window < self._last else self._blocks - self._last * self._window


@dataclass(frozen=True, slots=True)
class SampleIndex:
    """One item of the mixture: ``index`` of ``source`` in that source's ``epoch``."""

    source: int
    index: int
    epoch: int


class Mixture:
    """Sources interleaved by weight: position → item in constant time.

    A cycle of at most 4,096 positions holds each source in proportion to its weight, spread evenly, and
    repeats; so shares are the same over every cycle, and a small source simply starts its next epoch earlier.

    Args:
        sizes: items in one epoch of each source.
        weights: share of each source, relative.
        seed: of the order within each epoch.
        blocks: read in block order. The sources share the window: the cycle divides it, and a run of as many positions
            has an item of each block of the window.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float],
        seed: int,
        blocks: Blocks | None = None,
    ) -> None:
        if not sizes or min(sizes) < 1:
            raise UserError("a source has no items; remove it or choose another split", code="no_data")
        self._sizes, self._seed, self._blocks = tuple(sizes), seed, blocks
        counts = mixture_quotas(weights)
        self._shares = counts if blocks is None else divisor_quotas(weights, blocks.window, counts)
        self._cycle = interleave_evenly(self._shares)
        self._source_blocks = {} if blocks is None else dict(enumerate(self._share_window(blocks)))
        self._orders: dict[int, tuple[int, FeistelPermutation | BlockOrder]] = {}

    @property
    def shares(self) -> tuple[int, ...]:
        """How often each source occurs in a cycle."""
        return tuple(self._shares)

    def __getitem__(self, position: int) -> SampleIndex:
        cycle, slot = divmod(position, len(self._cycle))
        source, rank = self._cycle[slot]
        epoch, place = divmod(cycle * self._shares[source] + rank, self._sizes[source])
        return SampleIndex(source, self._order(source, epoch)[place], epoch)

    def reader(self, position: int, stride: int, readers: int) -> int:
        """Which of a rank's readers should read a position, so that each block is read by one: a number below readers.

        Of more readers than the rank has blocks in a window, several share a block.
        """
        if self._blocks is None or self._blocks.window < stride * readers:
            return position // stride % readers
        return position % self._blocks.window // stride % readers

    def _share_window(self, blocks: Blocks) -> list[Blocks]:
        """The sizes of each source, whose windows together are the whole one."""
        cycles = blocks.window // len(self._cycle)
        return [Blocks(blocks.records, share * cycles) for share in self._shares]

    def _order(self, source: int, epoch: int) -> FeistelPermutation | BlockOrder:
        cached = self._orders.get(source)
        if cached is not None and cached[0] == epoch:
            return cached[1]
        size, key = self._sizes[source], (self._seed, source, epoch)
        blocks = self._source_blocks.get(source)
        order = FeistelPermutation(size, *key) if blocks is None else BlockOrder(size, blocks, *key)
        self._orders[source] = (epoch, order)
        return order


def mixture_quotas(weights: Sequence[float]) -> list[int]:
    """Weights as counts in a cycle, at least one each, with the smallest error; the shortest of several such cycles."""
    total = sum(weights)
    best, least = _largest_remainders(weights, _MAX_CYCLE), inf
    for length in range(len(weights), _MAX_CYCLE + 1):
        counts = [max(1, round(weight / total * length)) for weight in weights]
        scale = sum(weights) / sum(counts)  # of a share, to compare it with the requested one
        error = max(abs(count * scale / weight - 1) for count, weight in zip(counts, weights, strict=True))
        if sum(counts) <= _MAX_CYCLE and error < least - 1e-9:  # equal errors may differ in their last bits
            best, least = counts, error
    return best


def divisor_quotas(weights: Sequence[float], total: int, counts: Sequence[int]) -> list[int]:
    """Weights as counts in a cycle whose length divides ``total``, at least one each: ``counts``, else rounded.

    Args:
        counts: of a cycle of any length.

    Raises: UserError where there are more weights than ``total``.
    """
    if len(weights) > total:
        message = f"a window of {total} blocks is too small for {len(weights)} sources; give it as many blocks at least"
        raise UserError(message, field="data.window_blocks")
    if total % sum(counts) == 0:
        return list(counts)
    counts = _largest_remainders(weights, total)
    while sum(counts) > total:  # of many tiny weights, each has got one
        counts[counts.index(max(counts))] -= 1
    return counts


def _largest_remainders(weights: Sequence[float], cycle: int) -> list[int]:
    total = sum(weights)
    exact = [weight / total * cycle for weight in weights]
    counts = [max(1, int(share)) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda source: int(exact[source]) - exact[source])
    for source in by_remainder[: max(0, cycle - sum(counts))]:
        counts[source] += 1
    return counts


def interleave_evenly(shares: Sequence[int]) -> list[tuple[int, int]]:
    """(source, number of its occurrence) for each slot of a cycle: occurrence r of n is near (r + 1/2) / n."""
    slots = [
        (Fraction(2 * rank + 1, 2 * share), source, rank)
        for source, share in enumerate(shares)
        for rank in range(share)
    ]
    return [(source, rank) for _, source, rank in sorted(slots)]
