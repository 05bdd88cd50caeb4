"""The lag: what is known of the writer, and since when nothing was missing."""

from __future__ import annotations

from seerdb.storage.replication.lag import Lag, LagStatistics
from seerdb.testing.clock import FakeClock


def test_nothing_is_known_at_first() -> None:
    assert Lag(FakeClock()).measure(5) == LagStatistics(seq=0, seconds=None)


def test_it_counts_from_when_the_writer_was_heard_of_last() -> None:
    clock = FakeClock()
    lag = Lag(clock)
    lag.heard(5, lag.now(), 5)
    assert lag.measure(5) == LagStatistics(seq=0, seconds=0.0)
    clock.advance(3.0)
    assert lag.measure(5) == LagStatistics(seq=0, seconds=3.0)


def test_what_was_heard_of_counts_when_it_is_shown() -> None:
    clock = FakeClock()
    lag = Lag(clock)
    lag.heard(5, lag.now(), 5)
    clock.advance(1.0)
    lag.heard(9, lag.now(), 5)
    clock.advance(1.0)
    lag.heard(20, lag.now(), 8)
    assert lag.measure(8) == LagStatistics(seq=12, seconds=2.0)
    lag.reached(9)
    assert lag.measure(9) == LagStatistics(seq=11, seconds=1.0), "as of when 9 was the newest"
    lag.heard(20, lag.now(), 20)
    assert lag.measure(20) == LagStatistics(seq=0, seconds=0.0)


def test_what_was_void_is_forgotten() -> None:
    lag = Lag(FakeClock())
    lag.heard(9, lag.now(), 5)
    lag.forget()
    assert lag.measure(5).seq == 0
