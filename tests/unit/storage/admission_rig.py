"""A rig for admission: its gauges, lanes that take steps, and a clock that stands still."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from seerdb.events import Event
from seerdb.ids import TableId
from seerdb.options import Options
from seerdb.storage.manifest.version import Run, Version
from seerdb.storage.memtable import Memtable
from seerdb.storage.read.layout import Layout
from seerdb.storage.read.state import LiveState, State
from seerdb.storage.tiers.row_cache import RowCache
from seerdb.storage.workers.lanes import Lane
from seerdb.storage.write.admission import Admission
from seerdb.storage.write.gauges import Gauges
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
        self.is_awaited = False
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


class NappingClock(FakeClock):
    """Something may happen after each sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.on_sleep: Callable[[], object] = lambda: None

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.on_sleep()


class Rig:
    def __init__(self, *, merges_here: bool = True, **settings: int) -> None:
        self.merging: set[TableId] = set()
        self.clock = NappingClock()
        self.files = CrashableFileSystem()
        self.files.make_directory("db")
        self.tables = new_table_store(MemoryObjectStore())
        self.layout = Layout(Version(), self.tables, RowCache(lambda: 0))
        self.live = LiveState(State(Memtable([1]), (), self.layout), 0)
        self.lane = FakeLane(self.clock)
        self.compaction = FakeLane(self.clock)
        self.compaction.name = "compaction"
        self.is_closing = False
        self.appended = 0
        self.waits: list[float] = []
        self.events: list[Event] = []
        options = Options(wal_segment_size=SEGMENT, min_free_disk=1000).with_values(settings)
        self.ship = FakeLane(self.clock)
        self.ship.name = "ship"
        self.unshipped = 0
        lanes = cast(Lane, self.lane), cast(Lane, self.compaction), cast(Lane, self.ship)
        retention: Any = SimpleNamespace(
            count_unshipped=lambda: self.unshipped, beyond=lambda _first, _end: 0
        )
        self.gauges = Gauges(
            self.live,
            lanes,
            retention,
            self.files,
            "db",
            options,
            merging_elsewhere=None if merges_here else lambda: self.merging,
        )
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

    def pile_up(self, runs: int) -> None:
        """Make the layout one of so many runs."""
        self.show([Run(0, number, ()) for number in range(runs, 0, -1)])

    def show(self, runs: list[Run]) -> None:
        layout = Layout(Version(tuple(runs)), self.tables, RowCache(lambda: 0))
        self.live.replace_layout(layout)

    def flush(self) -> None:
        self.live.release(self.live.current.sealed[-1], self.layout)
