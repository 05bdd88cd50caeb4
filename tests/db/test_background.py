"""Flush and compaction inline, in a thread, and in worker processes that may die."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from seerdb import (
    DB,
    BusyError,
    ChecksumError,
    ClosedError,
    Components,
    DiskFullError,
    Event,
    FencedError,
    SeerDBError,
    UnavailableError,
)
from seerdb.events import (
    CompactionCompleted,
    Fenced,
    FlushCompleted,
    GarbageCollected,
    MemtableSealed,
    Recovered,
    WorkFailed,
    WriteResumed,
    WriteStalled,
)
from seerdb.storage.jobs.runners import ProcessRunner
from seerdb.storage.manifest.state import ManifestState
from seerdb.storage.object_store.meter import Purpose
from seerdb.storage.pieces import Body
from seerdb.storage.workers.job_process import JobProcess
from seerdb.storage.workers.processes import Pool
from seerdb.storage.write import gauges as gauges_module
from seerdb.testing.clock import FakeClock
from seerdb.testing.objects import FaultyObjectStore, MemoryObjectStore
from tests.db.conftest import OpenDB
from tests.fixtures.database import World
from tests.fixtures.events import Heard

PATIENCE = 60


def components(heard: Heard) -> Components:
    return Components(listener=heard)


def write_some(db: DB) -> None:
    for number in range(200):
        db.put(b"%04d" % (number % 120), b"%d" % number * 20, durability="memory")
        if number % 40 == 39:
            db.delete_range(b"0000", b"0010")
            db.flush()


@pytest.mark.parametrize("background", ["inline", "thread", "process"])
def test_the_same_everywhere(open_db: OpenDB, background: str) -> None:
    heard = Heard()
    db = open_db(background=background, components=components(heard))
    write_some(db)
    expected = [(b"%04d" % n, b"%d" % (n if n >= 80 else n + 120) * 20) for n in range(10, 120)]
    assert list(db.scan()) == expected
    db.compact()
    assert list(db.scan()) == expected
    assert db.statistics().runs == 1
    assert db.verify().problems == []
    db.close()
    kinds = [type(event) for event in heard.events]
    assert kinds[0] is Recovered
    assert kinds.count(MemtableSealed) == kinds.count(FlushCompleted) == 5
    assert kinds.count(CompactionCompleted) >= 1
    assert WorkFailed not in kinds
    requests = {(row.purpose, row.operation) for row in db.statistics().store_requests}
    assert {("flush", "put"), ("compaction", "put"), ("compaction", "get_range")} <= requests, (
        "also what worker processes asked for is counted"
    )
    assert list(open_db().scan()) == expected


def worker_of_flushes(db: DB) -> int:
    worker: int = db._engine.runtime.workers.processes.run(Pool.PROMPT, os.getpid)
    return worker


def test_a_worker_killed_in_the_middle_of_a_flush(
    open_db: OpenDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard()
    # Time stands still: nothing is tried again before somebody has heard of the failure.
    db = open_db(background="process", components=Components(listener=heard, clock=FakeClock()))
    db.put(b"a", b"1")
    db.flush()
    worker = worker_of_flushes(db)
    os.kill(worker, signal.SIGSTOP)
    db.put(b"b", b"2")
    is_sent, wait_for_outcome = threading.Event(), JobProcess._wait_for_outcome

    def wait(process: JobProcess) -> Any:
        is_sent.set()
        return wait_for_outcome(process)

    monkeypatch.setattr(JobProcess, "_wait_for_outcome", wait)
    with ThreadPoolExecutor(1) as caller:
        flush = caller.submit(db.flush)
        # A worker that is killed before it has the job is replaced, and nothing fails.
        assert is_sent.wait(PATIENCE)
        os.kill(worker, signal.SIGKILL)
        failed = heard.wait_for(WorkFailed)
        assert isinstance(failed, WorkFailed)
        assert (failed.work, failed.attempts) == ("flush", 1)
        assert "worker process died" in failed.error
        with pytest.raises(UnavailableError, match="died"):
            flush.result(PATIENCE)
    assert db.get(b"b") == b"2"
    assert db.flush().last_seq == 2, "it was tried again, with a new worker"
    assert worker_of_flushes(db) != worker
    assert all(check.ok for check in db.health())
    assert db.verify().problems == []
    db.close()
    assert list(open_db().scan()) == [(b"a", b"1"), (b"b", b"2")]


def test_a_merge_is_urgent_when_there_are_many_runs(
    open_db: OpenDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = open_db(background="process")
    runner = db._engine.runner
    assert isinstance(runner, ProcessRunner)
    db.put(b"a", b"1")
    db.flush()
    assert not runner._is_urgent(Purpose.COMPACTION)
    monkeypatch.setattr(gauges_module, "URGENT_RUNS", 0)
    assert runner._is_urgent(Purpose.COMPACTION)
    assert not runner._is_urgent(Purpose.FLUSH)
    db.close()


def test_a_flush_is_urgent_when_somebody_waits_for_it_or_writes_go_ahead_of_it(
    open_db: OpenDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine it stood behind all other programs, and writes went on at its pace."""
    db = open_db(background="process")
    runner, asked = db._engine.runner, list[bool]()
    assert isinstance(runner, ProcessRunner)
    run = runner._run

    def noted(purpose: Purpose, *call: Any) -> Any:
        asked.append(runner._is_urgent(purpose))
        return run(purpose, *call)

    monkeypatch.setattr(runner, "_run", noted)
    assert not runner._is_urgent(Purpose.FLUSH)
    db.put(b"a", b"1")
    db.flush()
    assert asked == [True]
    assert not runner._is_urgent(Purpose.FLUSH)
    monkeypatch.setattr(gauges_module, "UNHURRIED", -2)
    assert runner._is_urgent(Purpose.FLUSH)
    db.close()


@pytest.mark.parametrize("pause", ["after the commit", "before it is told"])
def test_a_flush_returns_when_reads_and_numbers_know_its_table(open_db: OpenDB, pause: str) -> None:
    """The manifest named it, and who asked for it went on before reads or numbers knew it."""
    paused, go_on = threading.Event(), threading.Event()

    def wait_here() -> None:
        paused.set()
        assert go_on.wait(PATIENCE)

    def told(event: Event) -> None:
        if isinstance(event, FlushCompleted) and pause == "before it is told":
            wait_here()

    db = open_db(components=Components(listener=told))
    db.put(b"a", b"1")
    manifest, lane = db._engine.manifest, db._engine.background.flush
    commit = manifest.commit

    def committing(**change: Any) -> ManifestState:
        state = commit(**change)
        if pause == "after the commit":
            wait_here()
        return state

    def flush() -> tuple[int, int, int, bool]:
        db.flush()
        found = db.statistics()
        return found.memtables.sealed, found.runs, found.flushes.flushes, go_on.is_set()

    manifest.commit = committing  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as callers, ExitStack() as on_exit:
        on_exit.callback(go_on.set)
        first = callers.submit(flush)
        assert paused.wait(PATIENCE)
        second = callers.submit(flush)
        while lane._waiting < 2 and not second.done():
            pass
        go_on.set()
        assert first.result(PATIENCE) == second.result(PATIENCE) == (0, 1, 1, True)


def test_a_failed_flush_is_tried_again_by_itself(open_db: OpenDB) -> None:
    heard, store, clock = Heard(), FaultyObjectStore(MemoryObjectStore()), FakeClock()
    db = open_db(components=Components(listener=heard, object_store=store, clock=clock))
    db.put(b"a", b"1")
    store.fail("put", match="tables/", times=2, error=ChecksumError("planned"))
    with pytest.raises(ChecksumError, match="planned"):
        db.flush()
    assert db.get(b"a") == b"1"
    while heard.count(FlushCompleted) == 0:
        clock.advance(0.1)
    lane = db._engine.background.flush
    assert lane.wake_and_wait(lambda: lane.error is None, PATIENCE)
    assert all(check.ok for check in db.health())
    [flush] = [worker for worker in db.statistics().workers if worker.name == "flush"]
    assert (flush.failures, flush.attempts, flush.error) == (2, 0, "")
    failures = [event for event in heard.events if isinstance(event, WorkFailed)]
    assert [failure.attempts for failure in failures] == [1, 2]
    assert failures[1].retry_seconds == 2 * failures[0].retry_seconds > 0
    assert db.flush().last_seq == 1


@pytest.mark.parametrize("error", [ChecksumError("planned"), UnavailableError("planned")])
def test_what_a_failed_flush_left_can_be_collected(error: SeerDBError) -> None:
    """It was kept until the next open."""
    world = World()
    db = world.open()
    db.put(b"a", b"1")
    world.store.fail("get", match="tables/", times=9, error=error)
    with pytest.raises(type(error)):
        db.flush()
    assert world.bucket.list("tables/") != []
    assert db._engine.outputs.in_use() == set()
    world.store._faults.clear()
    world.clock.advance(60)
    db.flush()
    world.clock.advance(1000)
    db._engine.background.garbage.wake()
    assert len(world.bucket.list("tables/")) == db.statistics().tables == 1
    assert db._engine.outputs.in_use() == set()


def test_what_a_flush_uploaded_is_not_uploaded_again() -> None:
    """The upload went well, the manifest did not: the next attempt takes the same table."""
    world = World()
    db = world.open()
    db.put(b"a", b"1")
    world.store.fail("put_if_absent", match="manifest/", times=5)
    with pytest.raises(UnavailableError):
        db.flush()
    [uploaded] = world.bucket.list("tables/")
    world.clock.advance(60)
    report = db.flush()
    assert [f"tables/{table}.sst" for table in report.tables] == [uploaded.name]
    assert len(world.bucket.list("tables/")) == 1


def test_what_a_compaction_uploaded_is_not_uploaded_again() -> None:
    world = World()
    db = world.open()
    for key in (b"a", b"b"):
        db.put(key, b"1")
        db.flush()
    world.store.fail("put_if_absent", match="manifest/", times=5)
    with pytest.raises(UnavailableError):
        db.compact()
    assert len(world.bucket.list("tables/")) == 3
    world.clock.advance(60)
    report = db.compact()
    assert (len(report.removed), len(report.added)) == (2, 1)
    assert len(world.bucket.list("tables/")) == 3


def test_a_corrupted_upload_is_not_used() -> None:
    world = World()
    db = world.open()
    db.put(b"a", b"1" * 100)
    world.store.corrupt("get", match="tables/", times=2)
    with pytest.raises(ChecksumError, match="reads back differently"):
        db.flush()
    assert db.statistics().tables == 0
    assert db.flush().last_seq == 1
    assert db.verify().problems == []


def test_writers_wait_for_a_slow_flush_and_go_on(open_db: OpenDB) -> None:
    heard, store = Heard(), SlowTables()
    db = open_db(
        components=Components(listener=heard, object_store=store), memtable_capacity=4 << 10
    )

    def write() -> None:
        for number in range(100):
            db.put(b"%03d" % number, b"x" * 100, durability="memory")

    with ThreadPoolExecutor(1) as pool, ExitStack() as on_exit:
        on_exit.callback(store.open.set)
        writing = pool.submit(write)
        stalled = heard.wait_for(WriteStalled)
        assert isinstance(stalled, WriteStalled)
        assert "sealed memtables wait" in stalled.reason
        assert [c.name for c in db.health() if not c.ok] == ["backpressure"]
        assert db.get(b"000") == b"x" * 100
        store.open.set()
        heard.wait_for(WriteResumed)
        writing.result(PATIENCE)
    assert len(list(db.scan())) == 100
    statistics = db.statistics().stalls
    assert (statistics.stalls >= 1, statistics.refused, statistics.reason) == (True, 0, "")


class SlowTables(MemoryObjectStore):
    """Puts of tables wait until ``open`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()

    def put(self, name: str, data: Body) -> None:
        if name.startswith("tables/"):
            assert self.open.wait(PATIENCE)
        super().put(name, data)


def put_many(db: DB) -> None:
    for number in range(10_000):
        db.put(b"%05d" % number, b"x" * 100, durability="memory")


def test_writes_go_on_in_an_outage_until_the_log_is_full() -> None:
    world = World(wal_budget=256 << 10)
    db = world.open()
    world.store.outage = True
    with pytest.raises(BusyError, match="wal_budget") as refusal:
        put_many(db)
    written = db.visible_seq
    assert refusal.value.retry_after_seconds > 0
    assert "outage" in str(refusal.value)
    assert written > 100
    assert db.get(b"%05d" % (written - 1)) == b"x" * 100
    assert {check.name for check in db.health() if not check.ok} >= {"flush", "bucket"}
    degraded = next(check for check in db.health() if check.name == "bucket").detail
    assert degraded.startswith("degraded: ")
    world.store.outage = False
    world.clock.advance(60)
    assert db.put(b"healed", b"1") == written + 1
    db.flush()
    assert all(check.ok for check in db.health())
    assert len(list(db.scan())) == written + 1


def test_a_full_disk_refuses_writes_and_says_so() -> None:
    world = World(min_free_disk=1000)
    db = world.open()
    db.put(b"a", b"x" * 100)
    world.files.free_space = 999
    with pytest.raises(DiskFullError, match="min_free_disk"):
        put_many(db)
    acknowledged = db.visible_seq
    assert db.get(b"a") == b"x" * 100
    world.files.free_space = 1 << 30
    assert db.put(b"b", b"1") == acknowledged + 1
    assert len(list(db.scan())) == acknowledged + 1


@pytest.mark.parametrize("verb", ["close", "flush"])
def test_closing_in_an_outage_keeps_everything_in_the_log(verb: str) -> None:
    world = World()
    db = world.open()
    for number in range(50):
        db.put(b"%02d" % number, b"x" * 200, durability="memory")
    world.store.outage = True
    call: Callable[[], object] = getattr(db, verb)
    if verb == "flush":
        with pytest.raises(UnavailableError):
            call()
    else:
        call()
    world.store.outage = False
    world = world.lose_power(3) if verb == "close" else world.kill()
    assert len(list(world.open().scan())) == 50


def test_a_listener_hears_of_the_whole_life(open_db: OpenDB) -> None:
    world = World()
    db = world.open()
    for number in range(8):
        db.put(b"%d" % number, b"x" * 100)
        db.flush()
    world.clock.advance(1000)
    db.compact()
    world.clock.advance(1000)
    db.put(b"a", b"1")
    db.compact()
    kinds = {type(event) for event in world.events}
    assert kinds >= {
        Recovered,
        MemtableSealed,
        FlushCompleted,
        CompactionCompleted,
        GarbageCollected,
    }
    flushed = [event for event in world.events if isinstance(event, FlushCompleted)]
    assert [event.last_seq for event in flushed] == list(range(1, 10))
    assert all(event.entries == 1 and event.bytes > 100 and event.table for event in flushed)


def test_an_overtaken_writer_stops() -> None:
    world = World()
    first = world.open()
    first.put(b"a", b"1")
    first.flush()
    second = world.open("other")
    assert second.get(b"a") == b"1"
    first.put(b"b", b"local only", durability="local")
    with pytest.raises(FencedError, match="writer"):
        first.flush()
    with pytest.raises(FencedError):
        first.put(b"c", b"3")
    assert first.get(b"b") == b"local only"
    assert any(isinstance(event, Fenced) for event in world.events)
    assert next(check for check in first.health() if check.name == "writes").ok is False
    first.close()
    assert second.put(b"b", b"2") > 1
    second.close()


def test_a_bucket_that_takes_nothing_more_is_read_all_the_same() -> None:
    """Its refusals to take anything opened the breaker, and then reads were not tried either."""
    world = World(block_cache_capacity=0)
    db = world.open()
    db.put(b"a", b"1")
    db.flush()
    for operation in ("put", "put_if_absent"):
        world.store.fail(operation, times=1 << 30)
    for number in range(8):
        db.put(b"%d" % number, b"2", durability="local")
        with pytest.raises(UnavailableError):
            db.flush()
        assert db.get(b"a") == b"1"
    assert db.statistics().store_breaker_open
    assert "bucket" in {check.name for check in db.health() if not check.ok}


@pytest.mark.parametrize("background", ["thread", "process"])
def test_a_merge_that_is_asked_for_once_the_close_has_begun_is_refused_at_once(
    tmp_path: Path, background: str
) -> None:
    db = DB.open(str(tmp_path / "data"), background=background, min_free_disk=0)
    for _ in range(3):
        db.put(b"a", b"1")
        db.flush()
    db.begin_closing()
    with pytest.raises(ClosedError, match="merges no more"):
        db.compact()
    db.close()


def test_a_merge_that_waits_for_its_turn_when_the_close_begins_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = DB.open(str(tmp_path / "data"), min_free_disk=0)
    for _ in range(3):
        db.put(b"a", b"1")
        db.flush()
    compactor, looked = db._engine.compactor, threading.Event()

    def nothing_is_free(_slot: int) -> bool:
        if compactor._requests.open():
            looked.set()
        return False

    monkeypatch.setattr(compactor, "compact_one", nothing_is_free)
    with ThreadPoolExecutor(1) as beside:
        merge = beside.submit(db.compact)
        assert looked.wait(PATIENCE)
        db.begin_closing()
        with pytest.raises(ClosedError, match="merges no more"):
            merge.result(PATIENCE)
    db.close()
