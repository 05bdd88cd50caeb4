"""When the log is shipped, and that nothing happens when nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from seerdb import DB, FencedError
from seerdb.storage.engine.shipping import DUE, SHIP_BYTES
from seerdb.storage.wal.backlog import Place
from seerdb.storage.workers.threads import Timer
from seerdb.testing.clock import FakeClock
from tests.crash.test_shipping import shipped
from tests.fixtures.database import ROOMY, World


class NotedTimer(Timer):
    """Makes no call before it is told to."""

    def __init__(self) -> None:
        super().__init__(FakeClock())
        self.calls: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        self.calls.append((seconds, call))

    def pass_interval(self, seconds: float) -> None:
        """Make the calls that are due within so many seconds."""
        due = [call for after, call in self.calls if after == DUE * seconds]
        self.calls = [each for each in self.calls if each[0] != DUE * seconds]
        for call in due:
            call()


class Rig:
    def __init__(self, **settings: Any) -> None:
        settings = ROOMY | {"ship_interval": 3.0, "background": "thread"} | settings
        self.world = World(**settings)
        self.timer = NotedTimer()
        self.db = self._open()

    def _open(self) -> DB:
        db = self.world.open()
        db._engine.runtime.workers.timer = self.timer
        return db

    @property
    def timed(self) -> list[float]:
        return [seconds for seconds, _ in self.timer.calls if seconds == DUE * 3.0]

    def wait(self) -> None:
        """Until the lane rests, also after a failure."""
        lane = db_lane(self.db)
        with lane._condition:
            assert lane._condition.wait_for(lambda: not lane._running, 60)

    def close(self) -> None:
        self.db.close()
        self.db._engine.runtime.close()


def db_lane(db: DB) -> Any:
    return db._engine.background.ship


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def test_the_first_write_sets_the_timer_and_no_other_until_it_rang(rig: Rig) -> None:
    assert rig.timed == []
    for number in range(5):
        rig.db.put(b"k%d" % number, b"v", durability="memory")
        rig.db.put(b"k%d" % number, b"v")
    assert (rig.timed, shipped(rig.world)) == ([DUE * 3.0], [])
    rig.timer.pass_interval(3.0)
    rig.wait()
    assert shipped(rig.world) == [(1, 10)]
    assert rig.timed == []
    rig.db.put(b"k", b"v", durability="memory")
    assert rig.timed == [DUE * 3.0]


def test_a_database_that_is_not_written_wakes_nobody_and_asks_for_nothing(rig: Rig) -> None:
    rig.db.put(b"k", b"v")
    rig.timer.pass_interval(3.0)
    rig.wait()
    before = len(rig.world.store.trace)
    rig.db.get(b"k")
    rig.timer.pass_interval(3.0)
    rig.wait()
    assert (rig.timed, len(rig.world.store.trace)) == ([], before)


def test_what_is_told_to_be_shipped_is_counted(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a moment it was not, so an idle database seemed to ship something more."""
    shipper, told = rig.db._engine.shipper, []
    move = shipper._backlog.shipped

    def move_and_look(end: Place) -> None:
        move(end)
        told.append(shipper.statistics(1))

    monkeypatch.setattr(shipper._backlog, "shipped", move_and_look)
    rig.db.put(b"k", b"v", durability="object")
    assert [(each.shipped_seq, each.unshipped_seq, each.objects) for each in told] == [(1, 0, 1)]
    assert told[0].bytes > 0


def test_many_bytes_are_shipped_before_the_interval_is_over() -> None:
    rig = Rig(memtable_capacity=128 << 20, wal_segment_size=64 << 20)
    value = b"v" * (1 << 20)
    for number in range(2 + SHIP_BYTES // len(value)):
        rig.db.put(b"k%d" % number, value, durability="memory")
    rig.wait()
    first, *_, last = [seq for stretch in shipped(rig.world) for seq in stretch]
    assert first == 1
    assert last >= SHIP_BYTES // len(value)
    assert rig.timed == [DUE * 3.0]
    rig.close()


def test_after_a_failure_the_timer_leaves_it_to_the_lane_and_goes_on_afterwards(rig: Rig) -> None:
    lane = db_lane(rig.db)
    rig.world.store.outage = True
    rig.db.put(b"a", b"v")
    rig.timer.pass_interval(3.0)
    rig.wait()
    assert lane.error is not None
    rig.db.put(b"b", b"v")
    failures = lane.failures
    rig.timer.pass_interval(3.0)
    rig.wait()
    assert (rig.timed, lane.failures) == ([DUE * 3.0], failures)
    rig.world.store.outage = False
    rig.world.clock.advance(60.0)
    lane.wake()  # as the lane's own timer does
    rig.wait()
    assert (lane.error, shipped(rig.world)) == (None, [(1, 1)])
    rig.timer.pass_interval(3.0)
    rig.wait()
    assert shipped(rig.world) == [(1, 1), (2, 2)]


def test_a_write_of_level_object_needs_no_timer_to_be_shipped(rig: Rig) -> None:
    rig.db.put(b"a", b"v")
    rig.db.put(b"b", b"v", durability="object")
    assert shipped(rig.world) == [(1, 2)]
    rig.timer.pass_interval(3.0)
    rig.wait()
    assert shipped(rig.world) == [(1, 2)]


def test_without_an_interval_nothing_is_timed() -> None:
    rig = Rig(ship_interval=0)
    rig.db.put(b"a", b"v")
    assert (rig.timed, shipped(rig.world)) == ([], [])
    rig.close()
    assert shipped(rig.world) == []


def test_the_writer_does_not_sync_for_a_ship_that_others_make(rig: Rig) -> None:
    """Writes of level memory are synced once for each object, not once for each write."""
    for number in range(50):
        rig.db.put(b"k%d" % number, b"v", durability="memory")
    syncs = rig.db.statistics().wal.syncs
    rig.timer.pass_interval(3.0)
    rig.wait()
    assert rig.db.statistics().wal.syncs == syncs + 1
    assert shipped(rig.world) == [(1, 50)]


def test_inline_segments_are_shipped_when_they_are_sealed() -> None:
    world = World(ship_interval=1.0, **ROOMY)
    db = world.open()
    db.put(b"a", b"v")
    assert shipped(world) == []
    db._engine.committer.rotate()
    assert shipped(world) == [(1, 1)]


def test_a_fenced_database_sets_no_timer_any_more(rig: Rig) -> None:
    rig.db.put(b"a", b"v")
    newer = rig.world.open("newer", background="inline")
    rig.timer.pass_interval(3.0)
    rig.wait()
    with pytest.raises(FencedError):
        rig.db.put(b"b", b"v")
    rig.timer.pass_interval(3.0)
    assert rig.timed == []
    newer.close()


def test_what_is_sealed_is_shipped_while_a_writer_waits_for_that(rig: Rig) -> None:
    """The lane waited for the writer that leads, to learn of the newest writes, and the writer for
    the lane, to let go of a segment: until the writer was refused."""
    engine = rig.db._engine
    rig.db.put(b"a", b"v")
    engine.committer.rotate()
    with engine.committer._mutex:
        rig.timer.pass_interval(3.0)
        assert db_lane(rig.db).wait(lambda: shipped(rig.world) == [(1, 1)], 60)
    rig.wait()
    rig.db.put(b"b", b"v")
    with engine.committer._mutex:
        rig.timer.pass_interval(3.0)
    rig.wait()
    assert shipped(rig.world) == [(1, 1), (2, 2)]
