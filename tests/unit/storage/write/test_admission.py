"""Backpressure by a fake clock: when writers wait, go on, and are refused."""

from __future__ import annotations

import pytest

from seerdb.errors import BusyError, ClosedError, DiskFullError, UnavailableError
from seerdb.events import WriteResumed, WriteSlowed, WriteStalled
from seerdb.storage.memtable import Memtable
from seerdb.storage.write.admission import (
    LOOKS,
    NAP_SECONDS,
    REFUSAL_SECONDS,
    STALL_SECONDS,
    ReasonStatistics,
    _Count,
)
from seerdb.storage.write.gauges import MAX_SEALED
from seerdb.storage.write.pressure import FASTEST_RATE, MAX_RUNS, URGENT_RUNS, Reason, delay, rate
from tests.unit.storage.admission_rig import SEGMENT, Rig


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
    assert seen == [f"{MAX_SEALED + 1} sealed memtables wait for their flush"]


def test_the_time_of_a_stop_counts_while_it_lasts() -> None:
    """``stalled_seconds``, and what is scraped, stood still for as long as writers did."""
    rig = Rig()
    rig.seal(MAX_SEALED)
    seen = []

    def step() -> None:
        now = rig.admission.statistics()
        seen.append((now.stalls, now.stalled_seconds, statistics_of(rig, "memtables")))

    def last_step() -> None:
        step()
        rig.flush()

    for _ in range(2):
        rig.lane.steps = [step, last_step]
        rig.admission.admit()
        step()
        rig.seal(1)
    assert [row[:2] for row in seen] == [(1, 5), (1, 10), (1, 10), (2, 15), (2, 20), (2, 20)]
    assert [row[2].stopped_seconds for row in seen] == [5, 10, 10, 15, 20, 20]
    rig.clock.advance(60)
    assert rig.admission.statistics().stalled_seconds == 20, "it is over"


def test_who_looks_as_a_stop_ends_counts_it_once() -> None:
    count = _Count(stopped=(3.0, 10.0))
    assert count.told(Reason.LOG, 14.0).stopped_seconds == 7.0
    assert count.told(Reason.LOG, 9.5).stopped_seconds == 3.0, "it has begun since"
    count.stopped = (7.5, None)
    assert count.told(Reason.LOG, 14.0).stopped_seconds == 7.5


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


def test_a_bucket_that_takes_no_log_is_away_before_a_flush_has_failed() -> None:
    """Writes were refused while a flush waited for a bucket that was silent, up to five minutes."""
    rig = Rig(wal_budget=10 * SEGMENT)
    rig.ship.error = UnavailableError("no answer")
    for _ in range(9):
        rig.admission.admit()
        rig.seal(1)
    assert rig.events == []
    assert "memtables" not in rig.admission.statistics().slowed
    with pytest.raises(BusyError, match="reached wal_budget"):
        rig.admission.admit()


def test_a_full_log_waits_for_a_flush_that_works() -> None:
    rig = Rig(wal_budget=3 * SEGMENT)
    rig.seal(2)
    rig.lane.steps = [rig.flush]
    rig.admission.admit()
    assert rig.gauges.wal_bytes == 2 * SEGMENT
    assert isinstance(rig.events[0], WriteStalled)
    assert "wal_budget" in rig.events[0].reason


def test_a_full_log_waits_for_its_shipping_once_it_is_flushed() -> None:
    """Nobody woke the lane that ships: with a long ``ship_interval`` writes stood still for twenty
    seconds and were refused, though the bucket was well."""
    rig = Rig(wal_budget=3 * SEGMENT)
    rig.seal(2)

    def flush() -> None:
        rig.flush()
        rig.unshipped = 1

    def ship() -> None:
        rig.unshipped = 0

    rig.lane.steps, rig.ship.steps = [flush], [ship]
    rig.admission.admit()
    assert (rig.lane.wakes, rig.ship.wakes) == (1, 1)
    assert rig.clock.monotonic() == 10.0
    assert rig.admission.statistics().refused == 0


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


def hold_back(rig: Rig, written: int) -> int:
    """Tell of ``written`` bytes more; returns how many may be written now."""
    rig.appended += written
    return rig.admission.hold_back(rig.appended, lambda: rig.waits.append(rig.clock.slept))


def statistics_of(rig: Rig, reason: str) -> ReasonStatistics:
    return next(row for row in rig.admission.statistics().reasons if row.reason == reason)


def press_memtables(rig: Rig) -> None:
    rig.seal(MAX_SEALED)
    rig.live.current.active.put(1, b"k", b"v", 1024 * 7 // 8)


def press_log(rig: Rig) -> None:
    rig.lane.error = UnavailableError("no bucket")
    rig.seal(15)


def press_runs(rig: Rig) -> None:
    rig.pile_up(URGENT_RUNS * 2)
    rig.compaction.has_work = True


def press_disk(rig: Rig) -> None:
    rig.files.free_space = 1100


PRESSURES = {
    "memtables": (press_memtables, "4 sealed memtables wait for their flush, the next is 88% full"),
    "log": (press_log, "the unflushed log takes 1,048,576 bytes of wal_budget (1,146,880)"),
    "runs": (press_runs, "24 runs wait for a compaction; at 36 writes stop"),
    "disk": (press_disk, "1,100 bytes of disk are free, min_free_disk is 1,000"),
}


def pressed_rig() -> Rig:
    return Rig(memtable_capacity=1024, wal_budget=17 * SEGMENT + SEGMENT // 2)


@pytest.mark.parametrize("reason", PRESSURES)
def test_each_pressure_slows_writes_down_before_it_stops_them(reason: str) -> None:
    rig = pressed_rig()
    press, words = PRESSURES[reason]
    assert hold_back(rig, 1 << 20) == 1024 // LOOKS
    assert (rig.clock.slept, rig.waits) == (0, [])
    press(rig)
    hold_back(rig, 1 << 18)
    severity = rig.gauges.worst().severity
    assert 0 < severity < 1
    assert rig.clock.slept == pytest.approx(delay(severity, 1 << 18))
    assert rig.waits == [0], "before the first sleep"
    row = statistics_of(rig, reason)
    assert (row.slowdowns, row.stops, row.refused) == (1, 0, 0)
    assert row.slowed_seconds == pytest.approx(rig.clock.slept)
    assert row.last.startswith(f"{words}; writes are slowed to ")
    [slowed] = rig.events
    assert isinstance(slowed, WriteSlowed)
    assert slowed.reason == words
    assert slowed.bytes_per_second == pytest.approx(rate(severity))
    now = rig.admission.statistics()
    assert (now.reason, now.slowed, now.slowdowns) == ("", row.last, 1)
    assert now.slowed_seconds == row.slowed_seconds
    hold_back(rig, 1 << 18)
    assert statistics_of(rig, reason).slowdowns == 1, "it is still the same one"
    assert len(rig.events) == 1


def test_just_above_a_soft_limit_nobody_is_told_a_rate_beyond_what_anything_writes() -> None:
    """It was told as a slowdown to 108,673,909,379,475 bytes a second."""
    rig = Rig(min_free_disk=1 << 20)
    rig.files.free_space = (1 << 20) * 5 // 4 - 1
    hold_back(rig, 1 << 20)
    words = "1,310,719 bytes of disk are free, min_free_disk is 1,048,576"
    assert rig.admission.statistics().slowed == f"{words}; writes are hardly slowed yet"
    assert rig.events == [WriteSlowed(words, FASTEST_RATE)]


def test_a_delay_ends_early_when_the_pressure_does() -> None:
    rig = pressed_rig()
    press_runs(rig)
    rig.clock.on_sleep = lambda: rig.pile_up(1)
    hold_back(rig, 1 << 20)
    assert rig.clock.slept == NAP_SECONDS
    assert rig.admission.statistics().slowed == ""
    rig.clock.on_sleep = lambda: None
    hold_back(rig, 1 << 20)
    press_runs(rig)
    hold_back(rig, 1)
    assert statistics_of(rig, "runs").slowdowns == 2


def test_a_delay_ends_when_the_database_is_closed() -> None:
    rig = pressed_rig()
    press_runs(rig)
    rig.is_closing = True
    hold_back(rig, 1 << 20)
    assert rig.clock.slept == 0


def test_writes_stop_where_compaction_is_far_behind_until_it_has_done_something() -> None:
    rig = pressed_rig()
    rig.pile_up(MAX_RUNS + 10)
    rig.compaction.has_work = True
    rig.compaction.steps = [lambda: None, lambda: rig.pile_up(MAX_RUNS + 6)]
    rig.admission.admit()
    assert rig.clock.monotonic() == 10.0
    assert (rig.compaction.wakes, rig.lane.waits) == (1, [])
    assert statistics_of(rig, "runs").stopped_seconds == 10.0
    rig.compaction.error = UnavailableError("no scheduler")
    with pytest.raises(BusyError, match=r"42 runs wait .* last compaction failed: no scheduler"):
        rig.admission.admit()
    assert statistics_of(rig, "runs").last.endswith("no scheduler")
    rig.pile_up(MAX_RUNS - 1)
    rig.admission.admit()


def test_a_stop_whose_reason_changes_is_two_and_no_longer_than_one() -> None:
    rig = pressed_rig()
    rig.seal(MAX_SEALED)
    rig.compaction.has_work = True

    def step() -> None:
        rig.flush()
        rig.pile_up(MAX_RUNS)

    rig.lane.steps = [step]
    with pytest.raises(BusyError, match="36 runs wait"):
        rig.admission.admit()
    assert rig.clock.monotonic() == STALL_SECONDS
    stops = [event.reason for event in rig.events if isinstance(event, WriteStalled)]
    assert [words.split()[1] for words in stops] == ["sealed", "runs"]
    assert statistics_of(rig, "memtables").stopped_seconds == 5
    assert statistics_of(rig, "runs").stopped_seconds == STALL_SECONDS - 5


def test_after_an_outage_one_may_come_for_each_that_is_flushed() -> None:
    rig = Rig()
    rig.seal(30)
    rig.lane.steps = [rig.flush]
    rig.admission.admit()
    assert len(rig.live.current.sealed) == 29
    assert rig.clock.monotonic() == 5.0


def test_who_comes_after_a_wait_in_vain_is_refused_at_once_for_a_while() -> None:
    rig = Rig()
    rig.seal(MAX_SEALED)
    rig.lane.seconds = 1e9
    for waited in (STALL_SECONDS, STALL_SECONDS):
        with pytest.raises(BusyError):
            rig.admission.admit()
        assert rig.clock.monotonic() == waited
    statistics = statistics_of(rig, "memtables")
    assert (statistics.stops, statistics.refused) == (1, 2)
    rig.clock.advance(REFUSAL_SECONDS)
    with pytest.raises(BusyError):
        rig.admission.admit()
    assert rig.clock.monotonic() == 2 * STALL_SECONDS + REFUSAL_SECONDS


def test_inline_where_nobody_else_can_help_the_refusal_comes_at_once() -> None:
    rig = Rig(wal_budget=3 * SEGMENT)
    rig.seal(2)
    rig.lane.tries_again = False
    rig.lane.seconds = 0
    for wakes in (1, 2):
        with pytest.raises(BusyError):
            rig.admission.admit()
        assert rig.lane.wakes == wakes
    rig.lane.steps = [rig.flush]
    rig.admission.admit()


def test_who_waits_is_told_when_the_database_is_closed() -> None:
    rig = Rig()
    rig.seal(MAX_SEALED)

    def close() -> None:
        rig.is_closing = True

    rig.lane.steps = [close]
    with pytest.raises(ClosedError, match="being closed"):
        rig.admission.admit()
    assert rig.clock.monotonic() == 5.0


def test_a_refusal_for_want_of_disk_is_counted() -> None:
    rig = Rig()
    rig.files.free_space = 0
    with pytest.raises(DiskFullError) as refusal:
        rig.admission.check_disk()
    row = statistics_of(rig, "disk")
    assert (row.refused, row.last) == (1, str(refusal.value))


def test_without_a_least_free_disk_the_disk_is_not_asked() -> None:
    rig = Rig(min_free_disk=0)
    rig.files.free_space = 1
    hold_back(rig, 1 << 20)
    assert rig.clock.slept == 0
