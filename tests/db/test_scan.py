"""Scans: bounds, prefixes, order, limits, and the view they keep, over every layer."""

from __future__ import annotations

from itertools import product
from typing import Any, assert_type

import pytest

from seerdb import DB, Entry
from seerdb.storage import entry
from tests.db.conftest import OpenDB
from tests.db.layers import LAYERS, Layered
from tests.fixtures.database import ROOMY, World

KEYS = [
    b"\0",
    b"a",
    b"a\0",
    b"a\xff",
    b"a\xff\xff",
    b"a\xff\xffz",
    b"ab",
    b"b",
    b"\xfe\xff",
    b"\xff",
    b"\xff\xff",
    b"\xff\xff\x01",
]
STARTS = [None, b"", b"a", b"a\xff", b"\xff"]
ENDS = [None, b"a\0", b"b", b"\xff\xff", b"\xff\xff\xff"]
PREFIXES = [None, b"", b"a", b"a\xff", b"\xff", b"\xff\xff", b"absent"]
LIMITS = [None, 0, 1, 3, 1000]


def rows(layered: Layered) -> None:
    """Versions of keys over several writes; some are deleted, some come again."""
    layered.write(*(("put", key, b"1" + key) for key in KEYS))
    layered.write(("delete", b"a\0", b""), ("put", b"b", b"2"))
    layered.delete_range(b"ab", b"a\xff\xff")
    layered.write(("put", b"a\xff\xff", b"3"), ("put", b"ab", b""))
    layered.delete(b"never there")
    layered.put(b"a\xff", b"4")


@pytest.mark.parametrize("layer", LAYERS)
def test_every_combination_of_arguments(layer: str) -> None:
    layered = Layered(layer)
    rows(layered)
    db, model = layered.db, layered.model
    for start, end, prefix, limit in product(STARTS, ENDS, PREFIXES, LIMITS):
        if start is not None and end is not None and start >= end:
            continue
        where: dict[str, Any] = {"prefix": prefix, "limit": limit}
        ascending = model.scan(start, end, **where)
        descending = model.scan(start, end, reverse=True, **where)
        assert list(db.scan(start, end, **where)) == ascending
        assert list(db.scan(start, end, reverse=True, **where)) == descending
        keys = list(db.scan(start, end, keys_only=True, **where))
        assert keys == [key for key, _ in ascending]


@pytest.mark.parametrize("layer", LAYERS)
def test_a_scan_says_what_the_lookups_say(layer: str) -> None:
    layered = Layered(layer)
    rows(layered)
    found = dict(layered.db.scan())
    assert found == {key: value for key in KEYS if (value := layered.db.get(key)) is not None}
    assert list(layered.db.scan(reverse=True)) == list(found.items())[::-1]
    entries = list(layered.db.scan_entries())
    assert entries == [layered.db.get_entry(key) for key in found]
    assert list(layered.db.scan_entries(reverse=True)) == entries[::-1]
    assert list(layered.db.scan_entries(keys_only=True)) == [
        Entry(entry.key, b"", entry.seq) for entry in entries
    ]


@pytest.mark.parametrize("layer", ["memtable", "tables", "compacted", "all layers"])
def test_more_keys_than_a_chunk_or_a_block_holds(layer: str) -> None:
    layered = Layered(layer)
    for start in range(4):
        numbers = range(start, 2000, 4)
        layered.write(*(("put", b"%05d" % number, b"v" * 20) for number in numbers))
    layered.write(*(("delete", b"%05d" % number, b"") for number in range(100, 1900, 7)))
    layered.delete_range(b"00600", b"00700")
    model, db = layered.model, layered.db
    assert list(db.scan()) == model.scan()
    assert list(db.scan(reverse=True)) == model.scan(reverse=True)
    for low, high in ((b"00599", b"00701"), (b"00610", b"00620"), (b"01", b"010"), (b"2", b"3")):
        assert list(db.scan(low, high)) == model.scan(low, high)
        assert list(db.scan(low, high, reverse=True)) == model.scan(low, high, reverse=True)


def test_an_empty_database_has_no_rows(db: DB) -> None:
    assert list(db.scan()) == []
    assert list(db.scan(b"a", b"b", reverse=True)) == []
    db.flush()
    assert list(db.scan()) == []


def test_only_deletes_are_no_rows(db: DB) -> None:
    db.delete(b"a")
    db.delete_range(b"b", b"c")
    assert list(db.scan()) == []
    db.flush()
    assert list(db.scan()) == []
    assert list(db.scan(reverse=True)) == []


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_shows_the_moment_of_the_call(*, reverse: bool) -> None:
    layered = Layered("memtable")
    for number in range(1500):
        layered.put(b"%04d" % number, b"old")
    before = layered.model.scan(reverse=reverse)
    rows = layered.db.scan(reverse=reverse)
    started = layered.db.scan(reverse=reverse)
    assert next(started) == before[0]
    layered.write(*(("put", b"%04d" % number, b"new") for number in range(0, 1500, 2)))
    layered.write(*(("delete", b"%04d" % number, b"") for number in range(1, 1500, 4)))
    layered.delete_range(b"0700", b"0900")
    layered.put(b"0750\0", b"fresh")
    assert list(rows) == before
    assert list(started) == before[1:]


@pytest.mark.parametrize("verb", ["flush", "compact"])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_goes_on_through_flush_and_compaction(verb: str, *, reverse: bool) -> None:
    layered = Layered("memtable")
    for number in range(800):
        layered.put(b"%04d" % number, b"old")
    layered.db.flush()
    layered.write(*(("put", b"%04d" % number, b"newer") for number in range(0, 800, 3)))
    before = layered.model.scan(reverse=reverse)
    started = layered.db.scan(reverse=reverse)
    found = [next(started)]
    layered.delete_range(b"0000", b"0799")
    getattr(layered.db, verb)()
    found += list(started)
    assert found == before
    assert list(layered.db.scan()) == layered.model.scan()


def test_partition_swap_during_iteration(open_db: OpenDB) -> None:
    """Memtables are sealed, flushed and merged while rows are taken one by one."""
    db = open_db(memtable_capacity=16 << 10)
    for number in range(300):
        db.put(b"%04d" % number, b"old")
    rows = db.scan(keys_only=True)
    found = []
    for number, key in enumerate(rows):
        found.append(key)
        db.put(b"%04d" % (number + 150), b"new" * 100, durability="memory")
        db.put(b"9%04d" % number, b"later" * 50, durability="memory")
    db.flush()
    assert found == [b"%04d" % number for number in range(300)]
    assert db.statistics().flushes.flushes > 3
    assert len(list(db.scan(b"0", b"9"))) == 450
    assert len(list(db.scan(prefix=b"9"))) == 300


def test_a_scan_that_is_dropped_half_way_costs_nothing(db: DB) -> None:
    for number in range(1000):
        db.put(b"%04d" % number, b"v", durability="memory")
    rows = db.scan()
    assert next(rows) == (b"0000", b"v")
    del rows
    db.flush()
    assert len(list(db.scan())) == 1000


def test_bounds_that_the_prefix_contradicts_are_an_empty_range() -> None:
    layered = Layered("all layers")
    rows(layered)
    assert list(layered.db.scan(b"b", prefix=b"a")) == []
    assert list(layered.db.scan(end=b"a", prefix=b"b")) == []
    assert list(layered.db.scan(b"b", prefix=b"a", reverse=True)) == []


def test_one_large_value_between_small_ones() -> None:
    world = World(memtable_capacity=1 << 20)
    db = world.open()
    large = bytes(range(256)) * 256
    for key, value in ((b"a", b"1"), (b"b", large), (b"c", b"3")):
        db.put(key, value)
    for _ in range(2):
        assert [len(value) for _, value in db.scan()] == [1, len(large), 1]
        assert db.get(b"b") == large
        db.flush()


def test_type_checkers_know_the_rows_of_a_scan(db: DB) -> None:
    """They were ``Any``, so that a ``value + "text"`` passed; ``make check`` looks at this."""
    db.put(b"a", b"1")
    for key, value in db.scan():
        assert_type(key, bytes)
        assert_type(value, bytes)
    with db.snapshot() as snapshot:
        for alone in (*db.scan(keys_only=True), *snapshot.scan(keys_only=True)):
            assert_type(alone, bytes)
            assert alone == b"a"
        assert_type(next(snapshot.scan()), tuple[bytes, bytes])


def test_a_short_scan_takes_no_time_for_each_range_delete_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a table had one, too, all of them were put in order, for each scan anew."""
    overlays: list[int] = []

    def overlaid(newer: Any, older: Any) -> Any:
        overlays.append(newer.count + older.count)
        return original(newer, older)

    original = entry._overlaid
    db = World(**ROOMY).open()
    db.put(b"z", b"1")
    db.delete_range(b"a", b"b")
    db.flush()
    for number in range(500):
        db.delete_range(b"%04d" % number, b"%04d!" % number)
    monkeypatch.setattr(entry, "_overlaid", overlaid)
    for _ in range(10):
        assert list(db.scan(b"z", limit=1)) == [(b"z", b"1")]
    assert overlays == []
