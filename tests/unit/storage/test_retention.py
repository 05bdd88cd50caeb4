"""What becomes of flushed segments."""

from __future__ import annotations

import pytest

from seerdb.errors import DiskError
from seerdb.storage.retention import SegmentRetention
from seerdb.storage.wal.segments import SegmentPool
from seerdb.testing.clock import FakeClock


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
    retention = SegmentRetention(pool, "flushed", FakeClock())
    retention.flushed([1, 2])
    retention.flushed([3])
    assert (pool.recycled, retention.kept) == ([1, 2, 3], 0)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_last_ones_are_kept(count: int) -> None:
    pool = FakePool()
    retention = SegmentRetention(pool, f"count:{count}", FakeClock())
    for segment in range(1, 8):
        retention.flushed([segment])
    assert pool.recycled == list(range(1, 8 - count))
    assert retention.kept == count


def test_they_are_kept_for_a_while() -> None:
    pool, clock = FakePool(), FakeClock()
    retention = SegmentRetention(pool, "duration:100", clock)
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
    retention = SegmentRetention(pool, "flushed", FakeClock())
    pool.broken = True
    with pytest.raises(DiskError):
        retention.flushed([1, 2])
    assert retention.kept == 2
    pool.broken = False
    retention.flushed([3])
    assert (pool.recycled, retention.kept) == ([1, 2, 3], 0)
