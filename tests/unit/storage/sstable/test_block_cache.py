"""The block cache: a byte budget that is never exceeded, and the right blocks in it."""

from __future__ import annotations

import gc
import random
import threading
import weakref

import pytest

from seerdb.storage.entry import PUT
from seerdb.storage.sstable.block import Block
from seerdb.storage.sstable.block_cache import BlockCache
from seerdb.storage.sstable.filter import key_hash
from tests.unit.storage.sstable.samples import Entry, OpenTable, build

SEQ = 1000
"""Of entry 0: large enough that all blocks need as many bytes for a seq."""


def table(blocks: int, *, first: int = 0) -> OpenTable:
    """A table of equally large blocks."""
    entries = [
        Entry(b"key%06d" % number, number + SEQ, PUT, b"v" * 90)
        for number in range(first, first + blocks * 10)
    ]
    opened = OpenTable(build(entries, block_size=1000, compression="none", filter_bits_per_key=0))
    assert opened.reader.block_count == blocks
    return opened


class Holder:
    """What the cache needs of a reader."""

    def __init__(self) -> None:
        self.slots: list[Block | None] = [None] * 5


def cached(*tables: OpenTable) -> int:
    """What the cached blocks cost, counted afresh."""
    return sum(block.memory for t in tables for block in t.reader.slots if block is not None)


def touch(cache: BlockCache, opened: OpenTable, index: int) -> bool:
    """Read a block as the engine does; whether it was cached."""
    block = opened.reader.slots[index]
    if block is None:
        cache.admit(opened.reader, index, opened.block(index))
        return False
    block.visited = True
    return True


BLOCK = table(1).block(0).memory


def test_an_admitted_block_is_in_its_slot() -> None:
    opened, cache = table(3), BlockCache(10 * BLOCK)
    block = opened.block(1)
    cache.admit(opened.reader, 1, block)
    assert opened.reader.slots == [None, block, None]
    found = cache.statistics()
    assert (found.entries, found.bytes, found.capacity) == (1, block.memory, 10 * BLOCK)
    assert (found.admissions, found.evictions) == (1, 0)


def test_an_occupied_slot_keeps_its_block() -> None:
    opened, cache = table(1), BlockCache(10 * BLOCK)
    first, second = opened.block(0), opened.block(0)
    cache.admit(opened.reader, 0, first)
    cache.admit(opened.reader, 0, second)
    assert opened.reader.slots[0] is first
    assert cache.statistics().bytes == first.memory


@pytest.mark.parametrize("capacity", [0, BLOCK - 1])
def test_a_block_larger_than_the_budget_is_not_admitted(capacity: int) -> None:
    opened, cache = table(1), BlockCache(capacity)
    cache.admit(opened.reader, 0, opened.block(0))
    assert opened.reader.slots == [None]
    assert cache.statistics().entries == 0


def test_without_visits_the_oldest_goes_first() -> None:
    opened, cache = table(6), BlockCache(3 * BLOCK)
    for index in range(6):
        touch(cache, opened, index)
    assert [block is not None for block in opened.reader.slots] == [False] * 3 + [True] * 3
    assert cache.statistics().evictions == 3


def test_visited_blocks_survive_a_scan() -> None:
    hot, scanned = table(4), table(200, first=1000)
    cache = BlockCache(10 * BLOCK)
    for index in range(4):
        touch(cache, hot, index)
    for index in range(200):
        if index % 3 == 0:
            for hot_index in range(4):
                touch(cache, hot, hot_index)
        touch(cache, scanned, index)
    assert all(block is not None for block in hot.reader.slots)
    assert cache.statistics().admissions == 204


def test_a_block_that_is_not_visited_again_goes_when_the_hand_comes_round() -> None:
    opened, cache = table(9), BlockCache(3 * BLOCK)
    for index in (0, 1, 2, 0, 3):
        touch(cache, opened, index)
    assert opened.reader.slots[0] is not None
    for index in (4, 4, 5, 5, 6, 6, 7, 7):
        touch(cache, opened, index)
    assert opened.reader.slots[0] is None


def test_the_hand_goes_on_from_where_it_stopped() -> None:
    """SIEVE, not second chance: a spared block keeps its place in the queue."""
    opened, cache = table(6), BlockCache(3 * BLOCK)
    for index in (0, 1, 2, 0, 3):
        touch(cache, opened, index)
    assert opened.reader.slots[1] is None
    touch(cache, opened, 4)
    assert opened.reader.slots[2] is None, "the hand passed 0 and has not come round"
    assert opened.reader.slots[0] is not None


def test_what_is_visited_while_it_is_young_stays() -> None:
    opened, cache = table(40), BlockCache(10 * BLOCK)
    for index in (0, 0, *range(1, 40)):
        touch(cache, opened, index)
    assert opened.reader.slots[0] is not None
    assert opened.reader.slots[1] is None


def test_what_is_wanted_again_soon_after_it_went_stays() -> None:
    opened, cache = table(60), BlockCache(10 * BLOCK)
    for index in range(10):
        touch(cache, opened, index)
    touch(cache, opened, 10)
    assert opened.reader.slots[0] is None
    touch(cache, opened, 0)
    for index in range(20, 60):
        touch(cache, opened, index)
    assert opened.reader.slots[0] is not None, "its name was remembered"
    assert opened.reader.slots[1] is None


def test_no_more_names_are_remembered_than_blocks_are_cached() -> None:
    opened, cache = table(60), BlockCache(10 * BLOCK)
    for index in range(60):
        touch(cache, opened, index)
    assert 5 < len(cache._gone) <= 10
    touch(cache, opened, 0)
    for index in (*range(10, 20), *range(30, 40)):
        touch(cache, opened, index)
    assert opened.reader.slots[0] is None, "long gone: as new as any other"


def test_what_was_asked_for_again_is_hot() -> None:
    opened, cache = table(60), BlockCache(10 * BLOCK)
    for index in (3, 5, 5, 7):
        touch(cache, opened, index)
    assert cache.hot(opened.reader) == [5]
    for index in range(10, 60):
        touch(cache, opened, index)
    block = opened.reader.slots[5]
    assert block is not None
    assert not block.visited, "not since"
    assert cache.hot(opened.reader) == [5]


def test_forgetting_a_table_frees_its_blocks_only() -> None:
    gone, kept, cache = table(5), table(5, first=500), BlockCache(100 * BLOCK)
    for index in range(5):
        touch(cache, gone, index)
        touch(cache, kept, index)
    cache.forget(gone.reader)
    assert gone.reader.slots == [None] * 5
    assert all(block is not None for block in kept.reader.slots)
    assert cache.statistics().bytes == cached(kept) == 5 * BLOCK
    assert cache.statistics().evictions == 0


def test_a_dropped_reader_is_freed_and_its_blocks_make_room() -> None:
    cache, kept = BlockCache(5 * BLOCK), table(5, first=500)

    def drop() -> weakref.ref[Holder]:
        opened, holder = table(5), Holder()
        for index in range(5):
            cache.admit(holder, index, opened.block(index))
        return weakref.ref(holder)

    alive = drop()
    gc.collect()
    assert alive() is None
    assert cache.statistics().bytes == 5 * BLOCK
    for index in range(5):
        touch(cache, kept, index)
    assert cache.statistics().bytes == cached(kept) == 5 * BLOCK


@pytest.mark.parametrize("seed", range(5))
def test_the_budget_is_never_exceeded_and_always_exact(seed: int) -> None:
    rng = random.Random(seed)
    tables = [table(rng.randint(1, 30), first=1000 * number) for number in range(6)]
    capacity = rng.choice([3, 20, 60]) * BLOCK + rng.randrange(BLOCK)
    cache = BlockCache(capacity)
    for _ in range(4000):
        opened = rng.choice(tables)
        if rng.random() < 0.005:
            cache.forget(opened.reader)
        index = min(int(rng.expovariate(0.3)), opened.reader.block_count - 1)
        touch(cache, opened, index)
        block = opened.reader.slots[index]
        if block is not None:
            block.find(b"absent", 0, 1)
        found = cache.statistics()
        assert found.bytes <= capacity
    assert found.bytes == cached(*tables)
    assert found.entries == sum(b is not None for t in tables for b in t.reader.slots)
    assert found.evictions > 0 or capacity > 30 * BLOCK


def test_threads_share_a_cache() -> None:
    opened, cache = table(40), BlockCache(10 * BLOCK)
    blocks = [opened.block(index) for index in range(40)]
    wrong: list[object] = []

    def read(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(3000):
            index = rng.randrange(40)
            block = opened.reader.slots[index]
            if block is None:
                block = opened.block(index)
                cache.admit(opened.reader, index, block)
            block.visited = True
            number = index * 10 + rng.randrange(10)
            key = b"key%06d" % number
            found = block.find(key, key_hash(key) >> 56, 1 << 60)
            if found != (number + SEQ, b"v" * 90):
                wrong.append((key, found))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(blocks) == 40
    assert cache.statistics().bytes == cached(opened) <= 10 * BLOCK
