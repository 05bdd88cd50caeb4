"""Parts of one merge that are merged side by side, in a whole database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from seerdb import DB, ChecksumError, ClosedError, Components, CorruptionError
from seerdb.events import CompactionCompleted, WorkFailed
from seerdb.storage.compaction import compactor, inputs
from seerdb.storage.compaction.work import Limits
from seerdb.storage.jobs.runners import JobRunner, LocalRunner
from seerdb.storage.manifest.version import TableMeta, Version
from seerdb.storage.object_store.names import table_name
from seerdb.testing.clock import FakeClock
from tests.db.conftest import OpenDB
from tests.fixtures.events import PATIENCE, Heard

PARTS = 8
"""That the merge of what ``fill`` puts is cut into, at least."""


class Gated:
    """A runner whose jobs wait at a gate, and which counts those that run."""

    shares_memory = True
    shares_disk = True

    def __init__(self, runner: JobRunner) -> None:
        self._runner = runner
        self._changed = threading.Condition()
        self.at_once = runner.at_once
        self.is_open = False
        self.running: list[Any] = []
        self.rates: list[int] = []
        self.most = 0
        self.failure: Callable[[Any], bool] = lambda _: False
        """Whether a job fails, at the gate."""

    def run(self, function: Any, job: Any, purpose: Any, control: Any = None) -> Any:
        with self._changed:
            self.running.append(job)
            self.most = max(self.most, len(self.running))
            self._changed.notify_all()
            while not (self.is_open or control.is_cancelled):
                self._changed.wait(0.01)  # nobody notifies of a cancellation
            self.rates.append(control.rate)
        try:
            if self.failure(job):
                raise ChecksumError("planned")
            return self._runner.run(function, job, purpose, control)
        finally:
            with self._changed:
                self.running.remove(job)

    def wait_for(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.running) == count, PATIENCE)

    def open(self) -> None:
        with self._changed:
            self.is_open = True
            self._changed.notify_all()


class Cut:
    """A database in which a merge of all has many parts, and jobs at a gate."""

    def __init__(self, open_db: OpenDB, full_table: int = 2048, **settings: Any) -> None:
        self.heard = Heard()
        components = Components(listener=self.heard, clock=FakeClock())
        self.db: DB = open_db(
            components=components,
            compression="none",
            memtable_capacity=1 << 20,
            wal_segment_size=4 << 20,
            **settings,
        )
        self.compactor = self.db._engine.compactor
        self.end_tables_at(full_table)
        self.fill(range(3000))
        self.fill(range(0, 3000, 5))
        self.db.compact()
        self.fill(range(0, 3000, 7), b"newer")
        self.rows = dict(self.db.scan())
        merger = self.compactor._merger
        merger._runner = self.gate = Gated(merger._runner)

    def end_tables_at(self, size: int) -> None:
        """From now on a table is full with so many bytes."""
        planner = self.compactor._planner
        planner._options = replace(planner._options, table_size=size)

    def fill(self, numbers: range, value: bytes = b"x" * 100) -> None:
        with self.db.batch() as batch:
            for number in numbers:
                batch.put(b"%04d" % number, value)
        self.db.flush()

    @property
    def version(self) -> Version:
        return self.db._engine.manifest.state.version

    def assert_sound(self) -> None:
        assert dict(self.db.scan()) == self.rows
        assert self.db.verify().problems == []
        assert [check for check in self.db.health() if not check.ok] == []


@pytest.fixture
def slots(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many jobs may run at once; they read little at a time, for between two reads is
    where a table may end."""
    monkeypatch.setattr(inputs, "WINDOW_BLOCKS", 1)
    return lambda count: monkeypatch.setattr(LocalRunner, "at_once", count)


@pytest.fixture
def caller() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def test_what_parts_share_is_read_once_as_far_as_is_told(
    open_db: OpenDB, slots: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merge had read more than all of its inputs."""
    slots(1)
    cut, jobs = Cut(open_db), []
    cut.gate.open()
    publisher = cut.db._engine.publisher
    publish = publisher.compacted

    def compacted(removed: Any, added: Any) -> None:
        jobs.extend(cut.db.statistics().jobs)
        publish(removed, added)

    monkeypatch.setattr(publisher, "compacted", compacted)
    cut.db.compact()
    [job] = jobs
    assert job.parts >= PARTS
    assert job.bytes_read == job.input_bytes


def test_parts_of_what_somebody_waits_for_are_merged_in_all_slots(
    open_db: OpenDB, slots: Callable[[int], None], caller: ThreadPoolExecutor
) -> None:
    slots(3)
    cut = Cut(open_db, compaction_rate=3 << 30)
    before = cut.heard.count(CompactionCompleted)
    with ExitStack() as on_exit:
        on_exit.callback(cut.gate.open)
        compaction = caller.submit(cut.db.compact)
        cut.gate.wait_for(3)
        [job] = cut.db.statistics().jobs
        assert (job.parts_done, job.bytes_written) == (0, 0)
        assert job.parts >= PARTS
        assert len({run.start for run in cut.gate.running}) == 3
        cut.gate.open()
        report = compaction.result(PATIENCE)
    assert len(report.added) >= job.parts
    assert cut.gate.most == 3
    assert {1 << 30} == set(cut.gate.rates[:3]), "the rate is that of all together"
    assert cut.heard.count(CompactionCompleted) == before + 1
    assert cut.db.statistics().runs == 1
    keys = [(table.smallest, table.largest) for table in cut.version.tables]
    assert keys == sorted(keys)
    assert cut.db.statistics().jobs == []
    cut.assert_sound()


def test_parts_of_what_somebody_waits_for_begin_within_tables(
    open_db: OpenDB, slots: Callable[[int], None], caller: ThreadPoolExecutor
) -> None:
    slots(3)
    cut = Cut(open_db, full_table=1 << 20)
    assert [len(run.tables) for run in cut.version.runs] == [1, 1]
    cut.end_tables_at(1 << 16)
    with ExitStack() as on_exit:
        on_exit.callback(cut.gate.open)
        compaction = caller.submit(cut.db.compact)
        cut.gate.wait_for(3)
        [job] = cut.db.statistics().jobs
        starts = sorted(run.start or b"0000" for run in cut.gate.running)
        cut.gate.open()
        compaction.result(PATIENCE)
    assert job.parts == 3
    numbers = [int(start.ljust(4, b"0")) for start in starts]
    assert numbers == pytest.approx([0, 1000, 2000], abs=200)
    cut.assert_sound()


@pytest.mark.parametrize(("at_once", "expected"), [(2, 1), (3, 2)])
def test_fresh_runs_find_a_place_beside_what_nobody_asked_for(
    open_db: OpenDB, slots: Callable[[int], None], at_once: int, expected: int
) -> None:
    slots(at_once)
    cut = Cut(open_db)
    compactor, version = cut.compactor, cut.version
    plan = compactor._planner.whole(version, compactor.ask())
    assert plan is not None
    compactor._requests.close(*compactor._requests.open())
    compactor._planner.next = lambda *_: plan if not compactor._works else None  # type: ignore[method-assign]
    lane = cut.db._engine.background.compaction
    with ExitStack() as on_exit:
        on_exit.callback(cut.gate.open)
        lane.wake()
        cut.gate.wait_for(expected)
        with compactor._lock:
            assert (compactor._part_to_help_with() is None, compactor._room()) == (True, 1)
        compactor._planner.next = lambda *_: None  # type: ignore[method-assign]
        cut.gate.open()
        assert lane.wait(lambda: compactor.is_idle, PATIENCE)
    assert cut.gate.most == expected
    cut.assert_sound()


def test_who_may_help_only_later_is_called_then(
    open_db: OpenDB, slots: Callable[[int], None], caller: ThreadPoolExecutor
) -> None:
    """A cluster tells how many jobs it takes once it has the first."""
    slots(2)
    cut = Cut(open_db)
    room = [1]
    cut.compactor._limits = Limits(at_once=lambda: room[0])
    with ExitStack() as on_exit:
        on_exit.callback(cut.gate.open)
        compaction = caller.submit(cut.db.compact)
        cut.gate.wait_for(1)
        assert cut.db._engine.background.compaction.wait(one_slot_waits(cut.db), PATIENCE)
        room[0] = 2
        cut.gate.open()
        compaction.result(PATIENCE)
    assert cut.gate.most == 2
    cut.assert_sound()


def one_slot_waits(db: DB) -> Callable[[], bool]:
    slots = db._engine.background.compaction._slots
    return lambda: sum(slot.running for slot in slots) == 1


def test_a_part_that_fails_in_another_slot_is_merged_again_and_no_other(
    open_db: OpenDB, slots: Callable[[int], None], caller: ThreadPoolExecutor
) -> None:
    slots(2)
    cut = Cut(open_db)
    failed: list[Any] = []

    def failing(job: Any) -> bool:
        if failed or job.start is None:
            return False
        failed.append(job)
        return True

    cut.gate.failure = failing
    with ExitStack() as on_exit:
        on_exit.callback(cut.gate.open)
        compaction = caller.submit(cut.db.compact)
        cut.gate.wait_for(2)
        cut.gate.open()
        with pytest.raises(ChecksumError, match="planned"):
            compaction.result(PATIENCE)
    lane = cut.db._engine.background.compaction
    assert lane.wait(lambda: cut.compactor.is_idle, PATIENCE)
    assert cut.heard.count(WorkFailed) == 1
    assert cut.db.statistics().runs == 1
    done = cut.db.statistics().compactions
    assert done.bytes_written == sum(table.size for table in cut.version.tables) + first_run(cut)
    cut.assert_sound()


def test_all_parts_are_merged_again_when_something_is_missing_from_the_whole(
    open_db: OpenDB, slots: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody holds the tables that were made, so a collector may have taken them."""
    slots(2)
    cut = Cut(open_db)
    cut.gate.open()
    made: list[list[str]] = []

    def check(_: Any, tables: Sequence[TableMeta], dropped: Any) -> None:
        made.append([table.id for table in tables])
        if len(made) == 1:
            raise CorruptionError("planned")

    monkeypatch.setattr(compactor, "check_merge", check)
    with pytest.raises(CorruptionError, match="planned"):
        cut.db.compact()
    assert cut.db._engine.background.compaction.wait(lambda: cut.compactor.is_idle, PATIENCE)
    assert len(made) == 2
    assert len(made[0]) == len(made[1]) >= PARTS
    assert set(made[0]).isdisjoint(made[1])
    cut.assert_sound()


def first_run(cut: Cut) -> int:
    """Bytes that the merge wrote with which the database began."""
    [event, _] = [e for e in cut.heard.events if isinstance(e, CompactionCompleted)]
    return event.bytes_written


def test_a_merge_that_is_given_up_waits_for_those_that_help(
    open_db: OpenDB, slots: Callable[[int], None], caller: ThreadPoolExecutor
) -> None:
    """What they made in the last moment is garbage, and nobody holds it for a table in the
    making."""
    slots(2)
    cut = Cut(open_db)
    compactor, engine = cut.compactor, cut.db._engine
    made: list[str] = []
    helper = threading.local()
    run, help_others = compactor._merger.run, compactor._help

    def helping() -> bool:
        helper.is_here = True
        return help_others()

    def finishing(plan: Any, part: Any) -> Any:
        result = run(plan, part)
        if hasattr(helper, "is_here") and not made:
            made.extend(table.id for table in result.tables)
            compactor.pause()
            with compactor._lock:
                assert compactor._job_ended.wait_for(is_alone, PATIENCE), "with its last part"
        return result

    def is_alone() -> bool:
        return sum(part.is_running for part in compactor._works[0].parts) == 1

    compactor._help = helping  # type: ignore[method-assign]
    compactor._merger.run = finishing  # type: ignore[method-assign]
    with ExitStack() as on_exit:
        on_exit.callback(cut.gate.open)
        compaction = caller.submit(cut.db.compact)
        cut.gate.wait_for(2)
        cut.gate.open()
        lane = engine.background.compaction
        assert lane.wait(lambda: compactor.is_paused and compactor.is_idle, PATIENCE)
        assert made
        assert engine.outputs.in_use().isdisjoint(map(table_name, made))  # type: ignore[arg-type]
        compactor._merger.run = run  # type: ignore[method-assign]
        compactor.resume()
        lane.wake()
        compaction.result(PATIENCE)
    assert cut.heard.count(WorkFailed) == 0
    cut.assert_sound()


def test_who_helps_with_what_is_given_up_has_not_failed(
    open_db: OpenDB, slots: Callable[[int], None], caller: ThreadPoolExecutor
) -> None:
    """Nor where merges go on before it comes to look whether they do."""
    slots(2)
    cut = Cut(open_db)
    compactor, lane = cut.compactor, cut.db._engine.background.compaction
    helper, resumed = threading.local(), threading.Event()
    merge_part, help_others = compactor._merge_part, compactor._help

    def helping() -> bool:
        helper.is_here = True
        return help_others()

    def merging(work: Any, part: Any) -> None:
        try:
            merge_part(work, part)
        except ClosedError:
            assert not hasattr(helper, "is_here") or resumed.wait(PATIENCE)
            raise

    compactor._help = helping  # type: ignore[method-assign]
    compactor._merge_part = merging  # type: ignore[method-assign]
    with ExitStack() as on_exit:
        on_exit.callback(cut.gate.open)
        on_exit.callback(resumed.set)
        compaction = caller.submit(cut.db.compact)
        cut.gate.wait_for(2)
        compactor.pause()
        assert lane.wait(lambda: compactor.is_idle, PATIENCE)
        compactor.resume()
        resumed.set()
        cut.gate.open()
        lane.wake()
        compaction.result(PATIENCE)
    assert cut.heard.count(WorkFailed) == 0
    cut.assert_sound()


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_was_cancelled_is_given_up_where_merges_go_on_before_it_has_ended(
    open_db: OpenDB, slots: Callable[[int], None], caller: ThreadPoolExecutor, jobs: int
) -> None:
    """As when who has paused them is interrupted while waiting for that, and wakes nobody."""
    slots(jobs)
    cut = Cut(open_db)
    compactor = cut.compactor
    with ExitStack() as on_exit:
        on_exit.callback(cut.gate.open)
        compaction = caller.submit(cut.db.compact)
        cut.gate.wait_for(jobs)
        compactor.pause()
        compactor.resume()
        cut.gate.open()
        compaction.result(PATIENCE)
    assert compactor.is_idle
    assert cut.heard.count(WorkFailed) == 0
    cut.assert_sound()


def test_closing_ends_the_jobs_of_all_slots(
    open_db: OpenDB, slots: Callable[[int], None], caller: ThreadPoolExecutor
) -> None:
    slots(2)
    cut = Cut(open_db)
    compaction = caller.submit(cut.db.compact)
    cut.gate.wait_for(2)
    cut.db.close()
    with pytest.raises(ClosedError):
        compaction.result(PATIENCE)
    assert cut.gate.running == []
    assert cut.heard.count(WorkFailed) == 0
    again = open_db()
    assert dict(again.scan()) == cut.rows
    assert again.verify().problems == []
