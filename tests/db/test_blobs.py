"""Large values in a whole database: what is read of them, and what that asks of the bucket."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from seerdb import DB, NEEDS_IO, ConflictError
from seerdb.storage.blob import writer
from tests.db.blobs import (
    THRESHOLD,
    blobs_of,
    fill,
    key,
    new_world,
    requests,
    value,
    version_of,
)
from tests.db.conftest import OpenDB


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_value_at_vlog_threshold_boundary(compression: str) -> None:
    world = new_world(compression=compression)
    db = world.open()
    rows = {}
    for size in (0, 1, THRESHOLD - 1, THRESHOLD, THRESHOLD + 1, 10 * THRESHOLD):
        for copy in range(3):
            rows[b"%d of %d" % (copy, size)] = value(copy, size)
    for name, data in rows.items():
        db.put(name, data)
    large = sum(len(data) >= THRESHOLD for data in rows.values())

    def check(db: DB) -> None:
        assert dict(db.scan()) == rows
        assert dict(db.scan(reverse=True)) == rows
        assert {name: db.get(name) for name in rows} == rows
        assert db.multi_get(list(rows)) == list(rows.values())
        assert db.verify().problems == []

    check(db)
    db.flush()
    assert sum(use.live_values for use in blobs_of(db)) == large == 9
    check(db)
    db.put(b"0 of 100", rows[b"0 of 100"])
    db.flush()
    db.compact()
    assert db.statistics().tables == 1
    assert db.statistics().blobs.values == large
    check(db)
    db.close()
    db = world.open()
    check(db)
    check(world.lose_machine().open())


@pytest.mark.parametrize("threshold", [0, 1, 1 << 30])
def test_the_ends_of_the_setting(threshold: int) -> None:
    world = new_world(blob_threshold=threshold)
    db = world.open()
    rows = {key(size): value(size, size) for size in (0, 1, 2, 5000)}
    for name, data in rows.items():
        db.put(name, data)
    db.flush()
    assert db.statistics().blobs.values == (3 if threshold == 1 else 0)
    assert dict(db.scan()) == rows
    assert db.verify().problems == []


def test_a_read_of_a_large_value_is_one_request_more_and_then_none() -> None:
    world = new_world(block_cache_capacity=1 << 20)
    db = world.open()
    fill(db, range(20))
    db.flush()
    assert db.try_get_entry(key(7)) is NEEDS_IO, "and does no I/O to say so"
    with requests(world) as asked:
        assert db.get(key(7)) == value(7)
    assert asked == {"get_range blobs": 1}
    with requests(world) as asked:
        entry = db.try_get_entry(key(7))
    assert entry not in (NEEDS_IO, None)
    assert not asked, "its row was kept"
    db.put(key(7), b"new")
    db.flush()
    assert db.get(key(7)) == b"new"


def test_several_large_values_are_fetched_together() -> None:
    world = new_world()
    db = world.open()
    rows = fill(db, range(20))
    db.flush()
    db.put(key(2), b"small")
    rows[key(2)] = b"small"
    rows |= fill(db, range(20, 30))
    db.flush()
    wanted = [*rows, b"absent"]
    with requests(world) as asked:
        assert db.multi_get(wanted) == [*rows.values(), None]
    assert asked["get_range blobs"] == 2, "one a blob"
    assert db.statistics().reads.values_from_bucket == 29


def test_a_scan_of_keys_touches_no_blob() -> None:
    world = new_world(merge_operator="append")
    db = world.open()
    rows = fill(db, range(30))
    db.put(b"expiring", value(1), ttl=100)
    db.put(b"expired", value(2), ttl=5)
    db.flush()
    db.merge(key(3), b"more")
    db.merge(b"expired", b"more")
    db.flush()
    world.clock.advance(6)
    keys = sorted({*rows, b"expiring"})
    with requests(world) as asked:
        assert list(db.scan(keys_only=True)) == keys
        assert [entry.key for entry in db.scan_entries(keys_only=True, reverse=True)] == keys[::-1]
        with db.snapshot() as snapshot:
            assert list(snapshot.scan(keys_only=True)) == keys
    assert asked["get_range blobs"] == 0
    assert [name for name, _ in db.scan()] == keys


def test_a_scan_fetches_neighbours_together_and_no_more_than_it_needs() -> None:
    world = new_world(memtable_capacity=1 << 24, wal_segment_size=1 << 24)
    db = world.open()
    rows = fill(db, range(40), size=100_000)
    db.flush()
    with requests(world) as asked:
        assert list(db.scan(limit=1)) == [(key(0), rows[key(0)])]
    assert asked["get_range blobs"] == 1
    assert db.statistics().reads.values_from_bucket == 2, "about as much as fetched at first"
    with requests(world) as asked:
        assert list(db.scan(reverse=True, limit=2)) == list(rows.items())[:-3:-1]
    assert asked["get_range blobs"] == 1
    with requests(world) as asked:
        assert dict(db.scan()) == rows
    assert asked["get_range blobs"] <= 6, "2, 4, 8, 16 values, and the rest"


def test_expiring_values_may_be_large() -> None:
    world = new_world()
    db = world.open()
    db.put(b"a", value(1), ttl=10)
    db.put(b"b", value(2), ttl=1000)
    db.flush()
    assert db.statistics().blobs.values == 2
    with db.snapshot() as snapshot:
        world.clock.advance(11)
        with requests(world) as asked:
            assert db.get(b"a") is None
            assert list(db.scan(b"a", b"b")) == []
            assert db.multi_get([b"a"]) == [None]
        assert not asked["get_range blobs"], "what is gone is not fetched"
        assert snapshot.get(b"a") == value(1)
    assert dict(db.scan()) == {b"b": value(2)}
    db.compact()
    assert db.statistics().blobs.values == 1
    assert dict(db.scan()) == {b"b": value(2)}
    assert db.verify().problems == []


def test_merges_on_a_large_base() -> None:
    world = new_world(merge_operator="append")
    db = world.open()
    expected = {b"a": value(1), b"b": value(2), b"c": b"c"}
    for name, data in expected.items():
        db.put(name, data)
    db.put(b"t", value(3), ttl=1000)
    expected[b"t"] = value(3)
    db.flush()
    for operand in (b"1", value(4)):
        for name in expected:
            db.merge(name, operand)
            expected[name] += operand
        db.flush()
        assert dict(db.scan()) == expected
        assert {name: db.get(name) for name in expected} == expected
        assert db.multi_get(list(expected)) == list(expected.values())
    with db.snapshot() as before:
        db.compact()
        assert dict(before.scan()) == dict(db.scan()) == expected
    table = version_of(db).tables[0]
    assert (table.merges, table.pointers) == (0, 4), "folded, and all large now"
    db.delete(b"a")
    db.merge(b"a", b"anew")
    db.merge(b"b", b"!")
    expected |= {b"a": b"anew", b"b": expected[b"b"] + b"!"}
    db.compact()
    assert dict(db.scan()) == expected
    assert db.verify().problems == []


def test_a_merge_into_a_large_value_that_expired_begins_anew() -> None:
    world = new_world(merge_operator="append")
    db = world.open()
    db.put(b"a", value(1), ttl=10)
    db.flush()
    world.clock.advance(11)
    db.merge(b"a", b"new")
    db.flush()
    with requests(world) as asked:
        assert db.get(b"a") == b"new"
        assert dict(db.scan()) == {b"a": b"new"}
    assert not asked["get_range blobs"]
    db.compact()
    assert dict(db.scan()) == {b"a": b"new"}


def test_range_deletes_hide_large_values() -> None:
    world = new_world()
    db = world.open()
    rows = fill(db, range(30))
    db.flush()
    db.delete_range(key(10), key(20))
    left = {name: data for name, data in rows.items() if not key(10) <= name < key(20)}
    for flushed in (False, True):
        if flushed:
            db.flush()
        assert dict(db.scan()) == left
        assert db.get(key(10)) is db.get(key(19)) is None
        assert db.get(key(20)) == rows[key(20)]
    db.compact()
    assert db.statistics().blobs.values == 20
    assert dict(db.scan()) == left


def test_a_condition_on_a_large_value_does_not_fetch_it() -> None:
    world = new_world()
    db = world.open()
    seq = db.put(b"a", value(1))
    db.flush()
    with requests(world) as asked:
        with pytest.raises(ConflictError):
            db.put(b"a", b"no", expect=seq + 7)
        with pytest.raises(ConflictError):
            db.put(b"a", b"no", expect=0)
        db.put(b"a", b"yes", expect=seq)
    assert not asked["get_range blobs"]
    assert db.get(b"a") == b"yes"


def test_ingested_values_may_be_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "BLOB_SIZE", 10_000)
    world = new_world()
    db = world.open()
    rows = fill(db, range(10), seed=700)
    fresh = {key(number): value(number, 50 + 100 * (number % 2)) for number in range(5, 205)}
    report = db.ingest(fresh.items())
    rows |= fresh
    assert (report.entries, len(report.tables)) == (200, 1)
    uses = blobs_of(db)
    assert sum(use.live_values for use in uses) == 110
    assert len(uses) >= 3
    assert report.bytes > sum(use.size for use in uses[1:])
    assert dict(db.scan()) == rows
    assert db.verify().problems == []
    db.compact()
    assert dict(world.lose_machine().open().scan()) == rows


def test_a_flush_of_many_large_values_makes_several_blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "BLOB_SIZE", 5000)
    world = new_world()
    db = world.open()
    rows = fill(db, range(33))
    db.flush()
    assert [use.live_values for use in blobs_of(db)] == [5] * 6 + [3]
    assert dict(db.scan()) == rows
    assert db.statistics().flushes.bytes > 33_000


@pytest.mark.parametrize("background", ["inline", "thread", "process"])
def test_blobs_wherever_work_is_done(open_db: OpenDB, background: str) -> None:
    db = open_db(background=background, blob_threshold=THRESHOLD, memtable_capacity=1 << 16)
    rows: dict[bytes, bytes] = {}
    for round_ in range(3):
        rows |= fill(db, range(100), seed=1000 * round_)
    db.compact()
    rows |= dict(db.scan())
    assert {name: db.get(name) for name in rows} == rows == dict(db.scan())
    assert db.multi_get(list(rows)) == list(rows.values())
    assert db.verify().problems == []
    assert db.statistics().blobs.values == 100
    db.close()
    db = open_db(background=background, blob_threshold=THRESHOLD)
    assert dict(db.scan()) == rows


def test_values_of_a_megabyte_and_more(open_db: OpenDB) -> None:
    db = open_db(wal_segment_size=16 << 20)
    rows = {b"%d" % size: value(size, size) for size in (1 << 20, (1 << 20) + 1, 5 << 20)}
    for name, data in rows.items():
        db.put(name, data, durability="memory")
    db.close()
    db = open_db()
    assert db.statistics().blobs.values == 3, "64 KiB is the default"
    assert dict(db.scan()) == rows
    assert db.multi_get(list(rows)) == list(rows.values())
    assert [db.get(name) for name in rows] == list(rows.values())
    assert db.verify().problems == []


def test_many_read_large_values_while_they_are_written_and_merged(open_db: OpenDB) -> None:
    db = open_db(blob_threshold=THRESHOLD, memtable_capacity=32 << 10, block_cache_capacity=0)
    for number in range(40):
        db.put(key(number), value(number), durability="memory")
    done = Event()

    def read(seed: int) -> None:
        draw, seen = random.Random(seed), 0
        while not (seen and done.is_set()):
            number = draw.randrange(40)
            found = db.multi_get([key(number)])[0] if seed % 2 else db.get(key(number))
            assert found in (value(number), value(1000 + number))
            if draw.random() < 0.1:
                assert len(list(db.scan(key(number), limit=3))) == min(3, 40 - number)
            seen += 1

    with ThreadPoolExecutor(4) as readers:
        reading = [readers.submit(read, seed) for seed in range(4)]
        try:
            for round_ in (1, 0, 1):
                for number in range(40):
                    fresh = value(1000 * round_ + number)
                    db.put(key(number), fresh, durability="memory")
                db.compact()
        finally:
            done.set()
        for reader in reading:
            reader.result()
    assert dict(db.scan()) == {key(number): value(1000 + number) for number in range(40)}
