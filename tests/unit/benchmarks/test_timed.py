"""Simulated trees in which time passes, and the models of writes that a load is held against."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from copy import copy
from random import Random

import pytest
from msgspec.structs import replace

from benchmarks.simulator.loads import FLUSH_ENTRIES
from benchmarks.simulator.timed import Speeds, TimedTree
from benchmarks.simulator.tree import FLUSH_SIZE, SimulatedTree
from benchmarks.workload import overwriting
from benchmarks.write_model import BYTES_A_GIGABYTE, WriteModel
from seerdb import DBOptions
from seerdb.storage.compaction.policy.adaptive import SHAPES
from seerdb.storage.compaction.policy.given import LAZY_LEVELED, TIERED
from seerdb.storage.compaction.work import CompactionStatistics, JobStatistics
from seerdb.storage.status.statistics import Statistics
from seerdb.storage.write.admission import ReasonStatistics
from seerdb.storage.write.pressure import MAX_RUNS, SLOWEST_RATE, URGENT_RUNS, Reason

FLUSHES = 60
LOG_BYTES = 1000.0
AT_ONCE = Speeds(flush_seconds=1.0, log_bytes=LOG_BYTES, merge_seconds=0.0)
SLOW = 0.5 / FLUSH_SIZE
"""Seconds for each byte: half of those between two flushes, for as much as one flush has."""


def writes(flushes: int = FLUSHES) -> Iterator[list[tuple[int, bool]]]:
    random = Random(1)
    for _ in range(flushes):
        yield [(random.randrange(6_000), True) for _ in range(FLUSH_ENTRIES)]


def loaded(speeds: Speeds, policy: str = LAZY_LEVELED) -> tuple[SimulatedTree, TimedTree]:
    tree = SimulatedTree(policy)
    timed = TimedTree(tree, speeds)
    for each in writes():
        timed.flush(each)
    return tree, timed


@pytest.mark.parametrize("policy", SHAPES)
def test_where_merges_take_no_time_a_tree_is_settled_after_each_flush(policy: str) -> None:
    settled = SimulatedTree(policy)
    for each in writes():
        settled.flush(each)
        settled.settle(len(each), 0, 0)
    tree, timed = loaded(AT_ONCE, policy)
    assert tree.version == settled.version
    assert (tree.merged, tree.merges) == (settled.merged, settled.merges)
    assert timed.seconds == FLUSHES


def test_a_merge_takes_as_long_as_its_bytes() -> None:
    tree = SimulatedTree(TIERED)
    timed = TimedTree(tree, Speeds(flush_seconds=1.0, log_bytes=LOG_BYTES, merge_seconds=SLOW))
    for number in range(5):
        timed.flush([(key, True) for key in range(number, 5 * FLUSH_ENTRIES, 5)])
    for number in range(1, 5):
        timed.flush([(0, True)])
        assert (tree.merges, len(tree.version.runs)) == (0, 5 + number)
    timed.rest()
    assert (tree.merges, tree.merged, len(tree.version.runs)) == (1, 5 * FLUSH_SIZE, 5)
    # Begun after the fifth flush; as much as five flushes was read, and written.
    assert timed.seconds == pytest.approx(5 + 10 * 0.5)


def test_merges_that_end_while_a_memtable_fills_do_not_change_when_it_is_full() -> None:
    speeds = Speeds(flush_seconds=1.0, log_bytes=LOG_BYTES, merge_seconds=SLOW / 4)
    tree, timed = loaded(speeds)
    assert tree.merges > 5
    assert timed.seconds == pytest.approx(FLUSHES, rel=0.001)


def test_merges_that_lag_take_more_runs_at_once_and_write_less() -> None:
    at_once, _ = loaded(AT_ONCE)
    lagging, timed = loaded(Speeds(flush_seconds=1.0, log_bytes=LOG_BYTES, merge_seconds=SLOW))
    timed.rest()
    assert lagging.merges < at_once.merges
    assert lagging.merged < 0.85 * at_once.merged
    assert lagging.flushed == at_once.flushed


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("policy", SHAPES)
def test_a_tree_holds_what_is_live_whatever_is_merged_meanwhile(policy: str, slots: int) -> None:
    speeds = Speeds(flush_seconds=1.0, log_bytes=LOG_BYTES, merge_seconds=SLOW, slots=slots)
    tree = SimulatedTree(policy)
    timed = TimedTree(tree, speeds)
    at_once = 0
    for each in writes():
        timed.flush(each)
        at_once = max(at_once, len(timed._running))
    timed.rest()
    assert at_once == slots
    assert tree.begin() is None
    assert set(tree._rows) == {table.id for table in tree.version.tables}
    assert {key for rows in tree._rows.values() for key in rows} == tree.live


@pytest.mark.parametrize("here", [True, False])
def test_writes_are_held_back_as_runs_pile_up(here: bool) -> None:
    def seconds_by_runs(log_bytes: float) -> list[tuple[int, float]]:
        tree = SimulatedTree(LAZY_LEVELED)
        speeds = Speeds(1.0, log_bytes, merge_seconds=SLOW * 1000, merges_here=here)
        timed = TimedTree(tree, speeds)
        seen = []
        for each in writes(MAX_RUNS):
            runs, before = timed._waiting_runs(), timed.seconds
            timed.flush(each)
            seen.append((runs, timed.seconds - before))
        return seen

    for runs, seconds in seconds_by_runs(SLOWEST_RATE):
        severity = max(0, runs - URGENT_RUNS) / (MAX_RUNS - URGENT_RUNS)
        assert seconds == pytest.approx(1 + severity**2)


def test_what_other_processes_merge_waits_for_nothing() -> None:
    speeds = Speeds(1.0, SLOWEST_RATE, merge_seconds=SLOW * 1000, merges_here=False)
    tree = SimulatedTree(LAZY_LEVELED)
    timed = TimedTree(tree, speeds)
    for each in writes(URGENT_RUNS + 5):
        timed.flush(each)
    [running] = timed._running
    assert timed._waiting_runs() == URGENT_RUNS + 5 - len(running.merge.plan.tables)
    assert timed.seconds == URGENT_RUNS + 5, "nothing was held back"


def test_writes_wait_where_there_are_as_many_runs_as_there_may_be() -> None:
    speeds = Speeds(flush_seconds=1e-9, log_bytes=0.0, merge_seconds=SLOW)
    tree = SimulatedTree(LAZY_LEVELED)
    timed = TimedTree(tree, speeds)
    most = 0
    for each in writes(4 * MAX_RUNS):
        timed.flush(each)
        most = max(most, len(tree.version.runs))
    assert most == MAX_RUNS
    assert timed.seconds > 10


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[WriteModel, Statistics, Statistics]:
    """The model of a load, and what was counted when it began to count and at the end."""
    settings = DBOptions().memtable_capacity(64 << 10).background("inline").durability("memory")
    with settings.open(str(tmp_path_factory.mktemp("load") / "db")) as db:
        model = WriteModel(db, 0.5)
        for number, pairs in enumerate(overwriting(20_000, 10_000, 100)):
            if number == 60:
                model.begin()
                begun = db.statistics()
            with db.batch() as batch:
                for key, value in pairs:
                    batch.put(key, value)
            model.look()
        db.flush()
        model.look()
        return model, begun, db.statistics()


def test_writes_are_counted_and_held_against_three_models(
    watched: tuple[WriteModel, Statistics, Statistics],
) -> None:
    model, begun, end = watched
    seen = model.amplifications(end)
    flushed = end.flushes.bytes - begun.flushes.bytes
    merged = end.compactions.bytes_written - begun.compactions.bytes_written
    assert seen["write"] == (flushed + merged) / flushed
    assert seen["write_textbook"] >= 5
    assert seen["write_simulated"] == pytest.approx(seen["write"], rel=0.1)


def seen_if(
    watched: tuple[WriteModel, Statistics, Statistics], *, seconds: float, factor: float = 1.0
) -> dict[str, float]:
    """Had merges read and written ``factor`` times as much, in ``seconds``."""
    model, _, end = watched
    was = end.compactions
    merges = replace(
        was,
        bytes_read=int(was.bytes_read * factor),
        bytes_written=int(was.bytes_written * factor),
        seconds=seconds,
    )
    model = copy(model)
    model._loaded = replace(model._loaded, compactions=merges)
    return model.amplifications(replace(end, compactions=merges))


def test_what_is_modelled_follows_from_the_speed_of_merges(
    watched: tuple[WriteModel, Statistics, Statistics],
) -> None:
    instant = seen_if(watched, seconds=0.0)
    assert instant["write_modelled"] == instant["write_simulated"]
    lagging = seen_if(watched, seconds=4 * watched[0]._seconds)
    assert lagging["write_modelled"] < 0.8 * instant["write_modelled"]
    assert lagging["write_simulated"] == instant["write_simulated"]


def test_merges_that_are_due_at_the_end_are_modelled(
    watched: tuple[WriteModel, Statistics, Statistics], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So slow, with writes that never wait, that all of them are."""
    monkeypatch.setattr("benchmarks.simulator.timed.MAX_RUNS", 1_000_000)
    assert seen_if(watched, seconds=1e6 * watched[0]._seconds)["write_modelled"] > 1


@pytest.mark.parametrize("factor", [3, 0.5])
def test_what_is_modelled_does_not_follow_from_what_was_merged(
    watched: tuple[WriteModel, Statistics, Statistics], factor: float
) -> None:
    """Merges of twice as much in twice the time are as fast: only what is measured changes."""
    seconds = watched[0]._seconds / 4
    seen = seen_if(watched, seconds=seconds)
    other = seen_if(watched, seconds=seconds * factor, factor=factor)
    assert other["write_modelled"] == pytest.approx(seen["write_modelled"], rel=0.01)
    off = (other["write"] / other["write_modelled"] - 1) * 100
    assert off > 50 if factor > 1 else off < -25
    assert other["write_off_percent"] == abs(off)


def test_what_is_modelled_is_the_same_of_larger_entries(
    watched: tuple[WriteModel, Statistics, Statistics],
) -> None:
    model, begun, end = watched
    seconds, factor = 2 * model._seconds, 100
    seen = seen_if(watched, seconds=seconds)
    larger = copy(model)
    larger._options = dataclasses.replace(
        model._options,
        base_size=model._options.base_size * factor,
        table_size=model._options.table_size * factor,
        block_size=model._options.block_size * factor,
    )
    flushes = replace(end.flushes, bytes=end.flushes.bytes * factor)
    found = seen_if((larger, begun, replace(end, flushes=flushes)), seconds=seconds, factor=factor)
    assert found["write_modelled"] == pytest.approx(seen["write_modelled"], rel=0.01)
    assert found["merge_seconds_per_gb"] == pytest.approx(seen["merge_seconds_per_gb"] / factor)


def test_speeds_are_those_of_the_load_without_what_runs_held_back(
    watched: tuple[WriteModel, Statistics, Statistics],
) -> None:
    model, end = copy(watched[0]), watched[2]
    quarter = model._seconds / 4
    # That of memtables is flushes that take their time.
    held_back = [
        ReasonStatistics(reason, slowed_seconds=quarter, stopped_seconds=quarter)
        for reason in (Reason.RUNS, Reason.MEMTABLES)
    ]
    running = [
        JobStatistics(1, "compaction", 7, 1, 0, 10**9, 700, 300, 10, started=0.0, rate=20.0),
        JobStatistics(2, "compaction", 7, 1, 0, 10**9, 0, 0, 0, started=0.0, rate=0.0),
    ]
    model._loaded = replace(
        model._loaded,
        compactions=CompactionStatistics(bytes_read=6_000, bytes_written=3_000, seconds=30.0),
        jobs=running,
        stalls=replace(end.stalls, reasons=held_back),
    )
    seen = model.amplifications(end)
    assert seen["flush_seconds"] == pytest.approx(2 * quarter / end.flushes.flushes)
    assert seen["merge_seconds_per_gb"] == pytest.approx((30 + 50) / 10_000 * BYTES_A_GIGABYTE)
