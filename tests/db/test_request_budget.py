"""What the bucket is asked for: counted, never timed."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from seerdb import DB, NEEDS_IO, Components, Runtime
from seerdb.clock import SystemClock
from seerdb.storage.manifest.writer import CHECKPOINT_EVERY
from seerdb.testing.objects import MemoryObjectStore
from tests.db.conftest import OpenDB
from tests.fixtures.database import World

VALUE = b"v" * 100
COUNT = 1000


def key(number: int) -> bytes:
    return b"key%05d" % number


class Gated(MemoryObjectStore):
    """While ``gated``, ranged reads go on only when ``parties`` of them are under way."""

    def __init__(self, parties: int) -> None:
        super().__init__()
        self.gated = False
        self._gate = threading.Barrier(parties)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        if self.gated:
            self._gate.wait(60)
        return super().get_range(name, offset, length)


@contextmanager
def requests(world: World) -> Iterator[Counter[str]]:
    """How often each method of the bucket was called in the block."""
    counted: Counter[str] = Counter()
    before = world.bucket.calls.copy()
    yield counted
    counted.update(world.bucket.calls - before)


def filled(**settings: Any) -> World:
    """A bucket with one table of ``COUNT`` keys (even numbers only) in many blocks; closed."""
    world = World(memtable_capacity=1 << 20, block_cache_capacity=8 << 20, **settings)
    db = world.open()
    with db.batch() as batch:
        for number in range(COUNT):
            batch.put(key(2 * number), VALUE)
    db.close()
    return world


def test_reopening_after_a_clean_close() -> None:
    world = filled()
    with requests(world) as made:
        world.open()
    assert made.total() <= 5, made
    assert made["get_range"] == 0, "tables are opened when they are needed"


def test_reopening_does_not_cost_more_with_more_tables() -> None:
    world = World()
    db = world.open()
    for number in range(80):
        db.put(key(number), VALUE * 4)
        db.flush()
    db.close()
    with requests(world) as made:
        world.open()
    assert made.total() <= 5, made


@pytest.mark.parametrize("life", ["kill", "lose_machine"])
def test_reopening_does_not_cost_more_after_many_lives_that_ended_early(life: str) -> None:
    """As those of a server that is started again and again and dies before its first flush."""
    world = World()
    for _ in range(2 * CHECKPOINT_EVERY + 1):
        world.open()
        world = getattr(world, life)()
    with requests(world) as made:
        world.open()
    assert made["get"] <= 2 * CHECKPOINT_EVERY, made


def test_a_cold_lookup_is_two_requests_and_then_none() -> None:
    world = filled()
    db = world.open()
    with requests(world) as made:
        assert db.get(key(500)) == VALUE
    assert made == {"get_range": 2}, "the tail and the block"
    with requests(world) as made:
        assert db.get(key(500)) == db.get(key(502)) == VALUE
        assert db.try_get_entry(key(500)) is not NEEDS_IO
    assert not made
    with requests(world) as made:
        assert db.get(key(1500)) == VALUE
    assert made == {"get_range": 1}, "another block"


def test_a_key_outside_of_every_table_costs_nothing() -> None:
    world = filled()
    db = world.open()
    with requests(world) as made:
        assert db.get(b"a") is None
        assert db.get(b"zzz") is None
        assert db.multi_get([b"a", b"b", b"zz"]) == [None] * 3
        assert list(db.scan(b"z")) == []
        assert list(db.scan(prefix=b"a", reverse=True)) == []
    assert not made


def test_keys_that_are_not_there_cost_next_to_nothing() -> None:
    world = filled(filter_bits_per_key=12)
    db = world.open()
    assert db.get(key(0)) == VALUE
    with requests(world) as made:
        for number in range(COUNT):
            assert db.get(key(2 * number + 1)) is None
    assert made.total() <= COUNT * 0.02, "one in a hundred, and a table has only so many blocks"


def test_without_filters_a_missing_key_costs_its_block_once() -> None:
    world = filled(filter_bits_per_key=0)
    db = world.open()
    with requests(world) as made:
        assert db.get(key(501)) is None
        assert db.get(key(501)) is None
    assert made == {"get_range": 2}


def test_a_memtable_answers_without_the_bucket() -> None:
    world = World()
    db = world.open()
    db.put(b"a", b"1")
    with requests(world) as made:
        assert db.get(b"a") == b"1"
        assert db.get(b"b") is None
        assert list(db.scan()) == [(b"a", b"1")]
        db.put(b"b", b"2", durability="memory")
        db.delete_range(b"a", b"b")
        assert db.get(b"a") is None
    assert not made


def test_a_short_cold_scan_is_one_request() -> None:
    world = filled()
    db = world.open()
    with requests(world) as made:
        assert len(list(db.scan(key(500), key(501)))) == 1
    assert made == {"get_range": 2}, "the tail and the block"
    for where in ({"start": key(700)}, {"end": key(1302), "reverse": True}):
        with requests(world) as made:
            assert len(list(db.scan(**where, limit=100))) == 100
        assert made == {"get_range": 1}
    with requests(world) as made:
        rows = db.scan(key(1500))
        assert len([next(rows) for _ in range(100)]) == 100
    assert made == {"get_range": 1}, "it need not know that 100 is enough"


@pytest.mark.parametrize(("filter_prefix", "expected"), [(0, 9), (7, 3)])
def test_a_scan_of_a_prefix_passes_over_tables_that_have_none(
    filter_prefix: int, expected: int
) -> None:
    """Three runs over the same range; each tenant is in one of them."""
    world = World(
        memtable_capacity=1 << 20,
        block_cache_capacity=0,
        filter_bits_per_key=20,
        filter_prefix=filter_prefix,
    )
    db = world.open()
    for run in range(3):
        with db.batch() as batch:
            for tenant in range(run, 90, 3):
                batch.put(b"t%05d/1" % tenant, VALUE)
                batch.put(b"t%05d/2" % tenant, VALUE)
        db.flush()
    assert db.statistics().tables == 3
    with requests(world) as made:
        for tenant in (30, 31, 32):
            assert len(list(db.scan(prefix=b"t%05d/" % tenant))) == 2
    assert made == {"get_range": expected}
    with requests(world) as made:
        assert list(db.scan(prefix=b"t00030x")) == []
    assert made.total() == (0 if filter_prefix else 3)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_cold_scan_begins_with_all_runs_at_the_same_time(
    open_db: OpenDB, *, reverse: bool
) -> None:
    """Every request waits until each run has made one: the tails, then a block of each."""
    runs = 3
    store = Gated(runs)
    components = Components(object_store=store)
    db = open_db(components=components, background="inline", disk_cache_capacity=0)
    for run in range(runs):
        with db.batch() as batch:
            for number in range(run, COUNT, runs):
                batch.put(key(number), VALUE)
        db.flush()
    db.close()
    db = open_db(components=components, background="inline", disk_cache_capacity=0)
    assert db.statistics().tables == runs
    before = store.calls["get_range"]
    rows = db.scan(reverse=reverse, limit=COUNT)
    assert store.calls["get_range"] == before, "nothing is fetched before a row is asked for"
    store.gated = True
    first = next(rows)
    assert store.calls["get_range"] - before == 2 * runs, "and no more than one block of each"
    store.gated = False
    expected = [(key(number), VALUE) for number in range(COUNT)][:: -1 if reverse else 1]
    assert [first, *rows] == expected


def test_a_scan_that_finds_its_first_blocks_in_memory_starts_no_threads() -> None:
    world = World(block_cache_capacity=8 << 20, memtable_capacity=1 << 20)
    db = world.open()
    for run in range(3):
        with db.batch() as batch:
            for number in range(run, COUNT, 3):
                batch.put(key(number), VALUE)
        db.flush()
    expected = list(db.scan())
    db._engine.runtime.workers.fetchers.submit = None  # type: ignore[assignment]
    assert list(db.scan()) == expected
    assert list(db.scan(reverse=True)) == expected[::-1]
    assert len(list(db.scan(key(500), limit=5))) == 5


def test_a_long_scan_reads_ahead() -> None:
    world = filled()
    db = world.open()
    with requests(world) as made:
        assert len(list(db.scan())) == COUNT
    blocks = db.statistics().block_cache.blocks
    assert blocks > 200
    assert made["get_range"] <= 1 + 7 + blocks / 64, "1, 2, 4 … 64 blocks by one request"
    with requests(world) as made:
        assert len(list(db.scan(reverse=True))) == COUNT
    assert not made


def test_keys_of_many_blocks_are_fetched_at_the_same_time(open_db: OpenDB) -> None:
    """Every request waits until all of them are under way."""
    blocks = 6
    store = Gated(blocks)
    db = open_db(
        components=Components(object_store=store), background="inline", disk_cache_capacity=0
    )
    with db.batch() as batch:
        for number in range(COUNT):
            batch.put(key(number), VALUE)
    db.close()
    db = open_db(
        components=Components(object_store=store), background="inline", disk_cache_capacity=0
    )
    assert db.get(key(0)) == VALUE
    far_apart = [key(number) for number in range(100, 100 + 100 * blocks, 100)]
    beside = [key(number + 1) for number in range(100, 100 + 100 * blocks, 100)]
    before = store.calls["get_range"]
    store.gated = True
    assert db.multi_get([*far_apart, *beside, b"absent"]) == [VALUE] * 2 * blocks + [None]
    assert store.calls["get_range"] - before == blocks
    assert db.multi_get(far_apart) == [VALUE] * blocks
    assert store.calls["get_range"] - before == blocks


def test_tails_of_many_tables_are_fetched_at_the_same_time(open_db: OpenDB) -> None:
    store = MemoryObjectStore()
    db = open_db(
        components=Components(object_store=store), background="inline", disk_cache_capacity=0
    )
    for number in range(3):
        db.put(b"%d" % number, b"v" * 10 ** (4 - number))
        db.flush()
    db.close()
    gate, opened = threading.Barrier(3), store.get_range

    def together(name: str, offset: int, length: int) -> bytes:
        gate.wait(60)
        return opened(name, offset, length)

    store.get_range = together  # type: ignore[method-assign]
    db = open_db(
        components=Components(object_store=store), background="inline", disk_cache_capacity=0
    )
    assert db.statistics().tables == 3
    assert [len(value or b"") for value in db.multi_get([b"0", b"1", b"2"])] == [10000, 1000, 100]


def test_the_disk_tier_spares_all_requests_after_a_restart() -> None:
    world = filled(disk_cache_capacity=1 << 20)
    db = world.open()
    expected = list(db.scan())
    db.close()
    db = world.open()
    with requests(world) as made:
        assert list(db.scan()) == expected
        assert db.get(key(500)) == VALUE
        assert db.multi_get([key(0), key(1), key(1998)]) == [VALUE, None, VALUE]
    assert not made
    disk = db.statistics().disk_cache
    assert disk is not None
    assert (disk.hits > 200, disk.misses, disk.tables) == (True, 0, 1)


def test_a_damaged_disk_tier_costs_requests_and_no_wrong_answer() -> None:
    world = filled(disk_cache_capacity=1 << 20)
    db = world.open()
    expected = list(db.scan())
    db.close()
    [name] = [name for name in world.files.list("data/cache") if name.endswith(".parts")]
    file = world.files.open(f"data/cache/{name}")
    for offset in range(100, file.size(), 997):
        file.write_at(offset, bytes([file.read_at(offset, 1)[0] ^ 1]))
    file.close()
    db = world.open()
    with requests(world) as made:
        assert list(db.scan()) == expected
    assert made["get_range"] > 0
    disk = db.statistics().disk_cache
    assert disk is not None
    assert disk.rejected + disk.misses > 0


@pytest.mark.parametrize("reverse", [False, True])
def test_no_cache_at_all_still_answers(*, reverse: bool) -> None:
    world = World(memtable_capacity=1 << 20, block_cache_capacity=0, disk_cache_capacity=0)
    db = world.open()
    with db.batch() as batch:
        for number in range(COUNT):
            batch.put(key(number), VALUE)
    db.flush()
    expected = [(key(number), VALUE) for number in range(COUNT)]
    assert list(db.scan(reverse=reverse)) == (expected[::-1] if reverse else expected)
    with requests(world) as made:
        assert db.get(key(7)) == VALUE
        assert db.multi_get([key(7), key(900), key(7)]) == [VALUE] * 3
    assert made == {"get_range": 3}
    assert db.statistics().block_cache.bytes == 0


def test_a_flush_is_a_put_a_check_an_edit_and_two_reads_that_spare_more() -> None:
    world = World()
    db = world.open()
    db.put(b"a", b"1")
    db.flush()
    db.put(b"a", b"2")
    with requests(world) as made:
        db.flush()
    assert made == {"put": 1, "get": 1, "put_if_absent": 1, "get_range": 2}
    with requests(world) as made:
        assert db.get(b"a") == b"2"
    assert not made


def test_without_memory_for_it_a_flush_reads_the_tail_only() -> None:
    world = World(block_cache_capacity=0)
    db = world.open()
    db.put(b"a", b"1")
    db.flush()
    db.put(b"a", b"2")
    with requests(world) as made:
        db.flush()
    assert made == {"put": 1, "get": 1, "put_if_absent": 1, "get_range": 1}


def test_a_merge_brings_along_what_is_read_and_nothing_else() -> None:
    """Two tables of ten blocks each; some keys of the first are read again and again."""
    world = World(block_size=1000, memtable_capacity=1 << 20, disk_cache_capacity=0)
    db = world.open()
    for first in (0, 1):
        with db.batch() as batch:
            for number in range(first, 200, 2):
                batch.put(key(number), b"v" * 100)
        db.close()
        db = world.open()
    assert db.get(key(0)) == db.get(key(2)) == b"v" * 100
    db.compact()
    with requests(world) as made:
        assert db.get(key(1)) == b"v" * 100, "beside a key that is read"
    assert not made
    with requests(world) as made:
        assert db.get(key(101)) == b"v" * 100
    assert made == {"get_range": 1}


def test_closing_brings_nothing_into_memory() -> None:
    world = World()
    db = world.open()
    db.put(b"a", b"1")
    with requests(world) as made:
        db.close()
    assert "get_range" not in made


def test_an_object_write_is_a_put_and_a_look_for_another_writer() -> None:
    world = World()
    db = world.open()
    db.put(b"a", b"1", durability="object")
    with requests(world) as made:
        db.put(b"b", b"2", durability="object")
    assert made == {"put_if_absent": 1, "get": 1}


def test_what_was_asked_is_in_the_statistics(open_db: OpenDB) -> None:
    world = filled()
    db: DB = world.open()
    db.get(key(500))
    rows = {(row.purpose, row.operation): row for row in db.statistics().store_requests}
    assert rows["read", "get_range"].requests == 2
    assert rows["read", "get_range"].bytes_in > 1000
    assert sum(row.requests for row in rows.values()) <= 7
    assert db.statistics().costs.requests > 0


def test_a_runtime_shares_its_cache(open_db: OpenDB) -> None:
    runtime = Runtime(background="thread", block_cache_capacity=64 << 10, clock=SystemClock())
    for name in ("one", "two"):
        db = open_db(name, components=Components(runtime=runtime))
        with db.batch() as batch:
            for number in range(COUNT):
                batch.put(key(number), VALUE)
        db.flush()
        assert len(list(db.scan())) == COUNT
        cache = db.statistics().block_cache
        assert 0 < cache.bytes <= cache.capacity == 62 << 10
        assert cache.evictions > 0
        db.close()
    runtime.close()
