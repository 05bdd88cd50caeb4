"""What reads cost that find nothing in the caches: requests, counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from seerdb import DB, Components
from seerdb.testing.objects import MemoryObjectStore
from tests.db.conftest import OpenDB
from tests.db.test_request_budget import VALUE, filled, key, requests


def large(open_db: OpenDB, components: Components, runs: int) -> DB:
    """A database of 20,000 keys (even numbers only) whose caches hold next to nothing, and whose
    tables are open."""
    settings: dict[str, Any] = {
        "background": "inline",
        "block_cache_capacity": 64 << 10,
        "disk_cache_capacity": 0,
    }
    db = open_db(components=components, **settings)
    for run in range(runs):
        with db.batch() as batch:
            for number in range(2 * run, 40_000, 2 * runs):
                batch.put(key(number), VALUE)
        db.flush()
    if runs == 1:
        db.compact()
    db.close()
    db = open_db(components=components, **settings)
    assert db.multi_get([key(0), key(2), key(4), key(6)]) == [VALUE] * 4
    return db


@pytest.mark.parametrize("runs", [1, 4])
def test_with_small_caches_a_cold_get_is_one_request_and_a_missing_key_none(
    open_db: OpenDB, runs: int
) -> None:
    """What a filter is wrong about costs a request: here, of one missing key in fifty a run."""
    store = MemoryObjectStore()
    db = large(open_db, Components(object_store=store), runs)
    positions = [2 * (7919 * n % 20_000) for n in range(1, 301)]
    before = store.calls["get_range"]
    for number in positions:
        assert db.get(key(number)) == VALUE
    cold = store.calls["get_range"] - before
    assert len(positions) * 0.9 <= cold <= len(positions) * (1 + 0.025 * (runs - 1))
    before = store.calls["get_range"]
    for number in positions:
        assert db.get(key(number + 1)) is None
    assert store.calls["get_range"] - before <= 0.03 * runs * len(positions)


@pytest.mark.parametrize("runs", [1, 4])
def test_with_small_caches_a_hundred_rows_are_one_request_a_run(open_db: OpenDB, runs: int) -> None:
    store = MemoryObjectStore()
    db = large(open_db, Components(object_store=store), runs)
    for number in range(1_001, 38_000, 1_778):
        expected = [key(n) for n in range(number + 1, number + 201, 2)]
        before = store.calls["get_range"]
        assert [k for k, _ in db.scan(key(number), limit=100)] == expected
        assert 1 <= store.calls["get_range"] - before <= runs


def test_what_should_not_fill_the_caches_leaves_them_as_they_were() -> None:
    world = filled(disk_cache_capacity=1 << 20)
    db = world.open()
    assert db.get(key(0)) == VALUE
    before = db.statistics()
    with requests(world) as made:
        for _ in range(2):
            assert db.get(key(500), fill_cache=False) == VALUE
            assert db.get_entry(key(500), fill_cache=False) is not None
            assert db.multi_get([key(500), key(501)], fill_cache=False) == [VALUE, None]
            assert len(list(db.scan(key(400), key(600), fill_cache=False))) == 100
            assert len(list(db.scan_entries(key(500), limit=1, fill_cache=False))) == 1
            with db.snapshot() as snapshot:
                assert snapshot.get(key(500), fill_cache=False) == VALUE
                assert snapshot.multi_get([key(500)], fill_cache=False) == [VALUE]
                assert len(list(snapshot.scan(key(500), limit=1, fill_cache=False))) == 1
            assert len(db.multi_get_entries([key(500)], fill_cache=False)) == 1
    assert made["get_range"] >= 2 * 9, "each time anew"
    after = db.statistics()
    assert after.block_cache == before.block_cache
    assert after.row_cache == before.row_cache
    assert after.disk_cache is not None
    assert before.disk_cache is not None
    assert after.disk_cache.bytes == before.disk_cache.bytes


def test_what_does_not_fill_the_caches_uses_them() -> None:
    world = filled()
    db = world.open()
    assert db.get(key(500)) == VALUE
    with requests(world) as made:
        assert db.get(key(500), fill_cache=False) == VALUE
        assert len(list(db.scan(key(500), key(501), fill_cache=False))) == 1
    assert not made


def read_by_scan(db: DB, numbers: range) -> None:
    """Brings blocks into memory."""
    assert sum(1 for _ in db.scan(key(numbers.start), key(numbers.stop))) == len(numbers)


def read_by_snapshot(db: DB, numbers: range) -> None:
    """The same, by gets of a snapshot."""
    with db.snapshot() as snapshot:
        assert all(snapshot.get(key(number)) == VALUE for number in numbers)


def read_at_once(db: DB, numbers: range) -> None:
    """The same, by one call."""
    assert db.multi_get([key(number) for number in numbers]) == [VALUE] * len(numbers)


@pytest.mark.parametrize("read", [read_by_scan, read_by_snapshot, read_at_once])
def test_rows_give_way_to_blocks_however_those_are_loaded(
    open_db: OpenDB, read: Callable[[DB, range], None]
) -> None:
    """Together they keep to ``block_cache_capacity``."""
    components, capacity = Components(object_store=MemoryObjectStore()), 1 << 20
    db = open_db(components=components, background="inline", block_cache_capacity=capacity)
    with db.batch() as batch:
        for number in range(20_000):
            batch.put(key(number), VALUE)
    db.compact()
    for number in range(1_000):
        assert db.get(key(number)) == VALUE
    assert db.statistics().row_cache.bytes > capacity // 4
    read(db, range(1_000, 20_000))
    after = db.statistics()
    assert after.block_cache.bytes > capacity * 3 // 4
    assert after.block_cache.bytes + after.row_cache.bytes <= capacity


def test_rows_give_way_to_the_blocks_of_a_flush(open_db: OpenDB) -> None:
    components, capacity = Components(object_store=MemoryObjectStore()), 1 << 20
    db = open_db(components=components, background="inline", block_cache_capacity=capacity)
    for start in range(0, 20_000, 1_000):
        with db.batch() as batch:
            for number in range(start, start + 1_000):
                batch.put(key(number), VALUE)
        db.flush()
        for number in range(start, start + 1_000):
            assert db.get(key(number)) == VALUE
        now = db.statistics()
        assert now.block_cache.bytes + now.row_cache.bytes <= capacity
