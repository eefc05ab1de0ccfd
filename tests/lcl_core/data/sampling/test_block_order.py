"""The block order: by arithmetic, every item once, few blocks at a time."""

import itertools
import pickle
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcl_core.common.errors import UserError
from lcl_core.data import SampleStream
from lcl_core.data.sampling.loader import first_cursors, load_batches, redistribute_cursors
from lcl_core.data.sampling.shuffle import BlockOrder, Blocks, Mixture, divisor_quotas
from lcl_core.specs.data import DataSpec
from lcl_core.specs.pretrain import BatchSpec

SIZES = st.integers(1, 400)
BLOCKS = st.builds(Blocks, st.integers(1, 40), st.integers(1, 12))


@given(SIZES, BLOCKS, st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_every_item_once(size, blocks, epoch):
    order = BlockOrder(size, blocks, 1, 2, epoch)
    assert sorted(order) == list(range(size))


@given(st.integers(100, 300), st.integers(1, 20), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_another_epoch_is_another_order(size, records, window):
    orders = {tuple(BlockOrder(size, Blocks(records, window), 1, 0, epoch)) for epoch in range(4)}
    assert len(orders) == 4


def test_a_window_has_an_item_of_each_of_its_blocks_in_turn():
    order, slots = BlockOrder(10_000, Blocks(10, 20), 3), 20
    for start in range(0, 4000, slots):
        window = {order[start + slot] // 10 for slot in range(slots)}
        assert len(window) == slots
    for slot in range(slots):
        assert len({order[place] // 10 for place in range(slot, 200, slots)}) == 1, "a place modulo 20 is a block"
    first = {order[place] // 10 for place in range(200)}
    assert not first & {order[place] // 10 for place in range(200, 400)}


def test_blocks_and_the_items_in_them_are_in_random_order():
    order = BlockOrder(100_000, Blocks(10, 20), 7)
    steps = [abs(order[place + 1] - order[place]) for place in range(0, 100_000, 200)]
    assert 30_000 < sum(steps) / len(steps) < 37_000, "a random order's steps are a third of the size"
    within = Counter(order[place] % 10 for place in range(2000) if place // 20 % 10 == 0)
    assert set(within) == set(range(10))


def test_places_outside_are_refused():
    for place in (-1, 10):
        with pytest.raises(IndexError):
            BlockOrder(10, Blocks(3, 2), 0)[place]


def test_a_thousand_million_records_need_no_state():
    order = BlockOrder(10**9, Blocks(32, 384), 3)
    assert len(pickle.dumps(order)) <= 1024
    assert len({order[place] for place in range(10**9 - 1000, 10**9)}) == 1000
    mixture = Mixture([10**9], [1], 0, Blocks(32, 384))
    assert len(pickle.dumps(mixture)) <= 1024


def test_the_order_is_fixed_for_ever():
    """A change would reorder the data of every run that is resumed."""
    assert list(BlockOrder(11, Blocks(2, 2), 1, 2)) == [5, 6, 4, 7, 8, 1, 9, 0, 3, 10, 2]


@pytest.mark.parametrize("weights", [[1.0], [1.0, 3.0], [0.7, 0.3], [0.123, 0.9, 5.0]])
def test_a_mixture_reads_each_source_epoch_by_epoch(weights):
    sizes = [70, 41, 23][: len(weights)]
    mixture = Mixture(sizes, weights, 0, Blocks(5, 12))
    places = [mixture[position] for position in range(2000)]
    for source, size in enumerate(sizes):
        seen = [place.index for place in places if place.source == source]
        for epoch in range(len(seen) // size):
            assert sorted(seen[epoch * size : (epoch + 1) * size]) == list(range(size))
    shares = Counter(place.source for place in places[:1200])
    for source, weight in enumerate(weights):
        assert abs(shares[source] / 1200 - weight / sum(weights)) <= 1 / 12


@pytest.mark.parametrize("weights", [[1.0], [1.0, 3.0], [0.37, 0.63]])
def test_readers_of_all_ranks_share_no_block_of_a_whole_window(weights):
    sizes = [6 * 24 * 10] * len(weights)
    mixture = Mixture(sizes, weights, 0, Blocks(10, 24))
    owners = {}
    for position in range(24 * 10 * 3):
        at = mixture[position]
        owner = position % 4, mixture.reader(position, 4, 3)
        owners.setdefault((at.source, at.epoch, at.index // 10), set()).add(owner)
    assert {len(each) for each in owners.values()} == {1}


def test_a_window_that_the_sources_do_not_fit_into_is_refused():
    assert divisor_quotas([1.0, 1.0], 2, [1, 1]) == [1, 1]
    assert sum(divisor_quotas([1000.0, 1e-3, 1e-3], 7, [4094, 1, 1])) == 7
    with pytest.raises(UserError, match="3 sources") as caught:
        divisor_quotas([1.0, 1.0, 1.0], 2, [1, 1, 1])
    assert caught.value.field == "data.window_blocks"


def test_small_weights_have_their_shares_of_a_window():
    mixture = Mixture([1000, 1000], [1 / 1500, 1 / 1000], 0, Blocks(10, 384))
    assert mixture.shares == (154, 230)


BUDGET = BatchSpec(tokens=128, images=8)


@pytest.fixture
def open_stream(kit, tokenizer, monkeypatch):
    monkeypatch.setattr("lcl_core.data.sampling.stream.BLOCK_RECORDS", 4)
    documents = [kit.document(["a red square"] * (1 + number % 7), kit.image("red.png", 0)) for number in range(53)]
    corpus = kit.corpus(documents)

    def call():
        data = DataSpec(sources=({"dataset": "d"},), order="blocks", window_blocks=6)
        return SampleStream(data, {"d": corpus}, tokenizer, 4, 16, 120, seed=0)

    return call


def test_a_stream_in_block_order_reads_each_document_once_an_epoch(open_stream):
    stream = open_stream()
    epochs = [[stream[epoch * 53 + place].id for place in range(53)] for epoch in range(2)]
    assert len(set(epochs[0])) == len(set(epochs[1])) == 53
    assert epochs[0] != epochs[1]
    lines = [int(name.rpartition(":")[2]) - 1 for name in epochs[0][:24]]
    assert len({line // 4 for line in lines}) == 6, "24 documents of six blocks"


def read(stream, cursor, ranks, workers, batches):
    loaded = load_batches(stream, cursor, BUDGET, workers, ranks)
    positions = []
    for batch in itertools.islice(loaded, batches):
        positions += [sample.position for sample in batch.samples]
        cursor = batch.cursor
    return positions, cursor


def test_ranks_and_loaders_may_change_between_attempts(open_stream):
    """1 rank with 3 loaders, 3 with 2, 2 in their own process: each position once, and samples are those of it."""
    seen = []
    cursors = first_cursors(1)
    for ranks, workers in ((1, 3), (3, 2), (2, 0)):
        cursors = redistribute_cursors(cursors, ranks)
        found = [read(open_stream(), cursor, ranks, workers, 4) for cursor in cursors]
        seen += [position for positions, _ in found for position in positions]
        cursors = [cursor for _, cursor in found]
    assert len(seen) == len(set(seen))
    done = min(cursor.position for cursor in cursors)
    waiting = {position for cursor in cursors for position in cursor.held}
    assert set(range(done)) - waiting <= set(seen)
    stream = open_stream()
    ids = Counter(stream[position].id for position in range(53))
    assert set(ids.values()) == {1}
