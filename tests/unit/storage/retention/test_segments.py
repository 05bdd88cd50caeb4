"""What becomes of flushed segments."""

from __future__ import annotations

import pytest

from seerdb.errors import DiskError
from seerdb.storage.retention.segments import SegmentRetention
from seerdb.storage.wal.backlog import Backlog, Place
from seerdb.storage.wal.segments import SegmentPool
from seerdb.testing.clock import FakeClock

SHIPPED = Backlog(0, [], 1, keeps_all=False)
"""Nothing is kept for being shipped."""


class FakePool(SegmentPool):
    """Notes what it gets back."""

    def __init__(self) -> None:
        self.recycled: list[int] = []
        self.broken = False

    def recycle(self, segment: int) -> None:
        if self.broken:
            raise DiskError("broken, by plan")
        self.recycled.append(segment)


def test_by_default_none_is_kept() -> None:
    pool = FakePool()
    retention = SegmentRetention(pool, "flushed", FakeClock(), SHIPPED)
    retention.flushed([1, 2])
    retention.flushed([3])
    assert (pool.recycled, retention.kept) == ([1, 2, 3], 0)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_last_ones_are_kept(count: int) -> None:
    pool = FakePool()
    retention = SegmentRetention(pool, f"count:{count}", FakeClock(), SHIPPED)
    for segment in range(1, 8):
        retention.flushed([segment])
    assert pool.recycled == list(range(1, 8 - count))
    assert retention.kept == count


def test_they_are_kept_for_a_while() -> None:
    pool, clock = FakePool(), FakeClock()
    retention = SegmentRetention(pool, "duration:100", clock, SHIPPED)
    retention.flushed([1, 2])
    clock.advance(60)
    retention.flushed([3])
    assert (pool.recycled, retention.kept) == ([], 3)
    clock.advance(39)
    retention.flushed([])
    assert pool.recycled == []
    clock.advance(1)
    retention.flushed([])
    assert (pool.recycled, retention.kept) == ([1, 2], 1)
    clock.advance(1000)
    retention.flushed([4])
    assert (pool.recycled, retention.kept) == ([1, 2, 3], 1)


def test_what_a_failing_disk_kept_stays_in_line() -> None:
    pool = FakePool()
    retention = SegmentRetention(pool, "flushed", FakeClock(), SHIPPED)
    pool.broken = True
    with pytest.raises(DiskError):
        retention.flushed([1, 2])
    assert retention.kept == 2
    pool.broken = False
    retention.flushed([3])
    assert (pool.recycled, retention.kept) == ([1, 2, 3], 0)


def test_what_is_not_shipped_is_kept_until_it_is() -> None:
    pool = FakePool()
    backlog = Backlog(0, [], 1, keeps_all=True)
    retention = SegmentRetention(pool, "flushed", FakeClock(), backlog)
    for segment in range(1, 4):
        backlog.sealed(Place(segment, 5000, 10 * segment))
    retention.flushed([1, 2])
    assert (pool.recycled, retention.kept, retention.count_unshipped()) == ([], 2, 2)
    backlog.shipped(Place(1, 5000, 10))
    retention.let_go()
    assert (pool.recycled, retention.count_unshipped()) == ([1], 1)
    backlog.shipped(Place(2, 4500, 15))
    retention.let_go()
    assert pool.recycled == [1], "only a part of it is shipped"
    backlog.shipped(Place(2, 5000, 20))
    retention.let_go()
    assert (pool.recycled, retention.kept) == ([1, 2], 0)
