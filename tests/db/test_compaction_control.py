"""Merges that people ask for, that run beside each other, that are held to a rate, watched and
cancelled: in a whole database."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from seerdb import DB, ChecksumError, ClosedError, Components, InvalidRequestError
from seerdb.events import CompactionCompleted, WorkFailed
from seerdb.storage.compaction.plan import make_plan
from seerdb.storage.compaction.work import JobStatistics, Limits, Work
from seerdb.storage.jobs.runners import JobRunner, LocalRunner
from seerdb.storage.pieces import Body
from seerdb.storage.retention.garbage import collectable
from seerdb.storage.retention.outputs import GRACE_SECONDS
from seerdb.testing.clock import FakeClock
from tests.db.conftest import OpenDB
from tests.fixtures.database import World
from tests.fixtures.events import PATIENCE, Heard


def fill(db: DB, numbers: range, value: bytes = b"x" * 100) -> dict[bytes, bytes]:
    """Put rows and flush them."""
    rows = {b"%04d" % number: value for number in numbers}
    for key, each in rows.items():
        db.put(key, each)
    db.flush()
    return rows


def table_ids(db: DB) -> set[str]:
    return {table.id for table in db._engine.manifest.state.version.tables}


# What people ask for.


def test_a_range_is_merged_and_what_lies_beyond_it_is_left_alone() -> None:
    world = World(compaction="tiered", memtable_capacity=1 << 20, wal_segment_size=1 << 20)
    db = world.open()
    rows = fill(db, range(100))
    rows |= fill(db, range(200, 300))
    rows |= fill(db, range(120, 160), b"newer")
    apart = table_ids(db)
    rows |= fill(db, range(400, 500))
    rows |= fill(db, range(420, 440), b"newer")
    for key in (b"0430", b"0431"):
        db.delete(key)
        del rows[key]
    report = db.compact(b"0400", b"0500")
    assert apart < table_ids(db), "no other table was touched"
    assert len(report.added) == 1
    [made] = [t for t in db._engine.manifest.state.version.tables if t.id in report.added]
    assert (made.entries, made.deletes) == (98, 0)
    assert dict(db.scan()) == rows
    assert db.compact(b"0400", b"0500").added == [], "there is nothing left to do"
    assert db.verify().problems == []


def test_flushed_tables_are_cut_at_the_borders() -> None:
    world = World(compaction="tiered", memtable_capacity=1 << 20, wal_segment_size=1 << 20)
    db = world.open()
    rows = fill(db, range(0, 1000, 2)) | fill(db, range(1, 1000, 2))
    db.delete_range(b"0450", b"0550")
    rows = {key: value for key, value in rows.items() if not b"0450" <= key < b"0550"}
    db.compact(b"0400", b"0600")
    bounds = [(t.smallest, t.largest) for t in db._engine.manifest.state.version.tables]
    inside = [(low, high) for low, high in bounds if low < b"0600" and high >= b"0400"]
    assert inside == [(b"0000", b"0998")], "the oldest, into which the range was merged"
    assert sorted(set(bounds) - set(inside)) == [(b"0001", b"0399"), (b"0601", b"0999")]
    assert sum(t.range_deletes for t in db._engine.manifest.state.version.tables) == 0
    assert dict(db.scan()) == rows
    again = world.lose_machine().open()
    assert dict(again.scan()) == rows
    db.compact()
    assert db.statistics().runs == 1
    assert dict(db.scan()) == rows


@pytest.mark.parametrize("bounds", [(None, b"0500"), (b"0500", None), (b"0500", b"9")])
def test_a_bound_may_be_left_out(bounds: tuple[bytes | None, bytes | None]) -> None:
    world = World(compaction="tiered", memtable_capacity=1 << 20, wal_segment_size=1 << 20)
    db = world.open()
    rows = fill(db, range(1000)) | fill(db, range(0, 1000, 3), b"newer")
    db.compact(*bounds)
    assert dict(db.scan()) == rows
    tables = db._engine.manifest.state.version.tables
    assert len(tables) == 2, "the newer one beyond the bound is left"
    assert len([table for table in tables if lies_in(table, *bounds)]) == 1


def lies_in(table: Any, start: bytes | None, end: bytes | None) -> bool:
    return (start is None or table.largest >= start) and (end is None or table.smallest < end)


@pytest.mark.parametrize("bounds", [(b"b", b"a"), (b"a", b"a"), ("a", None), (None, 7)])
def test_bad_bounds_are_refused_before_anything_is_done(bounds: tuple[Any, Any]) -> None:
    db = World().open()
    db.put(b"a", b"1")
    with pytest.raises(InvalidRequestError, match=r"must be"):
        db.compact(*bounds)
    assert db.statistics().tables == 0
    db.close()
    with pytest.raises(ClosedError):
        db.compact(b"a", b"b")


def test_a_single_run_is_not_rewritten_for_values_that_live() -> None:
    world = World()
    db = world.open()
    db.put(b"a", b"1", ttl=100)
    db.put(b"b", b"1", ttl=1000)
    assert len(db.compact().added) == 1
    assert db.compact().added == []
    assert db.compact(b"a", b"z").added == []
    world.clock.advance(101)
    assert len(db.compact().added) == 1
    assert db.statistics().table_entries == 1
    assert db.compact().added == []


@pytest.mark.parametrize("older", [False, True])
def test_what_is_mostly_expired_is_rewritten_though_nothing_is_written(older: bool) -> None:
    world = World(compaction="tiered", memtable_capacity=1 << 20, wal_segment_size=1 << 20)
    db = world.open()
    if older:
        fill(db, range(100))
    for number in range(100):
        db.put(
            b"%04d" % number, b"x" * 100, ttl=10 if number < 50 else 1000 if number < 75 else None
        )
    db.flush()
    before = table_ids(db)
    lane = db._engine.background.compaction
    for seconds in (9, 5):
        world.clock.advance(seconds)
        lane.wake()
        assert table_ids(db) == before
    world.clock.advance(2)
    lane.wake()
    [table] = [t for t in db._engine.manifest.state.version.tables if t.id not in before]
    assert (table.entries, table.deletes, table.expiring) == (
        (100, 50, 25) if older else (50, 0, 25)
    )
    assert len(list(db.scan())) == 50
    lane.wake()
    assert table.id in table_ids(db), "once is enough"
    assert db.verify().problems == []


def test_where_operands_may_be_merged_nothing_is_rewritten_for_its_end_alone() -> None:
    """What is remembered for their sake would be as due as before, again and again."""
    world = World(merge_operator="append")
    db = world.open()
    db.put(b"a", b"1", ttl=10)
    db.flush()
    before = table_ids(db)
    world.clock.advance(100)
    db._engine.background.compaction.wake()
    assert table_ids(db) == before
    db.compact()
    assert table_ids(db) == set()


# Beside each other.


class Held:
    """A runner of two jobs at once, which holds those that reach the bottom until it is told."""

    def __init__(self, runner: JobRunner) -> None:
        self._runner = runner
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.failure: Exception | None = None
        """Raised once by what is held."""

    at_once = 2
    shares_memory = True
    shares_disk = True

    def run(self, function: Any, job: Any, purpose: Any, control: Any = None) -> Any:
        if job.plan.bottom:
            self.reached.set()
            assert self.go_on.wait(PATIENCE)
            failure, self.failure = self.failure, None
            if failure:
                raise failure
        return self._runner.run(function, job, purpose, control)


@pytest.fixture
def two_slots(open_db: OpenDB, monkeypatch: pytest.MonkeyPatch) -> tuple[DB, Held, Heard]:
    """A database of two runs, in which two merges may run; nothing is due yet, and nothing that
    failed is tried again before there is something new."""
    monkeypatch.setattr(LocalRunner, "at_once", 2)
    heard = Heard()
    components = Components(listener=heard, clock=FakeClock())
    db = open_db(components=components, wal_segment_size=4 << 20)
    fill(db, range(3000))
    fill(db, range(0, 3000, 2), b"newer")
    assert db.statistics().runs == 2
    db._engine.compactor._merger._runner = held = Held(db._engine.compactor._merger._runner)
    return db, held, heard


def fresh_runs(db: DB, heard: Heard, until: Callable[[], bool]) -> None:
    for number in range(60):
        if until():
            return
        fill(db, range(number, 3000, 40), b"new %d" % number)
    heard.wait_for(CompactionCompleted)


def test_fresh_runs_are_merged_while_the_last_level_is(two_slots: tuple[DB, Held, Heard]) -> None:
    db, held, heard = two_slots
    with ThreadPoolExecutor(1) as caller, ExitStack() as on_exit:
        on_exit.callback(held.go_on.set)
        compaction = caller.submit(db.compact)
        assert held.reached.wait(PATIENCE)
        tables = db._engine.manifest.state.version.tables
        assert db._engine.compactor.merging() == {table.id for table in tables}
        fresh_runs(db, heard, lambda: heard.count(CompactionCompleted) > 0)
        [job] = db.statistics().jobs[:1]
        assert (job.kind, job.level, job.bytes_read, job.parts_done) == ("request", 7, 0, 0)
        assert job.input_bytes > 0
        assert not compaction.done()
        rows = dict(db.scan())
        held.go_on.set()
        compaction.result(PATIENCE)
    assert dict(db.scan()) == rows
    assert db.verify().problems == []
    db.compact()
    assert (db.statistics().runs, db.statistics().jobs) == (1, [])
    assert db._engine.compactor.merging() == set()
    assert heard.count(WorkFailed) == 0


def test_a_merge_that_fails_keeps_no_other_from_going_on(
    two_slots: tuple[DB, Held, Heard],
) -> None:
    db, held, heard = two_slots
    held.failure = ChecksumError("planned")
    with ThreadPoolExecutor(1) as caller, ExitStack() as on_exit:
        on_exit.callback(held.go_on.set)
        compaction = caller.submit(db.compact)
        assert held.reached.wait(PATIENCE)
        held.go_on.set()
        with pytest.raises(ChecksumError, match="planned"):
            compaction.result(PATIENCE)
    fresh_runs(db, heard, lambda: heard.count(CompactionCompleted) > 1)
    db.compact()
    assert db.statistics().runs == 1
    assert heard.count(WorkFailed) == 1
    assert all(check.ok for check in db.health())


def test_what_is_asked_for_meanwhile_waits_only_for_what_is_in_its_way(
    two_slots: tuple[DB, Held, Heard],
) -> None:
    db, held, _ = two_slots
    with ThreadPoolExecutor(2) as caller, ExitStack() as on_exit:
        on_exit.callback(held.go_on.set)
        first = caller.submit(db.compact, b"2000", None)
        second = caller.submit(db.compact, b"2500", None)
        assert held.reached.wait(PATIENCE)
        db.compact(b"5", b"6")
        assert not first.done()
        assert not second.done()
        held.go_on.set()
        first.result(PATIENCE)
        second.result(PATIENCE)


def test_a_policy_keeps_out_of_the_way_of_a_request_that_waits_and_of_nothing_else() -> None:
    """Else it could begin one merge after the other and the request never."""
    world = World(compaction="tiered", memtable_capacity=1 << 20, wal_segment_size=1 << 20)
    db = world.open()
    compactor = db._engine.compactor
    open_limits, closed = Limits(at_once=lambda: 3), Limits(at_once=lambda: 0)
    compactor._limits = closed
    for number in range(8):
        fill(db, range(number, 100, 8))
    version = db._engine.manifest.state.version
    running = make_plan(version, version.runs[6:], (7, -2), 1 << 20)
    assert running is not None
    compactor._works[5] = Work(1, running, 0.0)
    request = compactor.ask()
    compactor._limits = open_limits
    assert compactor._begin(1) is None, "the policy would merge the six above"
    assert not request.is_over
    compactor._limits = closed
    for number in range(5):
        fill(db, range(number, 100, 8), b"fresh")
    compactor._limits = open_limits
    fresh = compactor._begin(1)
    assert fresh is not None
    assert [run.number for run in fresh.plan.inputs] == [13, 12, 11, 10, 9]
    assert fresh.request is None
    del compactor._works[5]
    asked = compactor._begin(2)
    assert asked is not None
    assert asked.request is request
    assert [run.number for run in asked.plan.inputs] == list(range(8, 0, -1))


def test_as_many_merges_as_may_run_at_once() -> None:
    db = World(compaction="tiered", memtable_capacity=1 << 20, wal_segment_size=1 << 20).open()
    compactor = db._engine.compactor
    compactor._limits = Limits(at_once=lambda: 0)
    fill(db, range(5))
    fill(db, range(5))
    compactor.ask()
    assert compactor._begin(0) is None
    compactor._limits = Limits(at_once=lambda: 1)
    assert compactor._begin(0) is not None
    assert compactor._begin(1) is None


# The rate.


def test_the_rate_is_shared_among_those_that_run() -> None:
    assert Limits(rate=100).share(4) == 25
    assert Limits(rate=1).share(4) == 1, "0 would be no limit"
    assert Limits().share(4) == 0
    assert Limits(at_once=lambda: 5, rate=100, rates_are_fixed=True).share(1) == 20


def test_a_compaction_takes_the_time_that_its_rate_allows() -> None:
    world = World(
        compaction_rate=10_000,
        compaction="tiered",
        compression="none",
        memtable_capacity=1 << 20,
        wal_segment_size=1 << 20,
    )
    db = world.open()
    fill(db, range(300))
    fill(db, range(300))
    slept = world.clock.slept
    db.compact()
    done = db.statistics().compactions
    traffic = done.bytes_read + 2 * done.bytes_written  # what is written is read back
    assert world.clock.slept - slept == pytest.approx(traffic / 10_000, rel=0.1)
    assert done.seconds == pytest.approx(world.clock.slept - slept, rel=0.01)


# Cancelling and watching.


@pytest.mark.parametrize("background", ["thread", "process"])
def test_closing_ends_what_runs_at_once_and_loses_nothing(open_db: OpenDB, background: str) -> None:
    heard = Heard()
    db = open_db(background=background, components=Components(listener=heard), compaction_rate=1)
    rows = fill(db, range(500)) | fill(db, range(0, 500, 2), b"newer")
    with ThreadPoolExecutor(1) as caller:
        compaction = caller.submit(db.compact)
        job = first_job(db, lambda job: job.bytes_read + job.bytes_written > 0 or job.rate >= 0)
        assert (job.kind, job.level, job.parts) == ("request", 7, 1)
        db.put(b"late", b"1")
        db.close()  # at this rate the merge would take hours
        with pytest.raises(ClosedError):
            compaction.result(PATIENCE)
    assert heard.count(WorkFailed) == 0
    db = open_db()
    assert dict(db.scan()) == rows | {b"late": b"1"}
    db.compact()
    assert db.verify().problems == []


def first_job(db: DB, found: Callable[[JobStatistics], bool]) -> JobStatistics:
    while True:
        for job in db.statistics().jobs:
            if found(job):
                return job


def test_what_a_cancelled_merge_wrote_is_garbage() -> None:
    world = World(table_size=1024, compression="none", memtable_capacity=64 << 10)
    db = world.open()
    rows = fill(db, range(400)) | fill(db, range(0, 400, 2), b"newer")
    compactor, before = db._engine.compactor, len(world.bucket.list("tables/"))
    put, puts = world.bucket.put, []

    def putting(name: str, data: Body) -> None:
        put(name, data)
        puts.append(name)
        if len(puts) == 3:
            compactor.cancel()

    world.bucket.put = putting  # type: ignore[method-assign]
    with pytest.raises(ClosedError):
        db.compact()
    assert len(world.bucket.list("tables/")) == before + 3
    engine = db._engine
    garbage = collectable(
        world.bucket.list(""),
        engine.manifest.state,
        now=world.clock.now() + GRACE_SECONDS + 1,
        grace_seconds=GRACE_SECONDS,
        keep=engine.outputs.in_use(),
    )
    assert set(puts) <= set(garbage)
    assert dict(db.scan()) == rows
    assert compactor.compact_one() is False if not compactor._works else True
    db.close()
    assert dict(world.kill().open().scan()) == rows


def test_a_merge_tells_how_far_it_is() -> None:
    world = World(table_size=1024, compression="none", memtable_capacity=64 << 10)
    db = world.open()
    fill(db, range(2000))
    db.compact()
    fill(db, range(0, 2000, 40))
    seen: list[JobStatistics] = []
    put = world.bucket.put

    def putting(name: str, data: Body) -> None:
        put(name, data)
        world.clock.advance(1)
        seen.extend(db.statistics().jobs)

    world.bucket.put = putting  # type: ignore[method-assign]
    started = world.clock.now()
    db.compact()
    assert db.statistics().jobs == []
    assert len({job.id for job in seen}) == 1
    assert {(job.kind, job.level, job.started) for job in seen} == {("request", 7, started)}
    done = [(job.parts_done, job.entries, job.bytes_read, job.bytes_written) for job in seen]
    assert done == sorted(done)
    last = seen[-1]
    assert last.parts_done == last.parts - 1 > 3
    assert last.bytes_written == pytest.approx(last.input_bytes, rel=0.2), "in smaller tables"
    assert last.input_bytes * 0.9 < last.bytes_read <= last.input_bytes
    assert last.rate == pytest.approx(
        (last.bytes_read + last.bytes_written) / (len(seen)), rel=0.1
    ), "of what parts share, too"


def test_what_a_part_did_that_failed_does_not_count() -> None:
    world = World(table_size=1024, compression="none", memtable_capacity=64 << 10)
    db = world.open()
    fill(db, range(2000))
    db.compact()
    fill(db, range(0, 2000, 40))
    world.store.fail("put", match="tables/", skip=20, error=ChecksumError("planned"))
    with pytest.raises(ChecksumError, match="planned"):
        db.compact()
    [job] = db.statistics().jobs
    assert job.parts_done >= 1
    made = db._engine.compactor._works[0].tables
    assert job.bytes_written == sum(table.size for table in made)
    assert job.entries == sum(table.entries for table in made)


def test_the_shape_of_the_tree_is_told() -> None:
    assert World(compaction="leveled").open().stats()["compaction_shape"] == "leveled"
    assert World(compaction="adaptive").open().stats()["compaction_shape"] == "lazy_leveled"


def test_an_edit_of_unknown_outcome_is_in_effect_before_it_is_tried_again() -> None:
    """Then the inputs are gone, and the plan no longer fits."""
    db = World().open()
    fill(db, range(5))
    fill(db, range(5))
    engine = db._engine
    compacted = engine.publisher.compacted
    attempts: list[int] = []

    def failing(inputs: Any, outputs: Any) -> None:
        attempts.append(1)
        compacted(inputs, outputs)
        if len(attempts) == 1:
            raise ChecksumError("the reply was lost, by plan")

    engine.publisher.compacted = failing  # type: ignore[method-assign]
    with pytest.raises(ChecksumError):
        db.compact()
    assert db.statistics().runs == 1
    db.compact()
    assert len(attempts) == 2
    assert db.statistics().jobs == []
