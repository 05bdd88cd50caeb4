"""What wakes which lane, and what a failure means for the database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from seerdb.errors import ConflictError, DiskError, FencedError, UnavailableError
from seerdb.events import Event, Fenced, GarbageCollected, WarmedUp, WorkFailed
from seerdb.storage.compaction.compactor import Compactor
from seerdb.storage.engine.background import Background
from seerdb.storage.flush.flusher import Flusher
from seerdb.storage.object_store.names import table_name
from seerdb.storage.read.warmup import REST_SECONDS, WarmUp
from seerdb.storage.retention.garbage import GarbageCollector, GarbageReport
from seerdb.storage.retention.outputs import GRACE_SECONDS, TableOutputs
from seerdb.storage.retention.segments import SegmentRetention
from seerdb.storage.shipping.shipper import Shipper
from seerdb.storage.tiers.table_store import TableStore
from seerdb.storage.workers.threads import Timer, Workers
from seerdb.storage.write.poison import Poison
from seerdb.testing.clock import FakeClock
from tests.unit.storage.tables import id_of


class Scripted:
    """Stands for the parts of an engine: each verb takes the next of its outcomes and is noted.
    An outcome that is an error is raised; without any left there is nothing to do."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.flushes: list[Any] = []
        self.compactions: list[Any] = []
        self.reports: list[Any] = []
        self.retention: list[Any] = []
        self.kept: set[str] = set()
        self.warm_ups: list[Any] = []
        self.steps = 0

    def _next(self, verb: str, outcomes: list[Any], otherwise: Any) -> Any:
        outcome = outcomes.pop(0) if outcomes else otherwise
        if outcome is not otherwise:
            self.done.append(verb)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def flush_one(self) -> list[int] | None:
        return cast("list[int] | None", self._next("flush", self.flushes, None))

    def flushed(self, segments: list[int]) -> None:
        self._next(f"release {segments}", self.retention, "nothing scripted")
        self.done.append(f"release {segments}")

    def attend(self, wake: Callable[[], None]) -> None:
        self.wake_compaction = wake

    def compact_one(self, slot: int) -> bool:
        return bool(self._next("compact", self.compactions, False))

    def run(self, keep: Callable[[], set[str]]) -> GarbageReport:
        self.kept = keep()
        return cast(GarbageReport, self._next("collect", self.reports, GarbageReport()))

    def step(self) -> bool:
        goes_on = bool(self._next("warm up", self.warm_ups, False))
        self.steps += goes_on
        return goes_on

    def prepare(self) -> None:
        self.done.append("prepare")

    def sync_ahead(self) -> None:
        self.done.append("sync ahead")

    def serve(self) -> bool:
        self.done.append("ship")
        return False

    conflict: ConflictError | None = None

    def let_go(self) -> None:
        self.done.append("let go")

    def in_use(self) -> set[str]:
        return {table_name(id_of(1))}

    def live_objects(self) -> set[str]:
        return {table_name(id_of(2))}


class NotedTimer(Timer):
    def __init__(self) -> None:
        super().__init__(FakeClock())
        self.calls: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        self.calls.append((seconds, call))


class Rig:
    def __init__(self, background: str = "inline", *, at_once: bool = True) -> None:
        self.clock = FakeClock()
        self.workers = Workers(background, self.clock)
        self.timer = self.workers.timer = NotedTimer()
        self.events: list[Event] = []
        self.poison = Poison()
        self.parts = Scripted()
        self.background = Background(self.workers, self.poison, self.events.append)
        parts: Any = self.parts
        self.flush = self.background.add_flush(cast(Flusher, parts), cast(SegmentRetention, parts))
        self.compaction = self.background.add_compaction(cast(Compactor, parts))
        self.garbage = self.background.add_garbage(
            cast(GarbageCollector, parts),
            cast(TableOutputs, parts),
            cast(TableStore, parts),
            at_once=at_once,
        )
        self.log = self.background.add_log(parts.prepare, parts.sync_ahead)
        retention = cast(SegmentRetention, parts)
        self.ship = self.background.add_ship(cast(Shipper, parts), retention)
        self.warm_up = self.background.add_warm_up(cast(WarmUp, parts))

    @property
    def done(self) -> list[str]:
        done, self.parts.done = self.parts.done, []
        return done


def test_a_flush_lets_go_of_segments_and_looks_what_to_merge() -> None:
    rig = Rig()
    rig.parts.flushes = [[1], [2, 3]]
    rig.parts.compactions = [True, True]
    rig.flush.wake()
    assert rig.done == ["flush", "release [1]", "compact", "compact", "flush", "release [2, 3]"]


def test_a_merge_may_call_others_to_help() -> None:
    rig = Rig()
    rig.parts.compactions = [True]
    rig.parts.wake_compaction()
    assert rig.done[0] == "compact"


def test_without_work_nothing_happens() -> None:
    rig = Rig()
    for lane in (rig.flush, rig.compaction, rig.garbage):
        lane.wake()
    assert (rig.done, rig.events) == ([], [])
    rig.log.wake()
    rig.ship.wake()
    assert rig.done == ["prepare", "sync ahead", "ship", "let go"]


def test_inline_the_collector_looks_after_each_merge() -> None:
    rig = Rig()
    rig.parts.compactions = [True]
    rig.parts.reports = [GarbageReport(("tables/x.sst",), 10)]
    rig.compaction.wake()
    assert rig.done == ["compact", "collect"]
    assert rig.events == [GarbageCollected(["tables/x.sst"])]
    assert rig.background.deleted_objects == 1
    assert rig.parts.kept == {table_name(id_of(1)), table_name(id_of(2))}


def test_in_the_background_the_collector_comes_after_the_grace_period() -> None:
    rig = Rig("thread")
    rig.parts.compactions = [True]
    assert rig.compaction.wake_and_wait(lambda: len(rig.timer.calls) == 1, 60)
    rig.background.close()
    rig.workers.close()
    assert rig.done == ["compact"]
    [(seconds, _)] = rig.timer.calls
    assert seconds > GRACE_SECONDS


def test_flushes_have_what_they_leave_collected_together() -> None:
    rig = Rig("thread")
    clock = rig.clock
    rig.parts.reports = [GarbageReport(("wal/x",), 10)] * 9

    def flush_after(seconds: float) -> list[float]:
        """When the collector will be woken, so far as this flush has planned it."""
        clock.advance(seconds)
        rig.parts.flushes = [[1]]
        planned = len(rig.timer.calls)
        assert rig.flush.wake_and_wait(lambda: not rig.parts.flushes, 60)
        assert rig.flush.wait(lambda: not rig.flush._running, 60)
        return [clock.monotonic() + after for after, _ in rig.timer.calls[planned:]]

    assert flush_after(0) == [301]
    assert rig.garbage.wait(lambda: "collect" in rig.parts.done, 60), "what earlier lives left"
    assert flush_after(0.5) == [], "old enough at that time"
    assert flush_after(99.5) == [602], "301 is too early for this"
    assert flush_after(200) == []
    assert flush_after(10) == [903]
    assert flush_after(2000) == [2310 + 301]
    rig.background.close()
    rig.workers.close()
    assert rig.done.count("collect") == 1


def test_inline_the_collector_looks_once_in_a_grace_period() -> None:
    rig = Rig()
    looked = []
    for seconds in (0, 1, 299, 1, 2000, 300, 1):
        rig.clock.advance(seconds)
        rig.parts.flushes, rig.parts.reports = [[1]], [GarbageReport(("wal/x",), 10)]
        rig.flush.wake()
        looked.append("collect" in rig.done)
    assert looked == [True, False, False, True, True, False, True]
    assert rig.timer.calls == []


@pytest.mark.parametrize("background", ["inline", "thread"])
def test_a_short_life_collects_nothing_unless_it_is_its_turn(background: str) -> None:
    rig = Rig(background, at_once=False)
    rig.parts.flushes = [[1]]
    assert rig.flush.wake_and_wait(lambda: not rig.parts.flushes, 60)
    rig.background.close()
    rig.workers.close()
    assert "collect" not in rig.done


def test_a_refusal_of_the_collector_is_a_failure_that_is_seen() -> None:
    rig = Rig()
    rig.parts.reports = [GarbageReport(refused="the manifest is damaged")]
    rig.garbage.wake()
    assert rig.events == [
        WorkFailed("garbage", "nothing was deleted: the manifest is damaged", 1, 0.1)
    ]
    assert rig.background.deleted_objects == 0


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UnavailableError("no bucket"), "no bucket"),
        (DiskError("no disk"), "no disk"),
        (ValueError("a bug"), "the flush failed: ValueError('a bug'); please report it"),
    ],
)
def test_a_failure_is_told_and_may_be_cured(error: Exception, told: str) -> None:
    rig = Rig()
    rig.parts.flushes = [error, [1]]
    rig.flush.wake()
    assert rig.events == [WorkFailed("flush", told, 1, 0.1)]
    assert str(rig.flush.error) == told
    rig.flush.wake()
    assert rig.flush.error is None
    assert rig.done == ["flush", "flush", "release [1]"]
    assert rig.poison.cause is None


def test_a_segment_that_cannot_be_let_go_fails_the_lane_not_the_flush() -> None:
    rig = Rig()
    rig.parts.flushes = [[1], [2]]
    rig.parts.retention = [DiskError("no disk")]
    rig.flush.wake()
    assert [event for event in rig.events if isinstance(event, WorkFailed)] == rig.events != []
    rig.flush.wake()
    assert rig.done[-2:] == ["flush", "release [2]"]


def test_being_fenced_is_for_good_and_told_once() -> None:
    rig = Rig()
    rig.parts.flushes = [FencedError("epoch 7 took over"), [1]]
    rig.parts.compactions = [FencedError("epoch 7 took over")]
    rig.flush.wake()
    rig.flush.wake()
    rig.compaction.wake()
    assert rig.events == [Fenced("epoch 7 took over")]
    assert isinstance(rig.poison.cause, FencedError)
    assert rig.done == ["flush", "compact"]
    with pytest.raises(FencedError):
        rig.poison.check()


def test_closed_lanes_do_nothing() -> None:
    rig = Rig()
    rig.parts.flushes = [[1]]
    rig.background.close()
    for lane in rig.background.lanes:
        lane.wake()
    assert rig.done == []
    assert [lane.name for lane in rig.background.lanes] == [
        "flush",
        "compaction",
        "garbage",
        "log",
        "ship",
        "warm-up",
    ]


def test_warming_up_gives_its_thread_back_after_each_step() -> None:
    rig = Rig("thread")
    rig.parts.warm_ups = [True, True]
    rig.background.begin_warm_up()
    for _ in range(2):
        assert rig.warm_up.wait(lambda: not rig.warm_up._running, 60)
        [(seconds, wake)] = rig.timer.calls
        assert seconds == REST_SECONDS
        rig.timer.calls.clear()
        assert rig.events == []
        wake()
    assert rig.warm_up.wait(lambda: bool(rig.events), 60)
    rig.background.close()
    rig.workers.close()
    assert rig.timer.calls == []
    assert rig.done == ["warm up"] * 2
    assert rig.events == [WarmedUp(2)]


def test_inline_nothing_is_warmed_up() -> None:
    rig = Rig()
    rig.parts.warm_ups = [True]
    rig.background.begin_warm_up()
    assert rig.done == []
