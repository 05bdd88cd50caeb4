"""Backpressure by a fake clock: when writers wait, go on, and are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest

from seerdb.errors import BusyError, DiskFullError, UnavailableError
from seerdb.events import Event, WriteResumed, WriteStalled
from seerdb.options import Options
from seerdb.storage.admission import STALL_SECONDS, Admission
from seerdb.storage.gauges import MAX_SEALED, Gauges
from seerdb.storage.layout import Layout
from seerdb.storage.manifest.version import Version
from seerdb.storage.memtable import Memtable
from seerdb.storage.row_cache import RowCache
from seerdb.storage.state import LiveState, State
from seerdb.storage.workers import Lane
from seerdb.testing.clock import FakeClock
from seerdb.testing.files import CrashableFileSystem
from seerdb.testing.objects import MemoryObjectStore
from tests.unit.storage.tables import new_table_store

SEGMENT = 64 << 10


class FakeLane:
    """A flush lane: each wait takes some seconds, then the next of the ``steps`` happens."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.name = "flush"
        self.error: BaseException | None = None
        self.tries_again = True
        self.has_work = False
        self.wakes = 0
        self.steps: list[Callable[[], object]] = []
        self.seconds = 5.0
        self.waits: list[float] = []

    def wake_and_wait(self, until: Callable[[], bool], timeout: float) -> bool:
        self.wakes += 1
        return self.wait(until, timeout)

    def wait(self, until: Callable[[], bool], timeout: float) -> bool:
        self.waits.append(timeout)
        if not until():
            self._clock.advance(min(self.seconds, timeout))
            if self.seconds <= timeout and self.steps:
                self.steps.pop(0)()
        return until()


class Rig:
    def __init__(self, **settings: int) -> None:
        self.clock = FakeClock()
        self.files = CrashableFileSystem()
        self.files.make_directory("db")
        self.layout = Layout(Version(), new_table_store(MemoryObjectStore()), RowCache(lambda: 0))
        self.live = LiveState(State(Memtable([1]), (), self.layout), 0)
        self.lane = FakeLane(self.clock)
        self.compaction = FakeLane(self.clock)
        self.compaction.name = "compaction"
        self.is_closing = False
        self.events: list[Event] = []
        options = Options(wal_segment_size=SEGMENT, min_free_disk=1000).with_values(settings)
        lanes = cast(Lane, self.lane), cast(Lane, self.compaction)
        self.gauges = Gauges(self.live, lanes, self.files, "db", options)
        self.admission = Admission(
            self.gauges,
            memtable_capacity=options.memtable_capacity,
            clock=self.clock,
            listener=self.events.append,
            is_closing=lambda: self.is_closing,
        )

    def seal(self, count: int) -> None:
        for _ in range(count):
            self.live.rotate(Memtable([self.live.current.active.segments[0] + 1]))

    def flush(self) -> None:
        self.live.release(self.live.current.sealed[-1], self.layout)


def test_nothing_in_the_way() -> None:
    rig = Rig()
    rig.seal(MAX_SEALED - 1)
    rig.admission.admit()
    assert (rig.events, rig.lane.waits, rig.clock.monotonic()) == ([], [], 0.0)
    assert rig.admission.statistics().stalls == 0


def test_writers_wait_until_a_flush_is_done() -> None:
    rig = Rig()
    rig.seal(MAX_SEALED)
    rig.lane.steps = [rig.flush]
    rig.admission.admit()
    reason = f"{MAX_SEALED} sealed memtables wait for their flush"
    assert rig.events == [WriteStalled(reason), WriteResumed(5.0)]
    statistics = rig.admission.statistics()
    assert (statistics.stalls, statistics.stalled_seconds, statistics.refused) == (1, 5.0, 0)
    assert statistics.reason == ""


def test_the_reason_is_told_while_they_wait() -> None:
    rig = Rig()
    rig.seal(MAX_SEALED + 1)
    seen = []

    def step() -> None:
        seen.append(rig.admission.statistics().reason)
        rig.flush()

    rig.lane.steps = [step, step]
    rig.admission.admit()
    assert seen == [f"{n} sealed memtables wait for their flush" for n in (3, 2)]


def test_a_flush_that_does_not_end_refuses_in_the_end() -> None:
    rig = Rig()
    rig.seal(MAX_SEALED)
    rig.lane.seconds = 1e9
    with pytest.raises(BusyError, match="sealed memtables wait") as refusal:
        rig.admission.admit()
    assert refusal.value.retry_after_seconds > 0
    assert rig.clock.monotonic() == STALL_SECONDS
    assert rig.events[-1] == WriteResumed(STALL_SECONDS)
    assert rig.admission.statistics().refused == 1


def test_a_wait_that_ends_without_a_flush_goes_on_waiting() -> None:
    """The lane had another turn first; the time is not over."""
    rig = Rig()
    rig.seal(MAX_SEALED)
    rig.lane.steps = [lambda: None, lambda: None, rig.flush]
    rig.admission.admit()
    assert rig.clock.monotonic() == 15.0
    assert rig.lane.waits == [20.0, 15.0, 10.0]


def test_in_an_outage_writes_go_on_within_the_budget_of_the_log() -> None:
    rig = Rig(wal_budget=10 * SEGMENT)
    rig.lane.error = UnavailableError("no bucket")
    for _ in range(9):
        rig.admission.admit()
        rig.seal(1)
    assert rig.events == []
    assert rig.gauges.wal_bytes == 10 * SEGMENT
    with pytest.raises(BusyError, match=r"reached wal_budget \(655,360 bytes\); .* no bucket"):
        rig.admission.admit()
    rig.flush()
    rig.admission.admit()
    assert rig.admission.statistics().refused == 1


def test_a_full_log_waits_for_a_flush_that_works() -> None:
    rig = Rig(wal_budget=3 * SEGMENT)
    rig.seal(2)
    rig.lane.steps = [rig.flush]
    rig.admission.admit()
    assert rig.gauges.wal_bytes == 2 * SEGMENT
    assert isinstance(rig.events[0], WriteStalled)
    assert "wal_budget" in rig.events[0].reason


def test_an_outage_that_begins_while_writers_wait_lets_them_go_on() -> None:
    rig = Rig()
    rig.seal(MAX_SEALED)

    def step() -> None:
        rig.lane.error = UnavailableError("no bucket")

    rig.lane.steps = [step]
    rig.admission.admit()
    assert rig.clock.monotonic() == 5.0
    assert rig.admission.statistics().refused == 0


def test_a_full_disk_is_refused_at_once() -> None:
    rig = Rig()
    rig.seal(MAX_SEALED)
    rig.files.free_space = 999
    with pytest.raises(
        DiskFullError, match="999 bytes are free where db is, less than min_free_disk"
    ):
        rig.admission.admit()
    assert rig.events == []
    rig.files.free_space = 1000
    rig.lane.steps = [rig.flush]
    rig.admission.admit()


def test_memtables_of_several_segments_count_all_of_them() -> None:
    rig = Rig()
    rig.live.rotate(Memtable([7, 8, 9]))
    assert rig.gauges.wal_bytes == 4 * SEGMENT
