"""Levels, amplifications, tiers, stalls and costs of deterministic histories, to the number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from seerdb import DB, BusyError, Components, NeedsIO
from seerdb.storage.read.sampling import SAMPLE
from seerdb.storage.status.costs import MONTH_SECONDS
from seerdb.storage.status.statistics import Statistics
from seerdb.testing.clock import FakeClock
from seerdb.testing.objects import MemoryObjectStore
from tests.db.conftest import OpenDB
from tests.fixtures.database import ROOMY, World, fill, fill_until


def key(number: int) -> bytes:
    return b"%04d" % number


def put_all(db: DB, numbers: range, size: int = 100) -> None:
    for number in numbers:
        db.put(key(number), b"v" * size, durability="memory")


def test_levels_tell_runs_entries_and_tombstones() -> None:
    db = World(**ROOMY).open()
    for _ in range(2):
        put_all(db, range(100))
        db.flush()
    db.compact()
    put_all(db, range(10))
    db.flush()
    db.delete(key(5))
    db.delete(key(6))
    db.delete_range(key(20), key(30))
    db.flush()
    rows = db.statistics().levels
    first, last = rows
    assert (first.runs, first.tables, first.entries) == (2, 2, 12)
    assert (first.deletes, first.range_deletes) == (2, 1)
    assert (last.runs, last.entries, last.deletes, last.range_deletes) == (1, 100, 0, 0)
    assert sum(level.bytes for level in rows) == db.statistics().table_bytes


def test_tails_tell_what_open_tables_take_in_memory() -> None:
    """Range deletes of tables stay there once they are read, and were in no account."""
    db = World(**ROOMY).open()
    put_all(db, range(100))
    db.flush()
    db.get(key(0))
    before = db.statistics().tails
    assert before.tables == 1
    for number in range(200):
        db.delete_range(key(number), key(number) + b"\0")
    db.flush()
    db.get(key(0))
    after = db.statistics().tails
    assert after.tables == 2
    assert 200 * 1000 < after.bytes - before.bytes < 200 * 1500
    assert db.statistics().values["tail_bytes"] == after.bytes


@pytest.mark.parametrize("durability", ["memory", "local"])
def test_user_bytes_are_keys_and_values_of_all_writes(durability: str) -> None:
    db = World(**ROOMY, durability=durability).open()
    db.put(b"key", b"value")
    db.put(b"key", b"")
    db.delete(b"key")
    db.delete_range(b"a", b"bc")
    with db.batch() as batch:
        batch.put(b"1", b"22")
        batch.delete(b"333")
        batch.delete_range(b"4", b"5")
    expected = 8 + 3 + 3 + 3 + 3 + 3 + 2
    assert db.statistics().commits.user_bytes == expected
    db.flush()
    assert db.statistics().commits.user_bytes == expected
    db.put(b"1", b"2" * 50)
    with db.snapshot():  # for which what is overwritten is kept
        db.put(b"1", b"2" * 50)
        assert db.statistics().commits.user_bytes == expected + 102
        db.flush()
    assert db.statistics().commits.user_bytes == expected + 102


def test_user_bytes_begin_anew_with_each_opening() -> None:
    world = World(takes_tables=False, **ROOMY)
    fill(world.open(), 5)
    db = world.kill().open()
    assert db.statistics().commits.user_bytes == 0
    db.put(b"a", b"1")
    assert db.statistics().commits.user_bytes == 2


def test_write_amplification_is_what_was_written_over_what_came_in() -> None:
    db = World(**ROOMY).open()
    assert db.statistics().amplifications.write == 0
    put_all(db, range(100))
    db.flush()
    put_all(db, range(100))
    db.flush()
    db.compact()
    statistics = db.statistics()
    found = statistics.amplifications
    assert found.user_bytes == 200 * 104
    assert statistics.compactions.compactions == 1
    assert found.written_bytes == statistics.flushes.bytes + statistics.compactions.bytes_written
    assert found.written_bytes > statistics.table_bytes > 0
    assert found.write == found.written_bytes / found.user_bytes


def test_what_is_ingested_is_user_data_that_was_written() -> None:
    db = World(**ROOMY).open()
    db.ingest((key(number % 50), b"v" * 100) for number in range(60))
    db.ingest([])
    statistics = db.statistics()
    assert statistics.commits.user_bytes == 0
    assert (statistics.ingests.ingests, statistics.ingests.entries) == (1, 50)
    assert statistics.ingests.bytes == statistics.table_bytes
    assert statistics.amplifications.user_bytes == 60 * 104
    assert statistics.amplifications.written_bytes == statistics.table_bytes


def test_space_amplification_goes_by_what_is_overwritten() -> None:
    db = World(**ROOMY).open()
    put_all(db, range(100))
    db.flush()
    once = db.statistics()
    assert once.amplifications.live_bytes == once.table_bytes
    assert once.amplifications.space == 1
    put_all(db, range(100))
    db.flush()
    twice = db.statistics()
    assert twice.runs == twice.amplifications.runs == 2
    assert twice.amplifications.live_bytes == once.table_bytes
    assert twice.amplifications.space == twice.table_bytes / once.table_bytes
    db.compact()
    assert db.statistics().amplifications.space == 1


COLD: dict[str, Any] = {"block_size": 1024, "background": "inline"}


def cold(open_db: OpenDB, bucket: MemoryObjectStore) -> DB:
    return open_db(components=Components(object_store=bucket), **COLD)


def tiers(statistics: Statistics) -> tuple[int, int, int, int]:
    reads = statistics.reads
    return (
        reads.table_gets,
        reads.block_cache_hits,
        reads.blocks_from_disk,
        reads.blocks_from_bucket,
    )


def test_gets_of_tables_are_told_by_tier(open_db: OpenDB) -> None:
    bucket = MemoryObjectStore(FakeClock())
    db = cold(open_db, bucket)
    put_all(db, range(100))
    db.close()
    db = cold(open_db, bucket)
    assert db.get(key(0)) == db.get(key(1)) == b"v" * 100
    assert db.get(key(1)) == b"v" * 100, "from the row cache: no get of tables"
    assert tiers(db.statistics()) == (2, 1, 0, 1)
    assert db.statistics().amplifications.blocks_per_get == 0.5
    assert db.multi_get([key(0), key(99)])
    assert tiers(db.statistics()) == (4, 2, 0, 2)
    assert len(list(db.scan())) == 100
    assert tiers(db.statistics()) == (4, 2, 0, 2), "a scan is no get"
    assert db.statistics().reads.scans == 1
    db.close()
    db = cold(open_db, bucket)
    assert db.get(key(0)) == b"v" * 100
    assert tiers(db.statistics()) == (1, 0, 1, 0)
    assert db.statistics().amplifications.blocks_per_get == 0


def test_a_get_that_is_tried_in_memory_first_counts_once(open_db: OpenDB) -> None:
    bucket = MemoryObjectStore(FakeClock())
    db = cold(open_db, bucket)
    put_all(db, range(100))
    db.close()
    db = cold(open_db, bucket)
    for number in (0, 99):
        assert isinstance(db.try_get_entry(key(number)), NeedsIO)
        assert isinstance(db.try_get_entry(key(number)), NeedsIO)
        assert db.get_entry(key(number))
    statistics = db.statistics()
    assert tiers(statistics) == (2, 0, 0, 2)
    assert (statistics.reads.sample.gets, statistics.reads.sample.tables) == (2, 2)


def _expiring(db: DB) -> None:
    db.put(b"session", b"1", ttl=1000.0)


def _deleted(db: DB) -> None:
    db.delete_range(b"a", b"b")


def _merged(db: DB) -> None:
    db.merge(b"log", b"1")


@pytest.mark.parametrize("write", [_expiring, _deleted, _merged])
def test_gets_of_tables_count_whatever_is_in_the_memtable(
    write: Callable[[DB], None], open_db: OpenDB
) -> None:
    bucket = MemoryObjectStore(FakeClock())
    components = Components(object_store=bucket)
    db = open_db(components=components, **COLD, merge_operator="append")
    put_all(db, range(100))
    db.flush()
    write(db)
    put_all(db, range(100, 110))
    for number in (0, 1, 99, 100):
        assert db.get(key(number)) == b"v" * 100
    assert db.statistics().reads.table_gets == 3, "the last one was in the memtable"
    db.close()
    db = open_db(components=components, **COLD, merge_operator="append")
    write(db)
    assert db.get(key(0)) == db.get(key(1)) == b"v" * 100
    assert db.statistics().reads.table_gets == 2
    assert db.statistics().amplifications.blocks_per_get <= 0.5


def test_gets_that_need_several_blocks_take_nothing_from_what_was_counted(open_db: OpenDB) -> None:
    bucket = MemoryObjectStore(FakeClock())
    settings: dict[str, Any] = {**COLD, "compaction": "tiered", "merge_operator": "append"}
    db = open_db(components=Components(object_store=bucket), **settings)
    for _ in range(3):
        for number in range(50):
            db.merge(key(number), b"v" * 100, durability="memory")
        db.flush()
    db.close()
    db = open_db(components=Components(object_store=bucket), **settings)
    assert db.statistics().runs == 3
    assert db.get(key(0)) == b"v" * 300
    assert [db.get(b"0000 %d" % number) for number in range(10)] == [None] * 10
    before = tiers(db.statistics())
    assert db.get(key(49)) == b"v" * 300
    after = tiers(db.statistics())
    assert after[0] == before[0] + 1
    assert after[1] == before[1] == 10, "what is a counter never goes down"


def test_a_sample_of_gets_is_told_by_who_answers() -> None:
    db = World(**ROOMY, block_cache_capacity=1 << 20).open()
    put_all(db, range(20))
    db.flush()
    put_all(db, range(10))
    for number in (*range(20), *range(20), 99):
        db.get(key(number))
    sample = db.statistics().reads.sample
    assert (sample.gets, sample.memtable, sample.row_cache, sample.tables) == (41, 20, 10, 11)


def test_a_sample_ends_until_somebody_looks_again() -> None:
    db = World(**ROOMY).open()
    db.put(b"a", b"1")
    for looks in (1, 2):
        for _ in range(SAMPLE + 50):
            assert db.get(b"a") == b"1"
        assert db._try_get == db._engine.reads.try_get, "nothing is in the way"
        assert db.statistics().reads.sample.memtable == looks * SAMPLE


def test_a_stop_is_counted_and_explained_afterwards() -> None:
    world = World(wal_budget=64 << 10)
    db = world.open()
    world.store.outage = True
    fill_until(db, BusyError)
    stalls = db.statistics().stalls
    assert (stalls.stalls, stalls.refused, stalls.reason) == (1, 1, "")
    [log] = [row for row in stalls.reasons if row.stops]
    assert (log.stops, log.refused) == (1, 1)
    assert "wal_budget" in log.last


PRICES = {"put_or_list": 1.0, "get": 0.1, "delete": 0.0, "gigabyte_month": 1000.0}
"""A tenth of a cent for a put, a hundredth for a get."""


def test_requests_cost_what_the_prices_say() -> None:
    db = World(**ROOMY, prices=PRICES).open()
    db.put(b"a", b"1")
    db.flush()
    statistics = db.statistics()
    rows = statistics.store_requests
    per_request = {"get": 0.0001, "get_range": 0.0001, "delete": 0.0}
    for row in rows:
        assert row.dollars == pytest.approx(row.requests * per_request.get(row.operation, 0.001))
    found = statistics.costs
    assert found.requests == pytest.approx(sum(row.dollars for row in rows)) != 0
    assert found.storage_per_month == pytest.approx(statistics.table_bytes * 1000 / (1 << 30))
    assert found.total_per_month == found.requests_per_month + found.storage_per_month
    assert db.stats()["costs"]["prices"] == PRICES


def test_the_price_of_a_month_follows_the_rate_of_late() -> None:
    world = World(**ROOMY)
    db = world.open()
    world.clock.advance(3600)
    assert db.statistics().costs.requests_per_month == 0, "idle, an hour after the opening"
    before = db.statistics().costs.requests
    assert before > 0
    for _ in range(9):
        world.clock.advance(60)
        db.put(b"a", b"1")
        db.flush()
    costs = db.statistics().costs
    # The slot that fills has just begun: nine minutes and nothing of the tenth.
    assert costs.requests_per_month == pytest.approx(
        (costs.requests - before) / 540 * MONTH_SECONDS
    )
    rows = {(row.purpose, row.operation): row for row in db.statistics().store_requests}
    put = rows["flush", "put"]
    assert put.dollars_per_month == pytest.approx(9 / 540 * MONTH_SECONDS * 0.000005)
    assert rows["probe", "list"].dollars_per_month == 0 < rows["probe", "list"].dollars


def test_the_default_prices_are_those_of_s3_standard() -> None:
    prices = World().open(prices={"get": 1}).stats()["costs"]["prices"]
    assert prices == {"put_or_list": 0.005, "get": 1, "delete": 0.0, "gigabyte_month": 0.023}


def test_metrics_tell_of_blobs_and_of_what_is_at_risk_what_the_status_tells() -> None:
    world = World(blob_threshold=100, ship_interval=0.0, **ROOMY)
    db = world.open()
    put_all(db, range(10), size=200)
    db.flush()
    db.put(b"here only", b"1")
    world.clock.advance(7)
    statistics = db.statistics()
    status, values = statistics.to_builtins(), statistics.values
    assert values["blob_bytes"] == status["blobs"]["bytes"]
    assert values["blob_live_bytes"] == status["blobs"]["live_bytes"]
    assert 0 < values["blob_live_bytes"] < values["blob_bytes"]
    assert values["unshipped_seq"] == status["shipping"]["unshipped_seq"] == 11
    assert values["unshipped_seconds"] == status["shipping"]["unshipped_seconds"] >= 7
