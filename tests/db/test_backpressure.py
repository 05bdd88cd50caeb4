"""Writers that are slowed down, stopped and refused, and go on; background work is held back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from seerdb import DB, Batch, BusyError, ClosedError, Components, DiskFullError
from seerdb.events import WriteResumed, WriteSlowed, WriteStalled
from seerdb.storage.write.admission import ReasonStatistics
from seerdb.storage.write.pressure import MAX_RUNS, URGENT_RUNS
from seerdb.testing.clock import FakeClock
from tests.db.conftest import OpenDB
from tests.db.test_background import PATIENCE, SlowTables
from tests.fixtures.database import World, fill_until
from tests.fixtures.events import Heard

MANY_RUNS = MAX_RUNS - 6
"""Writes are slow, and do not stop before some more are flushed."""


def put_some(db: DB, count: int) -> None:
    for number in range(count):
        db.put(b"%05d" % number, b"x" * 100, durability="memory")


def row(db: DB, reason: str) -> ReasonStatistics:
    return next(each for each in db.statistics().stalls.reasons if each.reason == reason)


def detail(db: DB) -> tuple[bool, str]:
    check = next(check for check in db.health() if check.name == "backpressure")
    return check.ok, check.detail


class GatedClock(FakeClock):
    """Sleeps of ``holds`` wait until ``open`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.asleep = threading.Event()
        self.holds: threading.Thread | None = None

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if threading.current_thread() is self.holds:
            self.asleep.set()
            assert self.open.wait(PATIENCE)


def test_no_pressure_no_delay(open_db: OpenDB) -> None:
    db = open_db(memtable_capacity=64 << 10, background="inline")
    put_some(db, 2000)
    statistics = db.statistics().stalls
    assert (statistics.slowdowns, statistics.slowed_seconds, statistics.stalls) == (0, 0, 0)
    assert detail(db) == (True, "none")


def test_writers_are_slowed_down_before_a_slow_flush_stops_them(open_db: OpenDB) -> None:
    heard, store = Heard(), SlowTables()
    db = open_db(
        components=Components(listener=heard, object_store=store, clock=FakeClock()),
        memtable_capacity=16 << 10,
    )
    with ThreadPoolExecutor(1) as pool, ExitStack() as on_exit:
        on_exit.callback(store.open.set)
        writing = pool.submit(put_some, db, 400)
        heard.wait_for(WriteStalled)
        assert [type(e) for e in heard.events if isinstance(e, WriteSlowed | WriteStalled)] == [
            WriteSlowed,
            WriteStalled,
        ]
        slowed = row(db, "memtables")
        assert (slowed.slowdowns, slowed.stops, slowed.refused) == (1, 1, 0)
        assert 0 < slowed.slowed_seconds < 0.1
        assert slowed.last == "4 sealed memtables wait for their flush"
        assert detail(db) == (False, slowed.last)
        store.open.set()
        heard.wait_for(WriteResumed)
        writing.result(PATIENCE)
    assert len(list(db.scan())) == 400


def held_compaction(db: DB) -> threading.Event:
    """Have compaction wait for the event that is returned."""
    compactor = db._engine.compactor
    gate, compact = threading.Event(), compactor.compact_one

    def compact_one(slot: int = 0) -> bool:
        assert gate.wait(PATIENCE)
        return compact(slot)

    compactor.compact_one = compact_one  # type: ignore[method-assign]
    return gate


def pile_up(db: DB, runs: int) -> None:
    while db.statistics().runs < runs:
        put_some(db, 1)
        db.flush()


def test_ingest_does_not_outrun_compaction(open_db: OpenDB) -> None:
    heard = Heard()
    db = open_db(
        components=Components(listener=heard, clock=FakeClock()), memtable_capacity=16 << 10
    )
    with ThreadPoolExecutor(1) as pool, ExitStack() as on_exit:
        gate = held_compaction(db)
        on_exit.callback(gate.set)
        pile_up(db, URGENT_RUNS)
        assert row(db, "runs") == ReasonStatistics("runs")
        pile_up(db, MAX_RUNS - 1)
        assert row(db, "runs").slowdowns == 1
        assert row(db, "runs").slowed_seconds > 0
        told = f"{MAX_RUNS - 1} runs wait for a compaction; at {MAX_RUNS} writes stop; writes are"
        assert detail(db)[0]
        assert detail(db)[1].startswith(told)
        writing = pool.submit(put_some, db, 1000)
        heard.wait_for(WriteStalled, "runs wait for a compaction")
        assert db.statistics().runs <= MAX_RUNS + 2
        assert db.get(b"00000") == b"x" * 100
        gate.set()
        writing.result(PATIENCE)
    db.compact()
    assert db.statistics().runs == 1
    assert detail(db) == (True, "none")
    assert row(db, "runs").refused == 0


def slowed_writer(
    open_db: OpenDB, clock: GatedClock, write: Callable[[DB], object], pool: ThreadPoolExecutor
) -> tuple[DB, Future[object], threading.Event]:
    """A database whose writer, on another thread, sleeps for too many runs."""
    db = open_db(components=Components(clock=clock), memtable_capacity=16 << 10)
    gate = held_compaction(db)
    pile_up(db, MANY_RUNS)

    def run() -> object:
        clock.holds = threading.current_thread()
        return write(db)

    writing = pool.submit(run)
    assert clock.asleep.wait(PATIENCE)
    return db, writing, gate


def test_a_writer_that_is_slowed_down_holds_up_no_reads_and_no_submissions(
    open_db: OpenDB,
) -> None:
    clock = GatedClock()
    with ThreadPoolExecutor(1) as pool, ExitStack() as on_exit:
        on_exit.callback(clock.open.set)
        db, writing, gate = slowed_writer(open_db, clock, lambda db: put_some(db, 100), pool)
        on_exit.callback(gate.set)
        assert db.get(b"00000") == b"x" * 100
        assert list(db.scan(limit=1))
        assert "runs wait" in detail(db)[1]
        done = threading.Event()
        batch = Batch()
        batch.put(b"submitted", b"1")
        db.submit(batch, sink=lambda outcomes: done.set())
        assert not done.is_set()
        clock.open.set()
        writing.result(PATIENCE)
        assert done.wait(PATIENCE)
    assert db.get(b"submitted") == b"1"


def test_an_interrupt_of_a_writer_that_is_slowed_down_loses_and_blocks_nothing(
    open_db: OpenDB,
) -> None:
    clock = Interrupting()
    db = open_db(components=Components(clock=clock), memtable_capacity=16 << 10)
    with ExitStack() as on_exit:
        on_exit.callback(held_compaction(db).set)
        pile_up(db, MANY_RUNS)
        clock.victim = threading.current_thread()
        with pytest.raises(KeyboardInterrupt):
            put_some(db, 100)
        seq = db.visible_seq
        assert db.put(b"after", b"1") == seq + 1
    assert db.get(b"after") == b"1"


class Interrupting(FakeClock):
    """Interrupts the next sleep of its ``victim``."""

    victim: threading.Thread | None = None

    def sleep(self, seconds: float) -> None:
        if threading.current_thread() is self.victim:
            self.victim = None
            raise KeyboardInterrupt
        super().sleep(seconds)


def test_closing_ends_the_wait_of_writers(open_db: OpenDB) -> None:
    heard, store = Heard(), SlowTables()
    db = open_db(
        components=Components(listener=heard, object_store=store), memtable_capacity=4 << 10
    )
    with ThreadPoolExecutor(2) as pool, ExitStack() as on_exit:
        on_exit.callback(store.open.set)
        writing = pool.submit(put_some, db, 400)
        heard.wait_for(WriteStalled)
        closing = pool.submit(db.close)
        with pytest.raises(ClosedError):
            writing.result(PATIENCE)
        store.open.set()
        closing.result(PATIENCE)
    with open_db(components=Components(object_store=store)) as again:
        assert again.get(b"00000") == b"x" * 100


@pytest.mark.parametrize("durability", ["memory", "interval", "local"])
def test_an_outage_slows_down_then_refuses_then_heals(durability: str) -> None:
    world = World(wal_budget=256 << 10, durability=durability)
    db = world.open()
    world.store.outage = True
    rows, refusal = fill_until(db, BusyError)
    stalls: Any = db.statistics().stalls
    log = row(db, "log")
    assert (log.slowdowns, log.refused) == (1, 1)
    assert 0 < log.slowed_seconds <= world.clock.slept
    assert log.last == str(refusal)
    assert "wal_budget (262,144 bytes); the last flush failed: " in str(refusal)
    assert stalls.slowdowns == 1
    world.store.outage = False
    world.clock.advance(60)
    db.put(b"healed", b"1")
    db.flush()
    assert detail(db) == (True, "none")
    assert all(check.ok for check in db.health())
    assert len(list(db.scan())) == len(rows) + 1


def test_a_batch_larger_than_a_segment_counts_as_a_whole() -> None:
    """An outage filled disk and memory: each such segment counted as one of usual length."""
    world = World(wal_budget=256 << 10, durability="memory")
    db = world.open()
    world.store.outage = True
    value = b"x" * (200 << 10)
    for number in range(3):
        db.put(b"%d" % number, value)
    with pytest.raises(BusyError, match="wal_budget"):
        db.put(b"3", value)
    assert db.statistics().wal.bytes > 3 * len(value)
    world.store.outage = False
    world.clock.advance(60)
    db.put(b"healed", b"1")
    db.flush()
    assert db.statistics().wal.bytes == 16 << 10
    assert len(list(db.scan())) == 4


def test_a_batch_larger_than_the_budget_is_waited_for_by_nobody() -> None:
    """While it is in the active segment nothing would ever make it less."""
    db = World(wal_budget=128 << 10, durability="memory").open()
    for number in range(6):
        db.put(b"%d" % number, b"x" * (300 << 10))
    assert db.statistics().stalls.refused == 0


@pytest.mark.parametrize("free", [0, 1000])
def test_a_full_disk_is_told_as_long_as_it_is_full(free: int) -> None:
    world = World(min_free_disk=1 << 20, durability="memory")
    db = world.open()
    db.put(b"first", b"1")
    world.files.free_space = free
    _, refusal = fill_until(db, DiskFullError)
    assert detail(db) == (False, str(refusal))
    status: Any = db.stats()["stalls"]
    assert status["reason"] == str(refusal)
    assert f"{free:,} bytes of disk are free" in status["slowed"]
    world.files.free_space = 1 << 30
    assert detail(db) == (True, "none"), "though nobody has written since"
    db.put(b"healed", b"1" * 10_000)
    assert db.get(b"first") == b"1"


@pytest.mark.parametrize("background", ["thread", "process"])
def test_writes_wait_for_what_is_merged_only_where_it_shares_the_interpreter(
    open_db: OpenDB, background: str
) -> None:
    db = open_db(background=background)
    gauges, merging = db._engine.admission._gauges, db._engine.compactor.merging
    assert gauges._merging_elsewhere == (merging if background == "process" else None)
    db.close()
